//! `raisin digest`: prints the digest that a pipeline file can expect of a source. The engine computes it.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::pipeline_arguments::CacheFolder;
use raisin_base::error::Result;
use raisin_base::say;
use raisin_contract::Progress;
use raisin_engine::{self as engine, DownloadListener};
use raisin_store::Store;

/// Print the digest (`blake3 = "..."`) that a pipeline file can expect of a source: a file, a folder, a pattern or an
/// address. The file of an address is downloaded into the cache.
#[derive(Args)]
pub struct Arguments {
    /// A path, a pattern such as 'data/*.jsonl', or an http(s) address.
    source: String,
    #[command(flatten)]
    cache: CacheFolder,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let store = Store::open(&arguments.cache.path())?;
    let digest = if engine::is_address(&arguments.source) {
        engine::fetch(&store, &arguments.source, &DownloadProgress { last: Cell::new(Instant::now()) })?
    } else {
        engine::digest_of(&store, &arguments.source)?
    };
    super::print(&format!("blake3 = \"{digest}\"\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the progress of a download, at most one line in two seconds.
struct DownloadProgress {
    last: Cell<Instant>,
}

impl DownloadListener for DownloadProgress {
    fn progress(&self, progress: Progress) {
        if self.last.get().elapsed() >= Duration::from_secs(2) {
            self.last.set(Instant::now());
            let (phase, done) = (progress.phase, progress.done as f64 / 1e6);
            match progress.total {
                0 => say!("{phase}  {done:.1} MB"),
                total => say!("{phase}  {done:.1} of {:.1} MB", total as f64 / 1e6),
            }
        }
    }

    fn waits(&self, words: String) {
        say!("{words}");
    }

    fn gives_up(&self) -> bool {
        false
    }
}
