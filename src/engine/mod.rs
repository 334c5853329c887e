//! What happens: action keys, the plan and the why, scheduling, child processes, progress.
//!
//! It knows stage kinds only through [`crate::stages::Declaration`], and pipelines only as [`crate::pipeline`]
//! resolved them. One walk over the graph ([`resolve`]) serves both [`plan`] and [`build`]: an explanation is the
//! difference of two actions, and the key is the digest of the same action, so that they cannot disagree.
//!
//! | in the action key | not in it |
//! |---|---|
//! | kind, kind version, parameters with their defaults | names of stages, pipelines, variants |
//! | artifact digests of input stages | how those artifacts were made |
//! | content and name of input files | their folders, times, owners |
//! | the seed, for a seeded kind | |
//! | device kind and dtype, for a tensor kind | device index, threads, host |
//! | for a gathering kind: names and sweep values of what it gathers, which it shows | |

mod action;
mod build;
pub mod device;
mod diagram;
mod difference;
mod explain;
mod graph;
mod inputs;
mod links;
mod plan;
mod process;
mod progress;
mod resolve;
mod schedule;

use std::path::PathBuf;

pub use action::{ACTION_FORMAT, key_of};
pub use build::{Failure, Summary, build};
pub use device::DeviceChoice;
pub use diagram::{Diagram, diagram};
pub use difference::{Difference, differences};
pub use links::{BuildDescription, BuiltStage, DESCRIPTION};
pub use plan::{Plan, PlannedStage, Status, plan};
pub use process::run_stage;

/// What a person may say about how to build.
#[derive(Clone, Debug)]
pub struct Options {
    pub cache: PathBuf,
    pub out: PathBuf,
    /// How many tensor stages run at once; `None`: one for each device.
    pub jobs: Option<usize>,
    /// Threads of each tensor stage; `None`: the cores, shared out among `jobs`.
    ///
    /// Sums on a CPU can differ in the last bit with another number, which is why it stays the same through a build;
    /// it is not part of any key.
    pub threads: Option<usize>,
    pub device: DeviceChoice,
    /// Go on with what does not depend on a failed stage.
    pub keep_going: bool,
    /// Only these stages and what they need; empty: all.
    pub only: Vec<String>,
    /// No progress on standard error.
    pub quiet: bool,
    /// The folder of `raisin` and `raisin-worker`; `None`: that of the running executable.
    pub executables: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache: PathBuf::from("cache"),
            out: PathBuf::from("out"),
            jobs: None,
            threads: None,
            device: DeviceChoice::Auto,
            keep_going: false,
            only: Vec::new(),
            quiet: false,
            executables: None,
        }
    }
}
