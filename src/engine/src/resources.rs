//! What the machine has, and what a stage takes of it.

use super::Options;
use super::device::Devices;
use raisin_contract::{DeviceKind, Process};
use raisin_pipeline::Stage;

/// A whole GPU, in the parts that shares are counted in.
pub const WHOLE_GPU: u32 = 1000;

/// What a stage takes of the machine while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    pub process: Process,
    pub threads: usize,
    pub memory: u64,
    /// Of [`WHOLE_GPU`]; 0 where tensors live on the CPU.
    pub gpu: u32,
}

/// What stages running side by side share.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cores: usize,
    pub memory: u64,
    pub gpus: usize,
    /// How many tensor stages run at once at most.
    pub tensor_stages: usize,
    /// Threads of a tensor stage that does not say how many.
    threads: usize,
}

impl Machine {
    pub fn of(options: &Options, devices: Devices) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let gpus = if devices.kind == DeviceKind::Cuda { devices.count } else { 0 };
        let at_once = options.jobs.unwrap_or(devices.count).max(1);
        Self {
            cores,
            memory: memory().unwrap_or(u64::MAX),
            gpus,
            tensor_stages: options.jobs.map_or(usize::MAX, |jobs| jobs.max(1)),
            threads: options.threads.unwrap_or(cores / at_once).max(1),
        }
    }

    #[cfg(test)]
    pub const fn with(cores: usize, memory: u64, gpus: usize, tensor_stages: usize) -> Self {
        Self { cores, memory, gpus, tensor_stages, threads: 1 }
    }

    pub fn demand(&self, stage: &Stage) -> Demand {
        let process = stage.declaration.process;
        let said = stage.resources;
        let share = |share: f64| (share * f64::from(WHOLE_GPU)).ceil() as u32;
        match process {
            Process::Data | Process::Sql => {
                Demand { process, threads: 1, memory: said.memory.unwrap_or(256_000_000), gpu: 0 }
            }
            Process::Tensor => Demand {
                process,
                threads: said.threads.unwrap_or(self.threads),
                memory: said.memory.unwrap_or(1_000_000_000),
                gpu: if self.gpus > 0 { share(said.gpus.unwrap_or(1.0)) } else { 0 },
            },
        }
    }
}

/// The memory of the machine, or what a container leaves of it.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024;
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limit.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    Some(limit.map_or(total, |limit| limit.min(total)))
}
