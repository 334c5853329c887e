//! Where it is kept: artifacts, action records, the journal, locks. It knows nothing of pipelines or kinds.
//!
//! ```text
//! VERSION                        the layout's version: another one is refused, neither read nor overwritten
//! artifacts/<digest>/...         immutable folders; manifest.json inside, whose blake3 is the folder's name
//! actions/<key>.json             which artifact an action made, from what, when, how long
//! identity/<digest>              size, times and inode of each file when its content was last known to be right
//! index/<place>                  what the last build of a pipeline found, for its next one
//! checked/<file>                 which parameters were found right when a pipeline file was last loaded
//! journal/<date>.jsonl           one line per event of every run
//! locks/<key>                    flock, held while an action runs; locks/store: shared by builds, alone for gc;
//!                                locks/artifacts: held while an artifact is put into place or set aside
//! pins/<digest>                  artifacts that gc keeps though no link reaches them
//! roots/<digest>                 an out folder whose links gc follows
//! tmp/<key>/{out,work}           a stage at work, and its assignment; work/ outlives a kill
//! fetched/<blake3>/<name>        files from the network: the engine's business
//! logs/<key>.log                 what the stage last wrote to its standard error
//! damaged/...                    what a look-up or `verify` set aside
//! files                          digests of raw inputs by path, size, times and inode
//! ```
//!
//! An artifact becomes visible by one rename of a folder that is already complete and synced, and its record is
//! written after it: a process killed at any instant leaves at worst a folder under tmp/, an artifact that is whole and
//! that no link reaches, the file of a lock that nobody holds, and a file `.name.pid.count` that was to be renamed. gc
//! removes these when they are a day old, and with them the logs and memories of what is gone.

mod artifact;
mod cache_only;
mod description;
mod files;
mod gc;
mod identity;
mod index;
mod journal;
mod leftovers;
mod lock;
mod manifest;
mod pin;
mod record;
mod roots;
mod verify;

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::getpid;

pub use artifact::{Artifact, Lookup};
pub use cache_only::{recall, remember, this_executable};
pub use description::{BuildDescription, BuiltStage, DESCRIPTION};
pub use files::{FileDigests, Fingerprint};
pub use gc::{Gc, GcOptions, gc};
pub use index::Index;
pub use journal::{Journal, JournalEvent, JournalLine};
pub use lock::{Lock, Waiting};
pub use manifest::{FileDifference, FileEntry, MANIFEST, Manifest};
pub use pin::Pin;
pub use record::{Accepted, ActionRecord};
pub use verify::{Damage, Verified, Verify, verify};

use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};

/// What every cache has from the beginning.
const FOLDERS: [&str; 6] = ["artifacts", "actions", "journal", "locks", "tmp", "logs"];

/// The version of the layout above.
const LAYOUT: &str = "1";

/// What VERSION holds: the layout and its digest, so that a damaged file and another version are told apart.
fn layout() -> String {
    format!("{LAYOUT}\n{}\n", Digest::of(LAYOUT.as_bytes()))
}

/// Whether there is a cache of this version. Looks, and makes nothing.
pub fn is_there(root: &Path) -> bool {
    std::fs::read(root.join("VERSION")).is_ok_and(|found| found == layout().as_bytes())
}

/// In how many bytes two texts of one length differ.
fn differing(one: &[u8], other: &[u8]) -> usize {
    if one.len() == other.len() {
        one.iter().zip(other).filter(|(one, other)| one != other).count()
    } else {
        usize::MAX
    }
}

/// A cache folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the cache at `root`, or makes an empty one there.
    ///
    /// # Errors
    /// A cache of another layout version, or a folder that cannot be written.
    pub fn open(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).with_context(|| format!("cannot create the cache {}", root.display()))?;
        let root = root.canonicalize()?;
        let version = root.join("VERSION");
        let ours = layout();
        match std::fs::read(&version) {
            Ok(found) if found == ours.as_bytes() => {}
            // One byte of ours was flipped: another version differs in its whole digest. Or it was written before VERSION
            // had one.
            Ok(found) if differing(&found, ours.as_bytes()) == 1 || found == format!("{LAYOUT}\n").as_bytes() => {
                write_atomically(&version, ours.as_bytes())?;
            }
            Ok(found) => {
                let found = String::from_utf8_lossy(&found);
                let found = found.lines().next().unwrap_or("(nothing)");
                let message =
                    format!("the cache {} has layout {found}, this raisin reads layout {LAYOUT}", root.display());
                return Err(Problem::new(message)
                    .hint("use the raisin that made it, or choose another folder with --cache")
                    .into());
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                for name in FOLDERS {
                    let folder = root.join(name);
                    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
                }
                write_atomically(&version, ours.as_bytes())?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", version.display())),
        }
        // A person may have removed one, such as logs/. Where it cannot be made, who needs it says so.
        for folder in FOLDERS.map(|name| root.join(name)).iter().filter(|folder| !folder.exists()) {
            let _ = std::fs::create_dir(folder);
        }
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the artifact of this digest lies, whether it exists or not.
    pub fn artifact_folder(&self, digest: Digest) -> PathBuf {
        self.root.join("artifacts").join(digest.to_hex())
    }

    pub fn record_file(&self, key: Digest) -> PathBuf {
        self.root.join("actions").join(format!("{key}.json"))
    }

    /// The folder in which the action of this key is made.
    pub fn staging_folder(&self, key: Digest) -> PathBuf {
        self.root.join("tmp").join(key.to_hex())
    }

    pub fn log_file(&self, key: Digest) -> PathBuf {
        self.root.join("logs").join(format!("{key}.log"))
    }

    /// Moves a file or folder of the store out of the way, to damaged/. One that is gone is out of the way: of two builds
    /// that meet the same damage, one is first.
    pub fn set_aside(&self, path: &Path) -> Result<()> {
        let folder = self.root.join("damaged");
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let moment = jiff::Timestamp::now().as_nanosecond();
        let cannot = || format!("cannot set {} aside", path.display());
        std::fs::create_dir_all(&folder).with_context(cannot)?;
        let aside = || -> std::io::Result<()> {
            if path.is_dir() {
                // A folder can only change its parent while it is writable.
                allow_writing(path)?;
            }
            std::fs::rename(path, folder.join(format!("{name}.{moment}")))
        };
        match aside() {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(cannot),
            _ => Ok(()),
        }
    }
}

/// Writes a file so that a reader sees the old content or the new, also after a loss of power.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let sync = |file: &std::fs::File| file.sync_all();
    put(path, bytes, sync)
        .and_then(|()| sync_folder(path.parent().unwrap_or(Path::new("."))))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn put(path: &Path, bytes: &[u8], finish: impl Fn(&std::fs::File) -> std::io::Result<()>) -> std::io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{name}.{}.{count}", getpid().as_raw_nonzero()));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        finish(&file)?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

/// Makes the names in a folder as durable as the files behind them.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

/// Removes a folder, also one whose content was made read-only.
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
    let mode = path.symlink_metadata()?.mode() | 0o700;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn forbid_writing(path: &Path) -> std::io::Result<()> {
    let mode = path.symlink_metadata()?.mode() & !0o222;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_of_another_layout_is_refused_and_left_as_it_is() {
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
    fn what_another_build_has_set_aside_is_out_of_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let record = store.record_file(Digest::of(b"key"));
        std::fs::write(&record, "torn").unwrap();
        store.set_aside(&record).unwrap();
        store.set_aside(&record).unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("damaged")).unwrap().count(), 1);
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
