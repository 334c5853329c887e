//! The threads of a stage that are not libtorch's: rows are encoded, clusters found and episodes played on as many as
//! the stage was given, however many cores the machine has.

use rayon::{ThreadPool, ThreadPoolBuilder};

use raisin_base::error::{Context as _, Result};

/// As a program's first thread usually has: a stage runs on a thread of its pool.
const STACK: usize = 8 << 20;

/// The threads of one stage. They are its own, as a worker makes several stages, and each may have another number.
pub fn pool(threads: usize) -> Result<ThreadPool> {
    let builder = ThreadPoolBuilder::new().num_threads(threads.max(1)).stack_size(STACK);
    builder.build().with_context(|| format!("cannot start {threads} threads"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_shared_out_over_the_threads_that_the_stage_was_given() -> Result<()> {
        for threads in [1, 3] {
            assert_eq!(pool(threads)?.install(rayon::current_num_threads), threads);
        }
        Ok(())
    }
}
