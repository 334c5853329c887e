//! One action, made: lock, child process, check, commit.
//!
//! A stage is one assignment file and one folder, given to a worker; whatever happens to it ends the stage and not the
//! build. While its process runs it holds a lock in that folder, so that a build that comes after a kill cannot begin
//! there before the process is gone.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::change::{changes, in_words};
use super::child::{Children, command};
use super::fetch::Listener;
use super::graph::NodeId;
use super::inputs::{CheckTime, InputFile, looks};
use super::waiting::{once_each, words};
use super::worker::{Ending, Worker};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Error, Problem, Result, bail, render};
use raisin_contract::context::{ASSIGNMENT, wait_until_left};
use raisin_contract::{Assignment, Event, Process, Progress};
use raisin_store::{ActionRecord, FileDifference, Lookup, Manifest, Store, Waiting, remove_tree};

/// Everything that making one action takes.
pub struct Job {
    pub id: NodeId,
    pub process: Process,
    pub assignment: Assignment,
    pub inputs: Vec<InputFile>,
    /// The record to be; what only the run can tell is still empty.
    pub record: ActionRecord,
    pub mode: Mode,
}

/// How a build makes its actions.
#[derive(Clone, Debug, Default)]
pub struct Mode {
    /// The folder of the executables, where it is not that of the running one.
    pub executables: Option<PathBuf>,
    /// Run it though there is an artifact, and from the beginning though there are checkpoints.
    pub anew: bool,
    /// Run it twice and compare.
    pub check: bool,
    /// A process of its own, instead of one that made other stages before.
    pub fresh_worker: bool,
}

/// What a job tells the build.
pub enum JobMessage {
    /// Another process is making the same action, or fetching the same file.
    Waiting {
        id: NodeId,
        words: String,
    },
    Started {
        id: NodeId,
    },
    Event {
        id: NodeId,
        event: Event,
    },
    Ended {
        id: NodeId,
        result: Box<Result<MadeAction>>,
    },
}

pub struct MadeAction {
    pub record: ActionRecord,
    /// False where another build had made it meanwhile.
    pub ran: bool,
    pub check: Check,
}

/// What came of the second run. Whatever that is, the artifact of the first run is committed, and as good as any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// There was none: nobody asked for one, or the build was interrupted before its end.
    None,
    Same,
    /// In words: what it made otherwise, or why it made nothing.
    Failed(String),
}

/// Makes the action, unless it turns out to be there once the lock is held.
pub fn make<'c>(
    job: Job,
    store: &Store,
    children: &'c Children,
    messages: &Sender<JobMessage>,
    worker: &mut Option<Worker<'c>>,
) -> Result<MadeAction> {
    let Job { id, process, assignment, mut inputs, mut record, mode } = job;
    let key = record.key;
    let send = |message| drop(messages.send(message));
    let doing = format!("building {}", assignment.stage);
    let mut tell = once_each(|holder| send(JobMessage::Waiting { id, words: words(holder, &doing) }));
    let lock = store.lock(key, |holder| {
        tell(holder);
        if children.is_stopping() { Waiting::GiveUp } else { Waiting::GoOn }
    })?;
    let Some(_lock) = lock else { bail!("interrupted while waiting for another build") };
    if !mode.anew
        && let Lookup::Hit(record) = store.lookup(key)?
    {
        return Ok(MadeAction { record: *record, ran: false, check: Check::None });
    }
    send(JobMessage::Started { id });

    let staging = &assignment.folder;
    if !wait_until_left(staging, || children.is_stopping())? {
        bail!("interrupted");
    }
    if mode.anew && staging.exists() {
        remove_tree(staging)?;
    }
    let mut listener = Tell { id, children, messages };
    inputs.iter_mut().try_for_each(|input| input.bring(store, &mut listener))?;
    inputs.iter().try_for_each(|input| input.check_unchanged(CheckTime::BeforeTheStage))?;
    let log = store.log_file(key);
    let started = Instant::now();
    record.started = jiff::Timestamp::now().to_string();
    let looks = looks(&inputs);
    if !inputs.is_empty()
        && let Some(why) = forget_what_was_made_of_others(staging, looks)?
    {
        send(JobMessage::Event { id, event: Event::Note { text: format!("{why}: it begins anew") } });
    }
    let resumes = std::fs::read_dir(staging.join("work")).is_ok_and(|mut left| left.next().is_some());
    let file = write_assignment(&assignment, looks)?;
    let on_event = |event: Event| {
        match &event {
            Event::Cost(cost) => record.costs.push(cost.clone()),
            Event::Note { text } => record.notes.push(text.clone()),
            Event::Progress(_) => {}
        }
        send(JobMessage::Event { id, event });
    };
    let command = || command(process, mode.executables.as_deref());
    let mut own = None;
    let worker = if mode.fresh_worker { &mut own } else { worker };
    let ending = Worker::run(worker, children, command, &file, &log, on_event)?;
    drop(own);
    succeeded(ending, &log, children, resumes.then_some(assignment.stage.as_str()))?;
    if let Err(changed) = inputs.iter().try_for_each(|input| input.check_unchanged(CheckTime::AfterTheStage)) {
        // Its checkpoints are those of other bytes than the key says.
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
        let text = format!("the same action made another artifact before, {}: {told}", before.artifact.short());
        record.notes.push(text.clone());
        send(JobMessage::Event { id, event: Event::Note { text } });
    }
    store.write_record(&record)?;
    remove_tree(staging)?;
    let check = if mode.check {
        let again = SecondRun { id, process, key, looks, assignment, executables: mode.executables };
        match again.run(store, children, messages).and_then(|second| {
            inputs.iter().try_for_each(|input| input.check_unchanged(CheckTime::AfterTheStage))?;
            Ok(compare(&artifact.manifest, &second))
        }) {
            Ok(None) => Check::Same,
            Ok(Some(unlike)) => {
                Check::Failed(format!("the second run made something else than the first\n    {unlike}"))
            }
            Err(_) if children.is_stopping() => Check::None,
            Err(error) => Check::Failed(format!("the second run failed\n    {}", plain(&error))),
        }
    } else {
        Check::None
    };
    Ok(MadeAction { record, ran: true, check })
}

