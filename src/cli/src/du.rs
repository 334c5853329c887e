//! `raisin du`: shows how much space artifacts take. The command is an SQL query with a name, because it is needed
//! often.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::pipeline_arguments::Folders;
use raisin_base::error::Result;
use raisin_contract::query::{QueryOptions, QuerySource};

/// Show how much space artifacts take, the largest first.
#[derive(Args)]
pub struct Arguments {
    /// The unit of the sum. If several units share an artifact, the artifact counts once for each of them.
    #[arg(long, value_enum, default_value_t = By::Stage)]
    by: By,
    #[command(flatten)]
    folders: Folders,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Pipeline,
    Stage,
    Variant,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let columns = match arguments.by {
        By::Pipeline => "pipeline",
        By::Stage => "pipeline, stage",
        By::Variant => "pipeline, variant",
    };
    let sql = format!(
        "select {columns}, count(*) as artifacts, round(sum(bytes) / 1e6, 3) as megabytes from \
         (select distinct {columns}, artifact, bytes from raisin.actions) group by {columns} order by megabytes desc, {columns}"
    );
    super::answer::hand_over(&QueryOptions {
        source: QuerySource::Text(sql),
        cache: arguments.folders.cache.path(),
        out: arguments.folders.out.path(),
        pipeline: None,
        format: None,
        output: None,
        parameters: Vec::new(),
        expanded: false,
        most_rows: None,
        memory: None,
        remote: None,
    })
}
