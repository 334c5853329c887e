//! Artifacts: a commit makes a finished folder an artifact by one rename, and a look-up checks an artifact before the
//! artifact is used. identity.rs compares fingerprints; verify.rs reads whole artifacts again.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::manifest::{folders, list};
use super::{ActionRecord, MANIFEST, Manifest, Store, forbid_writing, if_there, remove_tree, sync_folder};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Error, Result, bail, ensure};
use raisin_contract::{REFERENCES, references};

/// An artifact in the store.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub digest: Digest,
    pub folder: PathBuf,
    pub manifest: Manifest,
    pub references: BTreeMap<String, Digest>,
}

/// The result of a look-up.
#[derive(Debug)]
pub enum Lookup {
    Hit(Box<ActionRecord>),
    Miss,
    /// The action record or the artifact was damaged and is now set aside, or the artifact is gone. The text says which
    /// of these it is, and names the damage.
    Lost(String),
}

impl Store {
    /// Looks up the action with this key. Before a hit is returned, these are checked: the seal of the action record,
    /// the digest of the manifest, and the name, size and fingerprint of each file. A file whose fingerprint differs is
    /// read.
    pub fn lookup(&self, key: Digest) -> Result<Lookup> {
        let record = match self.record(key) {
            Ok(None) => return Ok(Lookup::Miss),
            Ok(Some(record)) => record,
            Err(error) => {
                let error = damage(error)?;
                self.set_aside(&self.record_file(key))?;
                return Ok(Lookup::Lost(format!("set aside: {error:#}")));
            }
        };
        if self.is_untouched(record.artifact) {
            return Ok(Lookup::Hit(Box::new(record)));
        }
        match self.inspect(record.artifact) {
            Ok(Some(_)) => Ok(Lookup::Hit(Box::new(record))),
            Ok(None) => {
                let text = format!("the artifact {} of stage `{}` is gone", record.artifact.short(), record.stage);
                Ok(Lookup::Lost(text))
            }
            Err(_) => {
                // A concurrent build may have repaired the artifact by now. Therefore it is checked again under the
                // lock.
                let _one_at_a_time = self.lock_artifacts()?;
                let Err(error) = self.inspect(record.artifact) else { return Ok(Lookup::Hit(Box::new(record))) };
                let error = damage(error)?;
                self.set_aside(&self.artifact_folder(record.artifact))?;
                let artifact = record.artifact.short();
                Ok(Lookup::Lost(format!("set aside: the artifact {artifact} of stage `{}`: {error:#}", record.stage)))
            }
        }
    }

    /// Checks an artifact, and reads each file whose fingerprint differs from the identity. Returns `None` if no
    /// artifact has this digest.
    ///
    /// # Errors
    /// The artifact is damaged or cannot be read. The error names the file and the damage.
    pub fn inspect(&self, digest: Digest) -> Result<Option<Artifact>> {
        let folder = self.artifact_folder(digest);
        let cannot = || format!("cannot read the {MANIFEST} of the artifact");
        let read = || if_there(std::fs::read(folder.join(MANIFEST))).with_context(cannot);
        let bytes = match read()? {
            Some(bytes) => bytes,
            None if !folder.exists() => return Ok(None),
            // A concurrent commit may have renamed the complete folder into place since the first read.
            None => match read()? {
                Some(bytes) => bytes,
                None if !folder.exists() => return Ok(None),
                None => bail!("the artifact has no {MANIFEST}"),
            },
        };
        ensure!(Digest::of(&bytes) == digest, "the {MANIFEST} was changed");
        let manifest = Manifest::from_bytes(&bytes)?;
        let mut expected = manifest.files.iter().peekable();
        let files = list(&folder)?;
        for found in &files {
            if found.path == MANIFEST {
                continue;
            }
            match expected.next_if(|entry| entry.path <= found.path) {
                Some(entry) if entry.path == found.path => {
                    let (path, size, now) = (&entry.path, entry.size, found.fingerprint.size);
                    ensure!(now == size, "{path} has {now} bytes where {size} were written");
                }
                Some(entry) => bail!("{} is missing", entry.path),
                None => bail!("{} was added", found.path),
            }
        }
        if let Some(entry) = expected.next() {
            bail!("{} is missing", entry.path);
        }
        self.check_identity(digest, &manifest, &files)?;
        let references = if manifest.files.iter().any(|file| file.path == REFERENCES) {
            read_references(&folder)?
        } else {
            BTreeMap::new()
        };
        for (name, target) in &references {
            let there = self.artifact_folder(*target).join(MANIFEST).exists();
            ensure!(there, "the artifact {}, which this artifact needs as `{name}`, is gone", target.short());
        }
        if !self.is_untouched(digest) {
            self.remember_identity(digest, &files, &references);
        }
        Ok(Some(Artifact { digest, folder, manifest, references }))
    }

