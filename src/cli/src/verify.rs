//! `raisin verify`: checks the whole store for damage. The store does the reading.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::Folders;
use raisin_base::digest::Digest;
use raisin_base::error::{Result, render};
use raisin_engine::{self as engine, Options};
use raisin_kinds::KINDS;
use raisin_pipeline as pipeline;
use raisin_store::{self as store, Damage, JournalEvent, Store};

/// Read every artifact and action record again, and set damaged ones aside, so that the next build makes them again.
#[derive(Args)]
pub struct Arguments {
    /// Read only about this share of the files of artifacts, such as 2%; each call reads another random part. Action
    /// records and manifests are always read, and the presence and size of every file are always checked.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    sample: Option<f64>,
    /// Build the damaged artifacts again, from the pipeline files that made them.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    folders: Folders,
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
    let store = Store::open(&arguments.folders.cache.path())?;
    let verified = store::verify(&store, arguments.sample)?;
    for damage in &verified.damages {
        let made =
            if damage.stages.is_empty() { String::new() } else { format!(" (made by {})", damage.stages.join(", ")) };
        eprintln!("damaged {} {}{made}: {}", damage.what, damage.digest.short(), damage.reason);
    }
    let (artifacts, records, damages) = (verified.artifacts, verified.records, verified.damages.len());
    let (read, files, megabytes) = (verified.files_read, verified.files, verified.bytes as f64 / 1e6);
    eprintln!(
        "{artifacts} artifacts and {records} records looked at, {read} of {files} files read ({megabytes:.1} MB), \
         {damages} damaged"
    );
    if verified.forgotten > 0 {
        eprintln!("{} damaged memories (cache-only files) removed; builds write them again", verified.forgotten);
    }
    if verified.ignored > 0 {
        eprintln!("{} damaged memories (cache-only files) cannot be removed; builds ignore them", verified.ignored);
    }
    if verified.journal_lines > 0 {
        eprintln!("{} lines of the journal cannot be read and are skipped", verified.journal_lines);
    }
    if damages > 0 && arguments.repair {
        let again = repair(&store, &verified.damages, &arguments.folders)?;
        eprintln!("{again} of {damages} made again");
        return Ok(if again == damages { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if damages > 0 {
        eprintln!(
            "hint: damaged files are now in damaged/ in the cache; the next build or `--repair` makes them again"
        );
    }
    Ok(if damages == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the stages that made the damaged artifacts and records, from the pipeline files that the journal names.
/// Returns how many exist again. An artifact that was built with flags, or from a pipeline file that has changed since,
/// does not come back here; its next build makes it.
fn repair(store: &Store, damages: &[Damage], folders: &Folders) -> Result<usize> {
    let lost: BTreeSet<Digest> = damages.iter().map(|damage| damage.digest).collect();
    let lines = store.journal()?;
    let mut files: BTreeMap<&str, &str> = BTreeMap::new();
    let mut stages: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for line in &lines {
        match &line.event {
            JournalEvent::RunStarted { file, .. } => {
                files.insert(&line.run, file);
            }
            JournalEvent::Finished { stage, key, artifact, .. } if lost.contains(key) || lost.contains(artifact) => {
                if let Some(file) = files.get(line.run.as_str()) {
                    stages.entry(file).or_default().insert(stage.clone());
                }
            }
            _ => {}
        }
    }
    for (file, stages) in stages {
        let built = pipeline::load(Path::new(file), &[], KINDS, &folders.cache.path()).and_then(|pipeline| {
            let only = stages.into_iter().collect();
            engine::build(
                &pipeline,
                &Options { cache: folders.cache.path(), out: folders.out.path(), only, ..Options::default() },
            )
        });
        if let Err(error) = built {
            eprintln!("cannot build {file} again: {}", render(&error));
        }
    }
    let is_back = |damage: &&Damage| match damage.what {
        "record" => store.record_file(damage.digest).exists(),
        _ => store.artifact_folder(damage.digest).exists(),
    };
    Ok(damages.iter().filter(is_back).count())
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
