//! Handles a device that is out of memory: recognises the error, and runs the work in smaller groups of rows. This file
//! does not use a model; the callers decide what a group computes.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use raisin_base::error::{Problem, Result, anyhow};

/// Receives messages for the user, for example that there was no memory for a whole batch.
pub type NoteListener = Arc<dyn Fn(&str) + Send + Sync>;

/// Parts of the error texts of CUDA's allocator, of cuBLAS without memory for its workspace, and of the CPU allocator
/// (two texts).
const SIGNS: [&str; 4] = ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "not enough memory"];

/// Whether an error text says that a device is out of memory.
fn says_that_memory_ended(text: &str) -> bool {
    SIGNS.iter().any(|sign| text.contains(sign))
}

/// Whether an error says that a device is out of memory.
pub fn is_out_of_memory(error: &raisin_base::error::Error) -> bool {
    error.chain().any(|cause| says_that_memory_ended(&cause.to_string()))
}

/// Runs `run`, and turns a lack of memory into an error in every case.
///
/// If an operation with a scalar argument fails, tch 0.24 panics: tch frees the scalar before it checks for the error,
/// and the check in that drop finds the error first. `run` tracks gradients, unless `run` itself turns the tracking
/// off. Afterwards, the tracking of gradients is as before, even if the panic came from inside a `no_grad`.
pub fn attempt<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let _as_before = tch::no_grad_guard();
    catch_unwind(AssertUnwindSafe(|| tch::with_grad(run))).unwrap_or_else(|panic| {
        match panic.downcast_ref::<String>() {
            Some(words) if says_that_memory_ended(words) => {
                Err(anyhow!("{}", words.split("\\nframe").next().unwrap_or_default()))
            }
            _ => resume_unwind(panic),
        }
    })
}

/// The error for work that cannot be divided further.
pub fn no_room(tokens: usize, error: &raisin_base::error::Error) -> raisin_base::error::Error {
    Problem::new(format!("there is no memory for a single sequence of {tokens} tokens: {error}"))
        .hint("set a smaller max_tokens; if the stage has activation_checkpointing, set it to true")
        .into()
}

/// The number of leading rows with at most `limit` tokens together. If the first row is above the limit, the result is
/// one.
pub fn first_group(lengths: &[usize], limit: usize) -> usize {
    let mut tokens = 0;
    let fitting = lengths.iter().take_while(|&&length| {
        tokens += length;
        tokens <= limit
    });
    fitting.count().max(1).min(lengths.len())
}

/// Divides consecutive rows into micro-batches of at most `limit` tokens. A row above the limit is a micro-batch of its
/// own.
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

/// Divides consecutive rows into groups of at most `limit` tokens, and calls `run` for each group. If there is no
/// memory for a group, the group and all later groups are halved. Afterwards, `limit` holds the number of tokens for
/// which there was memory.
///
/// # Errors
/// There is no memory for a single row, or `run` returned another error.
pub fn in_groups(lengths: &[usize], limit: &mut usize, mut run: impl FnMut(Range<usize>) -> Result<()>) -> Result<()> {
    in_groups_of_lanes(&[lengths], limit, |ranges| run(ranges[0].clone()))
}

