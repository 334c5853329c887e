//! `raisin plan`: what a build would do.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::PipelineArguments;
use crate::engine;
use crate::error::Result;

/// Show what a build would run, and why; run nothing.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// Print the plan as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let plan = engine::plan(&arguments.pipeline.load()?, &arguments.pipeline.options())?;
    if arguments.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&plan)?))?;
    } else {
        super::print(&format!("{plan}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
