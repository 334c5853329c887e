//! `raisin plan`: shows what a build would do. The engine makes the plan.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::pipeline_arguments::PipelineArguments;
use raisin_base::error::Result;
use raisin_base::say;
use raisin_engine::{self as engine, Diagram, Options, Plan, PlanFile, diagram};
use raisin_pipeline::Pipeline;
use raisin_store::write_atomically;

/// Show which stages a build would run, and why. The command runs nothing.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// Write the plan to this file. `raisin build FILE` then builds this plan, or reports what changed since.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the plan as JSON.
    #[arg(long)]
    json: bool,
    /// Draw the plan instead: the stages and their inputs.
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "json")]
    graph: Option<GraphFormat>,
}

#[derive(Clone, Copy, ValueEnum)]
enum GraphFormat {
    Text,
    /// DOT, for Graphviz.
    Dot,
    Mermaid,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // Check this before a long look-up.
    arguments.out.as_deref().map_or(Ok(()), PlanFile::check_place)?;
    let pipeline = arguments.pipeline.load()?;
    let options = Options { remote: arguments.pipeline.remote(&pipeline.cache)?, ..arguments.pipeline.options() };
    let (plan, file) = match &arguments.out {
        None => (engine::plan(&pipeline, &options)?, None),
        Some(out) => {
            let (plan, file) = PlanFile::make(&pipeline, &options)?;
            (plan, Some((out, file)))
        }
    };
    if let Some(form) = arguments.graph {
        let form = match form {
            GraphFormat::Text => Diagram::Text,
            GraphFormat::Dot => Diagram::Dot,
            GraphFormat::Mermaid => Diagram::Mermaid,
        };
        super::print(&diagram(&plan, form))?;
    } else if arguments.json {
        super::print_exactly(&format!("{}\n", serde_json::to_string_pretty(&plan)?))?;
    } else {
        print(&plan)?;
    }
    if let Some((out, file)) = file {
        write_atomically(&std::path::absolute(out)?, file.text()?.as_bytes())?;
        say!("planned into {0}: raisin build {0}", out.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Plans, and shows the plan: also `raisin build --dry-run`.
pub fn show(pipeline: &Pipeline, options: &Options) -> Result<ExitCode> {
    print(&engine::plan(pipeline, options)?)?;
    Ok(ExitCode::SUCCESS)
}

fn print(plan: &Plan) -> Result<()> {
    super::print(&format!("{plan}\n"))
}
