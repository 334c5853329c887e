//! Memory: how much a phase of the work took at its highest, and what is done when there is no more. Knows no model.

use std::ops::Range;
use std::time::{Duration, Instant};

use tch::Device;

use super::trainer::micro_batches;
use crate::error::{Problem, Result};
use crate::lm::device_memory_in_use;

/// What a phase has taken, over all the times it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Phase {
    pub time: Duration,
    /// The highest memory of the device that tensors live on: of the process on the CPU, of the whole device on CUDA.
    pub peak_bytes: u64,
}

impl Phase {
    pub fn add(&mut self, meter: Meter) {
        let Phase { time, peak_bytes } = meter.stop();
        self.time += time;
        self.peak_bytes = self.peak_bytes.max(peak_bytes);
    }
}

/// A phase that is running. Meters do not nest: starting one forgets the highest memory before it.
pub struct Meter {
    device: Device,
    started: Instant,
}

impl Meter {
    pub fn start(device: Device) -> Self {
        settle(device);
        if device == Device::Cpu {
            // Resets the process' high-water mark; where that is not allowed, the mark of the whole run is shown.
            let _ = std::fs::write("/proc/self/clear_refs", "5");
        }
        Self { device, started: Instant::now() }
    }

    pub fn stop(self) -> Phase {
        settle(self.device);
        let time = self.started.elapsed();
        Phase { time, peak_bytes: peak(self.device) }
    }
}

/// A GPU works on while the program goes on: without waiting, its time would be counted in the next phase.
fn settle(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// The highest memory since the last meter was started; 0 where it cannot be told.
pub fn peak(device: Device) -> u64 {
    let peak = match device {
        // libtorch keeps what it has once asked for, so what is in use now is the highest so far.
        Device::Cuda(index) => device_memory_in_use(index),
        _ => resident_peak(),
    };
    peak.unwrap_or(0)
}

/// The process' highest resident memory since the mark was last reset.
pub fn resident_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Whether an error says that a device has no memory left.
pub fn is_out_of_memory(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let text = cause.to_string();
        // CUDA's allocator, and the two of the CPU.
        ["out of memory", "can't allocate memory", "not enough memory"].iter().any(|sign| text.contains(sign))
    })
}

/// Consecutive rows in groups of at most `limit` tokens, each handed to `run`. A group that finds no memory is halved,
/// and so is every later one: `limit` says then what there was room for.
///
/// # Errors
/// No memory for a single row, and any other error of `run`.
pub fn in_groups(lengths: &[usize], limit: &mut usize, mut run: impl FnMut(Range<usize>) -> Result<()>) -> Result<()> {
    let mut start = 0;
    while start < lengths.len() {
        let Some(group) = micro_batches(&lengths[start..], *limit).into_iter().next() else { break };
        let group = start + group.start..start + group.end;
        match run(group.clone()) {
            Ok(()) => start = group.end,
            Err(error) if is_out_of_memory(&error) => {
                let tokens: usize = lengths[group.clone()].iter().sum();
                if group.len() == 1 {
                    return Err(Problem::new(format!(
                        "there is no memory for a single sequence of {tokens} tokens: {error}"
                    ))
                    .hint("a smaller max_tokens, or activation_checkpointing = true, needs less")
                    .into());
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
    fn a_meter_sees_the_memory_that_a_phase_took_and_forgets_that_of_the_phase_before() {
        const LARGE: usize = 256 << 20;
        let before = Meter::start(Device::Cpu).stop().peak_bytes;
        let meter = Meter::start(Device::Cpu);
        let ones = tch::Tensor::ones([LARGE as i64 / 4], (tch::Kind::Float, Device::Cpu));
        let with = meter.stop().peak_bytes;
        drop(ones);
        assert!(with >= before + LARGE as u64 / 2, "{before} then {with}");
        let after = Meter::start(Device::Cpu).stop().peak_bytes;
        assert!(after + LARGE as u64 / 2 <= with, "{with} then {after}");
    }
}
