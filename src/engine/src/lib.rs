//! What happens: action keys, the plan and the why, scheduling, child processes, progress.
//!
//! It knows stage kinds only through [`raisin_contract::Declaration`], and pipelines only as [`raisin_pipeline`]
//! resolved them. One walk over the graph ([`resolve`]) serves both [`plan`] and [`build`]. It makes one
//! [`raisin_contract::Action`] for each stage, and everything else follows from that: the key is its digest, an explanation
//! is the difference of two, plan files and records hold it, an assignment says where its artifacts lie. So they cannot
//! disagree.
//!
//! | in the action key | not in it |
//! |---|---|
//! | kind, kind version, parameters with their defaults | names of stages, pipelines, variants |
//! | artifact digests of input stages | how those artifacts were made |
//! | content and name of input files; of a folder or a pattern: their names below it | their folders' names, times, owners |
//! | the seed, for a seeded kind | |
//! | device kind and dtype, for a tensor kind | device index, threads and other resources, host |
//! | for a gathering kind: names and sweep values of what it gathers, which it shows | |

mod accept;
mod build;
mod change;
mod child;
pub mod device;
mod diagram;
mod difference;
mod explain;
mod fetch;
mod force;
mod graph;
mod inputs;
mod interrupt;
mod job;
mod links;
mod make;
mod plan;
mod plan_file;
mod progress;
mod resolve;
mod resources;
mod schedule;
mod summary;
mod told;
mod waiting;
mod worker;
mod worker_pool;

use std::path::PathBuf;

pub use accept::{Acceptance, accept};
pub use build::{build, build_planned};
pub use change::{ChangeKind, FileChange};
pub use child::executable;
pub use device::DeviceChoice;
pub use diagram::{Diagram, diagram};
pub use difference::{Difference, differences, words};
pub use fetch::{Listener, fetch, is_address};
pub use force::Force;
pub use inputs::digest_of;
pub use plan::{Plan, PlannedStage, Status, plan};
pub use plan_file::PlanFile;
pub use summary::{Failure, Summary};

/// What a person may say about how to build.
#[derive(Clone, Debug)]
pub struct Options {
    pub cache: PathBuf,
    pub out: PathBuf,
    /// How many tensor stages run at once at most; `None`: as many as the machine has room for.
    pub jobs: Option<usize>,
    /// Threads of a tensor stage that does not say how many; `None`: the cores, shared out among `jobs` or the devices.
    ///
    /// Sums on a CPU can differ in the last bit with another number, which is why it stays the same through a build;
    /// it is not part of any key.
    pub threads: Option<usize>,
    pub device: DeviceChoice,
    /// Go on with what does not depend on a failed stage.
    pub keep_going: bool,
    /// Only these stages and what they need; empty: all.
    pub only: Vec<String>,
    /// These stages though they are cached.
    pub force: Force,
    /// Run each stage that runs twice, and compare what it made.
    pub check: bool,
    /// A new process for each stage, instead of some that stay.
    pub fresh_workers: bool,
    /// No progress on standard error.
    pub quiet: bool,
    /// The folder of the executables that run stages; `None`: that of the running executable.
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
            force: Force::Nothing,
            check: false,
            fresh_workers: false,
            quiet: false,
            executables: None,
        }
    }
}
