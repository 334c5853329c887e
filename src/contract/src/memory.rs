//! Holds a running stage to its memory. A thread of the worker measures the memory of the process every few
//! milliseconds, and ends the process when the stage has more than its limit. Otherwise the kernel would end some
//! process of the machine when no memory is left.
//!
//! The limit is compared with the memory that the process really holds, for two reasons. Libraries such as libtorch
//! reserve much more address space than they use. And the limit covers everything alike: rows, decompressed pages, and
//! the buffers of libraries. A stage can exceed its limit by what it fills between two measurements.

use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::context::Event;
use crate::serve::{Ended, StageOutcome};
use raisin_base::error::{Problem, render};
use raisin_base::memory::held;

/// The time between two measurements. Filling new memory takes about a second for each 2 GB, so that a stage exceeds
/// its limit by about 20 MB on each core.
const INTERVAL: Duration = Duration::from_millis(5);

/// The limit of the stage that runs now.
struct Limit {
    stage: String,
    memory: u64,
    /// The memory that the process held before the stage began: the worker itself and its libraries.
    before: u64,
}

#[derive(Default)]
struct Watched {
    limit: Mutex<Option<Limit>>,
    begun: Condvar,
}

/// The thread that measures. It is started for the first stage with a limit.
#[derive(Default)]
pub struct MemoryWatch {
    watched: Option<Arc<Watched>>,
}

impl MemoryWatch {
    /// Begins to watch a stage; `memory` is its limit in bytes, `None` for no limit. If the memory of the process
    /// cannot be measured, a note says that the stage runs without a limit.
    pub fn begin(&mut self, stage: &str, memory: Option<u64>) {
        let Some(memory) = memory else { return };
        if self.watched.is_none() {
            let watched = Arc::<Watched>::default();
            let in_thread = Arc::clone(&watched);
            let thread = std::thread::Builder::new().name("memory".to_owned()).spawn(move || watch(&in_thread));
            self.watched = thread.is_ok().then_some(watched);
        }
        let (Some(watched), Some(before)) = (&self.watched, held()) else {
            let text = "the memory of the worker cannot be measured here: the stage runs without a limit".to_owned();
            return Event::Note { text }.send();
        };
        *locked(&watched.limit) = Some(Limit { stage: stage.to_owned(), memory, before });
        watched.begun.notify_one();
    }

    /// Ends the watch. After the call, the thread does not end the process any more.
    pub fn end(&self) {
        if let Some(watched) = &self.watched {
            *locked(&watched.limit) = None;
        }
    }
}

fn watch(watched: &Watched) {
    let mut limit = locked(&watched.limit);
    loop {
        limit = match &*limit {
            None => watched.begun.wait(limit).unwrap_or_else(PoisonError::into_inner),
            Some(Limit { stage, memory, before }) => {
                if held().is_some_and(|held| held.saturating_sub(*before) > *memory) {
                    // The lock is held to the end, so that the main thread cannot report another outcome.
                    end_process(&exceeded(stage, *memory));
                }
                watched
                    .begun
                    .wait_timeout(limit, INTERVAL)
                    .map_or_else(|error| error.into_inner().0, |(limit, _)| limit)
            }
        };
    }
}

fn locked(limit: &Mutex<Option<Limit>>) -> MutexGuard<'_, Option<Limit>> {
    limit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The problem of a stage that needs more memory than it may take.
pub fn exceeded(stage: &str, memory: u64) -> Problem {
    let problem = Problem::new(format!("stage `{stage}` needs more than its memory of {}", megabytes(memory)));
    let more = more_than(memory);
    problem.hint(format!("give the stage more, such as resources = {{ memory = \"{more}\" }}, or less to read"))
}

/// The memory to try after `memory` was too little, as a user writes it: twice as much, in whole GB.
pub fn more_than(memory: u64) -> String {
    format!("{}GB", memory.saturating_mul(2).div_ceil(1_000_000_000).max(1))
}

fn megabytes(bytes: u64) -> String {
    if bytes < 1_000_000 { format!("{} kB", bytes / 1000) } else { format!("{} MB", bytes / 1_000_000) }
}

/// Writes the problem to the log and the outcome to the engine, and ends the process at once. Destructors and exit
/// handlers do not run, because other threads still work.
fn end_process(problem: &Problem) {
    let _ = writeln!(std::io::stderr(), "{}", render(&problem.clone().into()));
    if let Ok(reply) = serde_json::to_string(&Ended { ended: StageOutcome::Failed, leaves: true }) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "\n{reply}");
        let _ = stdout.flush();
    }
    let _ = kill_process(getpid(), Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::more_than;

    #[test]
    fn the_memory_to_try_is_twice_the_limit_in_whole_gb() {
        let tried = [0, 4_000_000, 500_000_000, 500_000_001, 12_000_000_000].map(more_than);
        assert_eq!(tried, ["1GB", "1GB", "1GB", "2GB", "24GB"]);
        assert!(more_than(u64::MAX).ends_with("GB"), "no overflow");
    }
}
