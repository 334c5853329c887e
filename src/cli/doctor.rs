//! `raisin doctor`: what this installation has found.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::Folders;
use crate::engine::device;
use crate::error::Result;

/// Show what raisin finds on this machine: folders, executables, libtorch, devices.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    folders: Folders,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let worker = std::env::current_exe()?.with_file_name("raisin-worker");
    let libtorch = match std::env::var_os("LIBTORCH").or_else(|| option_env!("LIBTORCH").map(Into::into)) {
        Some(folder) => found(Path::new(&folder), "is not there: run `./justw setup`"),
        None => "LIBTORCH was not set when raisin was compiled".to_owned(),
    };
    let devices = match device::detect() {
        Some(devices) => format!("{} CUDA", devices.count),
        None => "CPU only".to_owned(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let lines = [
        ("raisin", env!("CARGO_PKG_VERSION").to_owned()),
        ("cache", found(&arguments.folders.cache(), "does not exist yet: the first build makes it")),
        ("out", found(&arguments.folders.out(), "does not exist yet: the first build makes it")),
        ("worker", found(&worker, "is not there: `cargo build` makes it")),
        ("libtorch", libtorch),
        ("devices", devices),
        ("cores", cores.to_string()),
    ];
    super::print(&lines.iter().map(|(name, value)| format!("{name:9} {value}\n")).collect::<String>())?;
    // Without the worker no tensor stage can run.
    Ok(if worker.is_file() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn found(path: &Path, otherwise: &str) -> String {
    if path.exists() { path.display().to_string() } else { format!("{} {otherwise}", path.display()) }
}
