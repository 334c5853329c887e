//! Measures what this machine offers for tensors, from within a process that has libtorch. raisin_base::machine turns
//! the result into text and advice.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::{Device, Kind as TensorKind, Tensor};

use super::device::load_cuda;
use raisin_base::error::Result;
use raisin_base::machine::{Cuda, MachineReport, libtorch_version};

/// The instruction sets that libtorch's matrix products use, by the names of the Linux kernel.
const INSTRUCTIONS: [&str; 7] =
    ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile"];

/// Inspects the machine. This takes a fraction of a second, because products in two dtypes are timed.
pub fn inspect() -> Result<MachineReport> {
    // CUDA must be loaded before the first tensor, as in `device()`.
    let problem = load_cuda().err();
    let usable = if problem.is_none() && tch::Cuda::is_available() { tch::Cuda::device_count() as usize } else { 0 };
    let library = loaded("libtorch_cpu.so");
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = information.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let flags = field("flags");
    let has = |name: &&&str| flags.split(' ').any(|flag| flag == **name);
    Ok(MachineReport {
        libtorch: library.as_deref().and_then(Path::parent).and_then(libtorch_version),
        library: library.map(|path| path.display().to_string()),
        processor: field("model name"),
        instructions: INSTRUCTIONS.iter().filter(has).map(|name| (*name).to_owned()).collect(),
        threads: tch::get_num_threads().max(1) as usize,
        f32_gflops: products(TensorKind::Float)?,
        bf16_gflops: products(TensorKind::BFloat16)?,
        cuda: Cuda { problem, gpus: gpus(), usable, driver: has_driver() },
    })
}

/// The speed of matrix products in GFLOP/s: the best of four products, with matrices as large as those of small models.
fn products(kind: TensorKind) -> Result<f64> {
    const SIZE: i64 = 512;
    let matrix = Tensor::f_ones([SIZE, SIZE], (kind, Device::Cpu))?;
    let mut fastest = f64::INFINITY;
    for _ in 0..4 {
        let start = Instant::now();
        let _ = matrix.f_matmul(&matrix)?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIZE as f64).powi(3) / fastest / 1e9)
}

/// The path from which this process has loaded a library.
fn loaded(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|line| line.find('/').map(|place| &line[place..])).map(Path::new);
    path.into_iter().find(|path| path.file_name().is_some_and(|file| file == name)).map(Path::to_owned)
}

/// The names of the GPUs, as the NVIDIA driver lists them.
fn gpus() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    let name = |folder: &PathBuf| {
        let text = std::fs::read_to_string(folder.join("information")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("Model:")).map_or("unnamed", str::trim).to_owned()
    };
    folders.iter().map(name).collect()
}

fn has_driver() -> bool {
    use libloading::os::unix::{Library, RTLD_LAZY};
    // SAFETY: this is the library of the NVIDIA driver. Any program may open it.
    unsafe { Library::open(Some("libcuda.so.1"), RTLD_LAZY) }.is_ok()
}
