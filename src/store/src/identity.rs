//! The identity of an artifact: the fingerprints of its files and folders. By comparing fingerprints, the store detects
//! changes of an artifact without reading the files.
//!
//! `identity/<digest>` holds the fingerprint of each file and folder at the time when the content was last known to be
//! right. An artifact is never written again. Therefore a differing fingerprint means that the file may be damaged: a
//! write changes the ctime of the inode, even if mode and modification time are restored, and adding or removing a file
//! changes the times of the folder. The store then reads the file to decide. For example, a cache that was copied to
//! another disk is read once, and the new fingerprints are saved.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::manifest::{ListedFile, folders};
use super::{Fingerprint, MANIFEST, Manifest, Store};
use raisin_base::cache_only::{recall, remember};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result, ensure};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The fingerprints of all files, including the manifest, by path relative to the artifact.
    pub files: BTreeMap<String, Fingerprint>,
    /// The fingerprints of all folders, by path relative to the artifact. The folder of the artifact has the empty
    /// path.
    pub folders: BTreeMap<String, Fingerprint>,
    pub references: BTreeMap<String, Digest>,
}

impl Identity {
    /// Whether the identity contains the manifest and the folder of the artifact.
    fn is_complete(&self) -> bool {
        self.folders.contains_key("") && self.files.contains_key(MANIFEST)
    }

    /// Whether all fingerprints of the artifact are unchanged, and all artifacts to which it refers exist.
    pub fn is_unchanged(&self, artifact: Digest, reader: &mut FingerprintReader) -> bool {
        let artifact = artifact.to_hex();
        let mut is_unchanged = |(path, known): (&String, &Fingerprint)| {
            // With an empty path, the joined path ends with a slash, and still names the folder.
            reader.read(["artifacts/", &artifact, "/", path]).as_ref() == Some(known)
        };
        self.is_complete()
            && self.folders.iter().all(&mut is_unchanged)
            && self.files.iter().all(&mut is_unchanged)
            && self.references.values().all(|of| reader.read(["artifacts/", &of.to_hex(), "/", MANIFEST]).is_some())
    }
}

/// Reads fingerprints by paths relative to the root of the store. With an open descriptor of the root, the kernel need
/// not resolve the path of the root each time.
pub(super) struct FingerprintReader {
    root: OwnedFd,
    path: String,
}

impl FingerprintReader {
    pub fn of(store: &Store) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&store.root, flags, Mode::empty()).ok()?;
        Some(Self { root, path: String::new() })
    }

    pub fn read(&mut self, path: [&str; 4]) -> Option<Fingerprint> {
        self.path.clear();
        path.into_iter().for_each(|part| self.path.push_str(part));
        rustix::fs::statat(&self.root, self.path.as_str(), AtFlags::empty())
            .ok()
            .map(|status| Fingerprint::from(&status))
    }
}

impl Store {
    /// Whether all fingerprints of the artifact are unchanged, and all artifacts to which it refers exist. If not, the
    /// content may still be right: [`Store::inspect`] reads the files to decide.
    pub(super) fn is_untouched(&self, digest: Digest) -> bool {
        let Some(identity) = self.identity(digest) else { return false };
        FingerprintReader::of(self).is_some_and(|mut reader| identity.is_unchanged(digest, &mut reader))
    }

    /// Compares the fingerprints of the files of an artifact with its identity, and reads each file whose fingerprint
    /// differs.
    ///
    /// # Errors
    /// The content of a file does not have the digest that the manifest states.
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

    /// Saves the identity of an artifact that was just checked. If the identity cannot be written, or is lost in a
    /// power failure, the artifact is read again later. Therefore a failed write is ignored, and the file is not
    /// synced.
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

    /// The saved identity of an artifact; `None` if it is missing or damaged. The artifact is then read.
    pub(super) fn identity(&self, digest: Digest) -> Option<Identity> {
        serde_json::from_slice(&recall(&self.identity_file(digest))?).ok()
    }
}
