//! Ctrl-C and SIGTERM: at once while nothing runs, in order while something does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use raisin_base::error::{Context as _, Result};

const AT_ONCE: &[u8] = b"interrupted: nothing was running; the same command goes on from here\n";

/// Watches for signals until it is dropped.
pub struct Interrupt {
    count: Arc<AtomicUsize>,
    busy: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Interrupt {
    /// Until [`Interrupt::be_busy`] a signal ends the process with exit code 130: there is nothing to put in order.
    pub fn watch() -> Result<Self> {
        let mut watch = Self { count: Arc::default(), busy: Arc::default(), handlers: Vec::new() };
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

    /// From now on signals are counted, for a loop that looks at them.
    pub fn be_busy(&self) {
        self.busy.store(true, Ordering::SeqCst);
    }

    /// Waits until a build ends, which closes `end`. True if it does not, for so long after the person asked.
    pub fn outlasts(&self, end: &Receiver<()>, patience: Duration) -> bool {
        let mut asked: Option<Instant> = None;
        while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(Duration::from_millis(50)) {
            if self.count() > 0 && asked.get_or_insert_with(Instant::now).elapsed() >= patience {
                return true;
            }
        }
        false
    }

    /// How often the person asked to end.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
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
    fn a_build_is_outlasted_only_if_somebody_asked_and_it_goes_on() {
        let watch = Interrupt { count: Arc::default(), busy: Arc::default(), handlers: Vec::new() };
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
    }
}
