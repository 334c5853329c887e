//! Memory: how much a phase of the work took at its highest. Leaves what is done when there is no more to [`raisin_lm`].

use std::time::{Duration, Instant};

use tch::Device;

use raisin_lm::device_memory_in_use;

/// What a phase has taken, over all the times it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PhaseUse {
    pub time: Duration,
    /// The highest memory of the device that tensors live on: of the process on the CPU, of the whole device on CUDA.
    pub peak_bytes: u64,
}

impl PhaseUse {
    pub fn add(&mut self, meter: Meter) {
        let PhaseUse { time, peak_bytes } = meter.stop();
        self.time += time;
        self.peak_bytes = self.peak_bytes.max(peak_bytes);
    }
}

/// A phase that is running. Meters do not nest: starting one forgets the highest memory before it.
pub struct Meter {
    device: Device,
    started: Instant,
    measures_memory: bool,
}

impl Meter {
    pub fn start(device: Device) -> Self {
        Self::start_beside(device, false)
    }

    /// The same; beside others that work in this process at the same time it measures the time only.
    pub(super) fn start_beside(device: Device, others: bool) -> Self {
        settle(device);
        if device == Device::Cpu && !others {
            // Resets the process' high-water mark; where that is not allowed, the mark of the whole run is shown.
            let _ = std::fs::write("/proc/self/clear_refs", "5");
        }
        Self { device, started: Instant::now(), measures_memory: !others }
    }

    pub fn stop(self) -> PhaseUse {
        settle(self.device);
        let time = self.started.elapsed();
        PhaseUse { time, peak_bytes: if self.measures_memory { peak(self.device) } else { 0 } }
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

#[cfg(test)]
mod tests {
    use super::*;

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
