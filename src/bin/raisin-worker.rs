//! The tensor door: runs the tensor stages that a build asks for on standard input; with `--inspect`, tells what the
//! machine offers.

use std::process::ExitCode;

use raisin::engine::serve;
use raisin::error::{Result, anyhow};
use raisin::lm;
use raisin::stages::{self, Assignment, DeviceKind};

/// What a worker may keep between stages, in bytes.
const MOST_KEPT: u64 = 1_000_000_000;
/// With a CUDA context, which takes memory of the host for as long as the worker lives.
const MOST_KEPT_WITH_CUDA: u64 = 4_000_000_000;

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
    match std::env::args().nth(1).as_deref() {
        Some("run-stages") => serve(make, |device| match device {
            DeviceKind::Cpu => MOST_KEPT,
            DeviceKind::Cuda => MOST_KEPT_WITH_CUDA,
        }),
        Some("--inspect") => {
            println!("{}", serde_json::to_string(&lm::inspect()?)?);
            Ok(())
        }
        _ => Err(anyhow!("usage: raisin-worker run-stages, which `raisin build` starts, or raisin-worker --inspect")),
    }
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
