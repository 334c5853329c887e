//! Asks a person for paths, and the executables about the files at these paths.

use std::ffi::OsStr;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;

use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::Process;
use raisin_contract::look::{DataFindings, DataQuestion, ModelFindings};

/// The path of a flag. Without the flag, a person at a terminal is asked.
///
/// # Errors
/// The flag is missing and nobody can be asked, or nothing lies at the path.
pub fn path(flag: Option<&PathBuf>, name: &str, what: &str) -> Result<PathBuf> {
    let path = match flag {
        Some(path) => path.clone(),
        None if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() => asked(what)?,
        None => {
            let problem = Problem::usage(format!("{name} is missing: {what}"));
            return Err(problem.hint("`raisin init --help` shows an example with all flags").into());
        }
    };
    refuse_missing(&path, name)?;
    Ok(path)
}

/// # Errors
/// Nothing lies at the path, or the path is not UTF-8, which a pipeline file cannot hold.
pub fn refuse_missing(path: &Path, flag: &str) -> Result<()> {
    if let Err(error) = path.metadata() {
        let problem = Problem::usage(format!("{flag}: cannot read {}: {error}", path.display()));
        return Err(problem.hint("the path is relative to the current directory").into());
    }
    if path.to_str().is_none() {
        return Err(Problem::usage(format!("{flag}: the path {} is not UTF-8", path.display()))
            .hint("a pipeline file can hold no other text: rename the file, or link to it")
            .into());
    }
    Ok(())
}

fn asked(what: &str) -> Result<PathBuf> {
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{what}: ")?;
    stderr.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
    let answer = line.trim();
    if answer.is_empty() {
        return Err(Problem::usage("nothing was answered")
            .hint("give a path, or the flags of `raisin init --help`")
            .into());
    }
    Ok(PathBuf::from(answer))
}

pub fn data(question: &DataQuestion) -> Result<DataFindings> {
    answer(Process::Data, OsStr::new(&serde_json::to_string(question)?))
}

pub fn model(path: &Path) -> Result<ModelFindings> {
    answer(Process::Tensor, path.as_os_str())
}

/// The answer of an executable. If it refuses, its words are those of the problem.
fn answer<T: DeserializeOwned>(process: Process, question: &OsStr) -> Result<T> {
    let program = raisin_engine::executable(process, None)?;
    let output = Command::new(&program)
        .arg("look")
        .arg(question)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let told = told.trim().strip_prefix("error: ").unwrap_or(told.trim());
        let (message, hint) = told.split_once("\nhint: ").unwrap_or((told, ""));
        let problem = if output.status.code() == Some(2) { Problem::usage(message) } else { Problem::new(message) };
        return Err(if hint.is_empty() { problem } else { problem.hint(hint) }.into());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("cannot read the answer of {}", program.display()))
}
