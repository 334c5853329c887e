//! The store: artifacts, action records, journal, locks and memories in a cache folder. The store knows neither
//! pipelines nor kinds. This file opens a cache and writes files atomically; the modules do the rest.
//!
//! ```text
//! VERSION                        version of this layout: raisin refuses another version and overwrites nothing
//! artifacts/<digest>/...         immutable folders; the blake3 of manifest.json is the name of the folder
//! actions/<key>.json             action records: action, artifact, times, costs, notes
//! identity/<digest>              fingerprints of an artifact's files when their content was last known to be right
//! index/<digest of out path>     actions and links of the last build of a pipeline
//! checked/<digest of file path>  parameters that were valid when a pipeline file was last loaded
//! tokens/<digest>                token sequences of a pool for one tokenizer; src/corpus/src/encoded.rs
//! sent/<digest>                  an artifact whose runs a tracking server has; src/remote/src/track
//! journal/<date>.jsonl           one line per event of every run
//! locks/<key>                    flock, held while an action runs; locks/store: shared by builds, alone for gc;
//!                                locks/artifacts: held while an artifact is put into place or set aside; on a
//!                                network file system, these files lie in /var/tmp
//! pins/<digest>                  artifacts that gc keeps although no link reaches them
//! roots/<digest of out path>     an out folder whose links gc follows
//! used/<digest>                  an empty file; its time is the time when a link or a pin last released the artifact
//! tmp/<key>/{out,work}           staging folder: a stage at work, and its assignment; work/ stays after a kill; on a
//!                                network file system tmp/<key>-<machine>
//! fetched/<blake3>/<name>        files from the network; the engine writes and reads them
//! jobs/<key>/...                 a stage that runs as a job of a cluster; src/engine/src/jobs/files.rs
//! logs/<key>.log                 standard error of the last run of a stage
//! damaged/...                    files and folders that a look-up or `verify` set aside
//! files                          digests of raw input files, by path and fingerprint
//! ```
//!
//! An artifact becomes visible by one rename of a folder that is complete and synced. The action record is written
//! after the rename. Therefore a process that is killed at any instant leaves at worst: a staging folder, a whole
//! artifact that no link reaches, a lock file that no process holds, and a temporary file `.name.number.number`. gc
//! removes these when they are a day old, together with the logs and memories of actions and artifacts that are gone.

mod artifact;
mod description;
mod file_system;
mod files;
mod gc;
mod identity;
mod index;
mod journal;
mod leftovers;
mod lock;
mod manifest;
mod memories;
mod pin;
mod record;
mod rights;
mod roots;
pub mod run_line;
mod runs;
mod used;
mod verify;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

pub use artifact::{Artifact, Lookup};
pub use description::{BuildDescription, BuiltStage, DESCRIPTION, DESCRIPTION_FORMAT};
pub use file_system::{FileSystemKind, file_system};
pub use files::{FileDigests, Fingerprint};
pub use gc::{Gc, GcOptions, gc};
pub use index::BuildIndex;
pub use journal::{Journal, JournalEvent, JournalLine, JournalTail, RunEnd, RunResult, RunStart};
pub use lock::{Lock, Waiting};
pub use manifest::{FileDifference, FileEntry, MANIFEST, Manifest};
pub use pin::Pin;
pub use record::{Accepted, ActionRecord};
pub use roots::Forget;
pub use run_line::{Headline, overrides};
pub use runs::{Run, RunStage, runs};
pub use used::note_use_of;
pub use verify::{Damage, Verified, verify};

use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::files::{if_there, put};

/// The folders that every cache has.
const FOLDERS: [&str; 6] = ["artifacts", "actions", "journal", "locks", "tmp", "logs"];

/// The version of the layout above.
const LAYOUT: &str = "1";

/// The content of VERSION: the layout version and its digest. The digest tells a damaged VERSION from another version.
fn layout() -> String {
    format!("{LAYOUT}\n{}\n", Digest::of(LAYOUT.as_bytes()))
}

/// Whether `root` is a cache of this version. Creates nothing.
pub fn is_there(root: &Path) -> bool {
    std::fs::read(root.join("VERSION")).is_ok_and(|found| found == layout().as_bytes())
}

