//! `raisin track push`, and the end of a build: sends the runs of `track` stages to an MLflow server. `raisin-remote`
//! does the work, because this executable has no HTTP.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Subcommand, ValueHint};

use super::answer;
use super::pipeline_arguments::Folders;
use super::report::folders;
use raisin_base::error::{Context as _, Error, Problem, Result, nearest};
use raisin_base::say;
use raisin_contract::remote::EXECUTABLE;
use raisin_contract::track::{TRACK, TRACKED_RUNS, TrackQuestion};
use raisin_engine::{Options, Summary, executable_named};
use raisin_kinds::KINDS;
use raisin_pipeline::{self as pipeline, Pipeline};
use raisin_store::BuildDescription;

/// Send results to a tracking server.
#[derive(Args)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: TrackCommand,
}

const EXAMPLES: &str = "\
Examples:
  MLFLOW_TRACKING_URI=http://localhost:5000 raisin track push p.toml
  raisin track push                        the last builds of all pipelines under the out folder

The environment has the server and the credentials: MLFLOW_TRACKING_URI, and MLFLOW_TRACKING_TOKEN, or
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. `raisin build` sends the runs at its end, too.";

#[derive(Subcommand)]
enum TrackCommand {
    /// Send the runs of the last build to MLflow: those of stages of kind `track` with the parameter `mlflow`. A run that
    /// the server has is not sent again.
    Push(PushArguments),
}

#[derive(Args)]
struct PushArguments {
    /// The pipeline file, or the name of a pipeline that was built [default: all pipelines with runs to send].
    #[arg(value_name = "PIPELINE", value_hint = ValueHint::FilePath)]
    pipeline: Option<PathBuf>,
    #[command(flatten)]
    folders: Folders,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let TrackCommand::Push(PushArguments { pipeline, folders }) = &arguments.command;
    let (cache, out) = (folders.cache.path(), folders.out.path());
    let built = built(&out)?;
    let (pipelines, named) = match pipeline {
        Some(named) => (vec![chosen(named, &built, &cache, &out)?], named.display().to_string()),
        None => {
            let with_runs = built.iter().filter(|build| has_runs(build, &out)).map(|build| build.pipeline.clone());
            (with_runs.collect(), out.display().to_string())
        }
    };
    answer::hand_over_track(&TrackQuestion { cache, out, pipelines, named, after_build: false, quiet: false })
}

/// The last builds under `out`.
fn built(out: &Path) -> Result<Vec<BuildDescription>> {
    let read = |name: String| BuildDescription::read(&out.join(name)).transpose();
    folders(out)?.into_iter().filter_map(read).collect()
}

fn has_runs(build: &BuildDescription, out: &Path) -> bool {
    let has = |stage: &str| out.join(&build.pipeline).join(stage).join(TRACKED_RUNS).is_dir();
    build.stages.iter().any(|stage| stage.kind == TRACK && has(&stage.stage))
}

/// The name of the pipeline that is meant.
///
/// # Errors
/// The file is no pipeline, or no pipeline of this name was built.
fn chosen(named: &Path, built: &[BuildDescription], cache: &Path, out: &Path) -> Result<String> {
    if named.extension().is_some_and(|ending| ending == "toml") || named.is_file() {
        return Ok(pipeline::load(named, &[], KINDS, cache)?.name);
    }
    let name = named.display().to_string();
    if built.iter().any(|build| build.pipeline == name) {
        return Ok(name);
    }
    let problem = Problem::usage(format!("there is no file {name}, and {} has no pipeline `{name}`", out.display()));
    Err(match nearest(&name, built.iter().map(|build| build.pipeline.as_str())) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem.hint("build it first; --out DIR names another folder"),
    }
    .into())
}

/// Sends the runs of a build that has ended. Whatever happens, the build is what it was: trouble is a warning.
pub fn after_build(pipeline: &Pipeline, file: &Path, options: &Options, summary: &Summary) {
    let sends = |stage: &pipeline::Stage| {
        stage.declaration.name == TRACK && stage.resolved.parameters.get(TRACKED_RUNS).is_some()
    };
    let is_built = summary.out.join(raisin_store::DESCRIPTION).exists();
    if summary.interrupted || !is_built || !pipeline.variants.iter().flat_map(|variant| &variant.stages).any(sends) {
        return;
    }
    let question = TrackQuestion {
        cache: options.cache.clone(),
        out: options.out.clone(),
        pipelines: vec![pipeline.name.clone()],
        named: file.display().to_string(),
        after_build: true,
        quiet: options.quiet,
    };
    if let Err(error) = ask(&question) {
        say!("warning: the runs were not sent to MLflow: {error:#}");
        if let Some(hint) = error.downcast_ref::<Problem>().and_then(|problem| problem.hint.as_ref()) {
            say!("hint: {hint}");
        }
    }
}

fn ask(question: &TrackQuestion) -> Result<()> {
    let program = executable_named(EXECUTABLE, None)?;
    let mut command = Command::new(&program);
    command.arg("track").arg(serde_json::to_string(question)?).stdin(Stdio::null());
    let status = command.status().with_context(|| format!("cannot start {}", program.display()))?;
    if status.success() { Ok(()) } else { Err(Error::msg(format!("{EXECUTABLE} ended with {status}"))) }
}
