//! The manifest of an artifact: path, size and digest of each file. The digest of an artifact is the blake3 of the
//! canonical JSON of its manifest. artifact.rs compares a manifest with the files on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Fingerprint;
use raisin_base::digest::{Digest, canonical};
use raisin_base::error::{Context as _, Result, bail, ensure};

/// The file name of the manifest in the artifact.
pub const MANIFEST: &str = "manifest.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Sorted by path.
    pub files: Vec<FileEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the artifact, with `/` between folders.
    pub path: String,
    pub size: u64,
    pub blake3: Digest,
}

/// A file that differs between two manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileDifference<'m> {
    Added(&'m FileEntry),
    Removed(&'m FileEntry),
    Changed { from: &'m FileEntry, to: &'m FileEntry },
}

impl Manifest {
    /// Hashes every file of a folder. A commit that was killed may have left a manifest, whole or in part: this one file
    /// does not count.
    ///
    /// # Errors
    /// The folder contains something that is neither a file nor a folder, a name that is not UTF-8, or another file with
    /// the name of the manifest.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let (mut files, mut has_manifest) = (Vec::new(), false);
        for found in list(folder)? {
            if found.path == MANIFEST {
                has_manifest = true;
                continue;
            }
            let absolute = folder.join(&found.path);
            let blake3 = Digest::of_file(&absolute).with_context(|| format!("cannot read {}", absolute.display()))?;
            files.push(FileEntry { path: found.path, size: found.fingerprint.size, blake3 });
        }
        let manifest = Self { format: 1, files };
        if has_manifest {
            let left = std::fs::read(folder.join(MANIFEST))?;
            ensure!(manifest.to_bytes()?.starts_with(&left), "a stage may not write a file named {MANIFEST}");
        }
        Ok(manifest)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        ensure!(manifest.format == 1, "the manifest has format {}", manifest.format);
        Ok(manifest)
    }

    /// The content of manifest.json: canonical JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(canonical(&serde_json::to_value(self)?).into_bytes())
    }

    /// The files that differ between this manifest and `other`, sorted by path.
    pub fn differences<'m>(&'m self, other: &'m Self) -> Vec<FileDifference<'m>> {
        let by_path = |manifest: &'m Self| manifest.files.iter().map(|file| (file.path.as_str(), file));
        let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) = (by_path(self).collect(), by_path(other).collect());
        let paths: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
        let difference = |path| match (before.get(path), after.get(path)) {
            (Some(from), Some(to)) if from.blake3 == to.blake3 => None,
            (Some(from), Some(to)) => Some(FileDifference::Changed { from, to }),
            (Some(from), None) => Some(FileDifference::Removed(from)),
            (None, Some(to)) => Some(FileDifference::Added(to)),
            (None, None) => None,
        };
        paths.into_iter().filter_map(difference).collect()
    }

    /// The size of all files, in bytes.
    pub fn bytes(&self) -> u64 {
        // A damaged manifest can state any sizes.
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }
}

/// A file in a folder, with its path relative to the folder.
pub(super) struct ListedFile {
    pub path: String,
    pub fingerprint: Fingerprint,
}

/// All files below a folder, sorted by path.
pub(super) fn list(folder: &Path) -> Result<Vec<ListedFile>> {
    let mut found = Vec::new();
    walk(folder, "", &mut found)?;
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<ListedFile>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            bail!("{} has a name that is not UTF-8", entry.path().display());
        };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            walk(&entry.path(), &path, found)?;
        } else {
            ensure!(metadata.is_file(), "{} is neither a file nor a folder", entry.path().display());
            found.push(ListedFile { path, fingerprint: Fingerprint::from(&metadata) });
        }
    }
    Ok(())
}

/// `folder` and all folders below it. A folder comes after the folders that it contains.
pub(super) fn folders(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(folders(&entry.path())?);
        }
    }
    all.push(folder.to_owned());
    Ok(all)
}
