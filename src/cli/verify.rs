//! `raisin verify`: reads the whole store again.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::Folders;
use crate::error::Result;
use crate::store::{self, Store};

/// Read every artifact and record again; set aside what is damaged, so that the next build makes it anew.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    folders: Folders,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let verified = store::verify(&Store::open(&arguments.folders.cache())?)?;
    for damage in &verified.damages {
        let made =
            if damage.stages.is_empty() { String::new() } else { format!(" (made by {})", damage.stages.join(", ")) };
        eprintln!("damaged {} {}{made}: {}", damage.what, damage.digest.short(), damage.reason);
    }
    let (artifacts, records, damages) = (verified.artifacts, verified.records, verified.damages.len());
    eprintln!("{artifacts} artifacts and {records} records read, {damages} damaged");
    if damages > 0 {
        eprintln!("hint: what is damaged lies in the cache's damaged/ now; the next build makes it again");
    }
    Ok(if damages == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
