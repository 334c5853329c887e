//! Frees what nothing reaches: the roots are the links under every out folder of this cache and the pins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::artifact::{damage, read_references};
use super::leftovers::{changed, leftovers, old};
use super::{FileDigests, Store, remove_tree};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};

/// What a killed build finished is linked by the build that goes on from there, and a killed stage's checkpoints are of use to
/// that one, too: so long they stay.
pub(super) const YOUNG: Duration = Duration::from_hours(24);

/// What may be freed of that which nothing reaches. By default all of it that is older than a day, and what was set aside.
#[derive(Clone, Copy, Debug, Default)]
pub struct GcOptions {
    /// Remove it; otherwise only tell.
    pub yes: bool,
    /// Only what was made longer ago than this, instead of a day; what was set aside or fetched, too.
    pub older_than: Option<Duration>,
    /// Only as much as is needed for all artifacts together to take at most so many bytes, the oldest first.
    pub budget: Option<u64>,
}

/// What can be freed, or was.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gc {
    /// The out folders whose links were looked at.
    pub looked_at: Vec<PathBuf>,
    /// Those that builds have written links into and that are gone, and their links with them.
    pub gone: Vec<PathBuf>,
    pub kept: u64,
    /// How many of those that are kept nothing reaches, but are too young.
    pub young: u64,
    /// The oldest first.
    pub artifacts: Vec<Digest>,
    pub actions: Vec<Digest>,
    /// Folders of stages that were killed, what was set aside, and what belongs to nothing any more.
    pub leftovers: Vec<PathBuf>,
    pub bytes: u64,
    pub freed: bool,
}

struct Unreached {
    digest: Digest,
    made: SystemTime,
    bytes: u64,
    references: Vec<Digest>,
    goes: bool,
}

/// Finds what the links and the pins do not reach, and removes it if told to. The links are those under `out` and under all
/// folders that builds on this cache have noted.
///
/// # Errors
/// Something that is using this cache, where it is to be removed; links or pins that cannot be read.
pub fn gc(store: &Store, out: &Path, options: &GcOptions) -> Result<Gc> {
    let _lock = if options.yes {
        let busy =
            || Problem::new("a build or another command is using this cache").hint("try again when it has ended");
        store.try_alone()?.ok_or_else(busy)?
    } else {
        store.share_to_read()?
    };
    let roots = store.roots(out)?;
    let reached = reached(store, roots.digests)?;
    let mut gc = Gc { freed: options.yes, gone: roots.gone, ..Gc::default() };
    let (mut unreached, mut total) = (Vec::new(), 0);
    for digest in store.artifact_digests()? {
        let folder = store.artifact_folder(digest);
        let bytes = size(&folder);
        total += bytes;
        if reached.contains(&digest) {
            gc.kept += 1;
        } else {
            let references = references(store, digest)?;
            unreached.push(Unreached { digest, made: changed(&folder), bytes, references, goes: false });
        }
    }
    choose(&mut unreached, total, options);
    for artifact in &unreached {
        if artifact.goes {
            gc.bytes += artifact.bytes;
            gc.artifacts.push(artifact.digest);
        } else {
            gc.kept += 1;
            gc.young += u64::from(!old(artifact.made, options.older_than.unwrap_or(YOUNG)));
        }
    }
    let freed: BTreeSet<Digest> = gc.artifacts.iter().copied().collect();
    for key in store.record_keys()? {
        let gone = |artifact: Digest| freed.contains(&artifact) || !store.artifact_folder(artifact).exists();
        if store.record(key).is_ok_and(|record| record.is_some_and(|record| gone(record.artifact))) {
            gc.actions.push(key);
        }
    }
    gc.leftovers = leftovers(store, options.older_than, &roots.folders, &gc.actions);
    gc.bytes += gc.leftovers.iter().map(|path| size(path)).sum::<u64>();
    gc.looked_at = roots.folders.into_iter().collect();
    if options.yes {
        remove(store, &gc)?;
    }
    Ok(gc)
}

