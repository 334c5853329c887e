//! Frees what nothing reaches: the roots are the links under out/ and the pins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::artifact::damage;
use super::{Store, remove_tree};
use crate::digest::Digest;
use crate::error::{Problem, Result};

/// A killed stage's checkpoints are worth keeping for the build that goes on from them.
const CHECKPOINTS_STAY: Duration = Duration::from_hours(24);

/// What may be freed of that which nothing reaches. By default all of it, but checkpoints of the last day.
#[derive(Clone, Copy, Debug, Default)]
pub struct GcOptions {
    /// Remove it; otherwise only tell.
    pub yes: bool,
    /// Only what was made longer ago than this; checkpoints and what was set aside, too.
    pub older_than: Option<Duration>,
    /// Only as much as is needed for all artifacts together to take at most so many bytes, the oldest first.
    pub budget: Option<u64>,
}

/// What can be freed, or was.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gc {
    pub kept: u64,
    /// The oldest first.
    pub artifacts: Vec<Digest>,
    pub actions: Vec<Digest>,
    /// Folders of stages that were killed, and what was set aside.
    pub leftovers: Vec<PathBuf>,
    pub bytes: u64,
    pub freed: bool,
}

struct Unreached {
    digest: Digest,
    made: SystemTime,
    bytes: u64,
}

/// Finds what the links under `out` and the pins do not reach, and removes it if told to.
///
/// # Errors
/// A build that is using this cache.
pub fn gc(store: &Store, out: &Path, options: &GcOptions) -> Result<Gc> {
    gc_telling(store, out, options, |_| Ok(()))
}

/// The same; `tell` hears what will go before it does, and may keep it by an error.
///
/// # Errors
/// As [`gc`], and what `tell` says.
pub fn gc_telling(store: &Store, out: &Path, options: &GcOptions, tell: impl FnOnce(&Gc) -> Result<()>) -> Result<Gc> {
    let Some(_alone) = store.try_alone()? else {
        return Err(Problem::new("a build is using this cache").hint("try again when it has ended").into());
    };
    let reached = reached(store, out)?;
    let mut gc = Gc { freed: options.yes, ..Gc::default() };
    let (mut unreached, mut total) = (Vec::new(), 0);
    for digest in store.artifact_digests()? {
        let folder = store.artifact_folder(digest);
        let bytes = size(&folder);
        total += bytes;
        if reached.contains(&digest) {
            gc.kept += 1;
        } else {
            unreached.push(Unreached { digest, made: changed(&folder), bytes });
        }
    }
    unreached.sort_by_key(|artifact| (artifact.made, artifact.digest));
    let mut needed_by: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
    for artifact in &unreached {
        for of in references(store, artifact.digest)? {
            needed_by.entry(of).or_default().push(artifact.digest);
        }
    }
    let old = |moment: SystemTime, age: Duration| moment.elapsed().is_ok_and(|elapsed| elapsed >= age);
    for artifact in unreached {
        let fits = options.budget.is_some_and(|budget| total <= budget);
        let young = options.older_than.is_some_and(|age| !old(artifact.made, age));
        // What a kept artifact refers to stays with it.
        let needed = needed_by.get(&artifact.digest).is_some_and(|by| by.iter().any(|one| !gc.artifacts.contains(one)));
        if fits || young || (needed && (options.budget.is_some() || options.older_than.is_some())) {
            gc.kept += 1;
        } else {
            total -= artifact.bytes;
            gc.bytes += artifact.bytes;
            gc.artifacts.push(artifact.digest);
        }
    }
    let freed: BTreeSet<Digest> = gc.artifacts.iter().copied().collect();
    for key in store.record_keys()? {
        let gone = |artifact: Digest| freed.contains(&artifact) || !store.artifact_folder(artifact).exists();
        if store.record(key).is_ok_and(|record| record.is_some_and(|record| gone(record.artifact))) {
            gc.actions.push(key);
        }
    }
    // What came from the network goes only by its age: it can be fetched again, and nothing tells who wants it.
    for (folder, stays) in [("tmp", CHECKPOINTS_STAY), ("damaged", Duration::ZERO), ("fetched", Duration::MAX)] {
        let Ok(entries) = std::fs::read_dir(store.root.join(folder)) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if old(newest(&path), options.older_than.unwrap_or(stays)) {
                gc.bytes += size(&path);
                gc.leftovers.push(path);
            }
        }
    }
    gc.leftovers.sort();
    tell(&gc)?;
    if options.yes {
        remove(store, &gc)?;
    }
    Ok(gc)
}

fn reached(store: &Store, out: &Path) -> Result<BTreeSet<Digest>> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<Digest> = store.pins()?.into_iter().map(|pin| pin.digest).collect();
    collect_links(out, 0, &mut waiting);
    while let Some(digest) = waiting.pop() {
        if reached.insert(digest) {
            waiting.extend(references(store, digest)?);
        }
    }
    Ok(reached)
}

/// What an artifact refers to; nothing where it is damaged.
///
/// # Errors
/// That cannot be found out now: then nothing may be freed.
fn references(store: &Store, digest: Digest) -> Result<Vec<Digest>> {
    match store.inspect(digest) {
        Ok(found) => Ok(found.into_iter().flat_map(|artifact| artifact.references.into_values()).collect()),
        Err(error) => damage(error).map(|_| Vec::new()),
    }
}

fn remove(store: &Store, gc: &Gc) -> Result<()> {
    // Records first: a record without its artifact is a miss, an artifact without a record only takes space.
    for key in &gc.actions {
        std::fs::remove_file(store.record_file(*key))?;
    }
    for digest in &gc.artifacts {
        let _ = std::fs::remove_file(store.identity_file(*digest));
    }
    let artifacts = gc.artifacts.iter().map(|digest| store.artifact_folder(*digest));
    for path in artifacts.chain(gc.leftovers.iter().cloned()) {
        if path.is_dir() { remove_tree(&path)? } else { std::fs::remove_file(&path)? }
    }
    Ok(())
}

/// When a folder's own entries last changed; for an artifact, when it was made.
fn changed(path: &Path) -> SystemTime {
    path.symlink_metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The newest change at or below a path.
fn newest(path: &Path) -> SystemTime {
    let below = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) { newest(&entry.path()) } else { changed(&entry.path()) }
    });
    below.chain([changed(path)]).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// out/<pipeline>/<stage> and out/<pipeline>/<variant>/<stage> are links whose target's name is a digest.
fn collect_links(folder: &Path, depth: usize, digests: &mut Vec<Digest>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if let Ok(target) = std::fs::read_link(&path) {
            digests.extend(target.file_name().and_then(|name| name.to_str()?.parse::<Digest>().ok()));
        } else if depth < 3 && path.is_dir() {
            collect_links(&path, depth + 1, digests);
        }
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
