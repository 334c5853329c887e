//! One action, made: lock, child process, check, commit.
//!
//! A stage is a command with one assignment file and one folder; whatever happens to it ends the stage and not the
//! build. The child holds the action's lock together with this process, so that a build that comes after a kill
//! cannot begin in the same folder before the child is gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::graph::NodeId;
use super::inputs::InputFile;
use crate::error::{Context as _, Problem, Result, anyhow, bail};
use crate::stages::{self, Assignment, Event, Process};
use crate::store::{ActionRecord, Lock, Lookup, Store, Waiting, remove_tree};

/// Everything that making one action takes.
pub struct Job {
    pub id: NodeId,
    pub process: Process,
    pub assignment: Assignment,
    pub inputs: Vec<InputFile>,
    /// The folder of the executables, where it is not that of the running one.
    pub executables: Option<PathBuf>,
    /// The record to be; what only the run can tell is still empty.
    pub record: ActionRecord,
}

/// What a job tells the build.
pub enum Message {
    /// Another process is making the same action.
    Waiting {
        id: NodeId,
        pid: Option<u32>,
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
        result: Box<Result<Outcome>>,
    },
}

pub struct Outcome {
    pub record: ActionRecord,
    /// False where another build had made it meanwhile.
    pub ran: bool,
}

/// The running children, for whoever must end them.
#[derive(Default)]
pub struct Children {
    stopping: AtomicBool,
    running: Mutex<BTreeMap<NodeId, Arc<Mutex<Child>>>>,
}

/// Makes the action, unless it turns out to be there once the lock is held.
pub fn make(job: Job, store: &Store, children: &Children, messages: &Sender<Message>) -> Result<Outcome> {
    let Job { id, process, assignment, inputs, executables, mut record } = job;
    let command = command(process, executables.as_deref())?;
    let key = record.key;
    let send = |message| drop(messages.send(message));
    let mut told = None;
    let lock = store.lock(key, |holder| {
        if told != Some(holder) {
            told = Some(holder);
            send(Message::Waiting { id, pid: holder });
        }
        if children.stopping.load(Ordering::Relaxed) { Waiting::GiveUp } else { Waiting::GoOn }
    })?;
    let Some(lock) = lock else { bail!("interrupted while waiting for another build") };
    if let Lookup::Hit(record) = store.lookup(key)? {
        return Ok(Outcome { record: *record, ran: false });
    }
    send(Message::Started { id });

    let staging = &assignment.folder;
    std::fs::create_dir_all(staging).with_context(|| format!("cannot create {}", staging.display()))?;
    let file = staging.join("assignment.json");
    let text = serde_json::to_vec_pretty(&assignment)?;
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let log = store.log_file(key);

    let started = Instant::now();
    record.started = jiff::Timestamp::now().to_string();
    let status = run_child(id, command, &file, &log, &lock, children, |event| {
        match &event {
            Event::Cost(cost) => record.costs.push(cost.clone()),
            Event::Note { text } => record.notes.push(text.clone()),
            Event::Progress(_) => {}
        }
        send(Message::Event { id, event });
    })?;
    if children.stopping.load(Ordering::Relaxed) && !status.success() {
        bail!("interrupted");
    }
    if !status.success() {
        return Err(failure(status, &log));
    }
    for input in &inputs {
        input.check_unchanged()?;
    }
    let artifact = store.commit(&staging.join("out"))?;
    record.seconds = started.elapsed().as_secs_f64();
    record.finished = jiff::Timestamp::now().to_string();
    record.artifact = artifact.digest;
    record.bytes = artifact.manifest.bytes();
    record.references = artifact.references;
    store.write_record(&record)?;
    remove_tree(staging)?;
    Ok(Outcome { record, ran: true })
}

