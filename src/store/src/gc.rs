//! gc: removes artifacts that no root reaches, their action records, and leftovers. roots.rs finds the roots (links and
//! pins); leftovers.rs finds the leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::artifact::{damage, read_references};
use super::leftovers::{changed, leftovers, old};
use super::rights::{in_the_way, user};
use super::{FileDigests, Forget, Store, if_there, make_folders_writable, remove_tree};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};

/// The minimum age at which gc removes an unreached artifact or a staging folder. The age counts from the last use
/// (used.rs). After a kill, the next build uses the finished artifacts and the checkpoints of the killed build; this is
/// the time in which that build can start. It is also the time in which a user can return to an earlier state.
pub(super) const YOUNG: Duration = Duration::from_hours(24);

/// The limits of a run of gc. By default, gc removes unreached artifacts and leftovers that are older than a day, and
/// everything in damaged/.
#[derive(Clone, Debug, Default)]
pub struct GcOptions {
    /// Remove; without this flag, gc only reports.
    pub yes: bool,
    /// The minimum age, instead of a day. It also applies to fetched files and to files in damaged/.
    pub older_than: Option<Duration>,
    /// The size limit in bytes: gc removes the unreached artifacts with the earliest last use until all artifacts
    /// together have at most this size.
    pub budget: Option<u64>,
    /// The missing out folders whose links no longer keep artifacts.
    pub forget: Forget,
}

/// The result of gc: what was removed, or (without [`GcOptions::yes`]) what can be removed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gc {
    /// The out folders whose links were read.
    pub looked_at: Vec<PathBuf>,
    /// Noted out folders that are missing. While there is one, gc removes nothing.
    pub missing: Vec<PathBuf>,
    /// Missing out folders that are forgotten.
    pub forgotten: Vec<PathBuf>,
    /// The number of artifacts that are kept.
    pub kept: u64,
    /// The number of kept artifacts that no root reaches, but that are too young to be removed.
    pub young: u64,
    /// The number of artifacts and leftovers that no root needs, but that this user cannot remove, by their owners.
    /// They are kept with their action records.
    pub of_others: BTreeMap<String, u64>,
    /// The removed artifacts, the one with the earliest last use first.
    pub artifacts: Vec<Digest>,
    /// The keys of the removed action records.
    pub actions: Vec<Digest>,
    /// The removed leftovers, among them staging folders of killed stages and files in damaged/.
    pub leftovers: Vec<PathBuf>,
    pub bytes: u64,
    pub freed: bool,
}

/// An artifact that no root reaches.
struct Unreached {
    digest: Digest,
    used: SystemTime,
    bytes: u64,
    references: Vec<Digest>,
    /// The owner, if this user cannot remove the artifact with its action records.
    theirs: Option<u32>,
    goes: bool,
}

/// Finds the artifacts that neither links nor pins reach, and the leftovers; removes them with [`GcOptions::yes`]. gc
/// follows the links in `out` and in all noted out folders.
///
/// # Errors
/// A link or pin cannot be read; or, with [`GcOptions::yes`], another process uses this cache, or a noted out folder is
/// missing.
pub fn gc(store: &Store, out: &Path, options: &GcOptions) -> Result<Gc> {
    let _lock = if options.yes {
        let busy =
            || Problem::new("a build or another command is using this cache").hint("try again when it has ended");
        store.try_alone()?.ok_or_else(busy)?
    } else {
        store.share_to_read()?
    };
    let roots = store.roots(out)?;
    let forgotten = options.forget.among(&roots.missing)?;
    let missing: Vec<PathBuf> = roots.missing.into_iter().filter(|folder| !forgotten.contains(folder)).collect();
    if options.yes && !missing.is_empty() {
        return Err(refused(&missing).into());
    }
    let reached = reached(store, roots.digests)?;
    let uses = store.last_uses()?;
    // If this folder is not there, for example because another disk is not mounted, no artifact counts as gone.
    let folder = store.root.join("artifacts");
    std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let records = keys_by_artifact(store)?;
    let mut gc = Gc { freed: options.yes, missing, forgotten, ..Gc::default() };
    let (mut unreached, mut total) = (Vec::new(), 0);
    for digest in store.artifact_digests()? {
        let folder = store.artifact_folder(digest);
        let bytes = size(&folder);
        total += bytes;
        if reached.contains(&digest) {
            gc.kept += 1;
        } else {
            let references = references(store, digest)?;
            let used = uses.get(&digest).copied().unwrap_or(SystemTime::UNIX_EPOCH).max(changed(&folder));
            let theirs = owner_in_the_way(store, &folder, records.get(&digest).map_or(&[], Vec::as_slice))?;
            unreached.push(Unreached { digest, used, bytes, references, theirs, goes: false });
        }
    }
    choose(&mut unreached, total, options);
    for artifact in &unreached {
        if artifact.goes {
            gc.bytes += artifact.bytes;
            gc.artifacts.push(artifact.digest);
        } else {
            gc.kept += 1;
            if let Some(owner) = artifact.theirs {
                *gc.of_others.entry(user(owner)).or_default() += 1;
                continue;
            }
            gc.young += u64::from(!old(artifact.used, options.older_than.unwrap_or(YOUNG)));
        }
    }
    let freed: BTreeSet<Digest> = gc.artifacts.iter().copied().collect();
    for (artifact, keys) in &records {
        if freed.contains(artifact) {
            gc.actions.extend(keys);
        } else if !reached.contains(artifact) && !store.artifact_folder(*artifact).exists() {
            // If a link or a pin leads to a lost artifact, a repair needs the action records.
            for key in keys {
                if in_the_way(&store.record_file(*key))?.is_none() {
                    gc.actions.push(*key);
                }
            }
        }
    }
    gc.actions.sort_unstable();
    for path in leftovers(store, options.older_than, &roots.folders, &gc.actions) {
        match in_the_way(&path).with_context(|| format!("cannot look at {}", path.display()))? {
            Some(owner) => *gc.of_others.entry(user(owner)).or_default() += 1,
            None => gc.leftovers.push(path),
        }
    }
    gc.bytes += gc.leftovers.iter().map(|path| size(path)).sum::<u64>();
    gc.looked_at = roots.folders.into_iter().collect();
    if options.yes {
        remove(store, &gc, &records)?;
    }
    Ok(gc)
}