/// The same action once more, in a process, a folder and a log of its own: nothing that the first run left can make the two
/// alike, and nothing of the second run takes the place of what the first has said.
struct SecondRun {
    id: NodeId,
    process: Process,
    key: Digest,
    looks: Digest,
    assignment: Assignment,
    executables: Option<PathBuf>,
}

impl SecondRun {
    /// Gives what it made.
    fn run(self, store: &Store, children: &Children, messages: &Sender<JobMessage>) -> Result<Manifest> {
        let Self { id, process, key, looks, assignment, executables } = self;
        let key = Digest::of(format!("again {key}").as_bytes());
        let assignment = Assignment { folder: store.staging_folder(key), ..assignment };
        if assignment.folder.exists() {
            remove_tree(&assignment.folder)?;
        }
        let (file, log) = (write_assignment(&assignment, looks)?, store.log_file(key));
        let command = || command(process, executables.as_deref());
        let ending = Worker::run(&mut None, children, command, &file, &log, |event| {
            if let Event::Progress(_) = event {
                drop(messages.send(JobMessage::Event { id, event }));
            }
        })?;
        succeeded(ending, &log, children, None)?;
        let made = Manifest::of_folder(&assignment.folder.join("out"))?;
        remove_tree(&assignment.folder)?;
        Ok(made)
    }
}

/// As it stands in the reason of a failure.
pub fn plain(error: &Error) -> String {
    let text = render(error);
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// Says how far a download is, as a stage says how far it is itself.
struct Tell<'t> {
    id: NodeId,
    children: &'t Children,
    messages: &'t Sender<JobMessage>,
}

impl Listener for Tell<'_> {
    fn progress(&mut self, progress: Progress) {
        drop(self.messages.send(JobMessage::Event { id: self.id, event: Event::Progress(progress) }));
    }

    fn waits(&mut self, words: String) {
        drop(self.messages.send(JobMessage::Waiting { id: self.id, words }));
    }

    fn gives_up(&self) -> bool {
        self.children.is_stopping()
    }
}

/// What is in the file of an assignment.
#[derive(Serialize)]
struct Begun<'a> {
    inputs_look: Digest,
    #[serde(flatten)]
    assignment: &'a Assignment,
}

/// What the engine reads of that: how the input files looked when the stage began in its folder.
#[derive(Deserialize)]
struct Before {
    inputs_look: Digest,
}

/// Removes what a stage that did not end has left, unless its input files look as they did when it began: it may have
/// read something else than the key says, and nobody has looked at them after it. Says why, where checkpoints go.
fn forget_what_was_made_of_others(staging: &Path, looks: Digest) -> Result<Option<&'static str>> {
    let before = match std::fs::read(staging.join(ASSIGNMENT)) {
        Ok(text) => serde_json::from_slice::<Before>(&text).ok(),
        // Nobody was here, or they came no further than to make the folder.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the {ASSIGNMENT} of {}", staging.display()));
        }
    };
    let why = match before {
        Some(before) if before.inputs_look == looks => return Ok(None),
        _ if !staging.exists() => return Ok(None),
        Some(_) => "its inputs were touched since it was at work",
        None => "nothing says of which inputs its checkpoints were made",
    };
    let was_there = std::fs::read_dir(staging.join("work")).is_ok_and(|mut left| left.next().is_some());
    remove_tree(staging)?;
    Ok(was_there.then_some(why))
}