fn run_child(
    id: NodeId,
    mut command: Command,
    assignment: &Path,
    log: &Path,
    lock: &Lock,
    children: &Children,
    mut on_event: impl FnMut(Event),
) -> Result<ExitStatus> {
    let mut errors = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.arg(assignment).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
    // A group of its own: Ctrl-C reaches the build alone, which then ends its children in order.
    command.process_group(0);
    let (parent, lock) = (rustix::process::getpid(), lock.as_fd().as_raw_fd());
    let in_child = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        // SAFETY: the lock outlives the spawn, and the child has a copy of every descriptor of its parent.
        let lock = unsafe { BorrowedFd::borrow_raw(lock) };
        Ok(rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::empty())?)
    };
    // SAFETY: between fork and exec only three system calls are made, no memory is allocated and no lock is taken.
    unsafe { command.pre_exec(in_child) };
    let mut child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stdout = child.stdout.take().ok_or_else(|| anyhow!("a child without standard output"))?;
    let child = Arc::new(Mutex::new(child));
    children.add(id, &child);
    for line in BufReader::new(stdout).split(b'\n') {
        let Ok(line) = line else { break };
        match serde_json::from_slice(&line) {
            Ok(event) => on_event(event),
            // A library that prints does not belong among the events, and is not lost either.
            Err(_) => drop(errors.write_all(&line).and_then(|()| errors.write_all(b"\n"))),
        }
    }
    // Reaped only under the mutex: whoever kills the group does so too, and cannot hit a stranger with the same id.
    let status = loop {
        if let Some(status) = locked(&child).try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    locked(&children.running).remove(&id);
    Ok(status)
}

impl Children {
    fn add(&self, id: NodeId, child: &Arc<Mutex<Child>>) {
        locked(&self.running).insert(id, Arc::clone(child));
        if self.stopping.load(Ordering::SeqCst) {
            self.signal(Signal::TERM);
        }
    }

    /// Asks every child to end, and every job that waits to give up.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.signal(Signal::TERM);
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        for child in locked(&self.running).values() {
            let mut child = locked(child);
            if let Ok(None) = child.try_wait()
                && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            {
                let _ = rustix::process::kill_process_group(group, signal);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The command of a stage, still without its assignment.
fn command(process: Process, folder: Option<&Path>) -> Result<Command> {
    match process {
        Process::Light => {
            let mut command = Command::new(executable("raisin", folder)?);
            command.arg("run-stage");
            Ok(command)
        }
        Process::Tensor => {
            let mut command = match std::env::var_os("RAISIN_WORKER") {
                Some(path) => Command::new(path),
                None => Command::new(executable("raisin-worker", folder)?),
            };
            // OpenMP threads that wait spin for milliseconds by default, which stages side by side take from each other.
            if std::env::var_os("GOMP_SPINCOUNT").is_none() && std::env::var_os("OMP_WAIT_POLICY").is_none() {
                command.env("GOMP_SPINCOUNT", "10000");
            }
            Ok(command)
        }
    }
}

/// An executable of this package: in the given folder, or beside the one that runs.
fn executable(name: &str, folder: Option<&Path>) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running executable")?;
    let folder = folder.or(own.parent()).unwrap_or(Path::new("."));
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Problem::new(format!("there is no executable `{name}` in {}", folder.display()))
        .hint("`cargo build` makes both `raisin` and `raisin-worker`")
        .into())
}

/// How many lines of a failed stage's log are shown.
const TAIL: usize = 20;

fn failure(status: ExitStatus, log: &Path) -> anyhow::Error {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n    ");
    let what = match (status.signal(), status.code()) {
        (Some(9), _) => "it was killed (signal 9), perhaps because memory ran out".to_owned(),
        (Some(signal), _) => format!("it was ended by signal {signal}"),
        (_, Some(1)) => String::new(),
        (_, code) => format!("it ended with status {}", code.unwrap_or_default()),
    };
    let separator = if what.is_empty() || tail.is_empty() { "" } else { "\n    " };
    Problem::new(format!("{what}{separator}{tail}")).hint(format!("its whole log is {}", log.display())).into()
}

/// What the child of a light stage does: `raisin run-stage ASSIGNMENT`.
pub fn run_stage(assignment: &Path) -> Result<()> {
    let text = std::fs::read(assignment).with_context(|| format!("cannot read {}", assignment.display()))?;
    let parsed: Assignment =
        serde_json::from_slice(&text).with_context(|| format!("{} is not an assignment", assignment.display()))?;
    stages::run_light(parsed)
}
