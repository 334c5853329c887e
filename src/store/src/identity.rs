//! Whether an artifact's files are still the ones that were hashed, told without reading them.
//!
//! `identity/<digest>` remembers size, times and inode of each file and folder as they were when the content was
//! last known to be right. An artifact is never written again, so any difference is a doubt: whoever wrote a byte moved
//! the inode's own time, even where mode and modification time were put back, and whoever added or removed a file moved
//! the folder's. A doubt is settled by reading; a cache that was copied to another disk is read once and then believed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::manifest::{Found, folders};
use super::memory::{recall, remember};
use super::{Fingerprint, MANIFEST, Manifest, Store};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, ensure};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// By path below the artifact, its manifest among them.
    pub files: BTreeMap<String, Fingerprint>,
    /// The same of its folders; the artifact's own is the empty path.
    pub folders: BTreeMap<String, Fingerprint>,
    pub references: BTreeMap<String, Digest>,
}

impl Identity {
    /// Whether it says enough for an artifact to be believed by it.
    pub fn is_complete(&self) -> bool {
        self.folders.contains_key("") && self.files.contains_key(MANIFEST)
    }
}

impl Store {
    /// Whether nobody has touched the artifact, or one that it refers to, since it was known to be right. If not, it may
    /// still be right: [`Store::inspect`] finds out.
    pub(super) fn is_untouched(&self, digest: Digest) -> bool {
        let Some(identity) = self.identity(digest) else { return false };
        let folder = self.artifact_folder(digest);
        // The empty path joined would end in a slash, which is the folder all the same.
        let stands =
            |(path, known): (&String, &Fingerprint)| Fingerprint::of(&folder.join(path)).is_ok_and(|now| now == *known);
        identity.is_complete()
            && identity.folders.iter().all(stands)
            && identity.files.iter().all(stands)
            && identity.references.values().all(|target| self.artifact_folder(*target).join(MANIFEST).exists())
    }

    /// Holds the files of an artifact against what is known of them, and reads those that are in doubt.
    ///
    /// # Errors
    /// A file whose content is not what was written.
    pub(super) fn check_identity(&self, digest: Digest, manifest: &Manifest, found: &[Found]) -> Result<()> {
        let known = self.identity(digest).unwrap_or_default();
        for (entry, found) in manifest.files.iter().zip(found.iter().filter(|found| found.path != MANIFEST)) {
            if known.files.get(&found.path) != Some(&found.fingerprint) {
                let path = self.artifact_folder(digest).join(&found.path);
                let now = Digest::of_file(&path).with_context(|| format!("cannot read {}", path.display()))?;
                ensure!(now == entry.blake3, "the content of {} is not what was written", found.path);
            }
        }
        Ok(())
    }

    /// Writes down what an artifact looks like that was just found right. Where that cannot be written, or is lost with
    /// the power, the artifact is in doubt and will be read again: no reason to fail, and none for a sync.
    pub(super) fn remember_identity(&self, digest: Digest, found: &[Found], references: &BTreeMap<String, Digest>) {
        let top = self.artifact_folder(digest);
        let mut identity = Identity { references: references.clone(), ..Identity::default() };
        identity.files.extend(found.iter().map(|found| (found.path.clone(), found.fingerprint)));
        for folder in folders(&top).unwrap_or_default() {
            let name = folder.strip_prefix(&top).unwrap_or(&folder).to_string_lossy().into_owned();
            if let Ok(fingerprint) = Fingerprint::of(&folder) {
                identity.folders.insert(name, fingerprint);
            }
        }
        if let Ok(bytes) = serde_json::to_vec(&identity) {
            remember(&self.identity_file(digest), &bytes);
        }
    }

    pub(super) fn identity_file(&self, digest: Digest) -> PathBuf {
        self.root.join("identity").join(digest.to_hex())
    }

    /// What is known; nothing where that cannot be read, which is a doubt like any other.
    pub(super) fn identity(&self, digest: Digest) -> Option<Identity> {
        serde_json::from_slice(&recall(&self.identity_file(digest))?).ok()
    }
}
