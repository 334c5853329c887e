//! Measures the time and the peak memory of a phase.

use std::time::{Duration, Instant};

use tch::Device;

use raisin_lm::device_memory_in_use;

/// Time and peak memory of a phase, over all its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PhaseUse {
    pub time: Duration,
    /// The peak memory in bytes: of this process on the CPU, of the whole device on CUDA.
    pub peak_bytes: u64,
}

impl PhaseUse {
    pub fn add(&mut self, meter: Meter) {
        let PhaseUse { time, peak_bytes } = meter.stop();
        self.time += time;
        self.peak_bytes = self.peak_bytes.max(peak_bytes);
    }
}

/// The measurement of a running phase. Meters cannot be nested: each start resets the peak memory of the process.
pub struct Meter {
    device: Device,
    started: Instant,
    measures_memory: bool,
}

impl Meter {
    pub fn start(device: Device) -> Self {
        Self::start_beside(device, false)
    }

    /// [`Self::start`]; if `others` work in this process at the same time, only the time is measured.
    pub(super) fn start_beside(device: Device, others: bool) -> Self {
        settle(device);
        if device == Device::Cpu && !others {
            // Resets the peak of the process. If the system refuses, the peak is that of the whole run.
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

/// Waits for the GPU, which works asynchronously. Otherwise the next phase would contain a part of this phase's time.
fn settle(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// The peak memory since the last start of a meter, in bytes; 0 if it is unknown.
pub fn peak(device: Device) -> u64 {
    let peak = match device {
        // libtorch keeps all memory that it has allocated, so the memory in use is the peak.
        Device::Cuda(index) => device_memory_in_use(index),
        _ => resident_peak(),
    };
    peak.unwrap_or(0)
}

/// The peak resident memory of the process since its last reset, in bytes.
fn resident_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_measures_the_memory_of_its_own_phase_only() {
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
