//! Memories: cache-only files, which raisin can rebuild at any time. This file writes, reads and removes them. Their
//! content is defined in index.rs, identity.rs, files.rs and src/pipeline/src/checked.rs.
//!
//! A memory begins with the blake3 of the rest of the file. A memory that is missing or damaged is ignored, which costs
//! time only. Therefore memories are written without a sync, and a failed write is ignored, for example in a cache that
//! belongs to another user.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Store, put};
use raisin_base::digest::Digest;
use raisin_base::error::Result;

/// A text that identifies this executable (size and modification time), for memories that are valid only for one build
/// of raisin.
pub fn this_executable() -> Option<String> {
    let metadata = std::fs::metadata("/proc/self/exe").ok()?;
    Some(format!("{} {} {}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// Writes a memory.
pub fn remember(path: &Path, bytes: &[u8]) {
    let mut sealed = Vec::with_capacity(bytes.len() + 32);
    sealed.extend_from_slice(Digest::of(bytes).bytes());
    sealed.extend_from_slice(bytes);
    let write = || put(path, &sealed, |_| Ok(()));
    // Before the first write, the folder may be missing.
    if let Err(error) = write()
        && error.kind() == ErrorKind::NotFound
        && path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok())
    {
        let _ = write();
    }
}

/// Reads a memory; `None` if it is missing or damaged.
pub fn recall(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let (seal, rest) = bytes.split_first_chunk::<32>()?;
    (Digest::of(rest).bytes() == seal).then(|| bytes.split_off(32))
}

impl Store {
    /// Removes all damaged memories, and returns their number.
    pub(super) fn forget_damaged(&self) -> Result<u64> {
        let mut paths = vec![self.root.join("files")];
        for folder in ["identity", "index", "checked"] {
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

    #[test]
    fn no_flipped_byte_and_no_cut_of_a_memory_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let path = folder.path().join("identity/some");
        remember(&path, b"what there was");
        assert_eq!(recall(&path).unwrap(), b"what there was");
        let whole = std::fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(recall(&path).is_none(), "byte {place}");
            std::fs::write(&path, &whole[..place]).unwrap();
            assert!(recall(&path).is_none(), "cut at {place}");
        }
        assert_eq!(store.forget_damaged().unwrap(), 1);
        assert!(!path.exists());
        assert_eq!(store.forget_damaged().unwrap(), 0);
    }
}
