//! `raisin ui`: a page that shows builds while they run. raisin-sql serves it; this file finds out which pipeline is
//! meant.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};

use super::pipeline_arguments::Folders;
use raisin_base::error::{Problem, Result, nearest};
use raisin_contract::ui::{PipelineChoice, UiOptions};
use raisin_engine as engine;
use raisin_kinds::KINDS;
use raisin_store::{BuildDescription, Store};

/// Show builds while they run, in a browser: stages, curves, runs, reports, SQL. The page only reads.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The pipeline that the page shows first: a pipeline file, or the name of a pipeline that was built [default: that of
    /// the last run].
    #[arg(value_name = "PIPELINE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// The port on this machine; 0 takes any free port.
    #[arg(long, value_name = "N", default_value_t = 7725)]
    port: u16,
    /// Do not open a browser.
    #[arg(long)]
    no_open: bool,
    #[command(flatten)]
    folders: Folders,
}

const EXAMPLES: &str = "\
Examples:
  raisin ui                                 prints http://127.0.0.1:7725/ and opens it
  raisin ui pipelines/quickstart.toml       shows the stages also before the first build
  raisin ui --port 0 --no-open              any free port; the address is on standard output

The page is for this machine only: docs/ui.md says how to look at it from another one.";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (cache, out) = (arguments.folders.cache.path(), arguments.folders.out.path());
    let pipeline = match &arguments.file {
        Some(named) => Some(choice(named, &cache, &out)?),
        None => None,
    };
    super::answer::hand_over_ui(&UiOptions { cache, out, pipeline, port: arguments.port, open: !arguments.no_open })
}

/// # Errors
/// The file is no pipeline, or no pipeline of this name was built.
fn choice(named: &Path, cache: &Path, out: &Path) -> Result<PipelineChoice> {
    let is_a_file = named.extension().is_some_and(|ending| ending == "toml") || named.is_file();
    if is_a_file {
        let pipeline = raisin_pipeline::load(named, &[], KINDS, cache)?;
        let stages = engine::outline(&pipeline)?;
        return Ok(PipelineChoice { name: pipeline.name, file: Some(named.to_owned()), stages });
    }
    let name = named.display().to_string();
    let mut known = known(cache, out)?;
    if known.contains(&name) {
        return Ok(PipelineChoice { name, file: None, stages: Vec::new() });
    }
    known.sort();
    known.dedup();
    let problem = Problem::usage(format!("there is no file {name}, and no pipeline `{name}` was built"));
    Err(match nearest(&name, known.iter().map(String::as_str)) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => problem.hint("name the pipeline file: its stages are shown before the first build"),
        None => problem.hint(format!("there are {}", known.join(", "))),
    }
    .into())
}

/// The pipelines of the journal, and those with links.
fn known(cache: &Path, out: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if let Some(store) = Store::looked_at(cache)? {
        names.extend(super::runs::all_of(&store)?.into_iter().filter_map(|run| run.pipeline));
    }
    for entry in std::fs::read_dir(out).into_iter().flatten().flatten() {
        names.extend(BuildDescription::read(&entry.path()).ok().flatten().map(|build| build.pipeline));
    }
    Ok(names)
}
