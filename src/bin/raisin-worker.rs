//! The tensor door: runs one tensor stage in a process of its own; with `--inspect`, tells what the machine offers.

use std::process::ExitCode;

use raisin::error::{Context as _, Result, anyhow, render};
use raisin::stages;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", render(&error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let path = std::env::args_os().nth(1).ok_or_else(|| anyhow!("usage: raisin-worker ASSIGNMENT.json"))?;
    if path == "--inspect" {
        println!("{}", serde_json::to_string(&raisin::lm::inspect()?)?);
        return Ok(());
    }
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let assignment: stages::Assignment =
        serde_json::from_slice(&text).with_context(|| format!("{} is not an assignment", path.display()))?;
    let threads = i32::try_from(assignment.threads.max(1))?;
    tch::set_num_threads(threads);
    stages::run_tensor(assignment)
}
