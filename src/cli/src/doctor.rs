//! `raisin doctor`: shows what this installation finds on the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use super::pipeline_arguments::Folders;
use raisin_base::error::Result;
use raisin_base::machine::MachineReport;

/// Show what raisin finds on this machine: folders, executables, libtorch, devices.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    folders: Folders,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let own = std::env::current_exe()?;
    let worker = std::env::var_os("RAISIN_WORKER").map_or(own.with_file_name("raisin-worker"), PathBuf::from);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut lines = vec![
        ("raisin", env!("CARGO_PKG_VERSION").to_owned()),
        ("cache", found(&arguments.folders.cache.path(), "does not exist yet: the first build makes it")),
        ("out", found(&arguments.folders.out.path(), "does not exist yet: the first build makes it")),
        ("data", found(&own.with_file_name("raisin-data"), "is not there: `cargo build` makes it")),
        ("worker", found(&worker, "is not there: `cargo build` makes it")),
        ("sql", found(&own.with_file_name("raisin-sql"), "is not there yet: `cargo build --workspace` makes it")),
        ("cores", cores.to_string()),
    ];
    let inspected = inspect(&worker);
    let advice = match &inspected {
        Ok(machine) => {
            lines.extend(machine.findings());
            machine.advice()
        }
        Err(problem) => vec![problem.clone()],
    };
    lines.extend(advice.into_iter().map(|advice| ("to do", advice)));
    super::print(&lines.iter().map(|(name, value)| format!("{name:9} {value}\n")).collect::<String>())?;
    // If the worker does not start, no tensor stage can run.
    Ok(if inspected.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The report of the worker about the machine. The worker loads libtorch; this process must never load it.
fn inspect(worker: &Path) -> Result<MachineReport, String> {
    if !worker.is_file() {
        return Err("without raisin-worker no tensor stage can run: `cargo build` makes it".to_owned());
    }
    let output = Command::new(worker).arg("--inspect").output().map_err(|error| format!("raisin-worker: {error}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("libtorch") && words.contains("cannot open shared object") {
        return Err(format!(
            "libtorch is not in the folder that raisin was linked with ({}): run `./justw setup`",
            words.trim()
        ));
    }
    if !output.status.success() {
        return Err(format!("raisin-worker ended with {}: {}", output.status, words.trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("raisin-worker is of another version: {error}"))
}

fn found(path: &Path, otherwise: &str) -> String {
    if path.exists() { path.display().to_string() } else { format!("{} {otherwise}", path.display()) }
}
