//! The arguments that `build` and `plan` share, and what the engine makes of them.

use std::path::PathBuf;

use clap::Args;

use crate::engine::{DeviceChoice, Options};
use crate::error::Result;
use crate::pipeline::{self, Override, Pipeline};

#[derive(Args)]
pub struct PipelineArguments {
    /// The pipeline: a TOML file.
    #[arg(value_name = "PIPELINE")]
    file: PathBuf,
    /// Give a parameter another value: `stage.clusters.clusters=8`, `pipeline.seed=3`. The value is TOML, or else
    /// plain text.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Add an axis to the sweep, or replace one: `pipeline.seed=[17, 18, 19]`.
    #[arg(long, value_name = "KEY=[..]")]
    sweep: Vec<String>,
    /// Only this stage and what it needs; may be given several times.
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    #[command(flatten)]
    folders: Folders,
    /// How many tensor stages run at once [default: one for each device]
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Threads of each tensor stage [default: the cores, shared out]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where tensors live: auto (CUDA where it can be used, else the CPU), cpu, cuda, or one GPU as cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

#[derive(Args)]
pub struct Folders {
    /// Where artifacts are kept [default: $RAISIN_CACHE, else cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Where the links to the last build's artifacts go [default: $RAISIN_OUT, else out]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Folders {
    pub fn cache(&self) -> PathBuf {
        folder(self.cache.as_ref(), "RAISIN_CACHE", "cache")
    }

    pub fn out(&self) -> PathBuf {
        folder(self.out.as_ref(), "RAISIN_OUT", "out")
    }
}

fn folder(flag: Option<&PathBuf>, variable: &str, default: &str) -> PathBuf {
    let set = || std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    flag.cloned().or_else(set).unwrap_or_else(|| PathBuf::from(default))
}

impl PipelineArguments {
    /// # Errors
    /// Whatever is wrong with the pipeline or the flags.
    pub fn load(&self) -> Result<Pipeline> {
        let sets = self.set.iter().cloned().map(Override::Set);
        let sweeps = self.sweep.iter().cloned().map(Override::Sweep);
        // The sweeps first: a --set of a swept key ends that axis, wherever the axis comes from.
        pipeline::load(&self.file, &sweeps.chain(sets).collect::<Vec<_>>())
    }

    pub fn options(&self) -> Options {
        Options {
            cache: self.folders.cache(),
            out: self.folders.out(),
            jobs: self.jobs,
            threads: self.threads,
            device: self.device,
            only: self.only.clone(),
            ..Options::default()
        }
    }
}
