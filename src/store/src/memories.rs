//! Removes damaged memories. [`raisin_base::cache_only`] says what a memory is; index.rs, identity.rs, files.rs,
//! src/pipeline/src/checked.rs and src/corpus/src/encoded.rs define the contents.

use std::path::PathBuf;

use super::leftovers::is_temporary;
use super::{Store, if_there};
use raisin_base::cache_only::is_whole;

/// The folders of a cache that hold memories only.
pub(super) const MEMORIES: [&str; 4] = ["identity", "index", "checked", "tokens"];

impl Store {
    /// Removes all damaged memories. Returns how many were removed, and how many could not be removed, for example
    /// because the cache belongs to another user. Readers ignore a damaged memory.
    pub(super) fn forget_damaged(&self) -> (u64, u64) {
        let mut paths = vec![self.root.join("files")];
        for folder in MEMORIES {
            let entries = std::fs::read_dir(self.root.join(folder)).into_iter().flatten();
            paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        // A process may be writing a temporary file at this moment.
        let damaged = |path: &&PathBuf| !is_temporary(path) && path.exists() && !is_whole(path);
        let (mut removed, mut kept) = (0, 0);
        for path in paths.iter().filter(damaged) {
            match if_there(std::fs::remove_file(path)) {
                Ok(Some(())) => removed += 1,
                Ok(None) => {}
                Err(_) => kept += 1,
            }
        }
        (removed, kept)
    }
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
            assert_eq!(store.forget_damaged(), (0, 0));
            std::fs::write(&path, "damaged").unwrap();
            assert_eq!(store.forget_damaged(), (1, 0), "{name}");
            assert!(!path.exists() && temporary.exists());
        }
    }
}
