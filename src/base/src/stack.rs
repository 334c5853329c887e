//! A large stack for code that recurses deeply, such as the parser and the planner of queries.

use super::error::{Context as _, Result};

/// The size of a large stack. The kernel gives memory only to the pages that are used, so that an unused stack costs
/// nothing.
pub const LARGE_STACK: usize = 1 << 30;

/// Calls `run` on a thread with a large stack, and returns its result. A panic of `run` continues in the caller.
///
/// # Errors
/// The system has no address space for the stack.
pub fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(LARGE_STACK).spawn_scoped(scope, run);
        let thread = thread.context("cannot start a thread with a large stack")?;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}
