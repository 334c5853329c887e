//! The arguments that `build`, `plan` and other commands share, and their conversion to the options of the engine.

use std::path::{Path, PathBuf};

use clap::Args;

use super::shared_cache;
use raisin_base::error::{Problem, Result};
use raisin_contract::remote::RemoteSettings;
use raisin_engine::{DeviceChoice, Options};
use raisin_kinds::KINDS;
use raisin_pipeline::{self as pipeline, CacheSettings, Override, Pipeline};

#[derive(Args)]
pub struct PipelineArguments {
    /// The pipeline file (TOML), or, for `build`, a plan file.
    #[arg(value_name = "PIPELINE")]
    file: PathBuf,
    /// Set a parameter to another value: `stage.clusters.clusters=8`, `pipeline.seed=3`. The value is TOML; if it is
    /// not valid TOML, it is plain text.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Add an axis to the sweep, or replace one: `pipeline.seed=[17, 18, 19]`.
    #[arg(long, value_name = "KEY=[..]")]
    sweep: Vec<String>,
    /// Only this stage and its inputs. May be given several times.
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    #[command(flatten)]
    cache: CacheFolder,
    /// The maximum number of tensor stages that run at the same time [default: as many as threads, memory and GPUs
    /// allow]
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Threads of a tensor stage that does not set a number itself [default: the cores, divided among the stages]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// The device of tensors: auto (CUDA if it can be used, else the CPU), cpu, cuda, or one GPU as cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Do not use the shared cache of the pipeline or of RAISIN_REMOTE.
    #[arg(long)]
    no_remote: bool,
}

#[derive(Args)]
pub struct CacheFolder {
    /// The folder of the cache [default: $RAISIN_CACHE, else cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Args)]
pub struct OutFolder {
    /// The folder for the links to the artifacts of the last build [default: $RAISIN_OUT, else out]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub struct Folders {
    #[command(flatten)]
    pub cache: CacheFolder,
    #[command(flatten)]
    pub out: OutFolder,
}

impl CacheFolder {
    pub fn path(&self) -> PathBuf {
        folder(self.cache.as_ref(), "RAISIN_CACHE", "cache")
    }
}

impl OutFolder {
    /// The folder, if a flag gave it.
    pub fn flag(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    pub fn path(&self) -> PathBuf {
        folder(self.out.as_ref(), "RAISIN_OUT", "out")
    }
}

/// The folder that a flag, else a variable, else the default names.
pub fn folder(flag: Option<&PathBuf>, variable: &str, default: &str) -> PathBuf {
    let set = || std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    flag.cloned().or_else(set).unwrap_or_else(|| PathBuf::from(default))
}

impl PipelineArguments {
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether the flags change the pipeline of the file.
    pub fn has_changes(&self) -> bool {
        !(self.set.is_empty() && self.sweep.is_empty() && self.only.is_empty())
    }

    /// The folder of the cache, if a flag gave it.
    pub fn cache_flag(&self) -> Option<&Path> {
        self.cache.cache.as_deref()
    }

    /// # Errors
    /// A flag would change the content of the plan.
    pub fn refuse_changes(&self) -> Result<()> {
        let flags = [
            ("--set", !self.set.is_empty()),
            ("--sweep", !self.sweep.is_empty()),
            ("--only", !self.only.is_empty()),
            ("--device", !matches!(self.device, DeviceChoice::Auto)),
        ];
        match flags.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                Err(Problem::usage(format!("{} is a plan, which {flag} would change", self.file.display()))
                    .hint(format!("give {flag} to `raisin plan`"))
                    .into())
            }
            None => Ok(()),
        }
    }

    /// # Errors
    /// The pipeline or a flag is wrong.
    pub fn load(&self) -> Result<Pipeline> {
        let sets = self.set.iter().cloned().map(Override::Set);
        let sweeps = self.sweep.iter().cloned().map(Override::Sweep);
        // Apply the sweeps first: a --set of a swept key removes this axis, wherever the axis comes from.
        pipeline::load(&self.file, &sweeps.chain(sets).collect::<Vec<_>>(), KINDS, &self.cache.path())
    }

    /// The shared cache for a pipeline with this table `[cache]`.
    ///
    /// # Errors
    /// A variable of the environment has an impossible value.
    pub fn remote(&self, cache: &CacheSettings) -> Result<Option<RemoteSettings>> {
        if self.no_remote { Ok(None) } else { shared_cache::settings(None, cache) }
    }

    /// The options without the shared cache.
    pub fn options(&self) -> Options {
        Options {
            cache: self.cache.path(),
            jobs: self.jobs,
            threads: self.threads,
            device: self.device,
            only: self.only.clone(),
            ..Options::default()
        }
    }
}