/// Whether this content of VERSION means this version. Either one byte of this version's VERSION was flipped (with
/// another version, the whole digest would differ), or an old raisin wrote VERSION without a digest.
fn is_repairable(found: &[u8]) -> bool {
    differing(found, layout().as_bytes()) <= 1 || found == format!("{LAYOUT}\n").as_bytes()
}

/// The problem of a cache whose VERSION has this content.
fn other_layout(root: &Path, found: &[u8]) -> Problem {
    let found = String::from_utf8_lossy(found);
    let found = found.lines().next().unwrap_or("(nothing)");
    Problem::new(format!("the cache {} has layout {found}, this raisin reads layout {LAYOUT}", root.display()))
        .hint("use the raisin version that made this cache, or choose another folder with --cache")
}

/// The number of bytes in which two texts differ; `usize::MAX` if the texts differ in length.
fn differing(one: &[u8], other: &[u8]) -> usize {
    if one.len() == other.len() {
        one.iter().zip(other).filter(|(one, other)| one != other).count()
    } else {
        usize::MAX
    }
}

/// The problem of a command that only reads where there is no cache.
pub fn no_cache(root: &Path) -> Problem {
    let place = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    Problem::usage(format!("there is no cache here: {} has no results", place.display()))
        .hint("`raisin build PIPELINE` fills it; --cache DIR or RAISIN_CACHE names another folder")
}

/// A cache folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// See [`file_system::machine_for`].
    machine: String,
    /// The folder of the lock files: `locks/`, or a folder on a local disk.
    locks: PathBuf,
}

impl Store {
    /// Opens the cache at `root`. If there is none, creates an empty cache.
    ///
    /// # Errors
    /// The cache has another layout version, or the folder cannot be written.
    pub fn open(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).with_context(|| format!("cannot create the cache {}", root.display()))?;
        let root = root.canonicalize()?;
        let version = root.join("VERSION");
        let ours = layout();
        match std::fs::read(&version) {
            Ok(found) if found == ours.as_bytes() => {}
            Ok(found) if is_repairable(&found) => write_atomically(&version, ours.as_bytes())?,
            Ok(found) => return Err(other_layout(&root, &found).into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                for name in FOLDERS {
                    let folder = root.join(name);
                    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
                }
                write_atomically(&version, ours.as_bytes())?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", version.display())),
        }
        // A person may have removed a folder, such as logs/. If a folder cannot be created, the code that needs the
        // folder reports the error.
        for folder in FOLDERS.map(|name| root.join(name)).iter().filter(|folder| !folder.exists()) {
            let _ = std::fs::create_dir(folder);
        }
        let machine = file_system::machine_for(&root);
        let locks = if machine.is_empty() { root.join("locks") } else { lock::local_folder(&root, &machine)? };
        Ok(Self { root, machine, locks })
    }

