//! The input files of stages: finds them, hashes them, compares them with the expected digests, and checks later that
//! they have not changed. fetch.rs downloads files; raisin-store remembers their digests.
//!
//! A path names a file, a folder, a pattern of files, or an address. The expected digest identifies the file behind an
//! address. raisin downloads the file only when a stage runs that needs it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fetch;
use super::graph::Graph;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result, bail};
use raisin_contract::pointer::dotted;
use raisin_contract::{FileNeed, Input};
use raisin_pipeline::{Pipeline, Stage};
use raisin_store::{FileDigests, Fingerprint, Store};

/// The files that a stage reads, with their state when they were hashed.
#[derive(Clone, Debug)]
pub struct InputFile {
    /// The file. For a folder or a pattern: the folder that contains the files.
    path: PathBuf,
    content: InputContent,
    /// Every file with its fingerprint.
    files: Vec<(PathBuf, Fingerprint)>,
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

/// When the inputs of a stage are checked for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckTime {
    /// Other stages may have run for hours since the inputs were hashed.
    BeforeTheStage,
    AfterTheStage,
}

/// One digest of the fingerprints that all these files had when they were hashed. The paths of the files are not part
/// of the digest.
pub fn digest_of_fingerprints(inputs: &[InputFile]) -> Digest {
    let seen: Vec<Vec<Fingerprint>> =
        inputs.iter().map(|input| input.files.iter().map(|(_, seen)| *seen).collect()).collect();
    Digest::of(format!("{seen:?}").as_bytes())
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
    /// The file, folder or pattern of a need as it is now. Nothing is compared with the expected digest, and the file
    /// of an address need not be in the cache.
    pub fn now(
        pipeline: &Pipeline,
        stage: &Stage,
        need: &FileNeed,
        store: &Store,
        digests: &mut FileDigests,
    ) -> Result<Self> {
        look(pipeline, stage, need, store, digests)
    }

    /// The file at a path, if it is there.
    pub fn at(path: &Path, digests: &mut FileDigests) -> Result<Option<Self>> {
        find(Path::new("/"), &path.to_string_lossy(), false, digests)
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

    pub fn path(&self) -> &Path {
        &self.path
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

    /// Adds the paths of the files to the assignment, by the pointer of their parameter.
    pub fn assign(&self, pointer: &str, files: &mut BTreeMap<String, PathBuf>) {
        files.insert(pointer.to_owned(), self.path.clone());
        if let InputContent::Several(names) = &self.content {
            for (index, name) in names.keys().enumerate() {
                files.insert(format!("{pointer}/{index}"), self.path.join(name));
            }
        }
    }

    /// Downloads the file of an address into the cache. If the cache has the file, only hashes it again.
    pub fn bring(&mut self, store: &Store, listener: &dyn fetch::DownloadListener) -> Result<()> {
        if let InputContent::Remote { address, blake3 } = &self.content {
            fetch::bring(store, address, *blake3, listener)?;
            self.files = vec![(self.path.clone(), Fingerprint::of(&self.path)?)];
        }
        Ok(())
    }

    /// # Errors
    /// A file was changed, removed or replaced since it was hashed. A new modification time is sufficient: raisin
    /// cannot know what the content was between two checks.
    pub fn check_unchanged(&self, moment: CheckTime) -> Result<()> {
        let (when, so) = match moment {
            CheckTime::BeforeTheStage => ("since the build looked at it", "the stage did not run"),
            CheckTime::AfterTheStage => ("while the stage was reading it", "nothing was cached"),
        };
        let changed = |path: &Path| {
            let message = format!("{} was changed {when}", path.display());
            Problem::new(message).hint(format!("{so}; build again to take the file as it is now"))
        };
        for (path, before) in &self.files {
            if Fingerprint::of(path).ok().as_ref() != Some(before) {
                return Err(changed(path).into());
            }
        }
        if let InputContent::Folder(_) = self.content
            && files_below(&self.path, true)?.len() != self.files.len()
        {
            return Err(changed(&self.path).into());
        }
        Ok(())
    }
}

/// The digest that a pipeline file would expect of this path.
pub fn digest_of(store: &Store, path: &str) -> Result<Digest> {
    let mut digests = FileDigests::load(store);
    let folder = std::env::current_dir().context("cannot tell the current directory")?;
    let found = find(&folder, path, true, &mut digests);
    digests.save();
    match found? {
        Some(input) => input.digest(),
        None => Err(Problem::usage(format!("there is no file {path}")).into()),
    }
}

fn look(
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
    match find(&pipeline.folder, &need.path, need.several, digests)? {
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

/// Finds and hashes the files of a path; `None` if there are none.
fn find(folder: &Path, written: &str, several: bool, digests: &mut FileDigests) -> Result<Option<InputFile>> {
    // Keep the name that the user wrote, not the name of a link's target.
    let path = std::path::absolute(folder.join(written))?;
    if path.is_dir() {
        let files = files_below(&path, !several)?;
        return Ok(if several && files.is_empty() { None } else { Some(hashed(path, files, several, digests)?) });
    }
    if path.exists() {
        let (digest, fingerprint) = digests.digest(&path.canonicalize()?)?;
        let files = vec![(path.clone(), fingerprint)];
        return Ok(Some(InputFile { path, content: InputContent::File(digest), files }));
    }
    if !several || !is_pattern(written) {
        return Ok(None);
    }
    // `base` is the path up to the first component with a wildcard. The folder of the project is never read as a
    // pattern, although its name may contain wildcard characters.
    let own = if Path::new(written).is_absolute() { 0 } else { std::path::absolute(folder)?.components().count() };
    let parts = path.components().enumerate();
    let literal = parts.take_while(|(at, part)| *at < own || !is_pattern(&part.as_os_str().to_string_lossy()));
    let base: PathBuf = literal.map(|(_, part)| part).collect();
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let below = path.strip_prefix(&base)?;
    let pattern = format!("{}/{}", glob::Pattern::escape(&base.to_string_lossy()), below.display());
    let matches = glob::glob_with(&pattern, options)
        .map_err(|error| Problem::usage(format!("{written} is no pattern: {}", error.msg)))?;
    let mut files = Vec::new();
    for path in matches {
        let path = path.map_err(std::io::Error::from).context("cannot list files")?;
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(if files.is_empty() { None } else { Some(hashed(base, files, true, digests)?) })
}

fn hashed(base: PathBuf, files: Vec<PathBuf>, several: bool, digests: &mut FileDigests) -> Result<InputFile> {
    let found = digests.digests(&files)?;
    let mut content = BTreeMap::new();
    for (file, (digest, _)) in files.iter().zip(&found) {
        let Some(name) = file.strip_prefix(&base)?.to_str() else {
            bail!("{} has a name that is not UTF-8", file.display());
        };
        content.insert(name.to_owned(), *digest);
    }
    let files = files.into_iter().zip(found.into_iter().map(|(_, fingerprint)| fingerprint)).collect();
    let content = Arc::new(content);
    let content = if several { InputContent::Several(content) } else { InputContent::Folder(content) };
    Ok(InputFile { path: base, content, files })
}

fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

fn files_below(folder: &Path, hidden: bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if !hidden && entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            files.extend(files_below(&path, hidden)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A problem with the file or the expected digest in the parameter at `pointer`.
fn problem(stage: &Stage, pointer: &str, message: String) -> Problem {
    match stage.written.get(pointer) {
        Some(written) => written.problem(message),
        None => Problem::usage(message),
    }
}
