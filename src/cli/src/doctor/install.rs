//! `raisin doctor --install-libtorch`: runs setup/libtorch.py, which is part of this executable, with the Python beside
//! this executable, or else with the Python on PATH.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

use raisin_base::error::{Context as _, Problem, Result};

/// The script, and the list of packages with their digests that the script reads from the folder of the script.
const FILES: [(&str, &str); 2] = [
    ("libtorch.py", include_str!("../../../../setup/libtorch.py")),
    ("libtorch-cpu.txt", include_str!("../../../../setup/libtorch-cpu.txt")),
];

/// The device for which libtorch is installed.
#[derive(Clone, Copy, ValueEnum)]
pub enum LibtorchDevice {
    Cpu,
    Cuda,
}

/// # Errors
/// There is no Python with pip, or the download failed.
pub fn install(device: LibtorchDevice) -> Result<()> {
    let scripts = tempfile::tempdir().context("cannot make a temporary folder")?;
    for (name, text) in FILES {
        let path = scripts.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let python = python();
    let mut command = Command::new(&python);
    command.arg(scripts.path().join("libtorch.py"));
    command.arg(match device {
        LibtorchDevice::Cpu => "cpu",
        LibtorchDevice::Cuda => "cuda",
    });
    if std::env::var_os("RAISIN_LIBTORCH").is_none_or(|value| value.is_empty()) {
        command.env("RAISIN_LIBTORCH", std::path::absolute(".libtorch")?);
    }
    // Standard output is for the report of doctor.
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.map_err(|error| {
        Problem::new(format!("cannot start {}: {error}", python.display()))
            .hint("libtorch is downloaded with pip: install Python 3 with pip, or set LIBTORCH to a libtorch 2.11")
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Problem::new(format!("libtorch was not installed: {} ended with {status}", python.display()))
        .hint("the reason stands above; set LIBTORCH to use a libtorch 2.11 that you installed yourself")
        .into())
}

/// The Python of the environment in which raisin is installed, or else the one on PATH.
fn python() -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|folder| folder.join("python3"));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("python3"))
}
