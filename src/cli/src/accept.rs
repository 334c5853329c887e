//! `raisin accept`: accepts that a change was cosmetic. The engine does the work.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::PipelineArguments;
use raisin_base::error::Result;
use raisin_base::say;
use raisin_engine as engine;

/// Accept that a change of a stage is cosmetic: the earlier artifact is used for the changed stage.
///
/// The new action of the stage gets the artifact of the nearest earlier action. The action record says who accepted
/// which differences; `raisin why` and the table `raisin.actions` show it. `--undo` takes the
/// acceptance back, and the next build then runs the stage.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// The stage; the command accepts the change in all its variants.
    stage: String,
    /// The reason; the action record keeps it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Take the acceptance back: the next build runs the stage.
    #[arg(long, conflicts_with = "reason")]
    undo: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (pipeline, options) = (arguments.pipeline.load()?, arguments.pipeline.options());
    if arguments.undo {
        let undone = engine::undo(&pipeline, &options, &arguments.stage)?;
        for acceptance in &undone {
            super::print(&format!("{}: taken back: accepted {}\n", acceptance.label, acceptance.accepted))?;
        }
        if undone.is_empty() {
            say!("no artifact of `{}` is accepted: there is nothing to take back", arguments.stage);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let acceptances = engine::accept(&pipeline, &options, &arguments.stage, &arguments.reason)?;
    for acceptance in &acceptances {
        let (label, artifact) = (&acceptance.label, acceptance.artifact.short());
        super::print(&format!("{label}: artifact {artifact} accepted {}\n", acceptance.accepted))?;
    }
    if acceptances.is_empty() {
        say!("`{}` is cached: there is nothing to accept", arguments.stage);
    }
    Ok(ExitCode::SUCCESS)
}
