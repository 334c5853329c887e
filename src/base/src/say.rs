//! Messages on standard error. `eprintln!` panics if standard error cannot be written, for example because the reader
//! of a pipe has ended or the disk is full. A message that nobody can read must not end the work that it reports.

use std::io::Write as _;

/// Prints a line on standard error. The line is dropped if standard error cannot be written.
pub fn say(text: &str) {
    // One write, so that the lines of concurrent processes do not mix.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// [`say()`] with the arguments of `format!`.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::say::say(&::std::format!($($argument)*)) };
}
