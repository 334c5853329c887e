//! `raisin build`: makes what is not made yet.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::{OutFolder, PipelineArguments};
use raisin_base::error::Result;
use raisin_engine::{self as engine, Force, Options, PlanFile};
use raisin_kinds::KINDS;

/// Build a pipeline: run the stages whose results are not in the cache, and link everything under out/.
///
/// In place of a pipeline, a plan that `raisin plan --out` wrote: it is built as it was planned.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    #[command(flatten)]
    out: OutFolder,
    /// Go on with the stages that do not depend on one that failed.
    #[arg(short, long)]
    keep_going: bool,
    /// Run this stage though it is cached, from the beginning; without a name, every stage. May be given several times.
    #[arg(long, value_name = "STAGE", num_args = 0..=1, default_missing_value = EVERYTHING)]
    force: Vec<String>,
    /// Run each stage that runs a second time, in a process of its own, and fail those that make something else then.
    #[arg(long)]
    check: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
    /// Start a process for each stage, instead of keeping some.
    #[arg(long, hide = true)]
    fresh_workers: bool,
}

/// What `--force` without a name stands for: no stage can have this name.
const EVERYTHING: &str = "*";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let force = match arguments.force.as_slice() {
        [] => Force::Nothing,
        names if names.iter().any(|name| name == EVERYTHING) => Force::Everything,
        names => Force::Stages(names.to_vec()),
    };
    let options = Options {
        out: arguments.out.path(),
        keep_going: arguments.keep_going,
        force,
        check: arguments.check,
        quiet: arguments.quiet,
        fresh_workers: arguments.fresh_workers,
        ..arguments.pipeline.options()
    };
    let summary = match PlanFile::read(arguments.pipeline.file())? {
        Some(plan) => {
            arguments.pipeline.refuse_changes()?;
            engine::build_planned(&plan, &plan.pipeline(KINDS)?, &options)?
        }
        None => {
            let pipeline = arguments.pipeline.load()?;
            let summary = engine::build(&pipeline, &options)?;
            // The process ends here: to free a large pipeline piece by piece would take longer than to look at it did.
            std::mem::forget(pipeline);
            summary
        }
    };
    Ok(ExitCode::from(summary.exit_code()))
}
