//! Gives a stage exactly the files that were hashed, and checks that they have not changed.
//!
//! A stage does not open the paths of the pipeline file: while the stage reads, a symbolic link or a folder can lead to
//! other files, and lead back before the stage ends. Instead the staging folder gets links with the names of the files.
//! The links lead through the folders of the files, which this process holds open for as long as the stage runs. The
//! names in /proc lead to an opened folder whatever is renamed. A file in such a folder cannot be replaced, not even
//! for a moment, without a change of the file's ctime. No content is copied.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::found::shown;
use super::inputs::{HashedFile, JobInput};
use raisin_base::error::{Context as _, Error, Problem, Result};
use raisin_store::Fingerprint;

/// The folder of a staging folder in which the links to the input files are.
const LINKS: &str = "inputs";

/// The usual limit of open files, 1024, has room for this many folders of several stages.
const FEW_FOLDERS: usize = 64;

/// Where the links to the input files lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkTo {
    /// Through the folders that this process holds open.
    HeldFolder,
    /// To the paths of the files, for a stage on another machine, to which the folders of this process mean nothing. Then
    /// only the check after the stage notices that a file was exchanged meanwhile.
    File,
}

/// When the inputs of a stage are checked for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckTime {
    /// Other stages may have run for hours since the inputs were hashed.
    BeforeTheStage,
    AfterTheStage,
}

/// The input files of one stage, whose folders are held open.
pub struct HeldInputs<'i> {
    inputs: &'i [JobInput],
    /// The opened folders, by their canonical paths.
    folders: BTreeMap<&'i Path, OwnedFd>,
}

impl<'i> HeldInputs<'i> {
    /// # Errors
    /// A file was changed, removed or replaced since it was hashed.
    pub fn open(inputs: &'i [JobInput]) -> Result<Self> {
        let mut folders = BTreeMap::new();
        let mut has_room = false;
        for (input, file) in files(inputs) {
            if folders.len() >= FEW_FOLDERS && !has_room {
                make_room_for_files();
                has_room = true;
            }
            let folder = file.real.parent().unwrap_or(Path::new("/"));
            if let Entry::Vacant(new) = folders.entry(folder) {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                match rustix::fs::open(folder, flags, Mode::empty()) {
                    Ok(opened) => drop(new.insert(opened)),
                    Err(Errno::MFILE) => return Err(too_many()),
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                        return Err(changed(input, file, CheckTime::BeforeTheStage));
                    }
                    Err(error) => return Err(error).with_context(|| format!("cannot open {}", folder.display())),
                }
            }
        }
        let held = Self { inputs, folders };
        held.check(CheckTime::BeforeTheStage)?;
        Ok(held)
    }

    /// # Errors
    /// A file was changed, removed or replaced since it was hashed. A new modification time is sufficient: raisin
    /// cannot know what the content was between two checks.
    pub fn check_unchanged(&self) -> Result<()> {
        self.check(CheckTime::AfterTheStage)
    }

    fn check(&self, moment: CheckTime) -> Result<()> {
        for (input, file) in files(self.inputs) {
            let (folder, name) = self.place(file)?;
            let status = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
            if status.ok().map(|status| Fingerprint::from(&status)) != Some(file.fingerprint) {
                return Err(changed(input, file, moment));
            }
        }
        Ok(())
    }

    /// The opened folder of a file, and the name of the file there.
    fn place(&self, file: &'i HashedFile) -> Result<(&OwnedFd, &'i Path)> {
        let folder = file.real.parent().and_then(|folder| self.folders.get(folder));
        let name = file.real.file_name().map(Path::new);
        folder.zip(name).with_context(|| format!("the folder of {} is not held", file.real.display()))
    }

    /// Makes the links in a staging folder. Returns the paths of the files for the assignment, by the pointers of their
    /// parameters. Links of an earlier attempt are replaced.
    pub fn link_into(&self, staging: &Path, to: LinkTo) -> Result<BTreeMap<String, PathBuf>> {
        let links = staging.join(LINKS);
        // A job may be reading through links to paths.
        if links.exists() && to == LinkTo::HeldFolder {
            raisin_store::remove_tree(&links)?;
        }
        let mut assigned = BTreeMap::new();
        for (number, input) in self.inputs.iter().enumerate() {
            let own = links.join(number.to_string());
            for file in &input.file.files {
                let link = own.join(&file.name);
                let folder = link.parent().unwrap_or(&own);
                std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
                let (held, name) = self.place(file)?;
                let target = match to {
                    LinkTo::HeldFolder => {
                        Path::new(&format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd())).join(name)
                    }
                    LinkTo::File => file.real.clone(),
                };
                if std::fs::read_link(&link).is_ok_and(|before| before == target) {
                    continue;
                }
                let _ = std::fs::remove_file(&link);
                std::os::unix::fs::symlink(target, &link).with_context(|| format!("cannot link {}", link.display()))?;
            }
            match input.file.files.as_slice() {
                [file] if input.file.is_single() => drop(assigned.insert(input.pointer.clone(), own.join(&file.name))),
                files => {
                    std::fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
                    for (index, file) in files.iter().enumerate().filter(|_| input.file.is_several()) {
                        assigned.insert(format!("{}/{index}", input.pointer), own.join(&file.name));
                    }
                    assigned.insert(input.pointer.clone(), own);
                }
            }
        }
        Ok(assigned)
    }

    /// A text of a stage, in which the links are replaced by the paths that the user knows.
    pub fn with_known_paths(&self, staging: &Path, text: &str) -> String {
        let mut text = text.to_owned();
        // From the last to the first: the name of link 1 begins that of link 10.
        for (number, input) in self.inputs.iter().enumerate().rev() {
            let known = if input.file.is_single() { input.file.path.parent() } else { Some(input.file.path.as_path()) };
            let link = staging.join(LINKS).join(number.to_string());
            text = text.replace(&link.display().to_string(), &known.unwrap_or(Path::new("")).display().to_string());
        }
        text
    }
}

fn files(inputs: &[JobInput]) -> impl Iterator<Item = (&JobInput, &HashedFile)> {
    inputs.iter().flat_map(|input| input.file.files.iter().map(move |file| (input, file)))
}

fn changed(input: &JobInput, file: &HashedFile, moment: CheckTime) -> Error {
    let (when, so) = match moment {
        CheckTime::BeforeTheStage => ("since the build looked at it", "the stage did not run"),
        CheckTime::AfterTheStage => ("while the stage was reading it", "nothing was cached"),
    };
    let path = if input.file.is_single() { input.file.path.clone() } else { input.file.path.join(&file.name) };
    Problem::new(format!("{} was changed {when}", shown(&path)))
        .hint(format!("{so}; build again to take the file as it is now"))
        .into()
}

/// Raises the limit of open files of this process as far as the system allows.
fn make_room_for_files() {
    let limit = getrlimit(Resource::Nofile);
    // If the limit cannot be raised, the next folder may be one too many, which is an error of its own.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn too_many() -> Error {
    Problem::new("the input files are in more folders than this process may hold open")
        .hint("raise the limit (`ulimit -n`), or put the files into fewer folders")
        .into()
}
