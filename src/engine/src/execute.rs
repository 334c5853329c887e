//! Makes one action: takes the lock, runs the stage in a worker, checks the inputs, and commits the artifact. The
//! process of the worker is in worker.rs and child.rs; the store is raisin-store.
//!
//! A stage is one assignment file and one staging folder, which a worker gets. A failure of any kind ends the stage,
//! not the build. While the process of a stage runs, it holds a lock in the staging folder. Therefore a build that
//! starts after a kill cannot use the staging folder before the old process is gone.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::change::{changes, in_words};
use super::child::Children;
use super::fetch::DownloadListener;
use super::graph::NodeId;
use super::held::HeldInputs;
use super::inputs::{JobInput, digest_of_fingerprints};
use super::jobs::{self, JobQueue, JobSpec};
use super::stage_run::{Runner, StageCall, remove_job};
use super::waiting;
use super::worker::Worker;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Error, Problem, Result, bail, render};
use raisin_base::files::if_there;
use raisin_contract::context::{ASSIGNMENT, wait_until_left};
use raisin_contract::{Assignment, Event, Process, Progress};
use raisin_store::{ActionRecord, Artifact, FileDifference, Lookup, Manifest, Store, remove_tree};

/// All data that are needed to make one action.
pub struct Job {
    pub id: NodeId,
    pub process: Process,
    pub assignment: Assignment,
    pub inputs: Vec<JobInput>,
    /// The action record, without the fields that only the run can fill.
    pub record: ActionRecord,
    pub mode: Mode,
    /// The job of a cluster that runs the stage; `None` for a stage on this machine.
    pub on_cluster: Option<JobSpec>,
}

/// Where the process of a stage runs.
pub struct StagePlace<'w, 'c> {
    /// The worker of this thread, if it has one.
    pub worker: &'w mut Option<Worker<'c>>,
    /// The way to the jobs of the build, if it has any.
    pub queue: Option<&'w JobQueue>,
}

/// How a build makes its actions.
#[derive(Clone, Debug, Default)]
pub struct Mode {
    /// The folder of the executables, if it is not the folder of the running executable.
    pub executables: Option<PathBuf>,
    /// Run the stage although there is an artifact, and from the beginning although there are checkpoints.
    pub anew: bool,
    /// Run the stage twice and compare the artifacts.
    pub check: bool,
    /// Run the stage in a new process, instead of a worker that has run other stages before.
    pub fresh_worker: bool,
}

/// A report of a worker thread to the build, about the job of a node.
pub struct JobMessage {
    pub id: NodeId,
    pub news: JobNews,
}

pub enum JobNews {
    /// Another process makes the same action, or fetches the same file. The text says which process.
    Waiting(String),
    Started,
    Event(Event),
    Ended(Box<Result<MadeAction>>),
}

pub struct MadeAction {
    pub record: ActionRecord,
    /// False if another build made the artifact while this build waited for the lock.
    pub ran: bool,
    pub check: Check,
}

/// The result of the second run. Whatever the result is, the artifact of the first run stays committed and valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// There is no result: the user asked for no second run, or an interrupt ended the second run.
    None,
    Same,
    /// The text says what differs from the first run, or why the second run failed.
    Failed(String),
}

