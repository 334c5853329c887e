//! Makes one action: takes the lock, runs the stage in a worker, checks the inputs, and commits the artifact. The
//! process of the worker is in worker.rs and child.rs; the store is raisin-store.
//!
//! A stage is one assignment file and one staging folder, which a worker gets. A failure of any kind ends the stage,
//! not the build. While the process of a stage runs, it holds a lock in the staging folder. Therefore a build that
//! starts after a kill cannot use the staging folder before the old process is gone.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::Sender;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::change::{changes, in_words};
use super::child::{self, Children};
use super::fetch::DownloadListener;
use super::graph::NodeId;
use super::held::HeldInputs;
use super::inputs::{JobInput, digest_of_fingerprints};
use super::live::LiveProgress;
use super::waiting;
use super::worker::{Ending, Worker};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Error, Problem, Result, bail, render};
use raisin_base::files::if_there;
use raisin_contract::context::{ASSIGNMENT, wait_until_left};
use raisin_contract::{Assignment, Event, Process, Progress};
use raisin_store::{ActionRecord, FileDifference, Lookup, Manifest, Store, remove_tree};

/// All data that are needed to make one action.
pub struct Job {
    pub id: NodeId,
    pub process: Process,
    pub assignment: Assignment,
    pub inputs: Vec<JobInput>,
    /// The action record, without the fields that only the run can fill.
    pub record: ActionRecord,
    pub mode: Mode,
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
    worker: &mut Option<Worker<'c>>,
) -> Result<MadeAction> {
    let Job { id, process, mut assignment, mut inputs, mut record, mode } = job;
    let key = record.key;
    let reports = JobReports { id, children, messages };
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
    if !wait_until_left(staging, || children.is_stopping())? {
        bail!("interrupted");
    }
    if mode.anew && staging.exists() {
        remove_tree(staging)?;
    }
    inputs.iter_mut().try_for_each(|input| input.file.bring(store, &reports))?;
    let held = HeldInputs::open(&inputs)?;
    let log = store.log_file(key);
    let started = Instant::now();
    record.started = jiff::Timestamp::now().to_string();
    let fingerprints = digest_of_fingerprints(&inputs);
    if !inputs.is_empty()
        && let Some(why) = remove_if_inputs_changed(staging, fingerprints)?
    {
        reports.note(format!("{why}; the stage begins again from the start"));
    }
    let resumes = has_checkpoints(staging);
    assignment.files = held.link_into(staging)?;
    let file = write_assignment(&assignment, fingerprints)?;
    let mut live = LiveProgress::begin(staging);
    let on_event = |event: Event| {
        live.take(&event);
        match &event {
            Event::Cost(cost) => record.costs.push(cost.clone()),
            Event::Note { text } => record.notes.push(text.clone()),
            Event::Progress(_) => {}
            // For other processes only.
            Event::Measured(_) => return,
        }
        reports.send(JobNews::Event(event));
    };
    let command = || child::command(process, mode.executables.as_deref());
    let mut own = None;
    let worker = if mode.fresh_worker { &mut own } else { worker };
    let ending = Worker::run(worker, children, command, &file, &log, on_event)?;
    live.write();
    drop(own);
    let known = |text: &str| held.with_known_paths(staging, text);
    succeeded(ending, &log, known, children, resumes.then_some(assignment.stage.as_str()))?;
    if let Err(changed) = held.check_unchanged() {
        // The checkpoints were made from other bytes than the key says.
        remove_tree(staging)?;
        return Err(changed);
    }
    let artifact = store.commit(&staging.join("out"))?;
    record.seconds = started.elapsed().as_secs_f64();
    record.finished = jiff::Timestamp::now().to_string();
    record.artifact = artifact.digest;
    record.bytes = artifact.manifest.bytes();
    record.references = artifact.references;
    if mode.anew
        && let Ok(Some(before)) = store.record(key)
        && before.artifact != record.artifact
    {
        let told = in_words(&changes(store, before.artifact, record.artifact));
        let text = format!("an earlier run of this action made another artifact, {}: {told}", before.artifact.short());
        record.notes.push(text.clone());
        reports.note(text);
    }
    store.write_record(&record)?;
    if let Err(error) = remove_tree(staging) {
        // The stage has succeeded, whatever is left of its folder.
        reports.note(format!("{error:#}; `raisin gc` removes the folder later"));
    }
    let check = if mode.check {
        match run_again(store, &reports, command, key, assignment, (&held, fingerprints)).and_then(|second| {
            held.check_unchanged()?;
            Ok(compare(&artifact.manifest, &second))
        }) {
            Ok(None) => Check::Same,
            Ok(Some(unlike)) => {
                Check::Failed(format!("the second run made another artifact than the first\n    {unlike}"))
            }
            Err(_) if children.is_stopping() => Check::None,
            Err(error) => Check::Failed(format!("the second run failed\n    {}", plain(&error))),
        }
    } else {
        Check::None
    };
    Ok(MadeAction { record, ran: true, check })
}

