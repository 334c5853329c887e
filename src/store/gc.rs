//! Frees what nothing reaches: the roots are the links under out/.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Store, remove_tree};
use crate::digest::Digest;
use crate::error::{Problem, Result};

/// What can be freed, or was.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Gc {
    pub kept: u64,
    pub artifacts: Vec<Digest>,
    pub actions: Vec<Digest>,
    /// Folders of stages that were killed, and what was set aside.
    pub leftovers: Vec<PathBuf>,
    pub bytes: u64,
    pub freed: bool,
}

/// Finds everything that the links under `out` do not reach, and removes it if `yes`.
///
/// # Errors
/// A build that is using this cache.
pub fn gc(store: &Store, out: &Path, yes: bool) -> Result<Gc> {
    let Some(_alone) = store.try_alone()? else {
        return Err(Problem::new("a build is using this cache").hint("try again when it has ended").into());
    };
    let mut reached = BTreeSet::new();
    let mut waiting = Vec::new();
    collect_links(out, 0, &mut waiting);
    while let Some(digest) = waiting.pop() {
        if reached.insert(digest)
            && let Ok(Some(artifact)) = store.inspect(digest)
        {
            waiting.extend(artifact.references.values());
        }
    }
    let mut gc = Gc { freed: yes, ..Gc::default() };
    for digest in store.artifact_digests()? {
        if reached.contains(&digest) {
            gc.kept += 1;
        } else {
            gc.bytes += size(&store.artifact_folder(digest));
            gc.artifacts.push(digest);
        }
    }
    for key in store.record_keys()? {
        if !store.record(key).is_ok_and(|record| record.is_some_and(|record| reached.contains(&record.artifact))) {
            gc.actions.push(key);
        }
    }
    for folder in ["tmp", "damaged"] {
        let Ok(entries) = std::fs::read_dir(store.root.join(folder)) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            gc.bytes += size(&path);
            gc.leftovers.push(path);
        }
    }
    gc.leftovers.sort();
    if yes {
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
    }
    Ok(gc)
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
