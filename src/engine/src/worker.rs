//! A worker that stays: stage after stage is made in one process.
//!
//! Loading libtorch costs half a second, a CUDA context several, and `raisin` itself milliseconds; a sweep of small stages
//! would pay that for every one of them. So a build keeps one worker for each stage that may run at once, of tensors or
//! without, and writes it one request a line: which assignment, and where its words go. The worker answers with the
//! stage's events and, at last, how it ended.
//!
//! What a stage must not leave to the next one is little, as stages write files and keep no global state: the number of
//! tensor threads is set anew for each, standard error is turned to each one's own log, a panic ends the process, and a
//! process that holds much memory after a stage leaves. A worker that died takes only its stage with it; the next one gets a new
//! worker.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus};

use super::child::{ChildProcess, Children};
use raisin_base::error::{Context as _, Result, anyhow};
use raisin_contract::Event;
use raisin_contract::serve::{Ended, Outcome, Request};

/// How the making of a stage came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Done,
    /// It said why in its log.
    Failed,
    Died(ExitStatus),
}

/// The engine's end of a worker that stays. Dropped between two stages, when it holds nothing that anyone needs, it is
/// ended.
pub struct Worker<'c> {
    process: ChildProcess<'c>,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
    leaves: bool,
}

impl<'c> Worker<'c> {
    /// Makes one assignment with the worker in `place`, or with a new one where there is none that can.
    pub fn run(
        place: &mut Option<Self>,
        children: &'c Children,
        command: impl FnOnce() -> Result<Command>,
        assignment: &Path,
        log: &Path,
        on_event: impl FnMut(Event),
    ) -> Result<Ending> {
        File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        // Both ends add to it.
        let log_file = OpenOptions::new().append(true).open(log)?;
        if place.as_ref().is_some_and(|worker| worker.leaves || !worker.process.is_alive()) {
            *place = None;
        }
        if place.is_none() {
            *place = Some(Self::start(children, command()?, &log_file)?);
        }
        let worker = place.as_mut().ok_or_else(|| anyhow!("a worker that is not there"))?;
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
        let request = Request { assignment: assignment.to_owned(), log: log.to_owned() };
        // If it cannot be written, the worker is dead, and so its answers end at once.
        let _ = writeln!(self.requests, "{}", serde_json::to_string(&request)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.replies.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return Ok(Ending::Died(self.process.wait()?));
            }
            let text = line.trim_ascii_end();
            if text.is_empty() {
                continue;
            }
            if let Ok(event) = serde_json::from_slice(text) {
                on_event(event);
            } else if let Ok(Ended { ended, leaves }) = serde_json::from_slice(text) {
                self.leaves = leaves;
                return Ok(match ended {
                    Outcome::Done => Ending::Done,
                    Outcome::Failed => Ending::Failed,
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
        // It was killed; there is nothing to do about one that cannot be waited for.
        let _ = self.process.wait();
    }
}

/// A library that prints does not belong among the events, and is not lost either.
fn write_line(mut log: &File, line: &[u8]) {
    drop(log.write_all(line).and_then(|()| log.write_all(b"\n")));
}
