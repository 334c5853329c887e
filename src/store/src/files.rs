//! Fingerprints of files, and the saved digests of raw input files. A file is hashed once, and again only if its
//! fingerprint (size, times, device, inode) has changed.
//!
//! If a file changed less than two seconds before the file was hashed, the saved digest is not used (git's index has
//! the same rule). A later edit of the same size in the same tick of the clock would leave the fingerprint unchanged.
//! A modification time in the future says nothing about when the file changed; then the ctime alone decides, which no
//! program can set.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Store;
use raisin_base::cache_only::{recall, remember};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, bail};
use raisin_base::files::open_regular;

const RACY_NANOSECONDS: i64 = 2_000_000_000;

/// How long a process waits for the lock of the file `files`, and the time between two attempts.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

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
        let is_old = |time: i64| time.saturating_add(RACY_NANOSECONDS) < self.hashed;
        let Fingerprint { modified, changed, .. } = *fingerprint;
        self.fingerprint == *fingerprint && is_old(changed) && (is_old(modified) || modified > self.hashed)
    }
}

/// The digests of raw input files that builds with this store have hashed.
#[derive(Debug, Default)]
pub struct FileDigests {
    path: PathBuf,
    entries: BTreeMap<PathBuf, FileDigestEntry>,
    /// The paths whose entries this process has added.
    added: BTreeSet<PathBuf>,
    lock: PathBuf,
}

impl FileDigests {
    /// Loads the digests of earlier builds. If the file `files` is missing or damaged, there are none.
    pub fn load(store: &Store) -> Self {
        let (path, lock) = (store.root.join("files"), store.root.join("locks/files"));
        Self { entries: recalled(&path), path, added: BTreeSet::new(), lock }
    }

    /// Removes the digests of files that no longer exist.
    pub(super) fn forget_gone(store: &Store) {
        let is_gone = |path: &Path| path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        Self::load(store).change(|entries| {
            let before = entries.len();
            entries.retain(|path, _| !(path.is_absolute() && is_gone(path)));
            entries.len() != before
        });
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
            self.added.insert(path.to_owned());
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
            // The path is opened once: it may lead to other files while raisin reads.
            let file = open_regular(path).with_context(cannot)?;
            let look = || file.metadata().map(|metadata| Fingerprint::from(&metadata)).with_context(cannot);
            let fingerprint = look()?;
            let hashed = jiff::Timestamp::now().as_nanosecond() as i64;
            let blake3 = Digest::of_input(&file).with_context(cannot)?;
            if look()? == fingerprint {
                return Ok(FileDigestEntry { fingerprint, hashed, blake3 });
            }
        }
        bail!("{} changed while raisin read the file", path.display())
    }

    /// Adds the digests of this process to the file `files`. Digests that another process added meanwhile stay.
    pub fn save(&mut self) {
        let added = std::mem::take(&mut self.added);
        if added.is_empty() {
            return;
        }
        // JSON has no other texts than UTF-8. One such path would keep all digests from being saved.
        let added = added.into_iter().filter(|path| path.to_str().is_some());
        let own = added.filter_map(|path| self.entries.get(&path).map(|entry| (path, entry.clone())));
        let own: Vec<(PathBuf, FileDigestEntry)> = own.collect();
        self.change(|entries| {
            for (path, entry) in own {
                if entries.get(&path).is_none_or(|known| known.hashed < entry.hashed) {
                    entries.insert(path, entry);
                }
            }
            true
        });
    }

    /// Reads the file `files`, and writes it again if `change` returns true, under a lock. If the lock cannot be had,
    /// nothing is written: the digests are computed again at another time.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<PathBuf, FileDigestEntry>) -> bool) {
        let Ok(lock) = File::options().write(true).create(true).truncate(false).open(&self.lock) else { return };
        let mut patience = LOCK_PATIENCE;
        while lock.try_lock().is_err() {
            let Some(less) = patience.checked_sub(LOCK_PAUSE) else { return };
            patience = less;
            std::thread::sleep(LOCK_PAUSE);
        }
        let mut entries = recalled(&self.path);
        if change(&mut entries)
            && let Ok(bytes) = serde_json::to_vec(&entries)
        {
            remember(&self.path, &bytes);
        }
    }
}

/// The digests in the file `files`; none if the file is missing or damaged.
fn recalled(path: &Path) -> BTreeMap<PathBuf, FileDigestEntry> {
    recall(path).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
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
    fn a_modification_time_in_the_future_does_not_make_a_digest_untrusted_and_the_ctime_decides() {
        let future = i64::MAX / 2;
        let fingerprint = Fingerprint { size: 3, modified: future, changed: 5_000_000_000, device: 1, inode: 2 };
        let entry = |fingerprint, hashed| FileDigestEntry { fingerprint, hashed, blake3: Digest::of(b"one") };
        assert!(entry(fingerprint, 7_000_000_001).believable(&fingerprint));
        assert!(!entry(fingerprint, 6_000_000_000).believable(&fingerprint));
        // On a file system without ctime, both times are those of the last write.
        let without = Fingerprint { changed: future, ..fingerprint };
        assert!(!entry(without, 7_000_000_001).believable(&without));
    }

    #[test]
    fn two_processes_that_save_at_once_keep_the_digests_of_both() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let files = ["one", "two"].map(|name| folder.path().join(name));
        let mut both = files.each_ref().map(|file| {
            std::fs::write(file, "text").unwrap();
            FileDigests::load(&store)
        });
        for (digests, file) in both.iter_mut().zip(&files) {
            digests.digest(file).unwrap();
        }
        both.iter_mut().for_each(FileDigests::save);
        assert_eq!(FileDigests::load(&store).entries.len(), 2);
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
