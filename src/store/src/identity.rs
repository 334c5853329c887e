//! Whether an artifact's files are still the ones that were hashed, told without reading them.
//!
//! `identity/<digest>` remembers size, times and inode of each file and folder as they were when the content was
//! last known to be right. An artifact is never written again, so any difference is a doubt: whoever wrote a byte moved
//! the inode's own time, even where mode and modification time were put back, and whoever added or removed a file moved
//! the folder's. A doubt is settled by reading; a cache that was copied to another disk is read once and then believed.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::cache_only::{recall, remember};
use super::manifest::{ListedFile, folders};
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
    fn is_complete(&self) -> bool {
        self.folders.contains_key("") && self.files.contains_key(MANIFEST)
    }

    /// Whether nobody has touched the artifact that this was known of, or one that it refers to: every file and folder looks
    /// as it did.
    pub fn stands(&self, artifact: Digest, eyes: &mut Eyes) -> bool {
        let artifact = artifact.to_hex();
        let mut stands = |(path, known): (&String, &Fingerprint)| {
            // The empty path joined would end in a slash, which is the folder all the same.
            eyes.see(["artifacts/", &artifact, "/", path]).as_ref() == Some(known)
        };
        self.is_complete()
            && self.folders.iter().all(&mut stands)
            && self.files.iter().all(&mut stands)
            && self.references.values().all(|of| eyes.see(["artifacts/", &of.to_hex(), "/", MANIFEST]).is_some())
    }
}

/// Looks at files by their way from the store's root, which the kernel then need not walk to each time.
pub(super) struct Eyes {
    root: OwnedFd,
    path: String,
}

impl Eyes {
    pub fn of(store: &Store) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&store.root, flags, Mode::empty()).ok()?;
        Some(Self { root, path: String::new() })
    }

    pub fn see(&mut self, path: [&str; 4]) -> Option<Fingerprint> {
        self.path.clear();
        path.into_iter().for_each(|part| self.path.push_str(part));
        rustix::fs::statat(&self.root, self.path.as_str(), AtFlags::empty()).ok().map(|seen| Fingerprint::from(&seen))
    }
}

impl Store {
    /// Whether nobody has touched the artifact, or one that it refers to, since it was known to be right. If not, it may
    /// still be right: [`Store::inspect`] finds out.
    pub(super) fn is_untouched(&self, digest: Digest) -> bool {
        let Some(identity) = self.identity(digest) else { return false };
        Eyes::of(self).is_some_and(|mut eyes| identity.stands(digest, &mut eyes))
    }

    /// Holds the files of an artifact against what is known of them, and reads those that are in doubt.
    ///
    /// # Errors
    /// A file whose content is not what was written.
    pub(super) fn check_identity(&self, digest: Digest, manifest: &Manifest, found: &[ListedFile]) -> Result<()> {
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
    pub(super) fn remember_identity(
        &self,
        digest: Digest,
        found: &[ListedFile],
        references: &BTreeMap<String, Digest>,
    ) {
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
