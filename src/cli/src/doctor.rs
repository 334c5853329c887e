//! `raisin doctor`: shows what this installation finds on the machine. install.rs installs libtorch.

mod install;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use super::pipeline_arguments::Folders;
use super::shared_cache;
use install::LibtorchDevice;
use raisin_base::error::{Result, render};
use raisin_base::machine::MachineReport;
use raisin_contract::flight;
use raisin_contract::remote::{EXECUTABLE, RemoteQuestion, RemoteTask};
use raisin_engine::{HOW_TO_INSTALL, Installation, LibtorchSearch, find_libtorch, load_from};
use raisin_pipeline::CacheSettings;
use raisin_store::{FileSystemKind, file_system};

/// Show what raisin finds on this machine: folders, executables, libtorch, devices.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    folders: Folders,
    /// Install libtorch into the folder .libtorch of this project, or into RAISIN_LIBTORCH, if it is not there yet.
    /// Without a value or with `cpu`: the libraries for the CPU (545 MB to download). With `cuda`: all libraries (2.6 GB).
    #[arg(long, value_enum, value_name = "DEVICE", num_args = 0..=1, default_missing_value = "cpu")]
    install_libtorch: Option<LibtorchDevice>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(device) = arguments.install_libtorch {
        install::install(device)?;
    }
    let installation = Installation::here();
    let own = std::env::current_exe()?;
    let worker = std::env::var_os("RAISIN_WORKER").map_or(own.with_file_name("raisin-worker"), PathBuf::from);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let missing = format!("is not there: {}", installation.repair());
    let mut lines = vec![
        ("raisin", env!("CARGO_PKG_VERSION").to_owned()),
        ("cache", found(&arguments.folders.cache.path(), "does not exist yet: the first build makes it")),
        ("out", found(&arguments.folders.out.path(), "does not exist yet: the first build makes it")),
        ("data", found(&own.with_file_name("raisin-data"), &missing)),
        ("worker", found(&worker, &missing)),
        ("sql", found(&own.with_file_name("raisin-sql"), &missing)),
        ("remote", found(&own.with_file_name(EXECUTABLE), "is not there: only a shared cache and MLflow need it")),
        ("flight", found(&own.with_file_name(flight::EXECUTABLE), "is not there: only `raisin flight` needs it")),
        ("cores", cores.to_string()),
    ];
    lines.extend(about_shared_cache(&own.with_file_name(EXECUTABLE), &arguments.folders.cache.path())?);
    if let Some((at, (name, kind))) = cache_file_system(&arguments.folders.cache.path()) {
        lines.insert(2, ("file sys.", format!("{name}, at {}", at.display())));
        let notes = about(kind).iter().enumerate();
        notes.for_each(|(place, note)| lines.insert(3 + place, ("", (*note).to_owned())));
    }
    let inspected = match find_libtorch() {
        Err(error) => Err(render(&error)),
        Ok(search) => {
            let inspected = inspect(&worker, &search, &installation);
            lines.extend(about_libtorch(search));
            inspected
        }
    };
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

/// What this machine can do with the shared cache of RAISIN_REMOTE, as `raisin remote check` finds it.
fn about_shared_cache(executable: &Path, cache: &Path) -> Result<Vec<(&'static str, String)>> {
    let Some(settings) = shared_cache::settings(None, &CacheSettings::default())? else { return Ok(Vec::new()) };
    let question = RemoteQuestion { settings, cache: cache.to_owned(), task: RemoteTask::Check };
    let output = Command::new(executable).arg("answer").arg(serde_json::to_string(&question)?).output();
    let text = match output {
        Ok(output) => [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat(),
        Err(error) => format!("{} does not start: {error}", executable.display()),
    };
    let lines = text.lines().enumerate();
    Ok(lines.map(|(number, line)| (if number == 0 { "shared" } else { "" }, line.to_owned())).collect())
}

/// The file system on which the cache lies, or will lie, with the path that was looked at.
fn cache_file_system(cache: &Path) -> Option<(PathBuf, (String, FileSystemKind))> {
    let cache = std::path::absolute(cache).ok()?;
    cache.ancestors().find_map(|folder| Some((folder.to_owned(), file_system(folder)?)))
}

/// What holds and what does not hold for a cache on this kind of file system. docs/decisions/0021 has the reasons.
fn about(kind: FileSystemKind) -> &'static [&'static str] {
    match kind {
        FileSystemKind::Local => &[],
        FileSystemKind::Network | FileSystemKind::Program => &[
            "Several machines may use this cache. A lock may hold on its own machine only.",
            "Holds: each machine has its own staging folders, and one rename puts an artifact into place whole.",
            "Does not hold: two machines may run the same action at the same time, and waste time.",
            "Does not hold: `gc --yes` does not see builds on other machines. Run it while no other machine builds.",
        ],
        FileSystemKind::Layers => {
            &["Layers of a container: the cache may vanish with the container, and other containers do not see it."]
        }
        FileSystemKind::Memory => &["In memory: the cache vanishes when the machine stops."],
    }
}

/// Which libtorch the worker loads and why, and why not the ones before it.
fn about_libtorch(search: LibtorchSearch) -> Vec<(&'static str, String)> {
    let mut lines: Vec<_> = search.passed.into_iter().map(|reason| ("", reason)).collect();
    lines.push(match search.found {
        Some(libtorch) => ("", format!("taken from {}: {}", libtorch.folder.display(), libtorch.place)),
        None => ("", "not found in any of these places".to_owned()),
    });
    lines[0].0 = "libtorch";
    lines
}

/// The report of the worker about the machine. The worker loads libtorch; this process must never load it.
fn inspect(worker: &Path, search: &LibtorchSearch, installation: &Installation) -> Result<MachineReport, String> {
    if !worker.is_file() {
        return Err(format!("without raisin-worker no tensor stage can run: {}", installation.repair()));
    }
    let mut command = Command::new(worker);
    if let Some(libtorch) = &search.found {
        load_from(&mut command, libtorch).map_err(|error| render(&error))?;
    }
    let output = command.arg("--inspect").output().map_err(|error| format!("raisin-worker: {error}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("libtorch") && words.contains("cannot open shared object") {
        return Err(format!("raisin-worker finds no libtorch ({}): {HOW_TO_INSTALL}", words.trim()));
    }
    if !output.status.success() {
        return Err(format!("raisin-worker ended with {}: {}", output.status, words.trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("raisin-worker is of another version: {error}"))
}

fn found(path: &Path, otherwise: &str) -> String {
    if path.exists() { path.display().to_string() } else { format!("{} {otherwise}", path.display()) }
}
