//! The build engine: action keys, plans, explanations, scheduling, worker processes and progress. The engine leaves the
//! reading of pipeline files to raisin-pipeline, the files on disk to raisin-store, and the work of a stage to the
//! worker executables.
//!
//! The engine knows a stage kind only by its [`raisin_contract::Declaration`], and a pipeline only in the form that
//! [`raisin_pipeline`] resolved. One walk over the graph ([`resolve`]) serves both [`plan`] and [`build`]. The walk
//! makes one [`raisin_contract::Action`] for each stage. All other results derive from this action: the key is the
//! digest of the action, an explanation is the difference between two actions, plan files and action records contain
//! the action, and an assignment says where the artifacts of the action lie. Therefore keys, explanations, plans and
//! records cannot disagree.
//!
//! | in the action key | not in it |
//! |---|---|
//! | kind, kind version, parameters with their defaults | names of stages, pipelines, variants |
//! | artifact digests of input stages | how those artifacts were made |
//! | content and name of input files; for a folder or a pattern: file names below it | folder names, times, owners |
//! | the seed, for a seeded kind | |
//! | device kind and dtype, for a tensor kind | device index, threads and other resources, host |
//! | for a gathering kind: stage names and sweep values of its inputs, because the stage shows them | |

mod accept;
mod asked;
mod build;
mod change;
mod child;
mod device;
mod diagram;
mod difference;
mod download_limit;
mod execute;
mod explain;
mod failure;
mod fetch;
mod force;
mod found;
mod git;
mod graph;
mod held;
mod inputs;
mod installation;
mod interrupt;
mod job;
mod jobs;
mod libtorch;
mod links;
mod live;
mod out_check;
mod outcome;
mod plan;
mod plan_file;
mod printed;
mod progress;
mod pull;
mod remote;
mod repair;
mod resolve;
mod resources;
mod schedule;
mod silence;
mod stage_run;
mod summary;
mod told;
mod waiting;
mod worker;
mod worker_pool;

use std::path::PathBuf;

use raisin_contract::remote::RemoteSettings;

pub use accept::{Acceptance, accept, undo};
pub use build::{build, build_planned};
pub use change::{ChangeKind, FileChange};
pub use child::{executable, executable_named, load_from};
pub use device::DeviceChoice;
pub use diagram::{Diagram, diagram};
pub use difference::{ActionDifference, differences, words};
pub use fetch::{DownloadListener, fetch, is_address};
pub use force::Force;
pub use graph::outline;
pub use inputs::digest_of;
pub use installation::Installation;
pub use interrupt::Interrupt;
pub use jobs::run_job;
pub use libtorch::{HOW_TO_INSTALL, Libtorch, LibtorchPlace, LibtorchSearch, find_libtorch};
pub use outcome::StageResults;
pub use plan::{Plan, PlannedStage, Status, plan};
pub use plan_file::PlanFile;
pub use pull::{Pulled, pull};
pub use repair::{Repair, RepairOutcome, repair};
pub use summary::{Failure, Summary};

/// The options of a build, as a user gives them.
#[derive(Clone, Debug)]
pub struct Options {
    pub cache: PathBuf,
    pub out: PathBuf,
    /// The maximum number of tensor stages that run at the same time. `None`: as many as threads, memory and GPUs
    /// allow.
    pub jobs: Option<usize>,
    /// The number of threads of a tensor stage that does not set a number itself. `None`: the number of cores, divided
    /// by `jobs` or, without `jobs`, by the number of devices.
    ///
    /// With another number of threads, the last bit of a sum on a CPU can differ. Therefore the number stays constant
    /// during a build. The number is not part of any key.
    pub threads: Option<usize>,
    pub device: DeviceChoice,
    /// After a failure, continue with the stages that do not depend on the failed stage.
    pub keep_going: bool,
    /// Build only these stages and their inputs. Empty: build all stages.
    pub only: Vec<String>,
    /// The stages that run although they are cached.
    pub force: Force,
    /// If a stage must run, run the stage twice, and compare the two artifacts.
    pub check: bool,
    /// Start a new process for each stage, instead of workers that run one stage after another.
    pub fresh_workers: bool,
    /// Print no progress on standard error.
    pub quiet: bool,
    /// The folder of the executables that run stages. `None`: the folder of the running executable.
    pub executables: Option<PathBuf>,
    /// The shared cache on an object store. It is not part of any key.
    pub remote: Option<RemoteSettings>,
    /// Do not wait for uploads that are not finished when the last stage is.
    pub leave_uploads: bool,
    /// End the build when only jobs of a cluster run, and leave them to go on.
    pub detach: bool,
    /// What becomes of the jobs of a cluster if the build is interrupted.
    pub jobs_at_interrupt: JobsAtInterrupt,
}

/// What becomes of the jobs of a cluster if the build is interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobsAtInterrupt {
    /// Ask the user, if there is a terminal; otherwise leave them.
    #[default]
    Ask,
    /// They go on, and the next build finds them.
    Leave,
    Cancel,
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
            remote: None,
            leave_uploads: false,
            detach: false,
            jobs_at_interrupt: JobsAtInterrupt::Ask,
        }
    }
}
