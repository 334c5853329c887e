//! `raisin build`: makes what is not made yet.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::PipelineArguments;
use crate::engine::{self, Options};
use crate::error::Result;

/// Build a pipeline: run the stages whose results are not in the cache, and link everything under out/.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// Go on with the stages that do not depend on one that failed.
    #[arg(short, long)]
    keep_going: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let pipeline = arguments.pipeline.load()?;
    let options = Options { keep_going: arguments.keep_going, quiet: arguments.quiet, ..arguments.pipeline.options() };
    let summary = engine::build(&pipeline, &options)?;
    // The process ends here: to free a large pipeline piece by piece would take longer than to look at it did.
    std::mem::forget(pipeline);
    Ok(ExitCode::from(summary.exit_code()))
}
