//! `raisin sql`: runs an SQL query over stages, runs and history. raisin-sql answers the query.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::pipeline_arguments::Folders;
use raisin_base::error::Result;
use raisin_contract::query::{OutputFormat, QueryOptions};

/// Query stages, runs and history with SQL.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The query. `show tables` lists all tables.
    query: String,
    /// How to print the rows.
    #[arg(long, value_enum, default_value_t = FormatArgument::Table)]
    format: FormatArgument,
    /// Write the rows to this file instead of standard output.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// The pipeline whose stages the query reads [default: the pipeline that was built last].
    #[arg(long)]
    pipeline: Option<String>,
    #[command(flatten)]
    folders: Folders,
}

const EXAMPLES: &str = "\
Examples:
  raisin sql \"show tables\"
  raisin sql \"select step, instruction, score from tuned.selection order by step limit 20\"
  raisin sql \"select method, avg(loss) from scores.metrics group by method\"
  raisin sql \"select stage, seconds from raisin.actions order by seconds desc\" --format csv
  raisin sql \"select * from history.selection\" --format parquet --output all.parquet";

#[derive(Clone, Copy, ValueEnum)]
enum FormatArgument {
    Table,
    Csv,
    /// JSON lines, one object for each row.
    #[value(alias = "jsonl")]
    Json,
    Parquet,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    super::answer::hand_over(&QueryOptions {
        sql: arguments.query.clone(),
        cache: arguments.folders.cache.path(),
        out: arguments.folders.out.path(),
        pipeline: arguments.pipeline.clone(),
        format: match arguments.format {
            FormatArgument::Table => OutputFormat::Table,
            FormatArgument::Csv => OutputFormat::Csv,
            FormatArgument::Json => OutputFormat::Json,
            FormatArgument::Parquet => OutputFormat::Parquet,
        },
        output: arguments.output.clone(),
    })
}
