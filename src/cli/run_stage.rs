//! `raisin run-stage`: the child process of a stage that needs no tensors.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::engine;
use crate::error::Result;
use crate::stages;

/// Run one stage that was assigned by a build.
#[derive(Args)]
#[command(hide = true)]
pub struct Arguments {
    assignment: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(match engine::run_stage(&arguments.assignment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stages::last_words(&error);
            ExitCode::FAILURE
        }
    })
}
