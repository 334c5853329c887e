//! Runs the process of one stage: in a worker on this machine, or as a job of a cluster. execute.rs does what comes before
//! and after.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::child::{self, Children};
use super::execute::{self, JobNews, JobReports};
use super::failure::succeeded;
use super::held::LinkTo;
use super::jobs::{self, JobFile, JobListener, JobQueue, JobSpec, RunTimes};
use super::live::LiveProgress;
use super::worker::{Ending, Worker};
use raisin_base::error::{Context as _, Result};
use raisin_base::files::temporary_beside;
use raisin_contract::{Event, Process};
use raisin_store::{Store, remove_tree};

/// Where and how the process of a stage is started.
pub enum Runner<'w, 'c> {
    Worker { fresh: bool, worker: &'w mut Option<Worker<'c>> },
    Cluster { queue: &'w JobQueue, spec: &'w JobSpec },
}

/// What a run needs to know about its stage.
pub struct StageCall<'s> {
    pub process: Process,
    /// The folder of the executables, if it is not the folder of the running executable.
    pub executables: Option<&'s Path>,
    /// The file of the assignment, in the folder of the stage.
    pub assignment: &'s Path,
    pub log: &'s Path,
    /// Replaces the paths of links in a text by those that the user knows.
    pub known: &'s dyn Fn(&str) -> String,
    /// The name of the stage, if it goes on from checkpoints of an earlier attempt.
    pub resumed: Option<&'s str>,
}

/// A run that succeeded.
pub struct StageRun {
    /// The folder that becomes the artifact.
    pub out: PathBuf,
    /// The costs and notes.
    pub events: Vec<Event>,
    /// When the job ran, without its time in the queue; `None` for a run on this machine.
    pub times: Option<RunTimes>,
}

impl<'c> Runner<'_, 'c> {
    pub fn link_to(&self) -> LinkTo {
        match self {
            Self::Worker { .. } => LinkTo::HeldFolder,
            Self::Cluster { .. } => LinkTo::File,
        }
    }

    pub fn has_checkpoints(&self, staging: &Path) -> bool {
        match self {
            Self::Worker { .. } => execute::has_checkpoints(staging),
            Self::Cluster { .. } => jobs::has_checkpoints(staging),
        }
    }

    /// Removes all traces of earlier attempts, and cancels the job that may still run.
    pub fn clear(&self, store: &Store, staging: &Path, reports: &JobReports<'_>) -> Result<()> {
        match self {
            Self::Worker { .. } => remove_tree(staging),
            Self::Cluster { queue, spec } => {
                queue.cancel_earlier(spec)?.into_iter().for_each(|text| reports.note(text));
                remove_job(store, staging)
            }
        }
    }

    /// Runs the stage, and waits for its end.
    ///
    /// # Errors
    /// The stage failed, or its job was left.
    pub fn run(self, call: &StageCall<'_>, reports: &JobReports<'_>, children: &'c Children) -> Result<StageRun> {
        let folder = call.assignment.parent().unwrap_or(Path::new(""));
        match self {
            Self::Worker { fresh, worker } => {
                let (mut events, mut live) = (Vec::new(), LiveProgress::begin(folder));
                let on_event = |event: Event| {
                    live.take(&event);
                    match &event {
                        Event::Progress(_) => {}
                        Event::Note { .. } | Event::Cost(_) => events.push(event.clone()),
                        // For other processes only.
                        Event::Measured(_) => return,
                    }
                    reports.send(JobNews::Event(event));
                };
                let mut own = None;
                let worker = if fresh { &mut own } else { worker };
                let command = || child::command(call.process, call.executables);
                let ending = Worker::run(worker, children, command, call.assignment, call.log, on_event)?;
                // The folder of a stage that succeeded is removed at once: nobody would read the file.
                if !matches!(ending, Ending::Done) {
                    live.write();
                }
                drop(own);
                succeeded(ending, call.log, call.known, children, call.resumed)?;
                Ok(StageRun { out: folder.join("out"), events, times: None })
            }
            Self::Cluster { queue, spec } => run_on_cluster(queue, spec.clone(), call, reports),
        }
    }
}

/// Removes the folder of a job. A process of the job may still write for a moment: what it leaves is in tmp/, from where
/// gc removes it.
pub fn remove_job(store: &Store, folder: &Path) -> Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = temporary_beside(&store.temporary(&format!("job-{name}")));
    std::fs::rename(folder, &aside).with_context(|| format!("cannot move {} aside", folder.display()))?;
    let _ = remove_tree(&aside);
    Ok(())
}

/// Runs a stage as a job. The files of a job that failed are put aside for the next attempt, with its checkpoints.
fn run_on_cluster(queue: &JobQueue, spec: JobSpec, call: &StageCall<'_>, reports: &JobReports<'_>) -> Result<StageRun> {
    let folder = spec.folder.clone();
    let job = JobFile { process: call.process, executables: call.executables.map(Path::to_owned) };
    jobs::write(&folder.join(jobs::JOB), &job)?;
    let heard = JobAndPage { reports, live: RefCell::new(LiveProgress::begin(&folder)) };
    let run = queue.run(spec, &heard)?;
    // A job that could write nothing has no log.
    if let Err(error) = std::fs::copy(run.attempt.join(jobs::LOG), call.log) {
        reports.note(format!("cannot copy the log of the job: {error}"));
    }
    if let Err(failed) = succeeded(run.ending, call.log, call.known, reports.children, call.resumed) {
        // Without these files, the next build submits a new job. If they stay, it reads this failure again.
        for name in [jobs::DONE, jobs::SUBMITTED] {
            let _ = std::fs::remove_file(folder.join(name));
        }
        return Err(failed);
    }
    Ok(StageRun { out: run.attempt.join("out"), events: jobs::events(&run.attempt), times: Some(run.times) })
}

/// Passes what a job tells to the build, and keeps it for processes that look at the build.
struct JobAndPage<'r, 't> {
    reports: &'r JobReports<'t>,
    live: RefCell<LiveProgress>,
}

impl JobListener for JobAndPage<'_, '_> {
    fn says(&self, words: String) {
        self.reports.send(JobNews::Waiting(words));
    }

    fn note(&self, text: String) {
        self.reports.note(text);
    }

    fn event(&self, event: Event) {
        self.live.borrow_mut().take(&event);
        // Notes and costs come from the file of the attempt that succeeded.
        if let Event::Progress(_) | Event::Note { .. } = event {
            self.reports.send(JobNews::Event(event));
        }
    }
}
