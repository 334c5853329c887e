//! The input files of stages: hashes them, and compares them with the expected digests. found.rs finds the files;
//! held.rs gives a stage the files that were hashed, and checks later that they have not changed; fetch.rs downloads
//! files; raisin-store remembers their digests.
//!
//! A path names a file, a folder, a pattern of files, or an address. The expected digest identifies the file behind an
//! address. raisin downloads the file only when a stage runs that needs it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fetch;
use super::found::{Found, FoundFile, find, is_pattern};
use super::graph::Graph;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Error, Problem, Result};
use raisin_contract::pointer::dotted;
use raisin_contract::{FileNeed, Input};
use raisin_pipeline::{Pipeline, Stage};
use raisin_store::{FileDigests, Fingerprint, Store};

/// The files that a stage reads, with their state when they were hashed.
#[derive(Clone, Debug)]
pub struct InputFile {
    /// The file, as the user wrote it. For a folder or a pattern: the folder that contains the files.
    pub path: PathBuf,
    content: InputContent,
    pub files: Vec<HashedFile>,
}

/// A file of an input, with its state when it was hashed.
#[derive(Clone, Debug)]
pub struct HashedFile {
    /// The name below the folder; for a single file, the name without folders.
    pub name: String,
    /// The canonical path.
    pub real: PathBuf,
    pub fingerprint: Fingerprint,
}

#[derive(Clone, Debug)]
enum InputContent {
    File(Digest),
    /// For a stage that takes a whole folder with all files below it.
    Folder(Arc<BTreeMap<String, Digest>>),
    /// For a stage that reads each file of a folder or a pattern. The keys are the file names below the folder.
    Several(Arc<BTreeMap<String, Digest>>),
    /// An address, and the digest of the file that must come from it.
    Remote {
        address: String,
        blake3: Digest,
    },
}

/// One digest of the fingerprints that all these files had when they were hashed. The paths of the files are not part
/// of the digest.
pub fn digest_of_fingerprints(inputs: &[JobInput]) -> Digest {
    let seen: Vec<Vec<Fingerprint>> =
        inputs.iter().map(|input| input.file.files.iter().map(|file| file.fingerprint).collect()).collect();
    Digest::of(format!("{seen:?}").as_bytes())
}

/// An input of one stage.
#[derive(Clone, Debug)]
pub struct JobInput {
    /// The pointer of the parameter that names the input.
    pub pointer: String,
    pub file: InputFile,
}

/// All input files of a build.
#[derive(Debug, Default)]
pub struct InputFiles {
    by_need: HashMap<InputKey, InputFile>,
}

/// Identifies an input: the path, whether the path may name several files, and the expected digest if the path is an
/// address.
type InputKey = (String, bool, Option<String>);

fn key(need: &FileNeed) -> InputKey {
    (need.path.clone(), need.several, need.expected_digest.clone().filter(|_| fetch::is_address(&need.path)))
}

impl InputFiles {
    /// Hashes every input file of the graph's stages, except the files whose digest the store remembers.
    ///
    /// # Errors
    /// A file is missing, or has another digest than expected. The error comes before any stage runs.
    pub fn of(graph: &Graph<'_>, store: &Store) -> Result<Self> {
        let mut inputs = Self::default();
        let mut digests = FileDigests::load(store);
        let looked = inputs.look_at_all(graph, store, &mut digests);
        // Save also after an error: the other files may have taken minutes to read.
        digests.save();
        looked.map(|()| inputs)
    }

    fn look_at_all(&mut self, graph: &Graph<'_>, store: &Store, digests: &mut FileDigests) -> Result<()> {
        for node in &graph.nodes {
            for need in &node.stage.resolved.needs.files {
                if let Entry::Vacant(new) = self.by_need.entry(key(need)) {
                    new.insert(look(graph.pipeline, node.stage, need, store, digests)?);
                }
                self.check_expected_digest(node.stage, need)?;
                self.check_refused_files(node.stage, need)?;
            }
        }
        Ok(())
    }

