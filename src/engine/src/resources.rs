//! The resources of the machine, and the resources that a stage takes. schedule.rs decides which stage gets them.

use super::Options;
use super::device::Devices;
use raisin_base::memory::{default_limit, of_machine};
use raisin_contract::{DeviceKind, Process};
use raisin_pipeline::{JobRequest, Stage};

/// The memory in bytes to which a stage is held while it runs. A stage without tensors has a limit in any case, because
/// its memory grows with the rows that it reads. A tensor stage has a limit only if the user gives one: its
/// parameters say what it needs.
pub fn limit(stage: &Stage) -> Option<u64> {
    match stage.declaration.process {
        Process::Data | Process::Sql => stage.resources.memory.or_else(default_limit),
        Process::Tensor => stage.resources.memory,
    }
}

/// A whole GPU, in the unit in which shares are counted. The unit is so small that each decimal digit of a usual `f64`
/// share is counted. Therefore sums of shares are exact.
pub const WHOLE_GPU: u64 = 1_000_000_000_000_000_000;

/// The number of decimal places of a share that are counted.
const DIGITS: usize = 18;

/// The resources that a stage takes while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Whether the threads count: see `computes` of the declaration of a kind. These are the tensor stages and the stages that run a
    /// program.
    pub computes: bool,
    pub threads: usize,
    pub memory: u64,
    /// Share of a GPU in units of 1/[`WHOLE_GPU`]; 0 without a GPU.
    pub gpu: u64,
    /// Whether the stage runs as a job of a cluster. Then it takes nothing of this machine.
    pub is_on_cluster: bool,
}

impl Demand {
    /// The threads, if they count.
    pub fn counted_threads(&self) -> Option<usize> {
        self.computes.then_some(self.threads)
    }
}

/// The resources that stages share when they run at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub cores: usize,
    pub memory: u64,
    pub gpus: usize,
    /// The maximum number of tensor stages that run at the same time.
    pub tensor_stages: usize,
    /// Threads of a tensor stage that does not set a number itself.
    threads: usize,
}

impl Capacity {
    pub fn of(options: &Options, devices: Devices) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let gpus = if devices.kind == DeviceKind::Cuda { devices.count } else { 0 };
        let at_once = options.jobs.unwrap_or(devices.count).max(1);
        Self {
            cores,
            memory: of_machine().unwrap_or(u64::MAX),
            gpus,
            tensor_stages: options.jobs.map_or(usize::MAX, |jobs| jobs.max(1)),
            threads: options.threads.unwrap_or(cores / at_once).max(1),
        }
    }

    #[cfg(test)]
    pub const fn with(cores: usize, memory: u64, gpus: usize, tensor_stages: usize) -> Self {
        Self { cores, memory, gpus, tensor_stages, threads: 1 }
    }

    /// `request`: what the job of the stage asks of a cluster; `None` for a stage on this machine.
    pub fn demand(&self, stage: &Stage, request: Option<&JobRequest>) -> Demand {
        let said = stage.resources;
        if let Some(request) = request {
            let threads = said.threads.unwrap_or(request.cpus);
            let computes = stage.declaration.computes;
            return Demand { computes, threads, memory: 0, gpu: 0, is_on_cluster: true };
        }
        let is_on_cluster = false;
        if !stage.declaration.computes {
            return Demand {
                computes: false,
                threads: 1,
                memory: said.memory.unwrap_or(256_000_000),
                gpu: 0,
                is_on_cluster,
            };
        }
        // A tensor stage uses a GPU in any case, a program only if the user says so.
        let gpus = said.gpus.or((stage.declaration.process == Process::Tensor).then_some(1.0));
        Demand {
            computes: true,
            threads: said.threads.unwrap_or(self.threads),
            memory: said.memory.unwrap_or(1_000_000_000),
            gpu: gpus.filter(|_| self.gpus > 0).map_or(0, share),
            is_on_cluster,
        }
    }
}

/// Converts a share of a GPU, from 0 to 1, to parts of [`WHOLE_GPU`]. The share is read from the shortest decimal
/// number that gives this `f64`, because that is the number which the user wrote. If digits are too small to be
/// counted, the share is rounded up by one part.
pub fn share(of_one: f64) -> u64 {
    let written = format!("{of_one}");
    let (whole, digits) = written.split_once('.').unwrap_or((&written, ""));
    let (counted, rest) = digits.split_at(digits.len().min(DIGITS));
    let parts = format!("{counted:0<DIGITS$}").parse::<u64>().unwrap_or(WHOLE_GPU);
    let more = u64::from(rest.bytes().any(|digit| digit != b'0'));
    (whole.parse::<u64>().unwrap_or(1).saturating_mul(WHOLE_GPU)).saturating_add(parts + more).min(WHOLE_GPU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_as_it_was_written() {
        assert_eq!([share(1.0), share(0.5), share(0.3333)], [WHOLE_GPU, WHOLE_GPU / 2, 333_300_000_000_000_000]);
        let fit = |written: f64| WHOLE_GPU / share(written);
        assert_eq!([fit(0.3333), fit(0.33333), fit(0.333_333_333_333), fit(1.0 / 3.0)], [3; 4]);
        assert_eq!([fit(0.3334), fit(0.333_333_333_334)], [2; 2]);
        // The rounding of an `f64` sum has no influence.
        assert_eq!([fit(0.1), fit(0.2), fit(0.05), fit(0.01)], [10, 5, 20, 100]);
        assert_eq!(share(0.7) + share(0.2) + share(0.1), WHOLE_GPU);
        // The smallest share is one part, not zero.
        assert_eq!(share(1e-30), 1);
    }
}