fn write_assignment(assignment: &Assignment, inputs_look: Digest) -> Result<PathBuf> {
    let folder = &assignment.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = folder.join(ASSIGNMENT);
    let text = serde_json::to_vec_pretty(&Begun { inputs_look, assignment })?;
    // One that says the same stays, and another one goes only when the new one is there: checkpoints hang on it.
    if std::fs::read(&file).is_ok_and(|before| before == text) {
        return Ok(file);
    }
    let new = file.with_extension("new");
    let write = || std::fs::write(&new, &text).and_then(|()| std::fs::rename(&new, &file));
    write().with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// The files in which two runs of one action differ; `None` if in none.
fn compare(first: &Manifest, second: &Manifest) -> Option<String> {
    let word = |difference| match difference {
        FileDifference::Removed(file) => format!("{} was written the first time only", file.path),
        FileDifference::Added(file) => format!("{} was written the second time only", file.path),
        FileDifference::Changed { from, to } if from.size == to.size => {
            format!("{}: {} bytes both times, not the same ones", from.path, from.size)
        }
        FileDifference::Changed { from, to } => format!("{}: {} bytes, then {}", from.path, from.size, to.size),
    };
    let unlike: Vec<String> = first.differences(second).into_iter().map(word).collect();
    (!unlike.is_empty()).then(|| unlike.join("\n    "))
}

/// How many lines of a failed stage's log are shown.
const TAIL: usize = 20;

/// # Errors
/// It failed. `resumed` is the stage if it had checkpoints of an earlier attempt: whether they are the reason, only a
/// person can tell.
fn succeeded(ending: Ending, log: &Path, children: &Children, resumed: Option<&str>) -> Result<()> {
    if ending == Ending::Done {
        return Ok(());
    }
    if children.is_stopping() {
        bail!("interrupted");
    }
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n    ");
    let what = match ending {
        Ending::Done | Ending::Failed => String::new(),
        Ending::Died(status) => match status.signal() {
            Some(9) => "it was killed (signal 9), perhaps because memory ran out".to_owned(),
            Some(signal) => format!("it was ended by signal {signal}"),
            None => format!("it ended with status {}", status.code().unwrap_or_default()),
        },
    };
    let separator = if what.is_empty() || tail.is_empty() { "" } else { "\n    " };
    let mut hint = format!("its whole log is {}", log.display());
    if let Some(stage) = resumed {
        hint += &format!(
            "\nhint: it went on from checkpoints of an earlier attempt; if they are the reason, `raisin build PIPELINE \
             --force {stage}` begins anew"
        );
    }
    Err(Problem::new(format!("{what}{separator}{tail}")).hint(hint).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_contract::{DType, DeviceKind, Environment};

    #[test]
    fn checkpoints_stay_while_the_inputs_look_the_same_and_go_where_nobody_can_tell() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("key");
        let assignment = |threads| Assignment {
            kind: "sql".to_owned(),
            kind_version: 1,
            stage: "counted".to_owned(),
            parameters: serde_json::json!({}),
            stages: std::collections::BTreeMap::new(),
            files: std::collections::BTreeMap::new(),
            seed: 1,
            environment: Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 },
            threads,
            folder: folder.clone(),
        };
        let (looks, other) = (Digest::of(b"one"), Digest::of(b"two"));
        let checkpoint = folder.join("work/checkpoint");
        let begin = |threads| {
            let file = write_assignment(&assignment(threads), looks).unwrap();
            std::fs::create_dir_all(folder.join("work")).unwrap();
            std::fs::write(&checkpoint, "").unwrap();
            file
        };
        assert_eq!(forget_what_was_made_of_others(&folder, looks).unwrap(), None);
        let file = begin(1);
        let before = std::fs::metadata(&file).unwrap().modified().unwrap();
        begin(1);
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before, "written again without need");
        // Another number of threads is no other input.
        begin(2);
        assert!(raisin_contract::serve::read_assignment(&file).is_ok_and(|assignment| assignment.threads == 2));
        assert_eq!(forget_what_was_made_of_others(&folder, looks).unwrap(), None);
        assert!(checkpoint.exists());
        let why = forget_what_was_made_of_others(&folder, other).unwrap();
        assert_eq!((why, folder.exists()), (Some("its inputs were touched since it was at work"), false));
        let text = std::fs::read(begin(1)).unwrap();
        std::fs::write(&file, &text[..text.len() / 2]).unwrap();
        let why = forget_what_was_made_of_others(&folder, looks).unwrap();
        assert_eq!((why, folder.exists()), (Some("nothing says of which inputs its checkpoints were made"), false));
    }
}