    pub fn get(&self, need: &FileNeed) -> Result<&InputFile> {
        self.by_need.get(&key(need)).with_context(|| format!("the file {} was not hashed", need.path))
    }

    /// The entry for the file in the action. For a file, the name counts and its folder does not, because stages show
    /// the name. For a folder, the names below the folder count and the name of the folder does not.
    pub fn input(&self, need: &FileNeed) -> Result<Input<'static>> {
        Ok(self.get(need)?.entry())
    }

    /// # Errors
    /// The folder contains a file that the kind refuses.
    fn check_refused_files(&self, stage: &Stage, need: &FileNeed) -> Result<()> {
        let InputContent::Folder(files) = &self.get(need)?.content else { return Ok(()) };
        let Some(found) = need.refused.iter().find(|refused| files.contains_key(refused.name)) else { return Ok(()) };
        let (at, path) = (dotted(&need.pointer), &need.path);
        let message = format!("stage `{}`, {at}: {path} contains {}: {}", stage.name, found.name, found.reason);
        Err(problem(stage, &need.pointer, message).hint(found.hint).into())
    }

    fn check_expected_digest(&self, stage: &Stage, need: &FileNeed) -> Result<()> {
        let Some(expected) = &need.expected_digest else { return Ok(()) };
        let found = self.get(need)?.digest()?;
        if found.to_hex() == expected.to_ascii_lowercase() {
            return Ok(());
        }
        let key = need.expected_digest_pointer.as_deref().unwrap_or(&need.pointer);
        let message = format!(
            "stage `{}`, {}: {} does not have the expected digest\n  expected {expected}\n  found    {found}",
            stage.name,
            dotted(key),
            need.path
        );
        let hint = "use the intended file, or write the found digest into the pipeline file";
        Err(problem(stage, key, message).hint(hint).into())
    }
}

impl InputFile {
    /// The file at a path, if it is there.
    pub fn at(path: &Path, digests: &mut FileDigests) -> Result<Option<Self>> {
        hashed(find(Path::new("/"), &path.to_string_lossy(), false)?, false, digests)
    }

    /// The entry in the action.
    pub fn entry(&self) -> Input<'static> {
        let name = || self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match &self.content {
            InputContent::File(blake3) | InputContent::Remote { blake3, .. } => {
                Input::File { blake3: *blake3, name: name() }
            }
            InputContent::Folder(files) | InputContent::Several(files) => Input::Files(Arc::clone(files)),
        }
    }

    /// The digest that a pipeline file can expect: of the content of a file, or of the names and digests in a folder.
    pub fn digest(&self) -> Result<Digest> {
        Ok(match &self.content {
            InputContent::File(blake3) | InputContent::Remote { blake3, .. } => *blake3,
            InputContent::Folder(files) | InputContent::Several(files) => {
                Digest::of_json(&serde_json::to_value(&**files)?)
            }
        })
    }

    /// Whether a stage gets each file of the input by itself.
    pub fn is_several(&self) -> bool {
        matches!(self.content, InputContent::Several(_))
    }

    /// Whether the input is one file, and not the files below a folder.
    pub fn is_single(&self) -> bool {
        matches!(self.content, InputContent::File(_) | InputContent::Remote { .. })
    }

    /// Downloads the file of an address into the cache. If the cache has the file, only hashes it again.
    pub fn bring(&mut self, store: &Store, listener: &dyn fetch::DownloadListener) -> Result<()> {
        if let InputContent::Remote { address, blake3 } = &self.content {
            fetch::bring(store, address, *blake3, listener)?;
            let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let real = self.path.canonicalize()?;
            self.files = vec![HashedFile { name, fingerprint: Fingerprint::of(&real)?, real }];
        }
        Ok(())
    }
}

/// The digest that a pipeline file would expect of this path.
pub fn digest_of(store: &Store, path: &str) -> Result<Digest> {
    let mut digests = FileDigests::load(store);
    let folder = std::env::current_dir().context("cannot tell the current directory")?;
    let found = find(&folder, path, true).and_then(|found| hashed(found, true, &mut digests));
    digests.save();
    match found? {
        Some(input) => input.digest(),
        None => Err(Problem::usage(format!("there is no file {path}")).into()),
    }
}

