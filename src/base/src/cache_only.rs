//! Memories: cache-only files, which raisin can rebuild at any time. This file writes and reads them. The content of
//! each memory is defined where the memory is used.
//!
//! A memory begins with the blake3 of the rest of the file. A memory that is missing or damaged is ignored, which costs
//! time only. Therefore memories are written without a sync, and a failed write is ignored, for example in a cache that
//! belongs to another user.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::digest::Digest;
use crate::files::put;
use crate::sealed::is_damage;

/// A text that identifies this executable (size and modification time), for memories that are valid only for one build
/// of raisin.
pub fn this_executable() -> Option<String> {
    let metadata = std::fs::metadata("/proc/self/exe").ok()?;
    Some(format!("{} {} {}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// Writes a memory.
pub fn remember(path: &Path, bytes: &[u8]) {
    let seal = Digest::of(bytes);
    let write = || put(path, &[seal.bytes(), bytes], |_| Ok(()));
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
    let mut file = File::open(path).ok()?;
    let mut seal = [0; 32];
    file.read_exact(&mut seal).ok()?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata().ok()?.len()).ok()?.saturating_sub(32));
    file.read_to_end(&mut bytes).ok()?;
    (*Digest::of(&bytes).bytes() == seal).then_some(bytes)
}

/// Whether a memory is undamaged. The content is not kept in the process's memory.
///
/// # Errors
/// The memory cannot be read at the moment, for example because rights, descriptors or memory are missing, or because
/// it is gone. Such an error says nothing about its content.
pub fn is_whole(path: &Path) -> std::io::Result<bool> {
    let check = || -> std::io::Result<bool> {
        let mut file = File::open(path)?;
        let mut seal = [0; 32];
        file.read_exact(&mut seal)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        Ok(*hasher.finalize().as_bytes() == seal)
    };
    match check() {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof || is_damage(&error) => Ok(false),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_byte_and_no_cut_of_a_memory_is_believed() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("identity/some");
        remember(&path, b"what there was");
        assert_eq!(recall(&path).as_deref(), Some(&b"what there was"[..]));
        assert!(is_whole(&path)?);
        let whole = std::fs::read(&path)?;
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            std::fs::write(&path, &flipped)?;
            assert!(recall(&path).is_none() && !is_whole(&path)?, "byte {place}");
            std::fs::write(&path, &whole[..place])?;
            assert!(recall(&path).is_none() && !is_whole(&path)?, "cut at {place}");
        }
        Ok(())
    }

    #[test]
    fn a_memory_that_cannot_be_read_at_the_moment_is_not_called_damaged() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("some");
        assert_eq!(is_whole(&path).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
        // Opening a link to itself fails, although nothing is known about the content.
        std::os::unix::fs::symlink("some", &path)?;
        assert!(is_whole(&path).is_err());
        Ok(())
    }
}
