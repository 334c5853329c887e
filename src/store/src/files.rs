//! Fingerprints of files, and the saved digests of raw input files. A file is hashed once, and again only if its
//! fingerprint (size, times, device, inode) has changed.
//!
//! If a file changed less than two seconds before the file was hashed, the saved digest is not used (git's index has
//! the same rule). A later edit of the same size in the same tick of the clock would leave the fingerprint unchanged.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Store;
use raisin_base::cache_only::{recall, remember};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, bail};

const RACY_NANOSECONDS: i64 = 2_000_000_000;

/// The metadata by which a changed file is recognised without reading the file. Times are in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub size: u64,
    pub modified: i64,
    /// The change time of the inode (ctime). An edit that restores the modification time still changes the ctime.
    pub changed: i64,
    pub device: u64,
    pub inode: u64,
}

impl Fingerprint {
    pub fn of(path: &Path) -> std::io::Result<Self> {
        Ok(Self::from(&path.metadata()?))
    }
}

/// A time in nanoseconds since 1970. A file can have any modification time; all times after the year 2262 become
/// `i64::MAX`.
fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl From<&rustix::fs::Stat> for Fingerprint {
    fn from(status: &rustix::fs::Stat) -> Self {
        Self {
            size: status.st_size as u64,
            modified: nanoseconds(status.st_mtime, status.st_mtime_nsec as i64),
            changed: nanoseconds(status.st_ctime, status.st_ctime_nsec as i64),
            device: status.st_dev,
            inode: status.st_ino,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FileDigestEntry {
    #[serde(flatten)]
    fingerprint: Fingerprint,
    /// When the file was hashed, in nanoseconds since 1970.
    hashed: i64,
    blake3: Digest,
}

impl FileDigestEntry {
    /// Whether the digest is valid for a file with this fingerprint.
    fn believable(&self, fingerprint: &Fingerprint) -> bool {
        let newest = fingerprint.modified.max(fingerprint.changed);
        self.fingerprint == *fingerprint && newest.saturating_add(RACY_NANOSECONDS) < self.hashed
    }
}

/// The digests of raw input files that builds with this store have hashed.
#[derive(Debug, Default)]
pub struct FileDigests {
    path: PathBuf,
    entries: BTreeMap<PathBuf, FileDigestEntry>,
    changed: bool,
}

impl FileDigests {
    /// Loads the digests of earlier builds. If the file `files` is missing or damaged, there are none.
    pub fn load(store: &Store) -> Self {
        let path = store.root.join("files");
        let entries = recall(&path).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, entries, changed: false }
    }

    /// Removes the digests of files that no longer exist.
    pub(super) fn forget_gone(store: &Store) {
        let mut known = Self::load(store);
        let is_gone = |path: &Path| path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let before = known.entries.len();
        known.entries.retain(|path, _| !(path.is_absolute() && is_gone(path)));
        known.changed = known.entries.len() != before;
        known.save();
    }

    /// The digest of a file, and the fingerprint of the file at the time when the digest was computed.
    pub fn digest(&mut self, path: &Path) -> Result<(Digest, Fingerprint)> {
        let entry = self.look(path)?;
        Ok(self.remember(path, entry))
    }

    /// The paths of the files that had this content when they were last hashed.
    pub fn paths_of(&self, blake3: Digest) -> impl Iterator<Item = &Path> {
        self.entries.iter().filter(move |(_, entry)| entry.blake3 == blake3).map(|(path, _)| path.as_path())
    }

    /// The digests and fingerprints of several files, which are read in parallel.
    pub fn digests(&mut self, paths: &[PathBuf]) -> Result<Vec<(Digest, Fingerprint)>> {
        let entries: Vec<FileDigestEntry> = paths.par_iter().map(|path| self.look(path)).collect::<Result<_>>()?;
        Ok(paths.iter().zip(entries).map(|(path, entry)| self.remember(path, entry)).collect())
    }

    fn remember(&mut self, path: &Path, entry: FileDigestEntry) -> (Digest, Fingerprint) {
        let found = (entry.blake3, entry.fingerprint);
        if self.entries.get(path).is_none_or(|known| known.hashed != entry.hashed) {
            self.entries.insert(path.to_owned(), entry);
            self.changed = true;
        }
        found
    }

    fn look(&self, path: &Path) -> Result<FileDigestEntry> {
        let cannot = || format!("cannot read {}", path.display());
        for _ in 0..3 {
            let fingerprint = Fingerprint::of(path).with_context(cannot)?;
            if let Some(entry) = self.entries.get(path)
                && entry.believable(&fingerprint)
            {
                return Ok(entry.clone());
            }
            let hashed = jiff::Timestamp::now().as_nanosecond() as i64;
            let blake3 = Digest::of_input(path).with_context(cannot)?;
            if Fingerprint::of(path).with_context(cannot)? == fingerprint {
                return Ok(FileDigestEntry { fingerprint, hashed, blake3 });
            }
        }
        bail!("{} changed while raisin read the file", path.display())
    }

    /// Writes the file `files`, if a digest was added or removed.
    pub fn save(&mut self) {
        if self.changed
            && let Ok(bytes) = serde_json::to_vec(&self.entries)
        {
            remember(&self.path, &bytes);
            self.changed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_valid_only_if_the_file_was_unchanged_for_two_seconds() {
        let fingerprint = Fingerprint { size: 3, modified: 0, changed: 5_000_000_000, device: 1, inode: 2 };
        let entry = |hashed| FileDigestEntry { fingerprint, hashed, blake3: Digest::of(b"one") };
        assert!(!entry(6_000_000_000).believable(&fingerprint));
        assert!(entry(7_000_000_001).believable(&fingerprint));
        assert!(!entry(9_000_000_000).believable(&Fingerprint { inode: 3, ..fingerprint }));
        // The modification time was restored; the ctime shows the change.
        assert!(!entry(9_000_000_000).believable(&Fingerprint { changed: 6_000_000_000, ..fingerprint }));
    }

    #[test]
    fn saved_digests_are_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let file = folder.path().join("data");
        std::fs::write(&file, "one").unwrap();
        let mut digests = FileDigests::load(&store);
        let (digest, _) = digests.digest(&file).unwrap();
        digests.save();
        let loaded = FileDigests::load(&store);
        assert_eq!(loaded.entries[&file].blake3, digest);
        FileDigests::forget_gone(&store);
        assert_eq!(FileDigests::load(&store).entries.len(), 1);
        std::fs::rename(&file, folder.path().join("away")).unwrap();
        FileDigests::forget_gone(&store);
        assert_eq!(FileDigests::load(&store).entries.len(), 0);
        std::fs::rename(folder.path().join("away"), &file).unwrap();
        std::fs::write(folder.path().join("cache/files"), "{torn").unwrap();
        assert_eq!(FileDigests::load(&store).digest(&file).unwrap().0, digest);
    }

    #[test]
    fn a_file_from_the_year_2300_has_a_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let moment = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(10_413_792_000 / 3600);
        file.as_file().set_modified(moment).unwrap();
        let seen = Fingerprint::of(file.path()).unwrap();
        let there = rustix::fs::stat(file.path()).unwrap();
        // Some file systems cannot store times after the year 2038.
        if there.st_mtime == 10_413_792_000 {
            assert_eq!((seen.modified, seen), (i64::MAX, Fingerprint::from(&there)));
            let entry = FileDigestEntry { fingerprint: seen, hashed: i64::MAX, blake3: Digest::of(b"") };
            assert!(!entry.believable(&seen));
        }
    }
}
