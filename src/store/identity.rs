//! Whether an artifact's files are still the ones that were hashed, told without reading them.
//!
//! `identity/<digest>.json` remembers size, times and inode of each file as they were when its content was last known
//! to be right. An artifact's files are never written again, so any difference is a doubt: whoever wrote a byte moved
//! the inode's own time, even where mode and modification time were put back. A doubt is settled by reading; a cache
//! that was copied to another disk is read once and then believed again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::manifest::Found;
use super::{Fingerprint, MANIFEST, Manifest, Store, write_atomically};
use crate::digest::Digest;
use crate::error::{Context as _, Result, ensure};

type Identity = BTreeMap<String, Fingerprint>;

impl Store {
    /// Holds the files of an artifact against what is known of them, and reads those that are in doubt.
    ///
    /// # Errors
    /// A file whose content is not what was written.
    pub(super) fn check_identity(&self, digest: Digest, manifest: &Manifest, found: &[Found]) -> Result<()> {
        let known = self.identity(digest);
        let mut doubtful = false;
        let files = found.iter().filter(|found| found.path != MANIFEST);
        for (entry, found) in manifest.files.iter().zip(files) {
            if known.get(&found.path) == Some(&found.fingerprint) {
                continue;
            }
            doubtful = true;
            let path = self.artifact_folder(digest).join(&found.path);
            let now = Digest::of_file(&path).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(now == entry.blake3, "the content of {} is not what was written", found.path);
        }
        if doubtful {
            self.remember_identity(digest, found)?;
        }
        Ok(())
    }

    pub(super) fn remember_identity(&self, digest: Digest, found: &[Found]) -> Result<()> {
        let files = found.iter().filter(|found| found.path != MANIFEST);
        let identity: Identity = files.map(|found| (found.path.clone(), found.fingerprint)).collect();
        let path = self.identity_file(digest);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        write_atomically(&path, &serde_json::to_vec(&identity)?)
    }

    pub(super) fn identity_file(&self, digest: Digest) -> PathBuf {
        self.root.join("identity").join(format!("{digest}.json"))
    }

    /// What is known; nothing where that cannot be read, which is a doubt like any other.
    fn identity(&self, digest: Digest) -> Identity {
        let bytes = std::fs::read(self.identity_file(digest)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}