/// Makes the action, unless the store has its artifact when the lock is taken.
pub fn execute<'c>(
    job: Job,
    store: &Store,
    children: &'c Children,
    messages: &Sender<JobMessage>,
    place: StagePlace<'_, 'c>,
) -> Result<MadeAction> {
    let Job { id, process, mut assignment, mut inputs, mut record, mode, on_cluster } = job;
    let key = record.key;
    let reports = JobReports { id, children, messages, is_second: false };
    let doing = format!("building {}", assignment.stage);
    let lock = waiting::lock(store, key, &doing, |words| reports.waits(words), || children.is_stopping())?;
    let Some(_lock) = lock else { bail!("interrupted while waiting for another build") };
    if !mode.anew
        && let Lookup::Hit(record) = store.lookup(key)?
    {
        return Ok(MadeAction { record: *record, ran: false, check: Check::None });
    }
    reports.send(JobNews::Started);

    let staging = &assignment.folder.clone();
    if on_cluster.is_none() && !wait_until_left(staging, || children.is_stopping())? {
        bail!("interrupted");
    }
    let runner = match (&on_cluster, place.queue) {
        (Some(spec), Some(queue)) => Runner::Cluster { queue, spec },
        (Some(_), None) => bail!("raisin itself failed: no thread submits jobs"),
        (None, _) => Runner::Worker { fresh: mode.fresh_worker, worker: place.worker },
    };
    if mode.anew && staging.exists() {
        runner.clear(store, staging, &reports)?;
    }
    inputs.iter_mut().try_for_each(|input| input.file.bring(store, &reports))?;
    let held = HeldInputs::open(&inputs)?;
    let started = Instant::now();
    record.started = jiff::Timestamp::now().to_string();
    let fingerprints = digest_of_fingerprints(&inputs);
    if !inputs.is_empty()
        && let Some(why) = inputs_changed(staging, fingerprints)?
    {
        let was_there = runner.has_checkpoints(staging);
        runner.clear(store, staging, &reports)?;
        if was_there {
            reports.note(format!("{why}; the stage begins again from the start"));
        }
    }
    let resumes = runner.has_checkpoints(staging);
    assignment.files = held.link_into(staging, runner.link_to())?;
    let file = write_assignment(&assignment, fingerprints)?;
    let known = |text: &str| held.with_known_paths(staging, text);
    let call = StageCall {
        process,
        executables: mode.executables.as_deref(),
        assignment: &file,
        log: &store.log_file(key),
        known: &known,
        resumed: resumes.then_some(assignment.stage.as_str()),
    };
    let run = runner.run(&call, &reports, children)?;
    for event in run.events {
        match event {
            Event::Cost(cost) => record.costs.push(cost),
            Event::Note { text } => record.notes.push(text),
            Event::Progress(_) | Event::Measured(_) => {}
        }
    }
    if let Err(changed) = held.check_unchanged() {
        // The checkpoints were made from other bytes than the key says.
        remove_tree(staging)?;
        return Err(changed);
    }
    let committed = if on_cluster.is_some() { take_over(store, staging, &run.out) } else { store.commit(&run.out) };
    let artifact = match committed {
        Ok(artifact) => artifact,
        // A build on another machine may have found the same job, and have put its artifact into place.
        Err(error) => match store.lookup(key)? {
            Lookup::Hit(record) if on_cluster.is_some() => {
                return Ok(MadeAction { record: *record, ran: false, check: Check::None });
            }
            _ => return Err(error),
        },
    };
    record.seconds = started.elapsed().as_secs_f64();
    record.finished = jiff::Timestamp::now().to_string();
    if let Some(times) = run.times {
        (record.started, record.finished, record.seconds) = (times.started, times.finished, times.seconds);
    }
    record.artifact = artifact.digest;
    record.bytes = artifact.manifest.bytes();
    record.references = artifact.references;
    if mode.anew {
        compare_with_earlier(store, &mut record, &reports);
    }
    store.write_record(&record)?;
    let removed = if on_cluster.is_some() { remove_job(store, staging) } else { remove_tree(staging) };
    if let Err(error) = removed {
        // The stage has succeeded, whatever is left of its folder.
        reports.note(format!("{error:#}; `raisin gc` removes the folder later"));
    }
    let check = if mode.check {
        let place = on_cluster.zip(place.queue);
        let again = Again { key, process, executables: mode.executables, place };
        compare_with_another(store, &reports, again, assignment, (&held, fingerprints), &artifact.manifest)
    } else {
        Check::None
    };
    Ok(MadeAction { record, ran: true, check })
}

/// Commits what a job wrote. A build may be killed when the artifact is in its place and the record of the action is not:
/// then the digest beside the folder of the results leads to the artifact.
fn take_over(store: &Store, job: &Path, out: &Path) -> Result<Artifact> {
    let note = out.with_file_name(jobs::ARTIFACT);
    if out.exists() {
        return store.commit_if(out, |digest| jobs::write(&note, &digest));
    }
    if let Some(digest) = jobs::read::<Digest>(&note)?
        && let Some(artifact) = store.inspect(digest)?
    {
        return Ok(artifact);
    }
    // Without these files, the next build submits a new job.
    for name in [jobs::DONE, jobs::SUBMITTED] {
        if_there(std::fs::remove_file(job.join(name)))?;
    }
    let problem = Problem::new(format!("the job has ended, and its results are gone: {}", out.display()));
    Err(problem.hint("build again, which submits the stage anew").into())
}