    /// Makes the finished folder `out` an artifact: hashes and syncs its files, then renames the folder into the store.
    /// If the store has an equal artifact already, that artifact stays and `out` is removed.
    pub fn commit(&self, out: &Path) -> Result<Artifact> {
        self.commit_if(out, |_| Ok(()))
    }

    /// As [`Self::commit`], for a folder that came from elsewhere and must be the artifact with this digest.
    ///
    /// # Errors
    /// The folder has other files or other bytes. Nothing was put into place, and `out` is as it was.
    pub fn commit_expected(&self, out: &Path, expected: Digest) -> Result<Artifact> {
        self.commit_if(out, |digest| {
            let (wanted, found) = (expected.short(), digest.short());
            ensure!(digest == expected, "the files of {} are the artifact {found} instead of {wanted}", out.display());
            Ok(())
        })
    }

    /// As [`Self::commit`]. `accept` gets the digest of the artifact before anything is put into place.
    ///
    /// # Errors
    /// As [`Self::commit`], or `accept` returns an error. Then `out` is as it was.
    pub fn commit_if(&self, out: &Path, accept: impl FnOnce(Digest) -> Result<()>) -> Result<Artifact> {
        // Sealing and renaming would change a folder outside, to which a link leads.
        let is_folder = out.symlink_metadata().is_ok_and(|found| found.is_dir());
        ensure!(is_folder, "{} is not a folder", out.display());
        let manifest = Manifest::of_folder(out)?;
        ensure!(!manifest.files.is_empty(), "the stage wrote no files");
        let references = read_references(out)?;
        let bytes = manifest.to_bytes()?;
        let digest = Digest::of(&bytes);
        accept(digest)?;
        let folder = self.artifact_folder(digest);
        // This check reads files whose fingerprint differs, so that the check under the lock takes little time.
        let _ = self.inspect(digest);
        // Several stages may make the same artifact at the same time, and find the same damaged artifact in its place.
        // No stage holds the lock while it syncs files. Therefore the place is checked before the syncs and after them.
        let there = self.lock_artifacts().and_then(|_one_at_a_time| self.make_room(digest))?;
        if let Some(artifact) = there {
            remove_tree(out)?;
            return Ok(artifact);
        }
        let seal = || -> std::io::Result<()> {
            // A commit that was killed may have left a manifest that cannot be written.
            if_there(std::fs::remove_file(out.join(MANIFEST)))?;
            std::fs::write(out.join(MANIFEST), &bytes)?;
            for path in manifest.files.iter().map(|file| file.path.as_str()).chain([MANIFEST]) {
                let path = out.join(path);
                std::fs::File::open(&path)?.sync_all()?;
                // All files get the same mode, whatever mode the library that wrote the file has set.
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444))?;
            }
            folders(out)?.iter().try_for_each(|folder| sync_folder(folder))
        };
        seal().with_context(|| format!("cannot finish {}", out.display()))?;
        let one_at_a_time = self.lock_artifacts()?;
        if let Some(artifact) = self.make_room(digest)? {
            drop(one_at_a_time);
            remove_tree(out)?;
            return Ok(artifact);
        }
        if let Err(error) = std::fs::rename(out, &folder) {
            // Another machine may have put the same artifact into place, if its locks do not hold here.
            if let Ok(Some(artifact)) = self.inspect(digest) {
                drop(one_at_a_time);
                remove_tree(out)?;
                return Ok(artifact);
            }
            return Err(error).with_context(|| format!("cannot move {} into place", out.display()));
        }
        let settle = || -> std::io::Result<()> {
            sync_folder(&self.root.join("artifacts"))?;
            folders(&folder)?.iter().try_for_each(|folder| forbid_writing(folder))
        };
        settle().with_context(|| format!("cannot finish {}", folder.display()))?;
        self.remember_identity(digest, &list(&folder)?, &references);
        Ok(Artifact { digest, folder, manifest, references })
    }

    /// The artifact with this digest, if the store has it. A damaged artifact is set aside, so that its place is free.
    fn make_room(&self, digest: Digest) -> Result<Option<Artifact>> {
        self.inspect(digest).or_else(|error| {
            damage(error)?;
            self.set_aside(&self.artifact_folder(digest))?;
            Ok(None)
        })
    }

    /// All artifacts that pass [`Self::inspect`], sorted by digest.
    pub fn artifacts(&self) -> Result<Vec<Artifact>> {
        Ok(self.artifact_digests()?.into_iter().filter_map(|digest| self.inspect(digest).ok().flatten()).collect())
    }

    /// The digests of all artifacts, including damaged ones.
    pub fn artifact_digests(&self) -> Result<Vec<Digest>> {
        self.digests_in("artifacts", "")
    }

    /// The manifest of an artifact, without a check of its files; `None` if the manifest is missing or damaged.
    pub fn manifest(&self, digest: Digest) -> Option<Manifest> {
        Manifest::from_bytes(&std::fs::read(self.artifact_folder(digest).join(MANIFEST)).ok()?).ok()
    }
}