/// Marks what goes, the oldest first. What a kept artifact refers to stays with it.
fn choose(unreached: &mut [Unreached], mut total: u64, options: &GcOptions) {
    unreached.sort_by_key(|artifact| (artifact.made, artifact.digest));
    let places: BTreeMap<Digest, usize> =
        unreached.iter().enumerate().map(|(place, artifact)| (artifact.digest, place)).collect();
    let mut needed = vec![0_usize; unreached.len()];
    let mut refers: Vec<Vec<usize>> = Vec::with_capacity(unreached.len());
    for artifact in unreached.iter() {
        refers.push(artifact.references.iter().filter_map(|of| places.get(of).copied()).collect());
        refers.last().into_iter().flatten().for_each(|&of| needed[of] += 1);
    }
    let age = options.older_than.unwrap_or(YOUNG);
    let mut place = 0;
    while place < unreached.len() && options.budget.is_none_or(|budget| total > budget) {
        let artifact = &mut unreached[place];
        if artifact.goes || needed[place] > 0 || !old(artifact.made, age) {
            place += 1;
            continue;
        }
        artifact.goes = true;
        total -= artifact.bytes;
        refers[place].iter().for_each(|&of| needed[of] -= 1);
        // What only this one needed is older, as a rule, and has its turn now.
        place = refers[place].iter().copied().min().unwrap_or(place).min(place);
    }
}

fn reached(store: &Store, mut waiting: Vec<Digest>) -> Result<BTreeSet<Digest>> {
    let mut reached = BTreeSet::new();
    while let Some(digest) = waiting.pop() {
        if reached.insert(digest) {
            waiting.extend(references(store, digest)?);
        }
    }
    Ok(reached)
}

/// What an artifact refers to; nothing where that is missing or damaged. No other file of it is read.
///
/// # Errors
/// That cannot be found out now: then nothing may be freed.
fn references(store: &Store, digest: Digest) -> Result<Vec<Digest>> {
    match read_references(&store.artifact_folder(digest)) {
        Ok(found) => Ok(found.into_values().collect()),
        Err(error) => damage(error).map(|_| Vec::new()),
    }
}

fn remove(store: &Store, gc: &Gc) -> Result<()> {
    // Records first: a record without its artifact is a miss, an artifact without a record only takes space.
    for key in &gc.actions {
        remove_file(&store.record_file(*key))?;
    }
    for digest in &gc.artifacts {
        let _ = std::fs::remove_file(store.identity_file(*digest));
    }
    let artifacts = gc.artifacts.iter().map(|digest| store.artifact_folder(*digest));
    for path in artifacts.chain(gc.leftovers.iter().cloned()) {
        if path.is_dir() { remove_tree(&path)? } else { remove_file(&path)? }
    }
    for folder in &gc.gone {
        remove_file(&store.out_folder_note(folder))?;
    }
    FileDigests::forget_gone(store);
    Ok(())
}

/// A command that takes no lock may have removed it already.
fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn size(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::read_dir(path)
            .map(|entries| entries.filter_map(|entry| Some(size(&entry.ok()?.path()))).sum())
            .unwrap_or_default(),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_goes_with_its_last_adapter_before_anything_younger() {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let days = |days: u64| SystemTime::now() - Duration::from_hours(24 * days);
        let make = |name, age, references: &[&str]| Unreached {
            digest: digest(name),
            made: days(age),
            bytes: 10,
            references: references.iter().map(|name| digest(name)).collect(),
            goes: false,
        };
        let chosen = |older_than, budget| {
            let mut all = [
                make("base", 9, &[]),
                make("one", 8, &["base"]),
                make("two", 7, &["base", "reached"]),
                make("other", 6, &[]),
                make("killed", 0, &[]),
            ];
            choose(&mut all, 50, &GcOptions { yes: false, older_than, budget });
            all.iter().filter(|artifact| artifact.goes).map(|artifact| artifact.digest).collect::<Vec<_>>()
        };
        let named = |names: &[&str]| names.iter().map(|name| digest(name)).collect::<Vec<_>>();
        assert_eq!(chosen(None, None), named(&["base", "one", "two", "other"]));
        assert_eq!(chosen(Some(Duration::ZERO), None).len(), 5);
        assert_eq!(chosen(None, Some(40)), named(&["one"]));
        assert_eq!(chosen(None, Some(20)), named(&["base", "one", "two"]));
        assert_eq!(chosen(None, Some(0)), named(&["base", "one", "two", "other"]));
        assert_eq!(chosen(Some(Duration::from_hours(24 * 8 - 1)), None), named(&["one"]));
    }
}