    /// Opens the cache at `root`, for a command that only reads. Creates nothing: `None` if there is no cache.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn existing(root: &Path) -> Result<Option<Self>> {
        let is_there = root.join("VERSION").exists() || root.join("artifacts").is_dir();
        if is_there { Self::open(root).map(Some) } else { Ok(None) }
    }

    /// Opens the cache at `root` and changes nothing at all, for a process that looks at it for a long time: a person may
    /// delete the cache meanwhile. `None` if there is no cache.
    ///
    /// # Errors
    /// The cache has another layout version, or VERSION cannot be read.
    pub fn looked_at(root: &Path) -> Result<Option<Self>> {
        let version = root.join("VERSION");
        let found = if_there(std::fs::read(&version)).with_context(|| format!("cannot read {}", version.display()))?;
        let Some(found) = found else { return Ok(None) };
        if !is_repairable(&found) {
            return Err(other_layout(root, &found).into());
        }
        let Some(root) = if_there(root.canonicalize())? else { return Ok(None) };
        let machine = file_system::machine_for(&root);
        // Who only looks locks nothing, and creates no folder for locks.
        let locks = root.join("locks");
        Ok(Some(Self { root, machine, locks }))
    }

    /// As [`Store::existing`], for a command that can do nothing without a cache.
    ///
    /// # Errors
    /// There is no cache.
    pub fn expected(root: &Path) -> Result<Self> {
        Self::existing(root)?.ok_or_else(|| no_cache(root).into())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of the artifact with this digest, whether the artifact exists or not.
    pub fn artifact_folder(&self, digest: Digest) -> PathBuf {
        self.root.join("artifacts").join(digest.to_hex())
    }

    pub fn record_file(&self, key: Digest) -> PathBuf {
        self.root.join("actions").join(format!("{key}.json"))
    }

    /// The staging folder of the action with this key.
    pub fn staging_folder(&self, key: Digest) -> PathBuf {
        self.temporary(&key.to_hex())
    }

    /// The folder of a job of a cluster. All machines use the same: each attempt has a folder of its own in it.
    pub fn job_folder(&self, key: Digest) -> PathBuf {
        self.jobs_folder().join(key.to_hex())
    }

    /// The folder with the folders of all jobs.
    pub fn jobs_folder(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// A path in tmp/ that no other machine uses.
    pub fn temporary(&self, name: &str) -> PathBuf {
        let separator = if self.machine.is_empty() { "" } else { "-" };
        self.root.join("tmp").join(format!("{name}{separator}{}", self.machine))
    }

    /// The folder in which stages share the token sequences of pools.
    pub fn tokens_folder(&self) -> PathBuf {
        self.root.join("tokens")
    }

    /// The memory that something was sent to a tracking server.
    pub fn sent_file(&self, name: Digest) -> PathBuf {
        self.root.join("sent").join(name.to_hex())
    }

    pub fn log_file(&self, key: Digest) -> PathBuf {
        self.root.join("logs").join(format!("{key}.log"))
    }

    /// Moves a damaged file or folder of the store to damaged/. If it is gone already, that is no error: another build
    /// may have set it aside first.
    pub fn set_aside(&self, path: &Path) -> Result<()> {
        let folder = self.root.join("damaged");
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let moment = jiff::Timestamp::now().as_nanosecond();
        let cannot = || format!("cannot set {} aside", path.display());
        std::fs::create_dir_all(&folder).with_context(cannot)?;
        let aside = || -> std::io::Result<()> {
            if path.symlink_metadata()?.is_dir() {
                // Moving a folder to another parent needs write permission on the folder itself.
                allow_writing(path)?;
            }
            std::fs::rename(path, folder.join(format!("{name}.{moment}")))
        };
        if_there(aside()).map(drop).with_context(cannot)
    }

    /// The names of the files and folders in damaged/.
    fn names_set_aside(&self) -> Result<Vec<String>> {
        let folder = self.root.join("damaged");
        let cannot = || format!("cannot read {}", folder.display());
        let mut names = Vec::new();
        for entry in if_there(std::fs::read_dir(&folder)).with_context(cannot)?.into_iter().flatten() {
            names.extend(entry.with_context(cannot)?.file_name().into_string());
        }
        Ok(names)
    }

    /// The digests that name the files in a folder of the store, sorted; empty if the folder does not exist. `ending`
    /// is what follows the digest in a name. Other files are skipped, such as the temporary file of a killed process.
    fn digests_in(&self, folder: &str, ending: &str) -> Result<Vec<Digest>> {
        let folder = self.root.join(folder);
        let cannot = || format!("cannot read {}", folder.display());
        let mut digests: Vec<Digest> = Vec::new();
        for entry in if_there(std::fs::read_dir(&folder)).with_context(cannot)?.into_iter().flatten() {
            let name = entry.with_context(cannot)?.file_name();
            digests.extend(name.to_str().and_then(|name| name.strip_suffix(ending)?.parse::<Digest>().ok()));
        }
        digests.sort_unstable();
        Ok(digests)
    }
}

/// Writes a file so that a reader sees either the old or the new content, also after a power failure.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let sync = |file: &std::fs::File| file.sync_all();
    put(path, &[bytes], sync)
        .and_then(|()| sync_folder(path.parent().unwrap_or(Path::new("."))))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Syncs a folder, so that the names in the folder survive a power failure.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

/// Removes a folder with everything in it, even if it is read-only. A link is removed itself; nothing behind a link is
/// removed or changed.
pub fn remove_tree(folder: &Path) -> Result<()> {
    let remove = || match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            make_folders_writable(folder)?;
            std::fs::remove_dir_all(folder)
        }
        other => other,
    };
    remove().with_context(|| format!("cannot remove {}", folder.display()))
}

