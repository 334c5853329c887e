//! The tensor door: runs one tensor stage in a process of its own.

use std::process::ExitCode;

use raisin::error::{Context as _, Result, anyhow};
use raisin::stages;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stages::last_words(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let path = std::env::args_os().nth(1).ok_or_else(|| anyhow!("usage: raisin-worker ASSIGNMENT.json"))?;
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let assignment: stages::Assignment =
        serde_json::from_slice(&text).with_context(|| format!("{} is not an assignment", path.display()))?;
    let threads = i32::try_from(assignment.threads.max(1))?;
    tch::set_num_threads(threads);
    stages::run_tensor(assignment)
}
