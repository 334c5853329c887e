//! `raisin gc`: frees what no build links to any more.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::Folders;
use crate::error::Result;
use crate::store::{self, Store};

/// Show what the links under out/ do not reach, and with --yes remove it.
#[derive(Args)]
pub struct Arguments {
    /// Remove it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    folders: Folders,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let gc = store::gc(&Store::open(&arguments.folders.cache())?, &arguments.folders.out(), arguments.yes)?;
    for digest in &gc.artifacts {
        super::print(&format!("artifact {}\n", digest.short()))?;
    }
    for folder in &gc.leftovers {
        super::print(&format!("leftover {}\n", folder.display()))?;
    }
    let megabytes = gc.bytes as f64 / 1e6;
    let (count, kept) = (gc.artifacts.len(), gc.kept);
    let verb = if gc.freed { "freed" } else { "would free" };
    eprintln!("{verb} {megabytes:.1} MB in {count} artifacts and {} leftovers; {kept} artifacts stay", gc.leftovers.len());
    if !gc.freed && gc.bytes > 0 {
        eprintln!("hint: raisin gc --yes removes them");
    }
    Ok(ExitCode::SUCCESS)
}
