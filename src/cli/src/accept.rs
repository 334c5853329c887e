//! `raisin accept`: a person's word that a change was cosmetic.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::PipelineArguments;
use raisin_base::error::Result;
use raisin_engine as engine;

/// Accept that a change of a stage was cosmetic: what it made before stands for what it would make now.
///
/// The stage's new action gets the artifact of the nearest earlier one, and the record says who accepted which
/// differences: `raisin why` and `raisin.actions` show it. `raisin build --force STAGE` makes it anew after all.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// The stage; all its variants are accepted.
    stage: String,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (pipeline, options) = (arguments.pipeline.load()?, arguments.pipeline.options());
    let acceptances = engine::accept(&pipeline, &options, &arguments.stage, &arguments.reason)?;
    for acceptance in &acceptances {
        let (label, artifact) = (&acceptance.label, acceptance.artifact.short());
        super::print(&format!("{label}: artifact {artifact} accepted {}\n", acceptance.accepted))?;
    }
    if acceptances.is_empty() {
        eprintln!("`{}` is cached as it is: there is nothing to accept", arguments.stage);
    }
    Ok(ExitCode::SUCCESS)
}
