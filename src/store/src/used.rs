//! The last use of each artifact. gc counts the age of an artifact from its last use: a link that a build replaces or
//! removes, a pin that is removed, and a build that finds the artifact are uses.
//!
//! The time of a use is the modification time of one of two files. `used/<digest>` is an empty file that is touched
//! when a link or a pin releases the artifact. A file of `index/` names the artifacts of the last build of a pipeline,
//! and every build touches it once, so that a build with nothing to do need not touch one file for each artifact.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};

use super::index::artifacts_of_indexes;
use super::leftovers::changed;
use super::{Store, if_there};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};

/// The folder with one file for each released artifact.
pub(super) const USED: &str = "used";

impl Store {
    /// Notes that the artifact is used now. Call this before a link or a pin of the artifact is removed. Does nothing
    /// if the store does not have the artifact.
    pub fn note_use(&self, artifact: Digest) -> Result<()> {
        note_use_in(&self.root, artifact)
    }

    /// The last uses of all artifacts that have been used since they were made.
    pub(super) fn last_uses(&self) -> Result<HashMap<Digest, SystemTime>> {
        let mut uses = artifacts_of_indexes(self);
        for digest in self.digests_in(USED, "")? {
            let moment = changed(&self.root.join(USED).join(digest.to_hex()));
            uses.entry(digest).and_modify(|known: &mut SystemTime| *known = moment.max(*known)).or_insert(moment);
        }
        Ok(uses)
    }
}

/// Like [`Store::note_use`], for the cache that has the artifact in this folder: a link can lead into another cache.
pub fn note_use_of(artifact: &Path) -> Result<()> {
    let digest = artifact.file_name().and_then(|name| name.to_str()?.parse().ok());
    match (artifact.parent().and_then(Path::parent), digest) {
        (Some(root), Some(digest)) => note_use_in(root, digest),
        _ => Ok(()),
    }
}

fn note_use_in(root: &Path, artifact: Digest) -> Result<()> {
    let artifact = artifact.to_hex();
    if !root.join("artifacts").join(&artifact).exists() {
        return Ok(());
    }
    let (folder, path) = (root.join(USED), root.join(USED).join(artifact));
    let note = || -> std::io::Result<()> {
        match touch(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => std::fs::create_dir_all(&folder)?,
            // The file may belong to another user of a shared cache. Every user of the cache can replace files in it.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                if_there(std::fs::remove_file(&path)).map(drop)?;
            }
            other => return other,
        }
        OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        touch(&path)
    };
    note().with_context(|| format!("cannot note the use of an artifact in {}", path.display()))
}

/// Sets the times of a file to the present.
pub(super) fn touch(path: &Path) -> std::io::Result<()> {
    // The present time as the kernel sets it needs only permission to write; a given time needs ownership of the file.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_use_is_noted_for_artifacts_that_exist_in_the_cache_that_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| Store::open(&folder.path().join(name)).unwrap());
        let digest = Digest::of(b"artifact");
        one.note_use(digest).unwrap();
        assert!(one.last_uses().unwrap().is_empty());
        std::fs::create_dir(other.artifact_folder(digest)).unwrap();
        note_use_of(&other.artifact_folder(digest)).unwrap();
        assert!(one.last_uses().unwrap().is_empty());
        let file = other.root().join(USED).join(digest.to_hex());
        let before = SystemTime::now() - Duration::from_hours(72);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
        assert_eq!(other.last_uses().unwrap()[&digest], before);
        other.note_use(digest).unwrap();
        assert!(other.last_uses().unwrap()[&digest].elapsed().unwrap() < Duration::from_hours(1));
    }
}
