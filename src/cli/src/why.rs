//! `raisin why`: explains one stage of a plan. The engine finds the explanation.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::PipelineArguments;
use raisin_base::error::Result;
use raisin_base::size::size;
use raisin_engine::{self as engine, Options, PlannedStage, Status, words};

/// Show why a stage would run, or which artifact the stage has and which run made it.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// The stage; the command explains all its variants.
    stage: String,
    /// Print the explanation as JSON, with one entry for each variant.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = Options { only: vec![arguments.stage.clone()], ..arguments.pipeline.options() };
    let pipeline = arguments.pipeline.load()?;
    let options = Options { remote: arguments.pipeline.remote(&pipeline.cache)?, ..options };
    let plan = engine::plan(&pipeline, &options)?;
    let stages: Vec<&PlannedStage> = plan.stages.iter().filter(|stage| stage.stage == arguments.stage).collect();
    if arguments.json {
        super::print_exactly(&format!("{}\n", serde_json::to_string_pretty(&stages)?))?;
    } else {
        super::print(&stages.into_iter().map(explained).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn explained(stage: &PlannedStage) -> String {
    let mut text = format!("{} ({})\n", stage.label, stage.kind);
    match &stage.status {
        Status::Cached { key, artifact, finished, seconds, run, accepted } => {
            text += &format!("  cached     artifact {}, action {}\n", artifact.short(), key.short());
            text += &match accepted {
                Some(accepted) => format!("  accepted   {accepted}\n"),
                None => format!("  made       {finished} in {seconds:.1} s, by run {run}\n"),
            };
        }
        Status::WouldFetch { artifact, bytes, .. } => {
            text += &format!("  would fetch  artifact {}, {}\n", artifact.short(), size(*bytes));
        }
        Status::WouldRun { why, .. } => {
            for (position, reason) in words(why).iter().enumerate() {
                text += &format!("  {:9}  {reason}\n", if position == 0 { "would run" } else { "" });
            }
        }
    }
    if !stage.inputs.is_empty() {
        text += &format!("  made from  {}\n", stage.inputs.join(", "));
    }
    text
}
