//! The roots of gc: the pins, and the links in every out folder that builds with this cache have written. gc.rs decides
//! which artifacts are removed.
//!
//! `roots/<blake3 of the path>` holds the absolute path of an out folder. Therefore gc keeps the artifacts of other
//! projects that share the cache, and gc keeps the artifacts of a project even if gc is started in a wrong folder.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::{Store, write_atomically};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};

/// The artifacts from which gc starts.
pub(super) struct Roots {
    pub digests: Vec<Digest>,
    /// The out folders whose links were read.
    pub folders: BTreeSet<PathBuf>,
    /// Out folders into which a build wrote links, and that no longer exist.
    pub gone: Vec<PathBuf>,
}

impl Store {
    /// Notes `out` as an out folder whose links gc follows. Call this before links are written into `out`. If the note
    /// exists already, nothing is written.
    pub fn note_out_folder(&self, out: &Path) -> Result<()> {
        let out = absolute(out)?;
        let (file, path) = (self.out_folder_note(&out), out.as_os_str().as_bytes());
        if std::fs::read(&file).is_ok_and(|known| known == path) {
            return Ok(());
        }
        let folder = self.root.join("roots");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        write_atomically(&file, path)
    }

    /// The pins, the links in `out`, and the links in all noted out folders.
    ///
    /// # Errors
    /// A folder, link, note or pin cannot be read. gc must then stop, because it would remove artifacts that are in
    /// use.
    pub(super) fn roots(&self, out: &Path) -> Result<Roots> {
        let digests = self.pins()?.into_iter().map(|pin| pin.digest).collect();
        let mut roots = Roots { digests, folders: BTreeSet::new(), gone: Vec::new() };
        let here = absolute(out)?;
        for folder in self.noted_out_folders()?.into_iter().chain([here.clone()]) {
            if roots.folders.contains(&folder) {
                continue;
            }
            if collect_links(&folder, 0, &mut roots.digests)? {
                roots.folders.insert(folder);
            } else if folder != here || self.out_folder_note(&folder).exists() {
                roots.gone.push(folder);
            }
        }
        roots.gone.sort();
        roots.gone.dedup();
        Ok(roots)
    }

    /// The path of the note of an out folder.
    pub(super) fn out_folder_note(&self, out: &Path) -> PathBuf {
        self.root.join("roots").join(Digest::of(out.as_os_str().as_bytes()).to_hex())
    }

    /// All noted out folders.
    fn noted_out_folders(&self) -> Result<Vec<PathBuf>> {
        let mut noted = Vec::new();
        for name in self.digests_in("roots", "")? {
            let path = self.root.join("roots").join(name.to_hex());
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if Digest::of(&bytes) != name {
                let message =
                    format!("the file {} is damaged: it holds the path of an out folder that gc needs", path.display());
                let hint = "run `raisin build` in the project of this out folder: the build repairs the file; if the \
                            project no longer exists, remove the file";
                return Err(Problem::new(message).hint(hint).into());
            }
            noted.push(PathBuf::from(std::ffi::OsString::from_vec(bytes)));
        }
        Ok(noted)
    }
}

fn absolute(out: &Path) -> Result<PathBuf> {
    std::path::absolute(out).with_context(|| format!("cannot find the absolute path of {}", out.display()))
}

/// Collects the digests of all links below `folder`: out/<pipeline>/<stage> and out/<pipeline>/<variant>/<stage> are
/// links to folders whose name is a digest. Any other link to a folder is followed. Returns whether `folder` exists.
fn collect_links(folder: &Path, depth: usize, digests: &mut Vec<Digest>) -> Result<bool> {
    let cannot = |path: &Path| format!("cannot read {}, where links to artifacts may be", path.display());
    let gone = |error: &std::io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(false),
        Err(error) => return Err(error).with_context(|| cannot(folder)),
    };
    for entry in entries {
        let entry = entry.with_context(|| cannot(folder))?;
        let path = entry.path();
        if entry.file_type().with_context(|| cannot(&path))?.is_symlink() {
            let target = match std::fs::read_link(&path) {
                Ok(target) => target,
                // A concurrent build has removed the link.
                Err(error) if gone(&error) => continue,
                Err(error) => return Err(error).with_context(|| cannot(&path)),
            };
            if let Some(digest) = target.file_name().and_then(|name| name.to_str()?.parse().ok()) {
                digests.push(digest);
                continue;
            }
        }
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() && depth < 3 => {
                collect_links(&path, depth + 1, digests)?;
            }
            Ok(_) => {}
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error).with_context(|| cannot(&path)),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn project() -> (tempfile::TempDir, Store, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let out = folder.path().join("out");
        std::fs::create_dir_all(out.join("story")).unwrap();
        (folder, store, out)
    }

    #[test]
    fn links_of_other_projects_and_of_folders_that_lie_elsewhere_are_roots() {
        let (folder, store, out) = project();
        let [one, other, far] = [b"1", b"2", b"3"].map(|text| Digest::of(text));
        symlink(format!("../../cache/artifacts/{one}"), out.join("story/a")).unwrap();
        let theirs = folder.path().join("theirs");
        std::fs::create_dir_all(theirs.join("tale/seed=1")).unwrap();
        symlink(format!("/somewhere/{other}"), theirs.join("tale/seed=1/b")).unwrap();
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        symlink(format!("/somewhere/{far}"), disk.join("c")).unwrap();
        symlink(&disk, theirs.join("far")).unwrap();
        symlink("nowhere", theirs.join("dangling")).unwrap();
        store.note_out_folder(&theirs).unwrap();
        store.note_out_folder(&theirs).unwrap();

        let found = store.roots(&out).unwrap();
        assert_eq!(BTreeSet::from_iter(found.digests), BTreeSet::from([one, other, far]));
        assert_eq!((found.folders, found.gone), (BTreeSet::from([out.clone(), theirs.clone()]), vec![]));
        std::fs::remove_dir_all(&theirs).unwrap();
        let found = store.roots(&folder.path().join("wrong")).unwrap();
        assert_eq!((found.digests, found.folders, found.gone), (vec![], BTreeSet::new(), vec![theirs]));
    }

    #[test]
    fn a_root_that_cannot_be_read_is_an_error() {
        let (_folder, store, out) = project();
        store.note_out_folder(&out).unwrap();
        let note = store.out_folder_note(&out);
        let mut bytes = std::fs::read(&note).unwrap();
        bytes[1] ^= 1;
        std::fs::write(&note, bytes).unwrap();
        assert!(store.roots(&out).is_err_and(|error| error.to_string().contains("is damaged")));
        store.note_out_folder(&out).unwrap();
        assert!(store.roots(&out).is_ok());
        std::fs::set_permissions(out.join("story"), std::fs::Permissions::from_mode(0o0)).unwrap();
        // The root user can read every folder, whatever its mode.
        if std::fs::read_dir(out.join("story")).is_err() {
            assert!(store.roots(&out).is_err());
        }
        std::fs::set_permissions(out.join("story"), std::fs::Permissions::from_mode(0o755)).unwrap();
        // A link to itself cannot be followed.
        symlink("circle", out.join("circle")).unwrap();
        assert!(store.roots(&out).is_err_and(|error| error.to_string().contains("circle")));
        std::fs::remove_file(out.join("circle")).unwrap();
        std::fs::write(store.root().join("pins"), "no folder").unwrap();
        assert!(store.roots(&out).is_err());
    }
}
