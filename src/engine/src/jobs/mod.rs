//! Stages that run as jobs of a cluster. The build hands a job to the [`JobQueue`]; its thread (driver.rs) submits jobs,
//! watches them and cancels them through a [`cluster::Cluster`]: slurm.rs or template.rs. A job runs `raisin job`
//! (inside.rs), which runs the same worker with the same assignment as a build on one machine.
//!
//! The truth about a job is a file: `raisin job` renames `done.json` into the folder of the job when everything else is
//! written. What the scheduler says is asked once for all jobs, and decides only what the files do not say: whether a
//! job that has written nothing still waits, or why it ended. files.rs describes the files.

mod cluster;
mod driver;
mod files;
mod inside;
mod marks;
mod queue;
mod slurm;
mod template;
mod watched;

pub use cluster::Clusters;
pub use files::{ARTIFACT, DONE, JOB, JobFile, JobSpec, LOG, SUBMITTED, events, has_checkpoints, read, write};
pub use inside::run_job;
pub use queue::{JobListener, JobQueue, LeftRunning, RunTimes};
