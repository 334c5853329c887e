//! The roots of gc: the pins, and the links in every out folder that builds with this cache have written. gc.rs decides
//! which artifacts are removed.
//!
//! `roots/<blake3 of the path>` holds the absolute path of an out folder, without symbolic links. Therefore gc keeps
//! the artifacts of other projects that share the cache, and gc keeps the artifacts of a project even if gc is started
//! in a wrong folder, or if a link to the out folder later leads elsewhere.
//!
//! A noted out folder can be missing because it was removed, because it was moved, or because its disk is not mounted.
//! gc cannot tell these cases apart. Therefore gc removes nothing until the user says that the folder may be forgotten.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::index::artifacts_of_indexes;
use super::{DESCRIPTION, Store, write_atomically};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::files::resolved;

/// The artifacts from which gc starts.
pub(super) struct Roots {
    pub digests: Vec<Digest>,
    /// The out folders whose links were read.
    pub folders: BTreeSet<PathBuf>,
    /// Noted out folders that are missing: they do not exist, or hold neither a link nor a description of a build.
    pub missing: Vec<PathBuf>,
}

/// The missing out folders that gc forgets: their links no longer keep artifacts.
#[derive(Clone, Debug, Default)]
pub enum Forget {
    #[default]
    Nothing,
    /// Every missing out folder.
    Missing,
    These(Vec<PathBuf>),
}

impl Forget {
    /// The folders of `missing` that gc forgets.
    ///
    /// # Errors
    /// A named folder is not among the missing ones.
    pub(super) fn among(&self, missing: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let named = match self {
            Self::Nothing => return Ok(Vec::new()),
            Self::Missing => return Ok(missing.to_vec()),
            Self::These(named) => named,
        };
        let mut forgotten = Vec::with_capacity(named.len());
        for name in named {
            let path = absolute(name)?;
            if !missing.contains(&path) {
                let list = missing.iter().map(|folder| format!("\n  {}", folder.display())).collect::<String>();
                let hint = match list.as_str() {
                    "" => "no out folder of this cache is missing".to_owned(),
                    list => format!("these out folders are missing:{list}"),
                };
                let message = format!("{} is not a missing out folder of this cache", path.display());
                return Err(Problem::usage(message).hint(hint).into());
            }
            forgotten.push(path);
        }
        Ok(forgotten)
    }
}

impl Store {
    /// Notes `out` as an out folder whose links gc follows. Call this before links are written into `out`. If the note
    /// exists already, nothing is written. The links of the path are resolved first.
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

    /// Call this before a build writes its first link or description into `out`. If the out folder was missing, its
    /// links were removed or moved, and gc will not know that any more. Therefore all artifacts of indexes count as
    /// used until now.
    pub fn note_return_of(&self, out: &Path) -> Result<()> {
        let out = absolute(out)?;
        if self.out_folder_note(&out).exists() && !holds_description(&out) {
            // An index may belong to another user of a shared cache, so that this user cannot touch it.
            artifacts_of_indexes(self).into_keys().try_for_each(|artifact| self.note_use(artifact))?;
        }
        Ok(())
    }

    /// The pins, the links in `out`, and the links in all noted out folders.
    ///
    /// # Errors
    /// A folder, link, note or pin cannot be read. gc must then stop, because it would remove artifacts that are in
    /// use.
    pub(super) fn roots(&self, out: &Path) -> Result<Roots> {
        let digests = self.pins()?.into_iter().map(|pin| pin.digest).collect();
        let mut roots = Roots { digests, folders: BTreeSet::new(), missing: Vec::new() };
        let here = absolute(out)?;
        for folder in self.noted_out_folders()?.into_iter().chain([here.clone()]) {
            if roots.folders.contains(&folder) {
                continue;
            }
            let before = roots.digests.len();
            let exists = collect_links(&folder, 0, &mut roots.digests)?;
            let is_noted = folder != here || self.out_folder_note(&folder).exists();
            // The mount point of a disk that is not mounted exists and is empty. A build leaves at least a description.
            if is_noted && roots.digests.len() == before && !holds_description(&folder) {
                roots.missing.push(folder);
            } else if exists {
                roots.folders.insert(folder);
            }
        }
        roots.missing.sort();
        roots.missing.dedup();
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
    resolved(out).with_context(|| format!("cannot find the absolute path of {}", out.display()))
}

/// Whether an out folder, or the folder of a pipeline, holds the description of a build.
fn holds_description(folder: &Path) -> bool {
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    below.chain([folder.to_owned()]).any(|path| path.join(DESCRIPTION).exists())
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
        assert_eq!((found.folders, found.missing), (BTreeSet::from([out.clone(), theirs.clone()]), vec![]));
        std::fs::remove_dir_all(&theirs).unwrap();
        let found = store.roots(&folder.path().join("wrong")).unwrap();
        assert_eq!((found.digests, found.folders, found.missing), (vec![], BTreeSet::new(), vec![theirs.clone()]));
        // Such an empty folder is left when the disk of an out folder is no longer mounted.
        std::fs::create_dir(&theirs).unwrap();
        let found = store.roots(&out).unwrap();
        assert_eq!((found.folders, found.missing), (BTreeSet::from([out]), vec![theirs.clone()]));
        std::fs::create_dir(theirs.join("tale")).unwrap();
        std::fs::write(theirs.join("tale").join(DESCRIPTION), "{}").unwrap();
        assert_eq!(store.roots(&theirs).unwrap().missing, [] as [PathBuf; 0]);
    }

    #[test]
    fn an_out_folder_is_noted_by_the_path_without_links() {
        let (folder, store, out) = project();
        let (other, link) = (folder.path().join("other"), folder.path().join("link"));
        std::fs::create_dir(&other).unwrap();
        symlink(&out, &link).unwrap();
        store.note_out_folder(&link).unwrap();
        store.note_out_folder(&link.join("../out")).unwrap();
        let kept = Digest::of(b"kept");
        symlink(format!("/somewhere/{kept}"), out.join("story/a")).unwrap();
        std::fs::remove_file(&link).unwrap();
        symlink(&other, &link).unwrap();
        let found = store.roots(&link).unwrap();
        assert_eq!((found.digests, found.missing), (vec![kept], vec![]));
    }

    #[test]
    fn only_a_missing_out_folder_can_be_forgotten() {
        let missing = [PathBuf::from("/one"), PathBuf::from("/two")];
        let these = |names: &[&str]| Forget::These(names.iter().map(PathBuf::from).collect()).among(&missing);
        assert_eq!(Forget::Nothing.among(&missing).unwrap(), [] as [PathBuf; 0]);
        assert_eq!(Forget::Missing.among(&missing).unwrap(), missing);
        assert_eq!(these(&["/two"]).unwrap(), missing[1..]);
        let error = raisin_base::error::render(&these(&["/two", "/three"]).unwrap_err());
        assert!(error.contains("/three is not a missing out folder") && error.contains("\n  /one\n  /two"), "{error}");
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
