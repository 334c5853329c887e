//! `raisin verify`: checks the whole store for damage. The store does the reading.

use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::CacheFolder;
use super::shared_cache;
use raisin_base::error::Result;
use raisin_base::say;
use raisin_engine::{self as engine, Options, RepairOutcome};
use raisin_kinds::KINDS;
use raisin_pipeline::CacheSettings;
use raisin_store::{self as store, Damage, Store, Verified};

/// Read every artifact and action record again, and set damaged ones aside, so that the next build makes them again.
#[derive(Args)]
pub struct Arguments {
    /// Read only about this share of the files of artifacts, such as 2%; each call reads another random part. Action
    /// records and manifests are always read, and the presence and size of every file are always checked.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    sample: Option<f64>,
    /// Make damaged and missing artifacts and action records again, by the actions that made them. Links stay as they
    /// are.
    #[arg(long)]
    repair: bool,
    /// With --repair: fetch what this shared cache has, instead of making it again [default: that of RAISIN_REMOTE].
    #[arg(long, value_name = "ADDRESS", requires = "repair")]
    remote: Option<String>,
    #[command(flatten)]
    cache: CacheFolder,
}

fn share(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let share = match text.strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    share.filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "a share looks like 2% or 0.02".to_owned())
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let store = Store::expected(&arguments.cache.path())?;
    // gc removes the action records of artifacts that are gone and to which no link leads. A repair needs them.
    let _shared = if arguments.repair { Some(store.share()?) } else { None };
    let verified = store::verify(&store, arguments.sample)?;
    for damage in &verified.damages {
        let made =
            if damage.stages.is_empty() { String::new() } else { format!(" (made by {})", damage.stages.join(", ")) };
        say!("damaged {} {}{made}: {}", damage.what, damage.digest.short(), damage.reason);
    }
    let (artifacts, records, damages) = (verified.artifacts, verified.records, verified.damages.len());
    let (read, files, megabytes) = (verified.files_read, verified.files, verified.bytes as f64 / 1e6);
    say!(
        "{artifacts} artifacts and {records} records looked at, {read} of {files} files read ({megabytes:.1} MB), \
         {damages} damaged"
    );
    if verified.forgotten > 0 {
        say!("{} damaged memories (cache-only files) removed; builds write them again", verified.forgotten);
    }
    if verified.ignored > 0 {
        say!("{} damaged memories (cache-only files) cannot be removed; builds ignore them", verified.ignored);
    }
    if verified.unread > 0 {
        say!("{} memories (cache-only files) cannot be read at the moment and stay", verified.unread);
    }
    if verified.journal_lines > 0 {
        say!("{} lines of the journal cannot be read and are skipped", verified.journal_lines);
    }
    if !verified.missing.is_empty() {
        let missing = verified.missing.len();
        say!("{missing} artifacts and records are missing: they were set aside earlier, or removed by hand");
    }
    if arguments.repair {
        return repair(&verified, arguments);
    }
    if damages > 0 {
        say!("hint: damaged files are now in damaged/ in the cache");
    }
    if damages + verified.missing.len() > 0 {
        say!("hint: `raisin verify --repair` makes them again, and so does the next build that needs them");
    }
    Ok(if damages == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes what is damaged or missing again. Prints one line for each artifact and action record that is not there again.
fn repair(verified: &Verified, arguments: &Arguments) -> Result<ExitCode> {
    let lost: Vec<Damage> = verified.damages.iter().chain(&verified.missing).cloned().collect();
    if lost.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let remote = shared_cache::settings(arguments.remote.as_deref(), &CacheSettings::default())?;
    let options = Options { cache: arguments.cache.path(), remote, ..Options::default() };
    let repair = engine::repair(&lost, KINDS, &options)?;
    let (mut again, mut fetched) = (0, 0);
    for (damage, outcome) in lost.iter().zip(&repair.outcomes) {
        let (what, digest) = (damage.what, damage.digest.short());
        match outcome {
            RepairOutcome::MadeAgain => again += 1,
            RepairOutcome::Fetched => fetched += 1,
            RepairOutcome::MadeAnother(other) => say!(
                "not made again: {what} {digest}: its action now gives another artifact, {}; `raisin build` makes what \
                 depends on it again",
                other.short()
            ),
            RepairOutcome::NotMade(reason) => say!("not made again: {what} {digest}: {reason}"),
        }
    }
    let from = if fetched > 0 { format!(", {fetched} fetched from the shared cache") } else { String::new() };
    say!("{again} of {} made again{from}", lost.len());
    again += fetched;
    if repair.interrupted {
        say!("interrupted: what is made again is kept; `raisin verify --repair` goes on from here");
        return Ok(ExitCode::from(130));
    }
    Ok(if again == lost.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_as_people_write_it() {
        assert_eq!((share("2%"), share("0.5"), share("100%")), (Ok(0.02), Ok(0.5), Ok(1.0)));
        assert!(share("200%").is_err() && share("some").is_err() && share("-1%").is_err());
    }
}