/// Notes that an earlier run of the same action made another artifact.
fn compare_with_earlier(store: &Store, record: &mut ActionRecord, reports: &JobReports<'_>) {
    if let Ok(Some(before)) = store.record(record.key)
        && before.artifact != record.artifact
    {
        let told = in_words(&changes(store, before.artifact, record.artifact));
        let text = format!("an earlier run of this action made another artifact, {}: {told}", before.artifact.short());
        record.notes.push(text.clone());
        reports.note(text);
    }
}

/// The result of a second run, compared with the manifest of the first.
fn compare_with_another(
    store: &Store,
    reports: &JobReports<'_>,
    again: Again<'_>,
    assignment: Assignment,
    (held, fingerprints): (&HeldInputs<'_>, Digest),
    first: &Manifest,
) -> Check {
    let second = run_again(store, reports, again, assignment, (held, fingerprints)).and_then(|second| {
        held.check_unchanged()?;
        Ok(compare(first, &second))
    });
    match second {
        Ok(None) => Check::Same,
        Ok(Some(unlike)) => Check::Failed(format!("the second run made another artifact than the first\n    {unlike}")),
        Err(_) if reports.children.is_stopping() => Check::None,
        Err(error) => Check::Failed(format!("the second run failed\n    {}", plain(&error))),
    }
}

/// What a second run of an action needs beside its assignment.
struct Again<'q> {
    key: Digest,
    process: Process,
    executables: Option<PathBuf>,
    place: Option<(JobSpec, &'q JobQueue)>,
}

/// Runs the action a second time, in its own process, folder and log, and returns the manifest of the second artifact.
/// The second run uses neither files of the first run nor shared token sequences, so these cannot hide a difference.
/// The log of the first run stays.
fn run_again(
    store: &Store,
    reports: &JobReports<'_>,
    again: Again<'_>,
    assignment: Assignment,
    (held, fingerprints): (&HeldInputs<'_>, Digest),
) -> Result<Manifest> {
    let key = Digest::of(format!("again {}", again.key).as_bytes());
    let folder = if again.place.is_some() { store.job_folder(key) } else { store.staging_folder(key) };
    let spec = again.place.map(|(spec, queue)| (JobSpec { folder: folder.clone(), ..spec }, queue));
    let mut none = None;
    let runner = match &spec {
        Some((spec, queue)) => Runner::Cluster { queue, spec },
        None => Runner::Worker { fresh: true, worker: &mut none },
    };
    if folder.exists() {
        runner.clear(store, &folder, reports)?;
    }
    let files = held.link_into(&folder, runner.link_to())?;
    let assignment = Assignment { folder, files, tokens: None, ..assignment };
    let (file, log) = (write_assignment(&assignment, fingerprints)?, store.log_file(key));
    let known = |text: &str| held.with_known_paths(&assignment.folder, text);
    let call = StageCall {
        process: again.process,
        executables: again.executables.as_deref(),
        assignment: &file,
        log: &log,
        known: &known,
        resumed: None,
    };
    let quiet = JobReports { is_second: true, ..*reports };
    let out = runner.run(&call, &quiet, reports.children)?.out;
    let made = Manifest::of_folder(&out)?;
    remove_tree(&assignment.folder)?;
    Ok(made)
}

/// The text of an error as the reason of a failure, without the prefix `error: `.
pub fn plain(error: &Error) -> String {
    let text = render(error);
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// Sends the reports about one job to the build. The progress of a download is reported like that of a stage.
pub struct JobReports<'t> {
    id: NodeId,
    pub children: &'t Children,
    messages: &'t Sender<JobMessage>,
    /// Of a second run, only the progress is reported: the first has said the rest.
    is_second: bool,
}

impl JobReports<'_> {
    pub fn send(&self, news: JobNews) {
        if self.is_second && matches!(news, JobNews::Event(Event::Note { .. } | Event::Cost(_))) {
            return;
        }
        // After an error of the build, nobody receives the report.
        drop(self.messages.send(JobMessage { id: self.id, news }));
    }

    pub fn note(&self, text: String) {
        self.send(JobNews::Event(Event::Note { text }));
    }
}

impl DownloadListener for JobReports<'_> {
    fn progress(&self, progress: Progress) {
        self.send(JobNews::Event(Event::Progress(progress)));
    }

    fn waits(&self, words: String) {
        self.send(JobNews::Waiting(words));
    }

    fn gives_up(&self) -> bool {
        self.children.is_stopping()
    }
}