/// The file, folder or pattern of a need as it is now. Nothing is compared with the expected digest, and the file of an
/// address need not be in the cache.
pub fn look(
    pipeline: &Pipeline,
    stage: &Stage,
    need: &FileNeed,
    store: &Store,
    digests: &mut FileDigests,
) -> Result<InputFile> {
    let wrong = |message: String| {
        let message = format!("stage `{}`, {}: {message}", stage.name, dotted(&need.pointer));
        problem(stage, &need.pointer, message)
    };
    if fetch::is_address(&need.path) {
        let address = need.path.clone();
        if need.expected_digest_pointer.is_none() {
            let message = format!("{address} cannot have an expected digest here, so raisin does not fetch it");
            return Err(wrong(message).hint("download the file yourself, and give its path").into());
        }
        let Some(expected) = &need.expected_digest else {
            let message = format!("{address} needs a digest, so that every build gets the same file");
            return Err(wrong(message)
                .hint(format!("`raisin digest {address}` fetches it into the cache and prints its `blake3`"))
                .into());
        };
        let blake3: Digest = expected.to_ascii_lowercase().parse().map_err(|error| {
            let key = need.expected_digest_pointer.as_deref().unwrap_or(&need.pointer);
            problem(stage, key, format!("stage `{}`, {}: {error}", stage.name, dotted(key)))
        })?;
        let path = fetch::place(store, &address, blake3);
        return Ok(InputFile { path, content: InputContent::Remote { address, blake3 }, files: Vec::new() });
    }
    // An error that names no place gets the place of the path.
    let placed = |error: Error| match error.downcast::<Problem>() {
        Ok(found) => Problem { hint: found.hint, ..wrong(found.message) }.into(),
        Err(error) => error,
    };
    let found = find(&pipeline.folder, &need.path, need.several).map_err(placed)?;
    match hashed(found, need.several, digests)? {
        Some(input) => Ok(input),
        None => {
            let path = pipeline.folder.join(&need.path);
            let what = match need.several {
                true if path.is_dir() => "no file is in",
                true if is_pattern(&need.path) => "no file matches",
                _ => "there is no file",
            };
            let mut problem = wrong(format!("{what} {}", path.display()));
            if Path::new(&need.path).is_relative() {
                problem = problem.hint(format!("paths are relative to {}", pipeline.folder.display()));
            }
            Err(problem.into())
        }
    }
}

/// Hashes the files that were found; `None` if there are none.
fn hashed(found: Found, several: bool, digests: &mut FileDigests) -> Result<Option<InputFile>> {
    let (path, found, is_single) = match found {
        Found::None => return Ok(None),
        Found::File(path, file) => (path, vec![file], true),
        Found::Below(path, files) => (path, files, false),
    };
    let hashes = match found.as_slice() {
        [one] => vec![digests.digest(&one.real)?],
        several => digests.digests(&several.iter().map(|file| file.real.clone()).collect::<Vec<_>>())?,
    };
    let content = match hashes.as_slice() {
        [(digest, _)] if is_single => InputContent::File(*digest),
        _ => {
            let names = found.iter().map(|file| file.name.clone());
            let content = Arc::new(names.zip(hashes.iter().map(|(digest, _)| *digest)).collect());
            if several { InputContent::Several(content) } else { InputContent::Folder(content) }
        }
    };
    let with_look = |(FoundFile { name, real }, (_, fingerprint))| HashedFile { name, real, fingerprint };
    let files = found.into_iter().zip(hashes).map(with_look).collect();
    Ok(Some(InputFile { path, content, files }))
}

/// A problem with the parameter at `pointer`, such as a missing file.
pub(super) fn problem(stage: &Stage, pointer: &str, message: String) -> Problem {
    match stage.written.get(pointer) {
        Some(written) => written.problem(message),
        None => Problem::usage(message),
    }
}
