//! The engine's side of a worker: a process that runs one stage after another. How the process is started and killed is
//! in child.rs.
//!
//! Loading libtorch takes half a second, creating a CUDA context takes several seconds, and `raisin` itself takes
//! milliseconds. A sweep of small stages would pay this start-up time for every stage. Therefore a build keeps one
//! worker for each stage that may run at the same time, for tensor stages and for other stages. The build writes one
//! request per line to the worker: the path of the assignment and the path of the log. The worker answers with the
//! events of the stage and, as the last line, with how the stage ended.
//!
//! A stage leaves almost no state for the next stage of the worker, because stages write files and keep no global
//! state. For each stage, the number of tensor threads is set again, and standard error goes to the log of that stage.
//! A panic ends the process. A process that holds much memory after a stage announces that it ends. If a worker dies,
//! only its current stage fails; the next stage gets a new worker.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus};

use super::child::{ChildProcess, Children};
use raisin_base::error::{Context as _, Result};
use raisin_contract::Event;
use raisin_contract::serve::{Ended, StageOutcome, StageRequest};

/// How a stage ended in its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Done,
    /// The stage failed, and its log has the reason.
    Failed,
    Died(ExitStatus),
    /// The process was ended because it gave no sign of life.
    Silent,
}

/// The engine's handle of a worker. Dropping the handle kills the process. A handle is dropped only between two stages,
/// or after a failure, when the process holds nothing that is still needed.
pub struct Worker<'c> {
    process: ChildProcess<'c>,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
    leaves: bool,
}

impl<'c> Worker<'c> {
    /// Runs one assignment with the worker in `place`. Starts a new worker if `place` is empty or its worker has ended.
    pub fn run(
        place: &mut Option<Self>,
        children: &'c Children,
        command: impl FnOnce() -> Result<Command>,
        assignment: &Path,
        log: &Path,
        on_event: impl FnMut(Event),
    ) -> Result<Ending> {
        File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        // The worker and the engine both append to the log.
        let log_file = OpenOptions::new().append(true).open(log)?;
        if place.as_ref().is_some_and(|worker| worker.leaves || !worker.process.is_alive()) {
            *place = None;
        }
        let worker = match &mut *place {
            Some(worker) => worker,
            none => none.insert(Self::start(children, command()?, &log_file)?),
        };
        let ending = worker.make(assignment, log, &log_file, on_event);
        if !matches!(ending, Ok(Ending::Done | Ending::Failed)) {
            *place = None;
        }
        ending
    }

    fn start(children: &'c Children, command: Command, log: &File) -> Result<Self> {
        let (process, requests, replies) = children.start(command, log)?;
        Ok(Self { process, requests, replies: BufReader::new(replies), leaves: false })
    }

    fn make(
        &mut self,
        assignment: &Path,
        log: &Path,
        log_file: &File,
        mut on_event: impl FnMut(Event),
    ) -> Result<Ending> {
        self.process.begins();
        let request = StageRequest { assignment: assignment.to_owned(), log: log.to_owned() };
        // If this write fails, the worker is dead. Then reading its answers ends at once, and the loop below handles
        // the death.
        let _ = writeln!(self.requests, "{}", serde_json::to_string(&request)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.replies.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                let status = self.process.wait()?;
                return Ok(if self.process.was_silent() { Ending::Silent } else { Ending::Died(status) });
            }
            self.process.gives_sign();
            let text = line.trim_ascii_end();
            if text.is_empty() {
                continue;
            }
            if let Ok(event) = serde_json::from_slice(text) {
                on_event(event);
            } else if let Ok(Ended { ended, leaves }) = serde_json::from_slice(text) {
                self.process.rests();
                self.leaves = leaves;
                return Ok(match ended {
                    StageOutcome::Done => Ending::Done,
                    StageOutcome::Failed => Ending::Failed,
                });
            } else {
                write_line(log_file, text);
            }
        }
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.process.kill();
        // The process was killed. If waiting for the process fails, nothing more can be done.
        let _ = self.process.wait();
    }
}

/// Appends a line that is not an event to the log. A library in the worker may print to standard output; its output
/// must not be lost.
fn write_line(mut log: &File, line: &[u8]) {
    drop(log.write_all(line).and_then(|()| log.write_all(b"\n")));
}