/// Decides whether an error means damage. Returns the error if it does. If the error comes from the machine (no free
/// file descriptor, no memory, no permission), the function fails with this error: the file may be whole and must not
/// be set aside.
pub(super) fn damage(error: Error) -> Result<Error> {
    use std::io::ErrorKind;
    let machine = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).is_some_and(|error| {
        let damage = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory);
        !damage && error.raw_os_error() != Some(rustix::io::Errno::IO.raw_os_error())
    });
    if machine { Err(error) } else { Ok(error) }
}

/// The artifacts to which the artifact in `folder` refers, by name.
pub(super) fn read_references(folder: &Path) -> Result<BTreeMap<String, Digest>> {
    let digests = |references: BTreeMap<String, String>| {
        references.into_iter().map(|(name, digest)| Ok((name, digest.parse()?))).collect::<Result<_>>()
    };
    references(folder).and_then(digests).with_context(|| format!("the {REFERENCES} of the artifact is unreadable"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::record::tests::sample;
    use super::*;

    fn made(store: &Store, files: &[(&str, &str)]) -> Artifact {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let out = store.root().join(format!("tmp/out-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        for (path, text) in files {
            let path = out.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        store.commit(&out).unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    fn damage(artifact: &Artifact, change: impl FnOnce(&Path) -> std::io::Result<()>) {
        for folder in folders(&artifact.folder).unwrap() {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let file = artifact.folder.join("sub/b");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        change(&file).unwrap();
    }

    /// An artifact of these files, and the key of an action record that names it.
    fn recorded(store: &Store, files: &[(&str, &str)]) -> (Digest, Artifact) {
        let (key, artifact) = (Digest::of(b"key"), made(store, files));
        store.write_record(&sample(key, artifact.digest)).unwrap();
        (key, artifact)
    }

    #[test]
    fn equal_content_is_one_read_only_artifact() {
        let (_folder, store) = store();
        let one = made(&store, &[("a", "1"), ("sub/b", "22")]);
        let other = made(&store, &[("sub/b", "22"), ("a", "1")]);
        assert_eq!((one.digest, one.manifest.bytes()), (other.digest, 3));
        assert_ne!(made(&store, &[("a", "22"), ("sub/b", "1")]).digest, one.digest);
        assert_eq!(store.artifacts().unwrap().len(), 2);
        let mode = |path: &str| one.folder.join(path).metadata().unwrap().permissions().mode() & 0o222;
        assert_eq!([mode(""), mode("sub"), mode("a"), mode("manifest.json")], [0; 4]);
        assert!(store.commit(&store.root().join("tmp/none")).is_err());
    }

    #[test]
    fn a_commit_that_was_killed_is_done_again_and_a_stage_writes_no_manifest() {
        let files = [("a", "1"), ("sub/b", "22")];
        let (_folder, other) = store();
        let whole = std::fs::read(made(&other, &files).folder.join(MANIFEST)).unwrap();
        for left in [&whole[..], &whole[..whole.len() / 2], &[], b"{}"] {
            let (_folder, store) = store();
            let out = store.root().join("tmp/out");
            std::fs::create_dir_all(out.join("sub")).unwrap();
            for (path, text) in files.map(|(path, text)| (path, text.as_bytes())).into_iter().chain([(MANIFEST, left)])
            {
                std::fs::write(out.join(path), text).unwrap();
                std::fs::set_permissions(out.join(path), std::fs::Permissions::from_mode(0o444)).unwrap();
            }
            let committed = store.commit(&out);
            if left == b"{}" {
                let said = committed.unwrap_err().to_string();
                assert!(said.contains("a stage may not write a file named manifest.json"), "{said}");
            } else {
                assert_eq!(std::fs::read(committed.unwrap().folder.join(MANIFEST)).unwrap(), whole);
            }
        }
    }

    /// A test with random graphs found this error: `inspect` looked for the manifest before a concurrent commit renamed
    /// the folder into place, and for the folder after that. It took the new artifact for one without manifest, and the
    /// artifact was set aside.
    #[test]
    fn stages_that_make_the_same_bytes_at_once_share_one_artifact_and_none_is_set_aside() {
        let (_folder, store) = store();
        for round in 0..50 {
            let text = round.to_string();
            let digests: Vec<Digest> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..6).map(|_| scope.spawn(|| made(&store, &[("text", text.as_str())]).digest)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(digests.iter().all(|digest| *digest == digests[0]));
            assert!(store.inspect(digests[0]).unwrap().is_some());
        }
        assert!(
            !store.root.join("damaged").exists() || std::fs::read_dir(store.root.join("damaged")).unwrap().count() == 0
        );
    }

    #[test]
    fn missing_truncated_added_and_changed_files_are_each_named_and_never_served() {
        type ArtifactChange = fn(&Path) -> std::io::Result<()>;
        let changes: [(ArtifactChange, &str); 6] = [
            (|file| std::fs::write(file, "23"), "the content of sub/b is not what was written"),
            (|file| std::fs::remove_file(file), "sub/b is missing"),
            (|file| std::fs::write(file, "2"), "sub/b has 1 bytes where 2 were written"),
            (|file| std::fs::write(file.with_file_name("c"), ""), "sub/c was added"),
            (|file| std::fs::write(file.with_file_name("../manifest.json"), "{}"), "manifest.json was changed"),
            (|file| std::fs::remove_file(file.with_file_name("../manifest.json")), "has no manifest.json"),
        ];
        for (change, expected) in changes {
            let (_folder, store) = store();
            let (key, artifact) = recorded(&store, &[("a", "1"), ("sub/b", "22")]);
            assert!(matches!(store.lookup(key).unwrap(), Lookup::Hit(_)));
            damage(&artifact, change);
            let Lookup::Lost(reason) = store.lookup(key).unwrap() else { panic!("{expected}: not seen") };
            assert!(reason.contains(expected) && reason.contains("stage `pool`"), "{reason}");
            assert!(!artifact.folder.exists());
            // After a stage makes the artifact again, the look-up is a hit again.
            made(&store, &[("a", "1"), ("sub/b", "22")]);
            assert!(matches!(store.lookup(key).unwrap(), Lookup::Hit(_)));
        }
    }

    #[test]
    fn an_artifact_whose_reference_is_gone_is_not_served() {
        let (_folder, store) = store();
        let base = made(&store, &[("weights", "1")]);
        let references = format!("{{\"base\":\"{}\"}}", base.digest);
        let adapter = made(&store, &[("adapter", "2"), (REFERENCES, &references)]);
        assert_eq!(adapter.references["base"], base.digest);
        assert!(store.inspect(adapter.digest).unwrap().is_some());
        store.set_aside(&base.folder).unwrap();
        let error = store.inspect(adapter.digest).unwrap_err().to_string();
        assert!(error.contains("needs as `base`, is gone"), "{error}");
    }

    #[test]
    fn a_torn_record_is_a_miss_that_says_so() {
        let (_folder, store) = store();
        let (key, _) = recorded(&store, &[("a", "1")]);
        let bytes = std::fs::read(store.record_file(key)).unwrap();
        std::fs::write(store.record_file(key), &bytes[..bytes.len() / 2]).unwrap();
        assert!(matches!(store.lookup(key).unwrap(), Lookup::Lost(reason) if reason.starts_with("set aside: ")));
        assert!(matches!(store.lookup(key).unwrap(), Lookup::Miss));
    }

    #[test]
    fn a_lost_artifact_is_not_said_to_be_set_aside() {
        let (_folder, store) = store();
        let (key, artifact) = recorded(&store, &[("a", "1")]);
        store.set_aside(&artifact.folder).unwrap();
        let Lookup::Lost(reason) = store.lookup(key).unwrap() else { panic!("a hit") };
        assert_eq!(reason, format!("the artifact {} of stage `pool` is gone", artifact.digest.short()));
    }
}
