//! `raisin run-stages`: the child process of stages that need no tensors.

use std::process::ExitCode;

use crate::engine;
use crate::error::Result;
use crate::stages;

/// What such a process may keep in bytes: there is one for each core, and nobody counts what they hold between stages.
const MOST_KEPT: u64 = 200_000_000;

pub fn run() -> Result<ExitCode> {
    engine::serve(stages::run_light, |_| MOST_KEPT)?;
    Ok(ExitCode::SUCCESS)
}
