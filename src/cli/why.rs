//! `raisin why`: one stage of a plan, explained.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::PipelineArguments;
use crate::engine::{self, Options, Status};
use crate::error::Result;

/// Say why a stage would run, or which artifact it has and where that came from.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// The stage; all its variants are explained.
    stage: String,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = Options { only: vec![arguments.stage.clone()], ..arguments.pipeline.options() };
    let plan = engine::plan(&arguments.pipeline.load()?, &options)?;
    for stage in plan.stages.iter().filter(|stage| stage.stage == arguments.stage) {
        let mut text = format!("{} ({})\n", stage.label, stage.kind);
        match &stage.status {
            Status::Cached { key, artifact, finished, seconds, run } => {
                text += &format!("  cached     artifact {}, action {}\n", artifact.short(), key.short());
                text += &format!("  made       {finished} in {seconds:.1} s, by run {run}\n");
            }
            Status::WouldRun { why, .. } => {
                for (position, reason) in why.iter().enumerate() {
                    text += &format!("  {:9}  {reason}\n", if position == 0 { "would run" } else { "" });
                }
            }
        }
        if !stage.inputs.is_empty() {
            text += &format!("  made from  {}\n", stage.inputs.join(", "));
        }
        super::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
