//! `raisin schema`: the JSON Schema of pipeline files.

use std::process::ExitCode;

use clap::Args;

use crate::error::Result;
use crate::pipeline::schema;
use crate::stages::KINDS;

/// Print the JSON Schema of pipeline files, for editors.
#[derive(Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<ExitCode> {
    super::print(&schema::text(KINDS))?;
    Ok(ExitCode::SUCCESS)
}
