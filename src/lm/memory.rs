//! What is done when a device has no memory left: less at a time. Knows no model.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Problem, Result};

/// Who hears what the person at the build should know, such as that there was no memory for all of a batch.
pub type Listener = Arc<dyn Fn(&str) + Send + Sync>;

/// The words of CUDA's allocator, of cuBLAS where there is no room for its workspace, and the two of the CPU.
const SIGNS: [&str; 4] = ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "not enough memory"];

/// Whether an error says that a device has no memory left.
pub fn is_out_of_memory(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let text = cause.to_string();
        SIGNS.iter().any(|sign| text.contains(sign))
    })
}

/// The error for what cannot be made any smaller.
pub fn no_room(tokens: usize, error: &anyhow::Error) -> anyhow::Error {
    Problem::new(format!("there is no memory for a single sequence of {tokens} tokens: {error}"))
        .hint("a smaller max_tokens, or activation_checkpointing = true, needs less")
        .into()
}

/// How many of the rows at the front have at most `limit` tokens together; one, where the first is above it.
pub fn first_group(lengths: &[usize], limit: usize) -> usize {
    let mut tokens = 0;
    let fitting = lengths.iter().take_while(|&&length| {
        tokens += length;
        tokens <= limit
    });
    fitting.count().max(1).min(lengths.len())
}

/// Consecutive rows in groups of at most `limit` tokens; a row above the limit is a group of its own.
pub fn micro_batches(lengths: &[usize], limit: usize) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut start = 0;
    while start < lengths.len() {
        let end = start + first_group(&lengths[start..], limit);
        groups.push(start..end);
        start = end;
    }
    groups
}

/// Consecutive rows in groups of at most `limit` tokens, each handed to `run`. A group that finds no memory is halved,
/// and so is every later one: `limit` says then what there was room for.
///
/// # Errors
/// No memory for a single row, and any other error of `run`.
pub fn in_groups(lengths: &[usize], limit: &mut usize, mut run: impl FnMut(Range<usize>) -> Result<()>) -> Result<()> {
    let mut start = 0;
    while start < lengths.len() {
        let group = start..start + first_group(&lengths[start..], *limit);
        match run(group.clone()) {
            Ok(()) => start = group.end,
            Err(error) if is_out_of_memory(&error) => {
                let tokens: usize = lengths[group.clone()].iter().sum();
                if group.len() == 1 {
                    return Err(no_room(tokens, &error));
                }
                *limit = (tokens / 2).max(1);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::anyhow;

    /// The words of a device that has room for so many tokens.
    fn room_for(tokens: usize, lengths: &[usize], group: &Range<usize>) -> Result<()> {
        if lengths[group.clone()].iter().sum::<usize>() <= tokens {
            return Ok(());
        }
        let words = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB";
        Err(anyhow::Error::new(tch::TchError::Torch(words.to_owned())).context("in the forward pass"))
    }

    #[test]
    fn a_group_that_finds_no_memory_is_halved_until_it_fits_and_no_row_is_lost() -> Result<()> {
        let lengths = [10, 10, 10, 10, 10, 10, 10];
        let (mut limit, mut done, mut tried) = (1000, Vec::new(), Vec::new());
        in_groups(&lengths, &mut limit, |group| {
            tried.push(group.clone());
            room_for(25, &lengths, &group)?;
            done.push(group);
            Ok(())
        })?;
        assert_eq!(tried[..3], [0..7, 0..3, 0..1]);
        assert_eq!(done, (0..7).map(|row| row..row + 1).collect::<Vec<_>>());
        assert_eq!(limit, 15);
        Ok(())
    }

    #[test]
    fn a_single_row_without_room_and_other_errors_are_errors() {
        let error = in_groups(&[10, 30], &mut 100, |group| room_for(20, &[10, 30], &group)).expect_err("no room");
        assert!(error.to_string().starts_with("there is no memory for a single sequence of 30 tokens"), "{error}");
        let mut limit = 100;
        let error = in_groups(&[10, 30], &mut limit, |_| Err(anyhow!("another"))).expect_err("passed on");
        assert_eq!((error.to_string().as_str(), limit), ("another", 100));
    }

    #[test]
    fn every_way_to_say_that_memory_ended_is_understood() {
        for words in [
            "CUDA out of memory. Tried to allocate 2.00 GiB",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
            "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes",
        ] {
            let error = anyhow::Error::new(tch::TchError::Torch(words.to_owned())).context("in a product");
            assert!(is_out_of_memory(&error), "{words}");
        }
        assert!(!is_out_of_memory(&anyhow!("CUBLAS_STATUS_EXECUTION_FAILED")));
    }

    #[test]
    fn micro_batches_keep_to_the_limit_and_lose_no_row() {
        assert_eq!(micro_batches(&[3, 3, 3, 10, 1, 1], 6), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(micro_batches(&[], 6), Vec::<Range<usize>>::new());
    }
}
