//! Removes damaged memories. [`raisin_base::cache_only`] says what a memory is; index.rs, identity.rs, files.rs,
//! src/pipeline/src/checked.rs and src/corpus/src/encoded.rs define the contents.

use std::path::PathBuf;

use super::Store;
use raisin_base::cache_only::recall;
use raisin_base::error::Result;

/// The folders of a cache that hold memories only.
pub(super) const MEMORIES: [&str; 4] = ["identity", "index", "checked", "tokens"];

impl Store {
    /// Removes all damaged memories, and returns their number.
    pub(super) fn forget_damaged(&self) -> Result<u64> {
        let mut paths = vec![self.root.join("files")];
        for folder in MEMORIES {
            let entries = std::fs::read_dir(self.root.join(folder)).into_iter().flatten();
            paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        let damaged = |path: &&PathBuf| path.exists() && recall(path).is_none();
        let mut count = 0;
        for path in paths.iter().filter(damaged) {
            std::fs::remove_file(path)?;
            count += 1;
        }
        Ok(count)
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
            assert_eq!(store.forget_damaged().unwrap(), 0);
            std::fs::write(&path, "damaged").unwrap();
            assert_eq!(store.forget_damaged().unwrap(), 1, "{name}");
            assert!(!path.exists());
        }
    }
}
