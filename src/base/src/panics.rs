//! Turns a panic into an error that says at which place of the source raisin itself failed. A build must end its
//! workers also if raisin has an error of its own.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Problem, Result};

/// The panics that no call of [`caught`] has reported yet, of all threads, each with its place.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on, the panics of this process are kept for [`caught`] instead of printed. A panic of a thread whose end
/// nobody awaits is therefore reported with the next panic, or not at all.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" (at {}:{})", place.file(), place.line()));
        let text = format!("{}{}", words(panic.payload()), place.unwrap_or_default());
        locked().push(text);
    }));
}

/// Calls `run`, and turns a panic into an error.
///
/// # Errors
/// `run` has panicked.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let kept = std::mem::take(&mut *locked());
        // Without `keep_panics`, only the words of the panic are known.
        let text = if kept.is_empty() { words(&*panic).to_owned() } else { kept.join("; then ") };
        let hint = "this is an error of raisin and not of your files: please report these words; what was finished is \
                    kept, and the same command goes on from there";
        Problem::new(format!("raisin itself failed: {text}")).hint(hint).into()
    })
}

thread_local! {
    /// Whether this thread is in a call of [`of_library`].
    static IN_LIBRARY: Cell<bool> = const { Cell::new(false) };
}

/// Calls a library that panics on some files instead of returning an error. `Err` has the words of the panic.
pub fn of_library<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let outer = IN_LIBRARY.replace(true);
    let done = catch_unwind(AssertUnwindSafe(run));
    IN_LIBRARY.set(outer);
    done.map_err(|panic| words(&*panic).to_owned())
}

/// Whether the present panic is one that [`of_library`] turns into an error, for a panic hook.
pub fn is_in_library() -> bool {
    IN_LIBRARY.get()
}

fn locked() -> MutexGuard<'static, Vec<String>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_library_is_an_error_with_its_words() {
        let inner = || -> Result<u32, String> { of_library(|| panic!("the {}", "inner")) };
        assert_eq!(of_library(|| (inner(), is_in_library())), Ok((Err("the inner".to_owned()), true)));
        assert!(!is_in_library());
    }

    #[test]
    fn a_panic_is_an_error_with_its_words_and_its_place() {
        let told = |run: fn() -> u32| caught(run).map_err(|error| error.to_string());
        assert_eq!(told(|| panic!("no way")), Err("raisin itself failed: no way".to_owned()));
        assert_eq!(told(|| 3), Ok(3));
        keep_panics();
        let own = std::process::id();
        let failed = told(|| panic!("pid {}", std::process::id())).unwrap_err();
        let head = format!("raisin itself failed: pid {own} (at src/base/src/panics.rs:");
        assert!(failed.starts_with(&head), "{failed}");
        // A panic of another thread, whose end the caller awaits, is told with its own place.
        let scope = || std::thread::scope(|scope| drop(scope.spawn(|| panic!("in a thread"))));
        let failed = caught(scope).unwrap_err().to_string();
        assert!(failed.contains("in a thread (at src/base/src/panics.rs:"), "{failed}");
        assert!(locked().is_empty());
        drop(std::panic::take_hook());
    }
}
