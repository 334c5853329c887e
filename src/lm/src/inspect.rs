//! What this machine offers to tensors, looked at from within a process that has libtorch.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::{Device, Kind as TensorKind, Tensor};

use super::device::load_cuda;
use raisin_base::error::Result;
use raisin_base::machine::{Cuda, Machine};

/// The instructions that libtorch's products make use of, by the kernel's names.
const INSTRUCTIONS: [&str; 7] =
    ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile"];

/// Takes a fraction of a second: two kinds of products are timed.
pub fn inspect() -> Result<Machine> {
    // Before the first tensor, as device() does.
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
    Ok(Machine {
        libtorch: library.as_deref().and_then(version),
        library: library.map(|path| path.display().to_string()),
        processor: field("model name"),
        instructions: INSTRUCTIONS.iter().filter(has).map(|name| (*name).to_owned()).collect(),
        threads: tch::get_num_threads().max(1) as usize,
        f32_gflops: products(TensorKind::Float)?,
        bf16_gflops: products(TensorKind::BFloat16)?,
        cuda: Cuda { problem, gpus: gpus(), usable, driver: has_driver() },
    })
}

/// The speed of products of matrices as large as those of small models, the best of a few.
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

/// Where this process has loaded a library from.
fn loaded(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|line| line.find('/').map(|place| &line[place..])).map(Path::new);
    path.into_iter().find(|path| path.file_name().is_some_and(|file| file == name)).map(Path::to_owned)
}

/// From the headers that lie beside the library, in wheels and in libtorch's own archives alike.
fn version(library: &Path) -> Option<String> {
    let include = library.parent()?.parent()?.join("include/torch");
    let text = ["headeronly/version.h", "version.h"]
        .iter()
        .find_map(|name| std::fs::read_to_string(include.join(name)).ok())?;
    let part = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    Some(format!("{}.{}.{}", part("MAJOR ")?, part("MINOR ")?, part("PATCH ")?))
}

/// The GPUs by name, as the driver tells them.
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
    // SAFETY: the driver's own library, made to be opened by any program.
    unsafe { Library::open(Some("libcuda.so.1"), RTLD_LAZY) }.is_ok()
}
