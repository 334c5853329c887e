//! `raisin build`: builds a pipeline or a plan file. The engine does the work.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::{OutFolder, PipelineArguments};
use super::{next, outcome, text, track};
use raisin_base::error::{Problem, Result};
use raisin_base::printable::printable;
use raisin_base::say::say;
use raisin_engine::{self as engine, Force, JobsAtInterrupt, Options, PlanFile, Summary};
use raisin_kinds::KINDS;

/// Build a pipeline: run the stages whose results are not in the cache, and link everything under out/.
///
/// PIPELINE may also be a plan file that `raisin plan --out` wrote. The build then runs exactly this plan.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    #[command(flatten)]
    out: OutFolder,
    /// After a failure, continue with the stages that do not depend on the failed stage.
    #[arg(short, long)]
    keep_going: bool,
    /// Run this stage from the beginning although it is cached. Without a name: run every stage. May be given several
    /// times.
    #[arg(long, value_name = "STAGE", num_args = 0..=1, default_missing_value = EVERYTHING)]
    force: Vec<String>,
    /// If a stage must run, run the stage twice, the second time in a new process. If the two results differ, the stage
    /// fails.
    #[arg(long)]
    check: bool,
    /// Print no progress.
    #[arg(short, long)]
    quiet: bool,
    /// Run nothing: show which stages would run, and why, as `raisin plan` does.
    #[arg(long, conflicts_with_all = ["force", "check", "watch"])]
    dry_run: bool,
    /// After the build, wait for edits of the pipeline file, its includes and its input files, and build again. Ctrl-C
    /// ends. With --force, the stages run again after each edit.
    #[arg(long)]
    watch: bool,
    /// Do not wait for uploads to the shared cache that are not finished when the last stage is. They are given up, and
    /// `raisin remote push PIPELINE` uploads them later.
    #[arg(long)]
    no_wait: bool,
    /// Submit the stages of [executor] as jobs, and end when nothing but jobs is left to wait for. The same command finds
    /// the jobs again.
    #[arg(long, conflicts_with_all = ["watch", "dry_run"])]
    detach: bool,
    /// If the build is interrupted, cancel its jobs on the cluster without a question.
    #[arg(long)]
    cancel: bool,
    /// If the build is interrupted, leave its jobs on the cluster to go on without a question. The next build finds them.
    #[arg(long, conflicts_with = "cancel")]
    leave: bool,
    /// Start a new process for each stage, instead of workers that run one stage after another.
    #[arg(long, hide = true)]
    fresh_workers: bool,
}

/// The value of `--force` without a name. No stage can have this name.
const EVERYTHING: &str = "*";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let only_for_pipelines = [("--dry-run", arguments.dry_run), ("--watch", arguments.watch)];
    if let Some((flag, _)) = only_for_pipelines.iter().find(|(_, given)| *given)
        && PlanFile::read(arguments.pipeline.file())?.is_some()
    {
        let message = format!("{} is a plan, and {flag} needs a pipeline", arguments.pipeline.file().display());
        return Err(Problem::usage(message).hint("a plan file says itself which stages run").into());
    }
    if arguments.dry_run {
        let pipeline = arguments.pipeline.load()?;
        let options = Options { remote: arguments.pipeline.remote(&pipeline.cache)?, ..arguments.pipeline.options() };
        return super::plan::show(&pipeline, &options);
    }
    if arguments.watch {
        return super::watch::watch(&arguments.pipeline, || once(arguments));
    }
    Ok(ExitCode::from(once(arguments)?.exit_code()))
}

/// Builds once.
fn once(arguments: &Arguments) -> Result<Summary> {
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
        leave_uploads: arguments.no_wait,
        detach: arguments.detach,
        jobs_at_interrupt: match (arguments.cancel, arguments.leave) {
            (true, _) => JobsAtInterrupt::Cancel,
            (_, true) => JobsAtInterrupt::Leave,
            _ => JobsAtInterrupt::Ask,
        },
        ..arguments.pipeline.options()
    };
    match PlanFile::read(arguments.pipeline.file())? {
        Some(plan) => {
            arguments.pipeline.refuse_changes()?;
            let pipeline = plan.pipeline(KINDS)?;
            let options = Options { remote: arguments.pipeline.remote(&pipeline.cache)?, ..options };
            let summary = engine::build_planned(&plan, &pipeline, &options)?;
            if !arguments.quiet {
                tell(&summary, &next::command(&pipeline, &arguments.pipeline, &arguments.out, &summary));
            }
            track::after_build(&pipeline, arguments.pipeline.file(), &options, &summary);
            Ok(summary)
        }
        None => {
            let pipeline = arguments.pipeline.load()?;
            let options = Options { remote: arguments.pipeline.remote(&pipeline.cache)?, ..options };
            let summary = engine::build(&pipeline, &options)?;
            if !arguments.quiet {
                tell(&summary, &next::command(&pipeline, &arguments.pipeline, &arguments.out, &summary));
            }
            track::after_build(&pipeline, arguments.pipeline.file(), &options, &summary);
            if !arguments.watch {
                // The process ends here. Freeing a large pipeline piece by piece would take longer than the look-up
                // took, so the memory is left to the operating system.
                std::mem::forget(pipeline);
            }
            Ok(summary)
        }
    }
}

/// Prints what came out, and a command that goes on from there. Standard error is for messages.
fn tell(summary: &Summary, next: &str) {
    let lines = outcome::lines(summary, text::columns());
    if lines.is_empty() {
        return;
    }
    lines.iter().for_each(|line| say(&printable(line)));
    say(&printable(&format!("next:   {next}")));
}
