//! The side of the build on the way to the driver: hands jobs over, waits for their ends, and ends the watch.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::super::worker::Ending;
use super::cluster::Clusters;
use super::driver::{Driver, words_of};
use super::files::{self, JobSpec, SUBMITTED, Submitted};
use super::marks::{self, EarlierJob};
use raisin_base::error::{Problem, Result, anyhow};
use raisin_base::panics::caught;
use raisin_contract::Event;
use raisin_store::{FileSystemKind, file_system};

/// How long the file of a job that has ended may take to arrive: on a network file system, another machine may learn of a
/// new file minutes later.
const FILE_PATIENCE: Duration = Duration::from_secs(10);
const FILE_PATIENCE_ON_NETWORK: Duration = Duration::from_secs(270);

/// How a job ended.
pub struct JobRun {
    pub ending: Ending,
    /// The folder of the attempt, with its artifact in `out`, its log and its events.
    pub attempt: PathBuf,
    pub times: RunTimes,
}

/// When an attempt ran (RFC 3339), and how long.
pub struct RunTimes {
    pub started: String,
    pub finished: String,
    pub seconds: f64,
}

/// The error of a stage whose job the build has left or cancelled.
#[derive(Debug)]
pub struct LeftRunning {
    pub words: String,
    /// Whether the job goes on.
    pub goes_on: bool,
}

impl std::fmt::Display for LeftRunning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for LeftRunning {}

pub(super) enum QueueRequest {
    Run { spec: Box<JobSpec>, answers: Sender<JobAnswer> },
    End { cancel: bool },
    Over,
}

pub(super) enum JobAnswer {
    Says(String),
    Note(String),
    Event(Event),
    Ended(Box<JobRun>),
    Failed(Problem),
    Left { words: String, goes_on: bool },
}

/// The numbers of jobs, which the build reads.
#[derive(Default)]
pub(super) struct JobCounts {
    /// Jobs that are submitted, or wait for a place among the jobs that may be submitted.
    pub settled: AtomicUsize,
    /// Jobs that are submitted, or that are being submitted now.
    pub live: AtomicUsize,
}

/// The way to the driver.
pub struct JobQueue {
    pub(super) clusters: Clusters,
    pub(super) interval: Duration,
    pub(super) file_patience: Duration,
    requests: Sender<QueueRequest>,
    receiver: std::sync::Mutex<Option<Receiver<QueueRequest>>>,
    pub(super) counts: JobCounts,
}

/// Ends the thread of the driver when it is dropped.
pub struct QueueGuard<'q>(&'q JobQueue);

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        // If the thread has ended, nothing is left to end.
        drop(self.0.requests.send(QueueRequest::Over));
    }
}

/// Who hears about a job while it is watched.
pub trait JobListener {
    fn says(&self, words: String);
    fn note(&self, text: String);
    fn event(&self, event: Event);
}

impl JobQueue {
    /// `cache` is the folder of the cache; `interval` is the time between two questions to a scheduler.
    pub fn new(clusters: Clusters, cache: &Path, interval: Duration) -> Self {
        let kind = file_system(cache).map_or(FileSystemKind::Local, |(_, kind)| kind);
        let is_shared = matches!(kind, FileSystemKind::Network | FileSystemKind::Program);
        let file_patience = if is_shared { FILE_PATIENCE_ON_NETWORK } else { FILE_PATIENCE };
        let (requests, receiver) = channel();
        let receiver = std::sync::Mutex::new(Some(receiver));
        Self { clusters, interval, file_patience, requests, receiver, counts: JobCounts::default() }
    }

    /// Starts the thread of the driver, which ends with the returned guard.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start<'scope>(&'scope self, scope: &'scope std::thread::Scope<'scope, '_>) -> Result<QueueGuard<'scope>> {
        let receiver = self.receiver.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let receiver = receiver.ok_or_else(|| anyhow!("the driver of jobs was started twice"))?;
        // After a panic, the answers end, and each stage reports that.
        let run = move || drop(caught(|| Driver::new(self, receiver).run()));
        std::thread::Builder::new().name("jobs".to_owned()).spawn_scoped(scope, run)?;
        Ok(QueueGuard(self))
    }

    /// Submits a job, or finds it again, and waits for its end.
    ///
    /// # Errors
    /// The job was refused, failed without a result, or was left ([`LeftRunning`]).
    pub fn run(&self, spec: JobSpec, listener: &impl JobListener) -> Result<JobRun> {
        let (answers, heard) = channel();
        drop(self.requests.send(QueueRequest::Run { spec: Box::new(spec), answers }));
        for answer in heard {
            match answer {
                JobAnswer::Says(words) => listener.says(words),
                JobAnswer::Note(text) => listener.note(text),
                JobAnswer::Event(event) => listener.event(event),
                JobAnswer::Ended(run) => return Ok(*run),
                JobAnswer::Failed(problem) => return Err(problem.into()),
                JobAnswer::Left { words, goes_on } => return Err(LeftRunning { words, goes_on }.into()),
            }
        }
        Err(anyhow!("raisin itself failed: the thread that watches the jobs has ended"))
    }

    /// Cancels the job of an earlier build, if there is one. The text, if there is one, says that nobody knows.
    ///
    /// # Errors
    /// The scheduler does not cancel it, or does not say whether there is one.
    pub fn cancel_earlier(&self, spec: &JobSpec) -> Result<Option<String>> {
        let submitted = files::read::<Submitted>(&spec.folder.join(SUBMITTED))?;
        let runs_on = submitted.as_ref().map_or(spec.request.runs_on, |submitted| submitted.runs_on);
        let Some(cluster) = self.clusters.get(runs_on) else { return Ok(None) };
        let name = cluster.name();
        let submitted = match submitted {
            Some(submitted) => submitted,
            None => match marks::find(cluster.as_ref(), std::iter::once(spec)) {
                Ok(mut earlier) => match earlier.pop() {
                    Some(EarlierJob::Found(submitted)) => submitted,
                    Some(EarlierJob::Unknown(text)) => return Ok(Some(text)),
                    Some(EarlierJob::None) | None => return Ok(None),
                },
                Err(error) => return Err(anyhow!("{name} does not tell its jobs: {}", words_of(&error))),
            },
        };
        cluster.cancel(&[&submitted.id]).map_err(|error| {
            anyhow!("cannot cancel {name} job {} of an earlier build: {}", submitted.id, words_of(&error))
        })?;
        Ok(None)
    }

    /// Ends the watch of all jobs, and cancels them or leaves them to go on. Jobs that come later are not submitted.
    pub fn end(&self, cancel: bool) {
        drop(self.requests.send(QueueRequest::End { cancel }));
    }

    /// The number of jobs that are submitted, or that wait for a place among those that may be submitted.
    pub fn settled(&self) -> usize {
        self.counts.settled.load(Ordering::SeqCst)
    }

    /// The number of jobs that are submitted, or that are being submitted now.
    pub fn live(&self) -> usize {
        self.counts.live.load(Ordering::SeqCst)
    }
}
