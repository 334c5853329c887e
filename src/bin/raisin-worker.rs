//! The tensor door: runs tensor stages in a process of its own, one or one after another; with `--inspect`, tells what
//! the machine offers.

use std::path::Path;
use std::process::ExitCode;

use raisin::engine::{SERVE, read_assignment, serve};
use raisin::error::{Result, anyhow};
use raisin::lm;
use raisin::stages::{self, Assignment, DeviceKind};

fn main() -> ExitCode {
    lm::keep_freed_memory();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stages::last_words(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let usage = || anyhow!("usage: raisin-worker ASSIGNMENT.json, or raisin-worker {SERVE}");
    let argument = std::env::args_os().nth(1).ok_or_else(usage)?;
    if argument == "--inspect" {
        println!("{}", serde_json::to_string(&lm::inspect()?)?);
        return Ok(());
    }
    if argument == SERVE { serve(make) } else { make(read_assignment(Path::new(&argument))?) }
}

fn make(assignment: Assignment) -> Result<()> {
    let threads = i32::try_from(assignment.threads.max(1))?;
    stages::threads::pool(assignment.threads)?.install(move || {
        // On the thread that the stage runs on: OpenMP keeps the number for each thread.
        tch::set_num_threads(threads);
        if assignment.environment.device == DeviceKind::Cuda {
            // Before the first tensor, also where this stage is one that keeps its tensors on the CPU.
            lm::device(Some(assignment.environment.device_index))?;
        }
        stages::run_tensor(assignment)
    })
}
