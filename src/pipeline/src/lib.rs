//! What the user wrote: loaded, swept, checked and resolved. It leaves paths, digests and running to the engine.
//!
//! [`load`] goes through five steps, one a file: the TOML file and what it includes become one tree whose values know
//! their places ([`tree`], [`include`]); `--set` and `--sweep` change that tree ([`overrides`]); the sweep's
//! combinations are applied to copies of it ([`sweep`]); each copy is held against the stage kinds and put in order
//! ([`check`]). Nothing has run by then, and every problem found in a step is reported, not the first one alone.
//!
//! Paths in a pipeline are relative to the project's root, the directory in which raisin was started: the same file
//! can then be included from any folder. An `include` is relative to the file that says it.

mod check;
mod checked;
mod explain;
mod include;
mod overrides;
pub mod resources;
pub mod schema;
mod sweep;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::{DType, Declaration, Resolved};

use checked::Checked;
pub use overrides::Override;
pub use resources::Resources;
pub use tree::Written;

/// A pipeline file, resolved.
pub struct Pipeline {
    /// The folder under `out/`, and the name in the journal.
    pub name: String,
    /// `pipeline.seed` as written; a variant may have another.
    pub seed_default: u64,
    pub file: PathBuf,
    /// What relative paths in the pipeline are relative to: the directory in which raisin was started.
    pub folder: PathBuf,
    /// At least one.
    pub variants: Vec<Variant>,
    /// The axes, each a dotted key and its values, in the order in which they were written.
    pub sweep: Vec<(String, Vec<Value>)>,
}

/// One combination of the sweep's values, with the stages that it makes.
pub struct Variant {
    /// Empty without a sweep, else such as `method=raise,seed=17`; usable as the name of a folder.
    pub name: String,
    /// The value of each axis, by its whole key.
    pub values: Map<String, Value>,
    pub seed: u64,
    /// `None`: the engine chooses by the device.
    pub dtype: Option<DType>,
    /// Every stage comes after those that it needs; otherwise as in the file.
    pub stages: Vec<Stage>,
}

/// A stage whose parameters are complete and whose references are known to hold.
pub struct Stage {
    pub name: String,
    pub declaration: &'static Declaration,
    pub resolved: Resolved,
    pub resources: Resources,
    /// Where each file that it needs, or its pin, was written: by the parameter's pointer.
    pub written: HashMap<String, Written>,
}

/// Loads a pipeline of these kinds. The cache remembers what need not be checked again.
///
/// # Errors
/// A [`Problem`] with file, line and column; several of them in one, if the file has several.
pub fn load(file: &Path, overrides: &[Override], kinds: &'static [Declaration], cache: &Path) -> Result<Pipeline> {
    load_checked(file, overrides, kinds, Checked::load(cache, file))
}

/// The same without a cache.
///
/// # Errors
/// As [`load`].
pub fn load_with(file: &Path, overrides: &[Override], kinds: &'static [Declaration]) -> Result<Pipeline> {
    load_checked(file, overrides, kinds, Checked::default())
}

fn load_checked(
    file: &Path,
    overrides: &[Override],
    kinds: &'static [Declaration],
    mut checked: Checked,
) -> Result<Pipeline> {
    let folder = std::env::current_dir().context("cannot tell the current directory")?;
    let pipeline = resolve(file, overrides, kinds, folder, &mut checked).map_err(|problems| several(file, problems))?;
    checked.save();
    Ok(pipeline)
}

fn resolve(
    file: &Path,
    overrides: &[Override],
    kinds: &'static [Declaration],
    folder: PathBuf,
    checked: &mut Checked,
) -> Result<Pipeline, Vec<Problem>> {
    let mut root = include::read(file).map_err(|problem| vec![problem])?;
    let axes = overrides::apply(&mut root, overrides)?;
    let header = check::header(&root, file)?;
    sweep::check(&root, &axes)?;
    let mut variants = Vec::new();
    let mut problems: Vec<Problem> = Vec::new();
    for combination in sweep::combinations(&axes) {
        match check::variant(&root, &combination, kinds, checked) {
            Ok(variant) => variants.push(variant),
            // Most problems are the same in every variant.
            Err(found) => found.into_iter().for_each(|problem| {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    sweep::name(&axes, &mut variants);
    let sweep = axes.into_iter().map(sweep::Axis::into_values).collect();
    Ok(Pipeline { name: header.name, seed_default: header.seed, file: file.to_owned(), folder, variants, sweep })
}

/// One problem for all of them, since an error has one.
fn several(file: &Path, mut problems: Vec<Problem>) -> Problem {
    if problems.len() == 1 {
        return problems.remove(0);
    }
    problems.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.file.clone(), place.line, place.column)));
    let mut message = format!("{} has {} problems", file.display(), problems.len());
    for problem in &problems {
        message.push_str(&format!("\n  {problem}"));
        if let Some(hint) = &problem.hint {
            message.push_str(&format!("\n    hint: {hint}"));
        }
    }
    Problem::usage(message)
}
