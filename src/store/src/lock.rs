//! The locks of the store, made with flock: the lock of an action lets one process at a time run the action, and the
//! lock of the store keeps builds and gc apart.
//!
//! On a network file system, flock fails, waits for ever or holds only on one machine. There the lock files lie on a local
//! disk: staging folders have the name of the machine, so that a lock need not hold between machines.
//!
//! The kernel releases a lock when the last process that holds the lock ends. Therefore a kill leaves no stale lock.
//! The process id in a lock file is used only in messages.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Store, if_there};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Error, Problem, Result};
use raisin_base::say;

/// The time between two attempts of a waiting build to take a lock.
const PATIENCE: Duration = Duration::from_millis(20);

/// The decision of a caller that waits for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    GoOn,
    GiveUp,
}

/// A held lock. Dropping the value releases the lock.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// The lock file of an action, which is removed when the lock is dropped; `None` for the locks of the whole store,
    /// whose files stay.
    path: Option<PathBuf>,
}

impl Store {
    /// Takes the lock of an action. While another process holds the lock, `wait` is called repeatedly with the id of
    /// that process. Returns `None` if `wait` returns [`Waiting::GiveUp`].
    pub fn lock(&self, key: Digest, mut wait: impl FnMut(Option<u32>) -> Waiting) -> Result<Option<Lock>> {
        let path = self.locks.join(key.to_hex());
        loop {
            let mut file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {
                    // The previous holder removed the lock file. A later process may have created a new file of the
                    // same name: then this lock is worthless and is taken again.
                    let same = path.metadata().is_ok_and(|named| {
                        file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (named.dev(), named.ino()))
                    });
                    if !same {
                        continue;
                    }
                    write_holder(&mut file).with_context(|| format!("cannot write {}", path.display()))?;
                    return Ok(Some(Lock { file, path: Some(path) }));
                }
                Err(TryLockError::WouldBlock) => {
                    if wait(holder(&mut file)) == Waiting::GiveUp {
                        return Ok(None);
                    }
                    std::thread::sleep(PATIENCE);
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    /// The lock for moving artifacts, held while an artifact is renamed into place or set aside. Hold this lock only
    /// briefly: the whole store has one, so that a commit need not create a lock file.
    pub(super) fn lock_artifacts(&self) -> Result<Lock> {
        let path = self.locks.join("artifacts");
        let file = open(&path)?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Lock { file, path: None })
    }

    /// The shared lock of the store. Every build holds this lock, so that `gc` removes nothing during a build.
    pub fn share(&self) -> Result<Lock> {
        let path = self.locks.join("store");
        share(open(&path)?, &path)
    }

    /// The shared lock of the store for a command that only reads. The cache may be read-only.
    pub(super) fn share_to_read(&self) -> Result<Lock> {
        let path = self.locks.join("store");
        match if_there(File::open(&path)).with_context(|| format!("cannot open {}", path.display()))? {
            Some(file) => share(file, &path),
            None => self.share(),
        }
    }

    /// The exclusive lock of the store; `None` while another process uses the store.
    pub fn try_alone(&self) -> Result<Option<Lock>> {
        let path = self.locks.join("store");
        let mut file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                // The process id is for the messages of waiting processes. They also wait if writing the id fails.
                let _ = write_holder(&mut file);
                Ok(Some(Lock { file, path: None }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// The folder of the lock files of the cache at `root`, on a local disk. `RAISIN_LOCKS` names another place than /var/tmp.
///
/// # Errors
/// The folder cannot be made, or belongs to someone else.
pub(super) fn local_folder(root: &Path, machine: &str) -> Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let top = std::env::var_os("RAISIN_LOCKS").filter(|value| !value.is_empty()).map(PathBuf::from);
    let top = top.unwrap_or_else(|| PathBuf::from(format!("/var/tmp/raisin-locks-{user}")));
    let cannot = || format!("cannot make the folder {} for the locks of the cache", top.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&top).with_context(cannot)?;
    let found = top.symlink_metadata().with_context(cannot)?;
    // Everyone can write in /var/tmp.
    if !found.is_dir() || found.uid() != user {
        let message =
            format!("{} is no folder of this user, and the locks of the cache should lie there", top.display());
        return Err(Problem::new(message).hint("RAISIN_LOCKS names another folder on a local disk").into());
    }
    let name = Digest::of(&[root.as_os_str().as_encoded_bytes(), b"\0", machine.as_bytes()].concat());
    let folder = top.join(name.short());
    std::fs::create_dir_all(&folder).with_context(cannot)?;
    Ok(folder)
}

/// Takes the shared lock of the store. If another process holds the exclusive lock, a message names this process: gc
/// may take long to remove gigabytes.
fn share(mut file: File, path: &Path) -> Result<Lock> {
    let cannot = || format!("cannot lock {}", path.display());
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let who = holder(&mut file).map_or("another process".to_owned(), |pid| format!("pid {pid}"));
            say!("waiting for {who}, which is freeing space in this cache");
            file.lock_shared().with_context(cannot)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
    }
    Ok(Lock { file, path: None })
}

/// Writes the id of this process into a lock file that was just opened and locked.
fn write_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.write_all(std::process::id().to_string().as_bytes())
}

/// The process id in a lock file that was just opened; `None` if the holder has not written it yet.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
        // Closing the file is not enough: a child process may still have the same open file.
        let _ = self.file.unlock();
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                let cache = path.parent().and_then(Path::parent).unwrap_or(path);
                Problem::new(format!("the cache {} cannot be written: {error}", cache.display()))
                    .hint("choose another folder with --cache, or ask the owner; `plan`, `why` and `sql` only read")
                    .into()
            }
            _ => Error::new(error).context(format!("cannot open {}", path.display())),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_holds_a_lock_and_the_others_learn_who() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let key = Digest::of(b"key");
        let (inside, waited) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let lock = store.lock(key, |holder| {
                        if holder == Some(std::process::id()) {
                            waited.fetch_add(1, Ordering::SeqCst);
                        }
                        Waiting::GoOn
                    });
                    let lock = lock.unwrap().unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::sleep(Duration::from_millis(30));
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                });
            }
        });
        assert!(waited.into_inner() > 0);
        let held = store.lock(key, |_| Waiting::GoOn).unwrap();
        assert!(held.is_some());
        assert!(store.lock(key, |_| Waiting::GiveUp).unwrap().is_none());
    }

    #[test]
    fn the_store_is_shared_or_held_alone_and_the_lock_file_names_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (shared, reading) = (store.share().unwrap(), store.share_to_read().unwrap());
        assert!(store.try_alone().unwrap().is_none());
        drop((shared, reading));
        let alone = store.try_alone().unwrap().unwrap();
        let holder = std::fs::read_to_string(folder.path().join("locks/store")).unwrap();
        assert_eq!(holder, std::process::id().to_string());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| store.share().is_ok());
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waits.is_finished());
            drop(alone);
            assert!(waits.join().unwrap());
        });
    }
}