/// The content of `assignment.json` as the engine writes it.
#[derive(Serialize)]
struct Begun<'a> {
    inputs_look: Digest,
    #[serde(flatten)]
    assignment: &'a Assignment,
}

/// The part of `assignment.json` that the engine reads again: the digest of the fingerprints that the input files had
/// when the stage began in this folder.
#[derive(Deserialize)]
struct Before {
    inputs_look: Digest,
}

/// The reason why the staging folder of a stage that did not end cannot be used; `None` if the input files still have the
/// fingerprints that they had when the stage began. With other fingerprints, the stage may have read other bytes than the
/// key says, and no check came after the reading.
fn inputs_changed(staging: &Path, fingerprints: Digest) -> Result<Option<&'static str>> {
    // Without this file, the stage did not begin before, or a process died after it created the folder.
    let text = if_there(std::fs::read(staging.join(ASSIGNMENT)))
        .with_context(|| format!("cannot read the {ASSIGNMENT} of {}", staging.display()))?;
    let before = text.and_then(|text| serde_json::from_slice::<Before>(&text).ok());
    Ok(match before {
        Some(before) if before.inputs_look == fingerprints => None,
        _ if !staging.exists() => None,
        Some(_) => Some("its input files may have changed since the last attempt"),
        None => Some("it is unknown from which inputs its checkpoints were made"),
    })
}

pub fn has_checkpoints(staging: &Path) -> bool {
    std::fs::read_dir(staging.join("work")).is_ok_and(|mut left| left.next().is_some())
}

fn write_assignment(assignment: &Assignment, inputs_look: Digest) -> Result<PathBuf> {
    let folder = &assignment.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = folder.join(ASSIGNMENT);
    let text = serde_json::to_vec_pretty(&Begun { inputs_look, assignment })?;
    // An equal file stays as it is. Another file is replaced by a rename, so that there is an assignment at any time:
    // without it the checkpoints would be removed.
    if std::fs::read(&file).is_ok_and(|before| before == text) {
        return Ok(file);
    }
    let new = file.with_extension("new");
    let write = || std::fs::write(&new, &text).and_then(|()| std::fs::rename(&new, &file));
    write().with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// The differences between the files of two runs of one action; `None` if there are none.
fn compare(first: &Manifest, second: &Manifest) -> Option<String> {
    let word = |difference| match difference {
        FileDifference::Removed(file) => format!("{} was written in the first run only", file.path),
        FileDifference::Added(file) => format!("{} was written in the second run only", file.path),
        FileDifference::Changed { from, to } if from.size == to.size => {
            format!("{}: {} bytes in both runs, with different content", from.path, from.size)
        }
        FileDifference::Changed { from, to } => format!("{}: {} bytes, then {}", from.path, from.size, to.size),
    };
    let unlike: Vec<String> = first.differences(second).into_iter().map(word).collect();
    (!unlike.is_empty()).then(|| unlike.join("\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_stay_only_while_the_inputs_have_the_same_fingerprints() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("key");
        let assignment = |threads| Assignment { threads, ..Assignment::for_test("sql", folder.clone(), &[]) };
        let (fingerprints, other) = (Digest::of(b"one"), Digest::of(b"two"));
        let checkpoint = folder.join("work/checkpoint");
        let begin = |threads| {
            let file = write_assignment(&assignment(threads), fingerprints).unwrap();
            std::fs::create_dir_all(folder.join("work")).unwrap();
            std::fs::write(&checkpoint, "").unwrap();
            file
        };
        assert_eq!(inputs_changed(&folder, fingerprints).unwrap(), None);
        let file = begin(1);
        let before = std::fs::metadata(&file).unwrap().modified().unwrap();
        begin(1);
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before, "written again without need");
        // Another number of threads does not change the inputs.
        begin(2);
        assert!(raisin_contract::serve::read_assignment(&file).is_ok_and(|assignment| assignment.threads == 2));
        assert_eq!(inputs_changed(&folder, fingerprints).unwrap(), None);
        assert!(checkpoint.exists());
        let why = inputs_changed(&folder, other).unwrap();
        assert_eq!(why, Some("its input files may have changed since the last attempt"));
        let text = std::fs::read(begin(1)).unwrap();
        std::fs::write(&file, &text[..text.len() / 2]).unwrap();
        let why = inputs_changed(&folder, fingerprints).unwrap();
        assert_eq!(why, Some("it is unknown from which inputs its checkpoints were made"));
    }
}
