//! `raisin remote`: looks at a shared cache, fills it, and empties it. `raisin-remote` does the work.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};

use super::pipeline_arguments::{CacheFolder, OutFolder};
use super::{answer, gc, shared_cache};
use raisin_base::error::{Problem, Result};
use raisin_base::say;
use raisin_base::size::size;
use raisin_contract::remote::{RemoteMode, RemoteQuestion, RemoteSettings, RemoteTask};
use raisin_engine::{self as engine, Options};
use raisin_kinds::KINDS;
use raisin_pipeline::{self as pipeline, CacheSettings, Pipeline};
use raisin_store::BuildDescription;

/// Look at a shared cache on an object store, fill it, and remove what is old.
///
/// The shared cache is the one of --remote, else of RAISIN_REMOTE, else of the table `[cache]` of PIPELINE. Credentials
/// come from the environment, as for the tools of the store (docs/remote.md).
#[derive(Args)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: RemoteCommand,
}

const EXAMPLES: &str = "\
Examples:
  raisin remote check p.toml                    try reading, writing and conditional writing
  raisin remote du --remote s3://bucket/raisin  the number and size of the objects
  raisin remote push p.toml                     upload the last build of a pipeline
  raisin remote pull p.toml                     fetch what there is of a pipeline, and run nothing
  raisin remote gc p.toml --older-than 90d      show what is old; --yes removes it";

#[derive(Subcommand)]
enum RemoteCommand {
    /// Try reading, writing, writing under a condition and deleting, with one small object that is deleted again.
    Check(Target),
    /// Show the number and size of the objects.
    Du(Target),
    /// Show old action records, and the files that no other record needs; with --yes, remove them.
    Gc(GcArguments),
    /// Upload the artifacts of the last build of a pipeline, or all artifacts of the cache.
    Push(TransferArguments),
    /// Fetch the artifacts of a pipeline as it is now, or all artifacts. Nothing runs, and no link changes.
    Pull(TransferArguments),
}

#[derive(Args)]
struct Target {
    /// The pipeline whose table `[cache]` names the shared cache.
    #[arg(value_name = "PIPELINE", value_hint = ValueHint::FilePath)]
    pipeline: Option<PathBuf>,
    /// The address of the shared cache: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder,
    /// or the path of a folder.
    #[arg(long, value_name = "ADDRESS")]
    remote: Option<String>,
    #[command(flatten)]
    cache: CacheFolder,
}

#[derive(Args)]
struct GcArguments {
    #[command(flatten)]
    target: Target,
    /// Remove them.
    #[arg(long)]
    yes: bool,
    /// Only records that were written longer ago than this, such as 12h or 90d; 0 for any age. Reading a record does
    /// not change its age. Files that were written within a day stay, unless AGE is shorter.
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = gc::age)]
    older_than: Duration,
}

#[derive(Args)]
struct TransferArguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    out: OutFolder,
    /// All artifacts, not only those of PIPELINE.
    #[arg(long)]
    all: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        RemoteCommand::Check(target) => target.ask(RemoteTask::Check),
        RemoteCommand::Du(target) => target.ask(RemoteTask::Du),
        RemoteCommand::Gc(GcArguments { target, yes, older_than }) => {
            target.ask(RemoteTask::Gc { older_than_seconds: older_than.as_secs(), yes: *yes })
        }
        RemoteCommand::Push(arguments) => push(arguments),
        RemoteCommand::Pull(arguments) => pull(arguments),
    }
}

impl Target {
    fn load(&self) -> Result<Option<Pipeline>> {
        let load = |file: &PathBuf| pipeline::load(file, &[], KINDS, &self.cache.path());
        self.pipeline.as_ref().map(load).transpose()
    }

    /// # Errors
    /// No shared cache is named.
    fn settings(&self, pipeline: Option<&Pipeline>) -> Result<RemoteSettings> {
        let none = CacheSettings::default();
        let cache = pipeline.map_or(&none, |pipeline| &pipeline.cache);
        shared_cache::settings(self.remote.as_deref(), cache)?.ok_or_else(|| {
            let message = match pipeline {
                Some(pipeline) => format!("{} names no shared cache", pipeline.file.display()),
                None => "no shared cache is named".to_owned(),
            };
            Problem::usage(message)
                .hint("give --remote s3://bucket/prefix, set RAISIN_REMOTE, or write `[cache]` with `remote` into PIPELINE")
                .into()
        })
    }

    fn ask(&self, task: RemoteTask) -> Result<ExitCode> {
        let settings = self.settings(self.load()?.as_ref())?;
        answer::hand_over_remote(&RemoteQuestion { settings, cache: self.cache.path(), task })
    }
}

/// The pipeline of a transfer; `None` with `--all`.
///
/// # Errors
/// It is not said what to transfer.
fn wanted(arguments: &TransferArguments) -> Result<(Option<Pipeline>, RemoteSettings)> {
    let pipeline = arguments.target.load()?;
    let settings = arguments.target.settings(pipeline.as_ref())?;
    if pipeline.is_none() && !arguments.all {
        return Err(Problem::usage("it is not said what to transfer").hint("name a PIPELINE, or give --all").into());
    }
    Ok((pipeline.filter(|_| !arguments.all), settings))
}

fn push(arguments: &TransferArguments) -> Result<ExitCode> {
    let (pipeline, settings) = wanted(arguments)?;
    let keys = match &pipeline {
        None => None,
        Some(pipeline) => {
            let folder = arguments.out.path().join(&pipeline.name);
            let Some(built) = BuildDescription::read(&folder)? else {
                let message = format!("there is no build of `{}` in {}", pipeline.name, folder.display());
                return Err(Problem::usage(message).hint("build it first, or upload everything with --all").into());
            };
            let mut keys: Vec<_> = built.stages.iter().map(|stage| stage.key).collect();
            keys.sort_unstable();
            keys.dedup();
            Some(keys)
        }
    };
    let settings = RemoteSettings { mode: RemoteMode::ReadWrite, ..settings };
    answer::hand_over_remote(&RemoteQuestion {
        settings,
        cache: arguments.target.cache.path(),
        task: RemoteTask::Push { keys },
    })
}

fn pull(arguments: &TransferArguments) -> Result<ExitCode> {
    let (pipeline, settings) = wanted(arguments)?;
    let cache = arguments.target.cache.path();
    let Some(pipeline) = pipeline else {
        return answer::hand_over_remote(&RemoteQuestion { settings, cache, task: RemoteTask::Pull });
    };
    let options = Options { cache, out: arguments.out.path(), remote: Some(settings), ..Options::default() };
    let pulled = engine::pull(&pipeline, &options)?;
    for stage in &pulled.absent {
        say!("not there: {stage}");
    }
    say!(
        "fetched {} artifacts, {}; {} were here already, {} are not there, {:.1} s",
        pulled.fetched,
        size(pulled.received),
        pulled.cached,
        pulled.absent.len(),
        pulled.seconds
    );
    Ok(ExitCode::SUCCESS)
}
