//! Ctrl-C and SIGTERM: at once while nothing runs, in order while something does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Context as _, Result};

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