fn make_folders_writable(folder: &Path) -> std::io::Result<()> {
    if !folder.symlink_metadata()?.is_dir() {
        return Ok(());
    }
    allow_writing(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_folders_writable(&entry.path())?;
        }
    }
    Ok(())
}

fn allow_writing(path: &Path) -> std::io::Result<()> {
    change_mode(path, |mode| mode | 0o700)
}

fn forbid_writing(path: &Path) -> std::io::Result<()> {
    change_mode(path, |mode| mode & !0o222)
}

/// Changes the mode of a file or folder of the store. A link has no mode of its own: `chmod` would change the file or
/// folder behind the link, which is not part of the store.
fn change_mode(path: &Path, change: impl FnOnce(u32) -> u32) -> std::io::Result<()> {
    let found = path.symlink_metadata()?;
    let mode = change(found.mode());
    if found.is_symlink() || mode == found.mode() {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_of_another_layout_is_refused_and_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap();
        Store::open(folder.path()).unwrap();
        let version = folder.path().join("VERSION");
        for other in ["7\n".to_owned(), layout().replacen(LAYOUT, "7", 1).replace('a', "b"), String::new()] {
            std::fs::write(&version, &other).unwrap();
            let error = Store::open(folder.path()).unwrap_err();
            assert!(error.to_string().contains("has layout"), "{error}");
            assert_eq!(std::fs::read_to_string(&version).unwrap(), other);
        }
    }

    #[test]
    fn folders_that_were_removed_are_made_again() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap();
        FOLDERS.iter().for_each(|name| std::fs::remove_dir(folder.path().join(name)).unwrap());
        let store = Store::open(folder.path()).unwrap();
        assert!(FOLDERS.iter().all(|name| folder.path().join(name).is_dir()));
        assert!(store.share().is_ok() && Journal::begin(&store).is_ok());
    }

    #[test]
    fn setting_a_file_aside_twice_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let record = store.record_file(Digest::of(b"key"));
        std::fs::write(&record, "torn").unwrap();
        store.set_aside(&record).unwrap();
        store.set_aside(&record).unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("damaged")).unwrap().count(), 1);
    }

    #[test]
    fn no_link_in_the_store_leads_to_a_change_outside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let outside = folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "theirs").unwrap();
        let set = |mode| std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o511);
        let unchanged = |what: &str| {
            assert_eq!(outside.metadata().unwrap().mode() & 0o777, 0o511, "{what}");
            assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "theirs", "{what}");
        };
        let link = |path: &Path| {
            let _ = std::fs::remove_file(path);
            std::os::unix::fs::symlink(&outside, path).unwrap();
        };
        let artifact = store.artifact_folder(Digest::of(b"artifact"));
        link(&artifact);
        store.set_aside(&artifact).unwrap();
        unchanged("set aside");
        assert!(artifact.symlink_metadata().is_err());
        link(&artifact);
        make_folders_writable(&artifact).unwrap();
        forbid_writing(&artifact).unwrap();
        unchanged("modes");
        remove_tree(&artifact).unwrap();
        unchanged("removed");
        // A link in a folder of the store, and a link in the place of a folder that a stage writes.
        let staging = store.staging_folder(Digest::of(b"key"));
        std::fs::create_dir(&staging).unwrap();
        link(&staging.join("out"));
        assert!(store.commit(&staging.join("out")).is_err());
        make_folders_writable(&staging).unwrap();
        unchanged("a link as the folder of a stage");
        remove_tree(&staging).unwrap();
        unchanged("the staging folder");
        set(0o755);
    }

    #[test]
    fn a_flipped_byte_of_the_layout_is_no_other_layout() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap();
        let version = folder.path().join("VERSION");
        let whole = std::fs::read(&version).unwrap();
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 2;
            std::fs::write(&version, flipped).unwrap();
            Store::open(folder.path()).unwrap();
            assert_eq!(std::fs::read(&version).unwrap(), whole);
        }
    }
}
