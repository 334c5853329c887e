//! What a pipeline file says about itself and the stages of a page, for kinds that show it
//! ([`raisin_contract::Kind::SHOWS_SETUP`]). The setup is a parameter of the stage and therefore part of its key.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::overrides::is_below;
use super::tree::{Table, TreeNode};
use super::{Pipeline, Variant};
use raisin_contract::{PipelineSetup, SETUP, StageSetup};

/// The keys of a stage that say nothing about its result.
const NOT_SHOWN: [&str; 2] = ["kind", "resources"];

/// Gives every stage that shows the setup its setup. `root` is the file with the flags applied, before the sweep.
pub fn fill(pipeline: &mut Pipeline, root: &Table) {
    let Some(first) = pipeline.variants.first() else { return };
    let shown: Vec<usize> = (0..first.stages.len()).filter(|at| first.stages[*at].declaration.shows_setup).collect();
    let setups: Vec<(String, Value)> =
        shown.into_iter().map(|at| (first.stages[at].name.clone(), json!(setup(pipeline, first, at, root)))).collect();
    for variant in &mut pipeline.variants {
        for stage in &mut variant.stages {
            if let Some((_, setup)) = setups.iter().find(|(name, _)| *name == stage.name)
                && let Some(parameters) = stage.resolved.parameters.as_object_mut()
            {
                parameters.insert(SETUP.to_owned(), setup.clone());
            }
        }
    }
}

/// The setup of the stage at `at`: the name and the seed of the pipeline, the axes of the sweep, and for each stage that
/// leads to it in some variant the settings that the file gives. Values that a sweep varies are left out there.
fn setup(pipeline: &Pipeline, variant: &Variant, at: usize, root: &Table) -> PipelineSetup {
    let mut wanted = BTreeSet::from([variant.stages[at].name.as_str()]);
    for variant in &pipeline.variants {
        // A stage comes after its inputs, so one pass from the end finds all of them.
        for stage in variant.stages.iter().rev() {
            if wanted.contains(stage.name.as_str()) {
                wanted.extend(stage.resolved.needs.stages.iter().map(|need| need.stage.as_str()));
            }
        }
    }
    wanted.remove(variant.stages[at].name.as_str());
    let written = root.get("stage").and_then(TreeNode::table);
    let axes: Vec<&str> = pipeline.sweep.iter().map(|(key, _)| key.as_str()).collect();
    let stages = variant.stages.iter().filter(|stage| wanted.contains(stage.name.as_str())).map(|stage| {
        let mut settings = Map::new();
        let table = written.and_then(|all| all.get(&stage.name)).and_then(TreeNode::table);
        for (key, value) in table.map(Table::to_json).unwrap_or_default() {
            if !NOT_SHOWN.contains(&key.as_str()) {
                flatten(&key, value, &mut settings);
            }
        }
        settings.retain(|key, _| {
            let key = format!("stage.{}.{key}", stage.name);
            !axes.iter().any(|axis| *axis == key || is_below(axis, &key) || is_below(&key, axis))
        });
        StageSetup { name: stage.name.clone(), kind: stage.declaration.name.to_owned(), settings }
    });
    PipelineSetup {
        pipeline: pipeline.name.clone(),
        seed: pipeline.seed_default,
        sweep: pipeline.sweep.iter().map(|(key, values)| (key.clone(), Value::Array(values.clone()))).collect(),
        stages: stages.collect(),
    }
}

/// Adds the values of nested tables with dotted keys.
fn flatten(key: &str, value: Value, settings: &mut Map<String, Value>) {
    match value {
        Value::Object(entries) => {
            entries.into_iter().for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, settings));
        }
        value => drop(settings.insert(key.to_owned(), without_places(value))),
    }
}

/// The value with only the last part of each absolute path: an artifact says nothing about the machine.
fn without_places(value: Value) -> Value {
    match value {
        Value::String(text) if text.starts_with('/') => {
            let last = Path::new(&text).file_name().map(|name| name.to_string_lossy().into_owned());
            Value::String(last.unwrap_or(text))
        }
        Value::Array(values) => values.into_iter().map(without_places).collect(),
        Value::Object(entries) => entries.into_iter().map(|(key, value)| (key, without_places(value))).collect(),
        value => value,
    }
}
