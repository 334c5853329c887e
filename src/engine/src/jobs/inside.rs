//! `raisin job`: the side of the cluster. Runs the worker of one stage in a new attempt, and writes `done.json`.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use super::super::child::{self, Children};
use super::super::interrupt::{GRACE, Interrupt};
use super::super::silence;
use super::super::worker::{Ending, Worker};
use super::files::{self, AttemptEnd, DONE, EVENTS, JOB, JobFile, LOG};
use raisin_base::error::{Context as _, Problem, Result, bail};
use raisin_base::panics::caught;
use raisin_contract::context::ASSIGNMENT;
use raisin_contract::serve::read_assignment;
use raisin_contract::{Assignment, Event};

/// The shortest time between two lines about progress in the file of events.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How much later this process may see a signal that its worker got as well.
const SIGNAL_DELAY: Duration = Duration::from_millis(200);

/// Runs the job in this folder. Returns at once if the job is done: a scheduler may start a job twice.
///
/// # Errors
/// The job could not run, or was interrupted. A stage that failed is no error: `done.json` says so.
pub fn run_job(folder: &Path) -> Result<()> {
    if folder.join(DONE).exists() {
        return Ok(());
    }
    let file = folder.join(JOB);
    let Some(JobFile { process, executables }) = files::read(&file)? else {
        let problem = Problem::new(format!("there is no job here: {} does not exist", file.display()));
        return Err(problem.hint("the cache must have the same path on all machines").into());
    };
    let interrupt = Interrupt::watch()?;
    let limit = silence::limit()?;
    interrupt.be_busy();
    // The name in /proc leads to this folder also when a build has moved it aside, because it has cancelled the job.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(folder, flags, Mode::empty()).with_context(|| format!("cannot open {}", folder.display()))?;
    let name = begin(folder)?;
    let attempt = folder.join(&name);
    let assignment = assign(folder, &attempt)?;
    let events = attempt.join(EVENTS);
    let events = File::create(&events).with_context(|| format!("cannot write {}", events.display()))?;
    let mut sink = EventSink { file: events, last_progress: None };
    let started = (Instant::now(), jiff::Timestamp::now().to_string());
    let children = Children::default();
    let ending = std::thread::scope(|scope| {
        let (_over, end) = channel();
        let (children, interrupt) = (&children, &interrupt);
        let watch = move || drop(caught(|| watch(children, interrupt, &end, limit)));
        std::thread::Builder::new().spawn_scoped(scope, watch).context("cannot start a thread")?;
        let command = || child::command(process, executables.as_deref());
        Worker::run(&mut None, children, command, &assignment, &attempt.join(LOG), |event| sink.write(&event))
    })?;
    // A scheduler that ends a job sends SIGTERM to all of its processes, so that the worker may end before this process has
    // seen the signal.
    if ending != Ending::Done {
        std::thread::sleep(SIGNAL_DELAY);
    }
    let by_signal = matches!(ending, Ending::Died(status) if status.signal() == Some(Signal::TERM.as_raw()));
    if ending != Ending::Done && (by_signal || interrupt.count() > 0) {
        bail!("interrupted: the checkpoints stay in {}", attempt.display());
    }
    let done = AttemptEnd {
        attempt: name,
        ending: ending.into(),
        seconds: started.0.elapsed().as_secs_f64(),
        started: started.1,
        finished: jiff::Timestamp::now().to_string(),
    };
    let held = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    files::write(&held.join(DONE), &done)
}