/// Runs the action a second time, in its own process, folder and log, and returns the manifest of the second artifact.
/// The second run uses neither files of the first run nor shared token sequences, so these cannot hide a difference.
/// The log of the first run stays.
fn run_again(
    store: &Store,
    reports: &JobReports<'_>,
    command: impl FnOnce() -> Result<Command>,
    key: Digest,
    assignment: Assignment,
    (held, fingerprints): (&HeldInputs<'_>, Digest),
) -> Result<Manifest> {
    let key = Digest::of(format!("again {key}").as_bytes());
    let folder = store.staging_folder(key);
    if folder.exists() {
        remove_tree(&folder)?;
    }
    let files = held.link_into(&folder)?;
    let assignment = Assignment { folder, files, tokens: None, ..assignment };
    let (file, log) = (write_assignment(&assignment, fingerprints)?, store.log_file(key));
    let ending = Worker::run(&mut None, reports.children, command, &file, &log, |event| {
        if let Event::Progress(_) = event {
            reports.send(JobNews::Event(event));
        }
    })?;
    let known = |text: &str| held.with_known_paths(&assignment.folder, text);
    succeeded(ending, &log, known, reports.children, None)?;
    let made = Manifest::of_folder(&assignment.folder.join("out"))?;
    remove_tree(&assignment.folder)?;
    Ok(made)
}

/// The text of an error as the reason of a failure, without the prefix `error: `.
pub fn plain(error: &Error) -> String {
    let text = render(error);
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// Sends the reports about one job to the build. The progress of a download is reported like that of a stage.
struct JobReports<'t> {
    id: NodeId,
    children: &'t Children,
    messages: &'t Sender<JobMessage>,
}

impl JobReports<'_> {
    fn send(&self, news: JobNews) {
        // After an error of the build, nobody receives the report.
        drop(self.messages.send(JobMessage { id: self.id, news }));
    }

    fn note(&self, text: String) {
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

/// Removes the staging folder of a stage that did not end, unless the input files still have the fingerprints that they
/// had when the stage began. With other fingerprints, the stage may have read other bytes than the key says, and no
/// check came after the reading. If checkpoints are removed, returns the reason.
fn remove_if_inputs_changed(staging: &Path, fingerprints: Digest) -> Result<Option<&'static str>> {
    // Without this file, the stage did not begin before, or a process died after it created the folder.
    let text = if_there(std::fs::read(staging.join(ASSIGNMENT)))
        .with_context(|| format!("cannot read the {ASSIGNMENT} of {}", staging.display()))?;
    let before = text.and_then(|text| serde_json::from_slice::<Before>(&text).ok());
    let why = match before {
        Some(before) if before.inputs_look == fingerprints => return Ok(None),
        _ if !staging.exists() => return Ok(None),
        Some(_) => "its input files may have changed since the last attempt",
        None => "it is unknown from which inputs its checkpoints were made",
    };
    let was_there = has_checkpoints(staging);
    remove_tree(staging)?;
    Ok(was_there.then_some(why))
}

fn has_checkpoints(staging: &Path) -> bool {
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

/// The number of lines of a failed stage's log that are shown.
const TAIL: usize = 20;

/// # Errors
/// The stage failed. `known` replaces the paths of links by those of the files. `resumed` has the name of the stage if
/// the stage continued from checkpoints of an earlier attempt. Only a person can tell whether the checkpoints are the
/// reason of the failure.
fn succeeded(
    ending: Ending,
    log: &Path,
    known: impl Fn(&str) -> String,
    children: &Children,
    resumed: Option<&str>,
) -> Result<()> {
    if ending == Ending::Done {
        return Ok(());
    }
    if children.is_stopping() {
        bail!("interrupted");
    }
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = known(&lines[lines.len().saturating_sub(TAIL)..].join("\n    "));
    let what = match ending {
        Ending::Done | Ending::Failed => String::new(),
        Ending::Silent => "the process was ended, because it gave no sign of life for too long (30 minutes, unless \
                           RAISIN_SILENT_SECONDS is set): it sent no message, used almost no processor time, and read \
                           and wrote nothing on a disk"
            .to_owned(),
        Ending::Died(status) => match status.signal() {
            Some(9) => "the process was killed (signal 9), perhaps because memory ran out".to_owned(),
            Some(signal) => format!("the process was ended by signal {signal}"),
            None => format!("the process ended with status {}", status.code().unwrap_or_default()),
        },
    };
    let separator = if what.is_empty() || tail.is_empty() { "" } else { "\n    " };
    // Below the current directory, the path is shorter without this directory.
    let here = std::env::current_dir().unwrap_or_default();
    let mut hint = format!("the whole log: {}", command_that_shows(log.strip_prefix(&here).unwrap_or(log)));
    if let Some(stage) = resumed {
        hint += &format!(
            "\nhint: the stage continued from checkpoints of an earlier attempt; if they are the reason, `raisin build \
             PIPELINE --force {stage}` runs the stage from the beginning"
        );
    }
    Err(Problem::new(format!("{what}{separator}{tail}")).hint(hint).into())
}

/// The digits of a key in the name of a log that are shown: enough that no other log of the cache begins with them, and
/// few enough that the command fits on a line of a terminal.
const SHOWN_DIGITS: usize = 12;

/// A command for a shell that prints the log.
fn command_that_shows(log: &Path) -> String {
    let folder = log.parent().unwrap_or(Path::new("")).display().to_string();
    let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./".contains(letter);
    match name.get(..SHOWN_DIGITS) {
        Some(digits) if folder.chars().all(is_plain) => format!("cat {folder}/{digits}*.log"),
        // A shell would read the path otherwise than it is.
        _ => log.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_a_log_fits_on_a_line() {
        let log = format!("cache/logs/{}.log", "0123456789abcdef".repeat(4));
        assert_eq!(command_that_shows(Path::new(&log)), "cat cache/logs/0123456789ab*.log");
        let spaced = format!("my cache/{}.log", "0".repeat(64));
        assert_eq!(command_that_shows(Path::new(&spaced)), spaced);
    }

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
        assert_eq!(remove_if_inputs_changed(&folder, fingerprints).unwrap(), None);
        let file = begin(1);
        let before = std::fs::metadata(&file).unwrap().modified().unwrap();
        begin(1);
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before, "written again without need");
        // Another number of threads does not change the inputs.
        begin(2);
        assert!(raisin_contract::serve::read_assignment(&file).is_ok_and(|assignment| assignment.threads == 2));
        assert_eq!(remove_if_inputs_changed(&folder, fingerprints).unwrap(), None);
        assert!(checkpoint.exists());
        let why = remove_if_inputs_changed(&folder, other).unwrap();
        assert_eq!((why, folder.exists()), (Some("its input files may have changed since the last attempt"), false));
        let text = std::fs::read(begin(1)).unwrap();
        std::fs::write(&file, &text[..text.len() / 2]).unwrap();
        let why = remove_if_inputs_changed(&folder, fingerprints).unwrap();
        assert_eq!((why, folder.exists()), (Some("it is unknown from which inputs its checkpoints were made"), false));
    }
}
