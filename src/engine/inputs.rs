//! The raw files that stages read: found, hashed, held against their pins, and looked at again afterwards.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::action::file_value;
use super::graph::Graph;
use crate::digest::Digest;
use crate::error::{Context as _, Problem, Result, bail};
use crate::pipeline::{Pipeline, Stage};
use crate::stages::FileNeed;
use crate::store::{FileDigests, Fingerprint, Store};

/// A file or folder, as it was when it was hashed.
#[derive(Clone, Debug)]
pub struct InputFile {
    pub path: PathBuf,
    pub blake3: Digest,
    /// One file, or all files of a folder.
    pub files: Vec<(PathBuf, Fingerprint)>,
}

/// Every input file of a build, by the path that the pipeline gives.
#[derive(Debug, Default)]
pub struct Inputs {
    by_path: HashMap<String, InputFile>,
}

impl Inputs {
    /// Hashes every input file of the graph's stages, those that the store's memory does not know.
    ///
    /// # Errors
    /// A file that is missing, or that is not the one its pin names: before anything runs.
    pub fn of(graph: &Graph<'_>, store: &Store) -> Result<Self> {
        let mut inputs = Self::default();
        let mut digests = FileDigests::load(store);
        for node in &graph.nodes {
            for need in &node.stage.resolved.needs.files {
                if !inputs.by_path.contains_key(&need.path) {
                    let input = look(graph.pipeline, node.stage, need, &mut digests)?;
                    inputs.by_path.insert(need.path.clone(), input);
                }
                inputs.check_pin(node.stage, need)?;
            }
        }
        digests.save();
        Ok(inputs)
    }

    pub fn get(&self, need: &FileNeed) -> Result<&InputFile> {
        self.by_path.get(&need.path).with_context(|| format!("the file {} was not looked at", need.path))
    }

    /// What stands for the file in the action. Its folder does not count, its name does: stages show it.
    pub fn value(&self, need: &FileNeed) -> Result<Value> {
        let input = self.get(need)?;
        let name = input.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(file_value(input.blake3, &name))
    }

    fn check_pin(&self, stage: &Stage, need: &FileNeed) -> Result<()> {
        let Some(pin) = &need.pin else { return Ok(()) };
        let found = self.get(need)?.blake3;
        if found.to_hex() == pin.to_ascii_lowercase() {
            return Ok(());
        }
        let key = need.pin_pointer.as_deref().unwrap_or(&need.pointer);
        let message = format!(
            "stage `{}`, {}: {} is not the file that was pinned\n  expected {pin}\n  found    {found}",
            stage.name,
            dotted(key),
            need.path
        );
        let hint = "take the file that was meant, or pin the digest that was found";
        Err(problem(stage, key, message).hint(hint).into())
    }
}

impl InputFile {
    /// # Errors
    /// A file that was changed, removed or replaced since it was hashed.
    pub fn check_unchanged(&self) -> Result<()> {
        for (path, before) in &self.files {
            if Fingerprint::of(path).ok().as_ref() != Some(before) {
                let message = format!("{} was changed while the stage was reading it", path.display());
                let hint = "nothing was cached; build again to take the file as it is now";
                return Err(Problem::new(message).hint(hint).into());
            }
        }
        Ok(())
    }
}

fn look(pipeline: &Pipeline, stage: &Stage, need: &FileNeed, digests: &mut FileDigests) -> Result<InputFile> {
    let path = pipeline.folder.join(&need.path);
    let Ok(path) = path.canonicalize() else {
        let message = format!("stage `{}`, {}: there is no file {}", stage.name, dotted(&need.pointer), path.display());
        let mut problem = problem(stage, &need.pointer, message);
        if Path::new(&need.path).is_relative() {
            problem = problem.hint(format!("paths are relative to {}", pipeline.folder.display()));
        }
        return Err(problem.into());
    };
    let mut files = Vec::new();
    let blake3 = if path.is_dir() {
        let mut content = BTreeMap::new();
        for file in files_below(&path)? {
            let (digest, fingerprint) = digests.digest(&file)?;
            let Some(name) = file.strip_prefix(&path)?.to_str() else {
                bail!("{} has a name that is not UTF-8", file.display());
            };
            content.insert(name.to_owned(), digest);
            files.push((file, fingerprint));
        }
        Digest::of_json(&serde_json::to_value(&content)?)
    } else {
        let (digest, fingerprint) = digests.digest(&path)?;
        files.push((path.clone(), fingerprint));
        digest
    };
    // The name that the person wrote, not that of a link's target.
    let path = std::path::absolute(pipeline.folder.join(&need.path))?;
    Ok(InputFile { path, blake3, files })
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A problem with the file or the pin that the parameter at `pointer` names.
fn problem(stage: &Stage, pointer: &str, message: String) -> Problem {
    match stage.written.get(pointer) {
        Some(written) => written.problem(message),
        None => Problem::new(message),
    }
}

/// `/sources/0/path` as a person would write it: `sources.0.path`.
fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}