fn refused(missing: &[PathBuf]) -> Problem {
    let list = missing.iter().map(|folder| format!("\n  {}", folder.display())).collect::<String>();
    Problem::new(format!("gc removes nothing while an out folder with links into this cache is missing:{list}")).hint(
        "if a disk is not mounted, mount it; if the folder was moved, build there; if its results are not needed any \
         more, `--forget FOLDER` forgets the folder, and `--forget` forgets every missing folder",
    )
}

/// The keys of all readable action records, by the artifact that they name.
fn keys_by_artifact(store: &Store) -> Result<BTreeMap<Digest, Vec<Digest>>> {
    let mut keys: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
    for key in store.record_keys()? {
        if let Ok(Some(record)) = store.record(key) {
            keys.entry(record.artifact).or_default().push(key);
        }
    }
    Ok(keys)
}

/// The owner of what this user cannot remove, of an artifact and the action records that name it.
fn owner_in_the_way(store: &Store, folder: &Path, keys: &[Digest]) -> Result<Option<u32>> {
    for path in std::iter::once(folder.to_owned()).chain(keys.iter().map(|key| store.record_file(*key))) {
        if let Some(owner) = in_the_way(&path).with_context(|| format!("cannot look at {}", path.display()))? {
            return Ok(Some(owner));
        }
    }
    Ok(None)
}

/// Marks the artifacts to remove, the one with the earliest last use first. An artifact stays as long as a kept
/// artifact refers to it.
fn choose(unreached: &mut [Unreached], mut total: u64, options: &GcOptions) {
    unreached.sort_by_key(|artifact| (artifact.used, artifact.digest));
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
        if artifact.goes || artifact.theirs.is_some() || needed[place] > 0 || !old(artifact.used, age) {
            place += 1;
            continue;
        }
        artifact.goes = true;
        total -= artifact.bytes;
        refers[place].iter().for_each(|&of| needed[of] -= 1);
        // Artifacts that only this artifact needed were usually used earlier. The loop goes back to them.
        place = refers[place].iter().copied().min().unwrap_or(place).min(place);
    }
}

/// The roots `waiting` and all artifacts to which they refer, directly or through other artifacts.
fn reached(store: &Store, mut waiting: Vec<Digest>) -> Result<BTreeSet<Digest>> {
    let mut reached = BTreeSet::new();
    while let Some(digest) = waiting.pop() {
        if reached.insert(digest) {
            waiting.extend(references(store, digest)?);
        }
    }
    Ok(reached)
}

/// The artifacts to which an artifact refers; empty if its references.json is missing or damaged. No other file of the
/// artifact is read.
///
/// # Errors
/// The references cannot be read at the moment. gc must then stop, because it would remove artifacts that are in use.
fn references(store: &Store, digest: Digest) -> Result<Vec<Digest>> {
    match read_references(&store.artifact_folder(digest)) {
        Ok(found) => Ok(found.into_values().collect()),
        Err(error) => damage(error).map(|_| Vec::new()),
    }
}

fn remove(store: &Store, gc: &Gc, records: &BTreeMap<Digest, Vec<Digest>>) -> Result<()> {
    for digest in &gc.artifacts {
        let folder = store.artifact_folder(*digest);
        // If this fails, the artifact stays, and its action records with it.
        make_folders_writable(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        // Action records are removed first, so that a kill leaves an artifact without action record, which only takes
        // space. A look-up would report an action record without its artifact as lost.
        for key in records.get(digest).into_iter().flatten() {
            remove_file(&store.record_file(*key))?;
        }
        let _ = std::fs::remove_file(store.identity_file(*digest));
        remove_tree(&folder)?;
    }
    // The action records of artifacts that were gone before.
    for key in &gc.actions {
        remove_file(&store.record_file(*key))?;
    }
    for path in &gc.leftovers {
        let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
        if is_folder { remove_tree(path)? } else { remove_file(path)? }
    }
    for folder in &gc.forgotten {
        remove_file(&store.out_folder_note(folder))?;
    }
    FileDigests::forget_gone(store);
    Ok(())
}

/// Removes a file. If the file is gone already, that is no error: a command without a lock may have removed it.
fn remove_file(path: &Path) -> Result<()> {
    if_there(std::fs::remove_file(path)).map(drop).with_context(|| format!("cannot remove {}", path.display()))
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
            used: days(age),
            bytes: 10,
            references: references.iter().map(|name| digest(name)).collect(),
            theirs: None,
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
            choose(&mut all, 50, &GcOptions { older_than, budget, ..GcOptions::default() });
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
