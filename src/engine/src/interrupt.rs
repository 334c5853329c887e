//! Handles Ctrl-C and SIGTERM: ends the process at once if no stage runs; otherwise counts the signals, and build.rs
//! ends the build in order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::child::Children;
use super::told::HOW_TO_GO_ON;
use raisin_base::error::{Context as _, Result};
use raisin_base::panics::caught;
use raisin_base::say::say;

const AT_ONCE: &[u8] = b"interrupted: nothing was running; the same command goes on from here\n";

/// The time that child processes have to end after the stop signal. An interrupted build must end within two seconds in
/// total; `PATIENCE` is the limit for the build itself.
pub const GRACE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(1800);

/// Handles signals until the value is dropped.
#[derive(Default)]
pub struct Interrupt {
    count: Arc<AtomicUsize>,
    busy: Arc<AtomicBool>,
    /// Whether the build decides about jobs of a cluster, which may take longer than an interrupted build may take
    /// otherwise: a user answers, or a scheduler cancels.
    decides: AtomicBool,
    /// Set if the build must end because raisin itself failed.
    failure: OnceLock<String>,
    handlers: Vec<SigId>,
}

impl Interrupt {
    /// Until [`Interrupt::be_busy`] is called, a signal ends the process with exit code 130, because there is nothing
    /// to clean up.
    pub fn watch() -> Result<Self> {
        let mut watch = Self::default();
        for signal in [SIGINT, SIGTERM] {
            let (count, busy) = (Arc::clone(&watch.count), Arc::clone(&watch.busy));
            let on_signal = move || {
                if busy.load(Ordering::SeqCst) {
                    count.fetch_add(1, Ordering::SeqCst);
                } else {
                    let _ = rustix::io::write(std::io::stderr(), AT_ONCE);
                    signal_hook::low_level::exit(130);
                }
            };
            // SAFETY: the handler uses atomics, write(2) and _exit(2), which may be called in a signal handler.
            let handler = unsafe { signal_hook::low_level::register(signal, on_signal) };
            watch.handlers.push(handler.context("cannot watch for signals")?);
        }
        Ok(watch)
    }

    /// From now on, signals are only counted; the loop of the build reads the count.
    pub fn be_busy(&self) {
        self.busy.store(true, Ordering::SeqCst);
    }

    /// From now on, the build must end as after a signal, because raisin itself failed.
    pub fn fail(&self, words: String) {
        // The first failure stays.
        let _ = self.failure.set(words);
    }

    /// From now on, the time in which an interrupted build must end does not pass; with `false`, it passes again.
    pub fn wait_for_jobs(&self, waits: bool) {
        self.decides.store(waits, Ordering::SeqCst);
    }

    /// How raisin itself failed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Waits until the build ends; the build then closes `end`. Returns true if the build has not ended `patience`
    /// after the first signal, or after [`Interrupt::fail`].
    pub fn outlasts(&self, end: &Receiver<()>, patience: Duration) -> bool {
        let mut asked: Option<Instant> = None;
        while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(Duration::from_millis(50)) {
            let must_end = self.count() > 0 || self.failure().is_some();
            if self.decides.load(Ordering::SeqCst) {
                asked = None;
                continue;
            }
            if must_end && asked.get_or_insert_with(Instant::now).elapsed() >= patience {
                return true;
            }
        }
        false
    }

    /// The number of signals so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// Ends this process if its main loop has not ended in time after a signal or a failure of raisin itself. The main loop
/// closes `end` when it ends.
pub fn end_in_time(interrupt: &Interrupt, end: &Receiver<()>, children: &Children) {
    let outlasted = caught(|| interrupt.outlasts(end, PATIENCE)).unwrap_or_else(|panic| {
        interrupt.fail(panic.to_string());
        false
    });
    if outlasted {
        // Perhaps a large artifact is being committed, or is being read again. The process can exit at any instant,
        // because the store stays valid.
        children.kill();
        if let Some(failure) = interrupt.failure() {
            say(&format!("error: {failure}"));
            std::process::exit(1);
        }
        say(&format!("interrupted: {HOW_TO_GO_ON}"));
        std::process::exit(130);
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_build_is_outlasted_only_if_it_continues_after_a_signal_or_an_error_of_raisin() {
        let watch = Interrupt::default();
        let wait = |ends_after: u64| {
            let ((over, end), watch) = (channel(), &watch);
            std::thread::scope(|scope| {
                let waiting = scope.spawn(move || watch.outlasts(&end, Duration::from_millis(200)));
                std::thread::sleep(Duration::from_millis(ends_after));
                drop(over);
                waiting.join().unwrap()
            })
        };
        assert!(!wait(400));
        watch.count.store(1, Ordering::SeqCst);
        assert!(!wait(0));
        assert!(wait(600));
        watch.count.store(0, Ordering::SeqCst);
        watch.fail("a panic".to_owned());
        assert!(!wait(0));
        assert!(wait(600));
    }
}
