//! The thread pool of a stage, for encoding rows, clustering and playing episodes. The pool has as many threads as the
//! build gave to the stage, whatever the number of cores is. libtorch manages its threads itself.

use rayon::{ThreadPool, ThreadPoolBuilder};

use raisin_base::error::{Context as _, Result};

/// The stack size of a thread, in bytes (8 MiB). A stage runs on a thread of its pool and needs a stack as large as
/// that of a main thread.
const STACK: usize = 8 << 20;

/// Creates the thread pool of one stage. Each stage gets its own pool, because a worker runs several stages and each
/// may have another number of threads.
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