/// Divides the rows of several episodes into groups, as [`in_groups`] does for one episode. `lanes` has the lengths of
/// the rows of each episode. `run` gets the next range of rows of each episode, computes these rows together, and each
/// episode has an equal share of `limit`. An episode whose rows are done has an empty range.
///
/// # Errors
/// There is no memory for a single row of each episode, or `run` returned another error.
pub fn in_groups_of_lanes(
    lanes: &[&[usize]],
    limit: &mut usize,
    mut run: impl FnMut(&[Range<usize>]) -> Result<()>,
) -> Result<()> {
    let mut starts = vec![0; lanes.len()];
    loop {
        let share = *limit / lanes.len().max(1);
        let next = |(lengths, &start): (&&[usize], &usize)| start..start + first_group(&lengths[start..], share);
        let groups: Vec<Range<usize>> = lanes.iter().zip(&starts).map(next).collect();
        if groups.iter().all(Range::is_empty) {
            return Ok(());
        }
        match attempt(|| run(&groups)) {
            Ok(()) => starts = groups.into_iter().map(|group| group.end).collect(),
            Err(error) if is_out_of_memory(&error) => {
                let of_lane = |(lengths, group): (&&[usize], &Range<usize>)| lengths[group.clone()].iter().sum();
                let tokens: Vec<usize> = lanes.iter().zip(&groups).map(of_lane).collect();
                // A single row cannot be divided, so the share falls below the largest group of several rows.
                let several = tokens.iter().zip(&groups).filter(|(_, group)| group.len() > 1);
                let Some(largest) = several.map(|(tokens, _)| *tokens).max() else {
                    return Err(no_room(tokens.iter().sum(), &error));
                };
                *limit = (largest / 2).max(1) * lanes.len();
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::error::anyhow;

    /// The error of a device that has memory for this number of tokens.
    fn room_for(tokens: usize, lengths: &[usize], group: &Range<usize>) -> Result<()> {
        if lengths[group.clone()].iter().sum::<usize>() <= tokens {
            return Ok(());
        }
        let words = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB";
        Err(raisin_base::error::Error::new(tch::TchError::Torch(words.to_owned())).context("in the forward pass"))
    }

    #[test]
    fn a_group_without_memory_is_halved_until_it_fits_and_no_row_is_lost() -> Result<()> {
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
    fn episodes_share_the_limit_and_groups_of_several_rows_are_halved() -> Result<()> {
        let lanes: [&[usize]; 2] = [&[30, 10, 10, 10, 10, 10], &[10, 10]];
        let (mut limit, mut done) = (1000, Vec::new());
        in_groups_of_lanes(&lanes, &mut limit, |groups| {
            let tokens: usize =
                lanes.iter().zip(groups).map(|(lengths, group)| lengths[group.clone()].iter().sum::<usize>()).sum();
            room_for(45, &[tokens], &(0..1))?;
            done.push(groups.to_vec());
            Ok(())
        })?;
        // The share of each episode is halved to 40, to 20 and to 10 tokens.
        assert_eq!(done, [[0..1, 0..1], [1..2, 1..2], [2..3, 2..2], [3..4, 2..2], [4..5, 2..2], [5..6, 2..2]]);
        assert_eq!(limit, 20);
        let error = in_groups_of_lanes(&[&[30], &[20]], &mut limit, |_| room_for(45, &[50], &(0..1)));
        assert!(error.expect_err("no memory").to_string().contains("a single sequence of 50 tokens"));
        Ok(())
    }

    #[test]
    fn a_single_row_without_memory_and_other_errors_end_the_work() {
        let error = in_groups(&[10, 30], &mut 100, |group| room_for(20, &[10, 30], &group)).expect_err("no memory");
        assert!(error.to_string().starts_with("there is no memory for a single sequence of 30 tokens"), "{error}");
        let mut limit = 100;
        let error = in_groups(&[10, 30], &mut limit, |_| Err(anyhow!("another"))).expect_err("passed on");
        assert_eq!((error.to_string().as_str(), limit), ("another", 100));
    }

    #[test]
    fn every_error_text_of_a_device_without_memory_is_recognised() {
        for words in [
            "CUDA out of memory. Tried to allocate 2.00 GiB",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
            "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes",
        ] {
            let error = raisin_base::error::Error::new(tch::TchError::Torch(words.to_owned())).context("in a product");
            assert!(is_out_of_memory(&error), "{words}");
        }
        assert!(!is_out_of_memory(&anyhow!("CUBLAS_STATUS_EXECUTION_FAILED")));
    }

    #[test]
    fn a_lack_of_memory_in_a_scalar_operation_is_an_error_and_other_panics_stay_panics() {
        use tch::{Device, Kind as TensorKind, Tensor};
        let one = Tensor::ones([1], (TensorKind::Float, Device::Cpu));
        // 4 PB is more than the address space.
        let error = attempt(|| Ok(one.f_expand([1_i64 << 50], false)?.f_mul_scalar(2.0)?)).expect_err("no memory");
        assert!(is_out_of_memory(&error) && !error.to_string().contains("frame #0"), "{error}");
        let within = || tch::no_grad(|| Ok(one.f_expand([1_i64 << 50], false)?.f_mul_scalar(2.0)?));
        assert!(attempt(within).is_err());
        let leaf = Tensor::ones([1], (TensorKind::Float, Device::Cpu)).set_requires_grad(true);
        assert!((&leaf + &leaf).requires_grad(), "gradients are tracked again");
        assert!(catch_unwind(|| attempt(|| -> Result<()> { panic!("another") })).is_err());
    }

    #[test]
    fn micro_batches_stay_within_the_limit_and_lose_no_row() {
        assert_eq!(micro_batches(&[3, 3, 3, 10, 1, 1], 6), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(micro_batches(&[], 6), Vec::<Range<usize>>::new());
    }
}
