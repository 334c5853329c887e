//! Removes damaged memories. [`raisin_base::cache_only`] says what a memory is; index.rs, identity.rs, files.rs,
//! src/pipeline/src/checked.rs, src/corpus/src/encoded.rs and src/remote/src/track define the contents.

use super::leftovers::is_temporary;
use super::{Store, if_there};
use raisin_base::cache_only::is_whole;

/// The folders of a cache that hold memories only.
pub(super) const MEMORIES: [&str; 5] = ["identity", "index", "checked", "tokens", "sent"];

impl Store {
    /// Removes all damaged memories. Memories that cannot be read at the moment stay. Readers ignore both.
    pub(super) fn forget_damaged(&self) -> CheckedMemories {
        let mut paths = vec![self.root.join("files")];
        for folder in MEMORIES {
            let entries = std::fs::read_dir(self.root.join(folder)).into_iter().flatten();
            paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        let mut checked = CheckedMemories::default();
        // A process may be writing a temporary file at this moment.
        for path in paths.iter().filter(|path| !is_temporary(path)) {
            match if_there(is_whole(path)) {
                Ok(None | Some(true)) => {}
                Ok(Some(false)) => match if_there(std::fs::remove_file(path)) {
                    Ok(Some(())) => checked.removed += 1,
                    Ok(None) => {}
                    Err(_) => checked.kept += 1,
                },
                Err(_) => checked.unread += 1,
            }
        }
        checked
    }
}

/// The numbers of memories that are not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CheckedMemories {
    /// Damaged and removed.
    pub removed: u64,
    /// Damaged and not removed, for example because the cache belongs to another user.
    pub kept: u64,
    /// Not readable at the moment.
    pub unread: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::cache_only::remember;

    #[test]
    fn damaged_memories_are_removed_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for name in MEMORIES {
            let path = folder.path().join(name).join("some");
            remember(&path, b"what there was");
            // A killed process has left a temporary file.
            let temporary = path.with_file_name(".some.17.3");
            std::fs::write(&temporary, "half").unwrap();
            assert_eq!(store.forget_damaged(), CheckedMemories::default());
            std::fs::write(&path, "damaged").unwrap();
            assert_eq!(store.forget_damaged(), CheckedMemories { removed: 1, ..Default::default() }, "{name}");
            assert!(!path.exists() && temporary.exists());
            // It cannot be read, and nothing says that its content is damaged.
            std::os::unix::fs::symlink("some", &path).unwrap();
            assert_eq!(store.forget_damaged(), CheckedMemories { unread: 1, ..Default::default() }, "{name}");
            assert!(path.symlink_metadata().is_ok());
            std::fs::remove_file(&path).unwrap();
        }
    }
}
