//! The files by which a build and its jobs find each other, in the folder `jobs/<key>` of the cache:
//!
//! ```text
//! assignment.json        the assignment, as for a stage on this machine
//! inputs/                links to the input files
//! job.json               which executable runs it
//! submitting.json        a mark, from before a submission until its id is known: a later build looks for a job with it
//! submitted.json         the id of the job: a later build finds the job with it
//! attempt-<n>-<random>/  one for each start of the job: assignment.json, out/, work/, log, events.jsonl
//!                        artifact.json (the digest of what the build takes over from out/)
//! done.json              how the job ended; renamed into place after everything else
//! ```
//!
//! Each attempt has a folder of its own, so that no lock is needed between two machines: if a node is lost and its
//! process still writes, it writes where nobody reads. The random part keeps apart the attempts of a job that was cancelled
//! and whose folder was removed: its process may still write to its paths for a moment.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::worker::Ending;
use raisin_base::error::{Context as _, Result};
use raisin_base::files::{if_there, put, temporary_beside};
use raisin_contract::{Event, Process};
use raisin_pipeline::{JobRequest, RunsOn};

pub const JOB: &str = "job.json";
pub const SUBMITTED: &str = "submitted.json";
pub const SUBMITTING: &str = "submitting.json";
pub const DONE: &str = "done.json";
pub const EVENTS: &str = "events.jsonl";
pub const LOG: &str = "log";
pub const ARTIFACT: &str = "artifact.json";
const ATTEMPT: &str = "attempt-";

/// What a job must know beside its assignment.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobFile {
    pub process: Process,
    /// The folder of the executables, if it is not the folder of the running executable.
    pub executables: Option<PathBuf>,
}

/// A job that was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    pub runs_on: RunsOn,
    /// The id, as the scheduler gives it and takes it.
    pub id: String,
    /// How often the job was submitted again because it was lost.
    pub again: u32,
    /// When (RFC 3339).
    pub at: String,
    /// The file to which the scheduler writes what the job prints.
    pub output: Option<PathBuf>,
}

/// A submission that has begun. If the process is killed before it knows the id of the job, the mark is all that is left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Submitting {
    pub runs_on: RunsOn,
    /// The mark of the submission, which the scheduler keeps with the job.
    pub mark: String,
    /// The place of the job in its submission; 0 for a submission of one job.
    pub index: usize,
    /// Of how many jobs the submission is.
    pub of: usize,
    /// When (RFC 3339).
    pub at: String,
}

/// How an attempt ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttemptEnd {
    /// The name of the folder of the attempt.
    pub attempt: String,
    pub ending: JobEnding,
    pub started: String,
    pub finished: String,
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobEnding {
    Done,
    Failed,
    /// The status with which the worker ended.
    Died(i32),
    Silent,
}

impl From<Ending> for JobEnding {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::Done,
            Ending::Failed => Self::Failed,
            Ending::Silent => Self::Silent,
            Ending::Died(status) => Self::Died(status.into_raw()),
        }
    }
}

impl From<JobEnding> for Ending {
    fn from(ending: JobEnding) -> Self {
        match ending {
            JobEnding::Done => Self::Done,
            JobEnding::Failed => Self::Failed,
            JobEnding::Silent => Self::Silent,
            JobEnding::Died(status) => Self::Died(ExitStatus::from_raw(status)),
        }
    }
}

/// A job as the build orders it.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// The folder of the job.
    pub folder: PathBuf,
    /// The name of the stage.
    pub stage: String,
    /// The stage with its variant, for messages.
    pub label: String,
    /// The name of the job in the queue: the pipeline and the stage.
    pub name: String,
    pub request: JobRequest,
}

/// Writes a file as JSON. A reader sees the old or the new content.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    // Another machine reads the file: its content must be there before its name.
    put(path, &[&text], File::sync_all).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a file that [`write`] wrote; `None` if it does not exist.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = if_there(std::fs::read(path)).with_context(|| format!("cannot read {}", path.display()))?;
    text.map(|text| serde_json::from_slice(&text).with_context(|| format!("{} is unreadable", path.display())))
        .transpose()
}

/// A new name for the folder of the attempt with this number.
pub fn attempt_name(number: u32) -> String {
    format!("{ATTEMPT}{number}-{}", random_word())
}

/// A word that nobody else has.
pub fn random_word() -> String {
    // The random numbers of a temporary name, of which one is enough.
    let random = temporary_beside(Path::new("a"));
    random.extension().map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The number of an attempt; `None` for another name.
pub fn attempt_number(name: &str) -> Option<u32> {
    name.strip_prefix(ATTEMPT)?.split('-').next()?.parse().ok()
}

/// The names of the folders of the attempts of a job, the earliest first. The folder is listed: on a network file system
/// this also refreshes what this machine knows of the folder.
pub fn attempts(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut numbered: Vec<(u32, String)> = names.filter_map(|name| Some((attempt_number(&name)?, name))).collect();
    numbered.sort();
    numbered.into_iter().map(|(_, name)| name).collect()
}

/// Whether an earlier attempt left checkpoints.
pub fn has_checkpoints(folder: &Path) -> bool {
    let has =
        |name: String| std::fs::read_dir(folder.join(name).join("work")).is_ok_and(|mut left| left.next().is_some());
    attempts(folder).into_iter().any(has)
}

/// The events of an attempt. An unreadable line is left out: the process may have been killed while it wrote.
pub fn events(attempt: &Path) -> Vec<Event> {
    let Ok(file) = File::open(attempt.join(EVENTS)) else { return Vec::new() };
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_slice(&line).ok()).collect()
}
