//! Pipeline files: loads, sweeps, checks and resolves them. Input files, digests and running stages are the task of the
//! engine.
//!
//! [`load`] has these steps:
//!
//! 1. The TOML file and its includes become one tree. Each value of the tree has its origin ([`tree`], [`include`]).
//! 2. `--set` and `--sweep` change the tree ([`overrides`]).
//! 3. Each combination of the sweep is applied to a copy of the tree ([`sweep`]).
//! 4. Each copy is checked against the declarations of the kinds, and its stages are ordered ([`check`]).
//! 5. A stage that shows the setup of the pipeline gets it as a parameter ([`setup`]).
//!
//! No stage runs during a load. Each step reports all problems that it finds, not only the first.
//!
//! Paths in a pipeline are relative to the directory in which raisin was started (the root of the project). Therefore
//! the same file can be included from any folder. An `include` is relative to the file that contains the `include`.

mod cache;
mod check;
mod checked;
mod executor;
mod explain;
mod include;
mod overrides;
mod placeholder;
mod resolved;
pub mod resources;
pub mod schema;
mod setup;
mod sweep;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::{DType, Declaration, ResolvedParameters};

pub use cache::CacheSettings;
use checked::CheckedParameters;
pub use executor::{ExecutorSettings, JobRequest, RunsOn, StageExecutor};
pub use overrides::Override;
pub use resolved::check_resolved;
pub use resources::Resources;
use tree::Table;
pub use tree::Written;

/// A pipeline file, resolved.
pub struct Pipeline {
    /// The name of the folder under `out/`, and the name of the pipeline in the journal.
    pub name: String,
    /// `pipeline.seed` as written. A variant may have another seed.
    pub seed_default: u64,
    pub file: PathBuf,
    /// The directory in which raisin was started. Paths in the pipeline are relative to this directory.
    pub folder: PathBuf,
    /// The variants; always at least one.
    pub variants: Vec<Variant>,
    /// The axes of the sweep (dotted key and values), in the order in which they were written.
    pub sweep: Vec<(String, Vec<Value>)>,
    /// The flags that were applied to the file, in their order.
    pub overrides: Vec<Override>,
    /// The shared cache.
    pub cache: CacheSettings,
    /// Where the stages run.
    pub executor: ExecutorSettings,
}

/// One combination of the values of all axes, with the stages that it gives.
pub struct Variant {
    /// The name, such as `method=raise,seed=17`; usable as the name of a folder. Empty without a sweep.
    pub name: String,
    /// The value of each axis, by the complete dotted key.
    pub values: Map<String, Value>,
    pub seed: u64,
    /// The dtype; if `None`, the engine chooses the dtype by the device.
    pub dtype: Option<DType>,
    /// The stages. A stage comes after the stages that it needs; otherwise the order is that of the file.
    pub stages: Vec<Stage>,
}

/// A stage whose parameters are complete, and whose needed stages exist and provide what the stage needs.
pub struct Stage {
    pub name: String,
    pub declaration: &'static Declaration,
    pub resolved: ResolvedParameters,
    pub resources: Resources,
    /// The seed of the stage: its own `seed`, or that of the variant. A kind that draws no random numbers ignores it.
    pub seed: u64,
    /// Where the path and the expected digest of each needed file, and each program whose output is in the key, were
    /// written, by the pointer of the parameter.
    pub written: HashMap<String, Written>,
}

/// Loads a pipeline whose stages have these kinds. Parameters that passed their check earlier, according to `cache`,
/// are not checked again. The cache need not exist.
///
/// # Errors
/// The pipeline is wrong. The error is a [`Problem`] with file, line and column; if there are several problems, the
/// error lists all of them.
pub fn load(file: &Path, overrides: &[Override], kinds: &'static [Declaration], cache: &Path) -> Result<Pipeline> {
    let folder = std::env::current_dir().context("cannot tell the current directory")?;
    load_from(folder, file, overrides, kinds, cache)
}

/// As [`load`], but the paths in the pipeline are relative to `folder` instead of the current directory.
///
/// # Errors
/// As [`load`].
pub fn load_from(
    folder: PathBuf,
    file: &Path,
    overrides: &[Override],
    kinds: &'static [Declaration],
    cache: &Path,
) -> Result<Pipeline> {
    let mut checked = CheckedParameters::load(cache, file);
    let root = include::read(file)?;
    let pipeline = resolve(root, file, overrides, kinds, folder, &mut checked);
    let pipeline = pipeline.map_err(|problems| several(file, problems))?;
    checked.save();
    Ok(pipeline)
}

/// Resolves the text of a pipeline file that stands at no place; messages call it `name`.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str, kinds: &'static [Declaration]) -> Result<Pipeline> {
    let file = Path::new(name);
    let root = include::parse(file, text.to_owned())?;
    let pipeline = resolve(root, file, &[], kinds, PathBuf::new(), &mut CheckedParameters::default());
    Ok(pipeline.map_err(|problems| several(file, problems))?)
}

fn resolve(
    mut root: Table,
    file: &Path,
    overrides: &[Override],
    kinds: &'static [Declaration],
    folder: PathBuf,
    checked: &mut CheckedParameters,
) -> Result<Pipeline, Vec<Problem>> {
    let axes = overrides::apply(&mut root, overrides)?;
    let header = check::header(&root, file)?;
    let cache = cache::settings(root.get("cache"))?;
    let executor = executor::settings(&root)?;
    sweep::check(&root, &axes)?;
    let mut variants = Vec::new();
    let mut problems: Vec<Problem> = Vec::new();
    for combination in sweep::combinations(&axes) {
        match check::variant(&root, &combination, kinds, checked) {
            Ok(variant) => variants.push(variant),
            // Most problems occur in every variant. Each is reported once.
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
    let keys: Vec<&str> = axes.iter().map(|axis| axis.key.as_str()).collect();
    let names = sweep::names(&keys, variants.iter().map(|variant| &variant.values));
    variants.iter_mut().zip(names).for_each(|(variant, name)| variant.name = name);
    let sweep = axes.into_iter().map(sweep::Axis::into_values).collect();
    let mut pipeline = Pipeline {
        name: header.name,
        seed_default: header.seed,
        file: file.to_owned(),
        folder,
        variants,
        sweep,
        overrides: overrides.to_vec(),
        cache,
        executor,
    };
    setup::fill(&mut pipeline, &root);
    Ok(pipeline)
}

/// Joins several problems into one, because an error carries one problem.
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
