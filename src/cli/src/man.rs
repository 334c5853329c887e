//! `raisin man`: writes the man pages of raisin and of its commands, from the same declarations as `--help`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};

use raisin_base::error::{Context as _, Result};
use raisin_base::say;

/// Write a man page for raisin and one for each command into a folder.
///
/// A folder `share/man/man1` is the usual place: `raisin man ~/.local/share/man/man1`, and then `man raisin-build`.
#[derive(Args)]
pub struct Arguments {
    /// The folder; it is made if it does not exist.
    folder: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let command = super::Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder).with_context(|| format!("cannot write into {}", folder.display()))?;
    say!("wrote the man pages into {}", folder.display());
    Ok(ExitCode::SUCCESS)
}
