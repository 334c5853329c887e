//! `raisin job`: what a job of a cluster runs. A build writes the command into the script of the job.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use raisin_base::error::{Problem, Result};
use raisin_engine as engine;

/// Run the job in a folder of the cache. Scripts of jobs call this; a person needs it only to try a job by hand.
#[derive(Args)]
pub struct Arguments {
    /// The number of the folder, counted from 0, if there are several: the place of the job in an array.
    #[arg(long, value_name = "N", default_value_t = 0)]
    index: usize,
    /// The folders of the jobs, CACHE/jobs/KEY.
    #[arg(value_name = "FOLDER", required = true)]
    folders: Vec<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some(folder) = arguments.folders.get(arguments.index) else {
        let message = format!("there is no folder {} among {}", arguments.index, arguments.folders.len());
        return Err(Problem::usage(message).hint("they are counted from 0").into());
    };
    engine::run_job(folder)?;
    Ok(ExitCode::SUCCESS)
}
