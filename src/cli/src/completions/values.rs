//! What completes values of arguments: names that the pipeline file on the command line, the last builds or the
//! declarations of kinds contain. A file that cannot be read completes nothing.

use std::path::{Path, PathBuf};

use clap_complete::engine::CompletionCandidate;
use serde_json::Value;

use super::super::pipeline_arguments::folder;
use super::{flag, words};
use raisin_kinds::KINDS;
use raisin_pipeline::{self as pipeline, Pipeline};
use raisin_store::BuildDescription;

pub fn out() -> PathBuf {
    folder(flag("--out").map(PathBuf::from).as_ref(), "RAISIN_OUT", "out")
}

fn cache() -> PathBuf {
    folder(flag("--cache").map(PathBuf::from).as_ref(), "RAISIN_CACHE", "cache")
}

fn named(value: impl Into<std::ffi::OsString>, help: impl Into<String>) -> CompletionCandidate {
    CompletionCandidate::new(value).help(Some(help.into().into()))
}

/// The pipeline file on the command line that is completed.
fn loaded() -> Option<Pipeline> {
    let words = words();
    let is_pipeline = |path: &&Path| path.extension().is_some_and(|ending| ending == "toml") && path.is_file();
    let file = words.iter().map(Path::new).find(is_pipeline)?;
    pipeline::load(file, &[], KINDS, &cache()).ok()
}

/// The stages of the pipeline file, each with its kind.
pub fn stages() -> Vec<CompletionCandidate> {
    let Some(pipeline) = loaded() else { return Vec::new() };
    let stages = pipeline.variants.first().map_or(&[][..], |variant| &variant.stages);
    stages.iter().map(|stage| named(&stage.name, stage.declaration.name)).collect()
}

/// Every parameter of the pipeline file as a dotted key, with its value. `end` is what follows a key.
pub fn parameters(end: &str) -> Vec<CompletionCandidate> {
    let Some(pipeline) = loaded() else { return Vec::new() };
    let mut found = vec![named(format!("pipeline.seed{end}"), pipeline.seed_default.to_string())];
    for stage in pipeline.variants.iter().take(1).flat_map(|variant| &variant.stages) {
        below(&format!("stage.{}", stage.name), &stage.resolved.parameters, end, &mut found);
    }
    found
}

/// The keys of a value. The items of a list are parameters, too: `stage.pool.sources.0.path`.
fn below(key: &str, value: &Value, end: &str, found: &mut Vec<CompletionCandidate>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| below(&format!("{key}.{name}"), value, end, found)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (place, value) in items.iter().enumerate() {
                below(&format!("{key}.{place}"), value, end, found);
            }
        }
        _ => found.push(named(format!("{key}{end}"), value.to_string())),
    }
}

/// The last build of each pipeline, by its name.
fn builds() -> Vec<(String, BuildDescription)> {
    let folders = std::fs::read_dir(out()).into_iter().flatten().flatten();
    let mut builds: Vec<_> = folders
        .filter_map(|entry| {
            let description = BuildDescription::read(&entry.path()).ok()??;
            Some((entry.file_name().into_string().ok()?, description))
        })
        .collect();
    builds.sort_by(|a, b| a.0.cmp(&b.0));
    builds
}

pub fn pipelines() -> Vec<CompletionCandidate> {
    builds().into_iter().map(|(name, _)| CompletionCandidate::new(name)).collect()
}

/// The stages of the built pipeline whose name is on the command line.
pub fn built_stages() -> Vec<CompletionCandidate> {
    let words = words();
    let named_one = builds().into_iter().find(|(name, _)| words.iter().any(|word| word == name.as_str()));
    let mut found: Vec<CompletionCandidate> = Vec::new();
    for stage in named_one.into_iter().flat_map(|(_, description)| description.stages) {
        let candidate = named(stage.stage, stage.kind);
        if !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

pub fn kinds() -> Vec<CompletionCandidate> {
    KINDS.iter().map(|kind| named(kind.name, kind.about)).collect()
}
