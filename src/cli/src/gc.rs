//! `raisin gc`: removes leftovers, and artifacts that no link and no pin reaches. The store does the work.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::pipeline_arguments::Folders;
use raisin_base::error::Result;
use raisin_base::say;
use raisin_pipeline::resources;
use raisin_store::{self as store, Forget, GcOptions, Store};

/// Show leftovers, and artifacts that no link and no pin reaches; with --yes, remove them.
///
/// gc follows the links in every out folder that a build with this cache has written, and in the given out folder.
/// Artifacts and leftovers that were used within a day stay, unless --older-than says otherwise, because a killed build
/// can continue from them. A link or a pin that leads to an artifact until now is a use, and so is a build.
#[derive(Args)]
pub struct Arguments {
    /// Remove these artifacts and leftovers.
    #[arg(long)]
    yes: bool,
    /// Only artifacts and leftovers that have not been used for this time, such as 12h or 30d; 0 for any age
    /// [default: 1d]. The default differs for files that were set aside (0) and fetched files (never). Locks and
    /// temporary files are removed after a day and checked parameters after 30 days, whatever AGE is.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Only the artifacts with the earliest last use, until all artifacts together take at most this much space, such
    /// as 500MB or 20GB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    budget: Option<u64>,
    /// Forget this out folder, which is missing: its links no longer keep artifacts. Without FOLDER: forget every
    /// missing out folder. While an out folder is missing, gc removes nothing. May be given several times.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = EVERY)]
    forget: Vec<PathBuf>,
    #[command(flatten)]
    folders: Folders,
}

/// The value of `--forget` without a folder. A folder with this name can be given as `./*`.
const EVERY: &str = "*";

/// Reads an age such as `12h` or `30d`.
pub fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "an age looks like 12h or 30d (s, m, h, d, w)".to_owned();
    let at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..at].trim().parse().ok().filter(|number| *number >= 0.0).ok_or_else(wrong)?;
    let seconds = match &text[at..] {
        "" if number == 0.0 => 0.0,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 7.0 * 86_400.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

pub fn size(text: &str) -> Result<u64, String> {
    resources::bytes(text).ok_or_else(|| "a size looks like 500MB or 20GB".to_owned())
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let forget = match arguments.forget.as_slice() {
        [] => Forget::Nothing,
        folders if folders.iter().any(|folder| folder.as_os_str() == EVERY) => Forget::Missing,
        folders => Forget::These(folders.to_vec()),
    };
    let options = GcOptions { yes: arguments.yes, older_than: arguments.older_than, budget: arguments.budget, forget };
    let store = Store::expected(&arguments.folders.cache.path())?;
    let gc = store::gc(&store, &arguments.folders.out.path(), &options)?;
    // Print only after the lock is released: the reader of the output may be slow.
    for digest in &gc.artifacts {
        super::print(&format!("artifact {}\n", digest.short()))?;
    }
    gc.leftovers.iter().try_for_each(|folder| super::print(&format!("leftover {}\n", folder.display())))?;
    let folders =
        |folders: &[PathBuf]| folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
    match &gc.looked_at[..] {
        [] => say!("no folder with links was found"),
        some => say!("followed the links in {}", folders(some)),
    }
    if !gc.missing.is_empty() {
        say!("missing: {}", folders(&gc.missing));
        say!("hint: gc removes nothing while an out folder is missing; --forget forgets missing out folders");
    }
    if !gc.forgotten.is_empty() {
        let verb = if gc.freed { "forgotten" } else { "would be forgotten" };
        say!("{verb}: {}", folders(&gc.forgotten));
    }
    let megabytes = gc.bytes as f64 / 1e6;
    let (count, kept) = (gc.artifacts.len(), gc.kept);
    let verb = if gc.freed { "freed" } else { "would free" };
    say!("{verb} {megabytes:.1} MB in {count} artifacts and {} leftovers; {kept} artifacts stay", gc.leftovers.len());
    for (owner, count) in &gc.of_others {
        say!("{count} artifacts and leftovers of {owner} stay with their action records: only {owner} can remove them");
    }
    if gc.young > 0 && arguments.older_than.is_none() {
        say!("nothing reaches {} of these, but they were used within a day: --older-than 0 removes them too", gc.young);
    }
    if !gc.freed && gc.bytes > 0 && gc.missing.is_empty() {
        say!("hint: raisin gc --yes removes them");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_as_people_write_them() {
        assert_eq!(age("12h"), Ok(Duration::from_hours(12)));
        assert_eq!(age("1.5d"), Ok(Duration::from_hours(36)));
        assert_eq!((age("0"), age("0s")), (Ok(Duration::ZERO), Ok(Duration::ZERO)));
        assert!(age("soon").is_err() && age("3").is_err() && age("-1d").is_err());
    }
}