/// Makes the folder of a new attempt, with the checkpoints of the last one. They are copied: if the process of the last
/// attempt still runs on a node that the scheduler has lost, it writes into its own folder.
fn begin(folder: &Path) -> Result<String> {
    let before = files::attempts(folder);
    let number = before.last().and_then(|last| files::attempt_number(last)).map_or(1, |last| last + 1);
    let name = files::attempt_name(number);
    let attempt = folder.join(&name);
    std::fs::create_dir(&attempt).with_context(|| format!("cannot create {}", attempt.display()))?;
    let work = |name: &String| folder.join(name).join("work");
    if let Some(last) = before.iter().rev().find(|last| work(last).is_dir()) {
        // If this process is killed here, no half of the checkpoints hides the whole ones.
        let new = work(&name).with_extension("new");
        let copied = copy_tree(&work(last), &new).and_then(|()| std::fs::rename(&new, work(&name)));
        copied.context("cannot copy the checkpoints of the last attempt")?;
    }
    Ok(name)
}

/// Copies a folder. What is neither a file nor a folder nor a link is no checkpoint.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Writes the assignment of the attempt: that of the job, in the folder of the attempt.
fn assign(folder: &Path, attempt: &Path) -> Result<PathBuf> {
    let assignment = read_assignment(&folder.join(ASSIGNMENT))?;
    let assignment = Assignment { folder: attempt.to_owned(), own_folder: true, ..assignment };
    let file = attempt.join(ASSIGNMENT);
    files::write(&file, &assignment)?;
    Ok(file)
}

/// Ends the worker after a signal, or if it gives no sign of life, until the job closes `end`.
fn watch(children: &Children, interrupt: &Interrupt, end: &Receiver<()>, limit: Duration) {
    let (mut looked, mut stopped) = (Instant::now(), None);
    while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(Duration::from_millis(50)) {
        if looked.elapsed() >= limit / 20 {
            looked = Instant::now();
            children.kill_silent(limit);
        }
        if interrupt.count() > 0 && stopped.is_none() {
            stopped = Some(Instant::now());
            children.stop();
        }
        if stopped.is_some_and(|moment| moment.elapsed() >= GRACE) {
            children.kill();
        }
    }
}

/// The file of events, for the display of the build and the record.
struct EventSink {
    file: File,
    last_progress: Option<Instant>,
}

impl EventSink {
    /// Writes one line in one call, so that a reader sees whole lines. If it fails, the stage goes on: its result does not
    /// depend on what is shown.
    fn write(&mut self, event: &Event) {
        if let Event::Progress(_) = event {
            if self.last_progress.is_some_and(|last| last.elapsed() < PROGRESS_INTERVAL) {
                return;
            }
            self.last_progress = Some(Instant::now());
        }
        if let Ok(line) = serde_json::to_string(event) {
            drop(self.file.write_all((line + "\n").as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_begins_with_a_copy_of_the_last_checkpoints() {
        let top = tempfile::tempdir().unwrap();
        let first = begin(top.path()).unwrap();
        let work = |name: &str| top.path().join(name).join("work");
        std::fs::create_dir_all(work(&first).join("deep")).unwrap();
        std::fs::write(work(&first).join("deep/checkpoint"), "one").unwrap();
        // An attempt that ended before it had its checkpoints does not hide those before it.
        let second = begin(top.path()).unwrap();
        std::fs::rename(work(&second), work(&second).with_extension("new")).unwrap();
        let third = begin(top.path()).unwrap();
        assert_eq!(files::attempts(top.path()), [first.clone(), second, third.clone()]);
        assert_eq!([&first, &third].map(|name| files::attempt_number(name)), [Some(1), Some(3)]);
        assert_eq!(std::fs::read_to_string(work(&third).join("deep/checkpoint")).unwrap(), "one");
        std::fs::write(work(&first).join("deep/checkpoint"), "a process of a lost node").unwrap();
        assert_eq!(std::fs::read_to_string(work(&third).join("deep/checkpoint")).unwrap(), "one");
    }

    #[test]
    fn a_folder_without_a_job_is_an_error_that_says_what_to_do() {
        let top = tempfile::tempdir().unwrap();
        let words = raisin_base::error::render(&run_job(top.path()).unwrap_err());
        assert!(words.contains("there is no job here") && words.contains("the same path on all machines"), "{words}");
    }
}
