//! `raisin schema`: prints the JSON Schema of pipeline files. raisin-pipeline makes it.

use std::process::ExitCode;

use clap::Args;

use raisin_base::error::Result;
use raisin_kinds::KINDS;
use raisin_pipeline::schema;

/// Print the JSON Schema of pipeline files, for editors.
#[derive(Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<ExitCode> {
    super::print_exactly(&schema::text(KINDS))?;
    Ok(ExitCode::SUCCESS)
}
