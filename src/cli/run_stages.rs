//! `raisin run-stages`: the child process of stages that need no tensors.

use std::process::ExitCode;

use crate::engine;
use crate::error::Result;
use crate::stages;

pub fn run() -> Result<ExitCode> {
    engine::serve(stages::run_light)?;
    Ok(ExitCode::SUCCESS)
}
