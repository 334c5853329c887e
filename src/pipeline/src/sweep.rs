//! `[sweep]`: the axes, their combinations, and the names of the variants. overrides.rs handles the flag `--sweep`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::overrides;
use super::tree::{NodeContent, Origin, Table, TreeNode};
use raisin_base::error::Problem;

/// The largest number of variants, and the largest number of stages in all variants together.
const MOST_VARIANTS: usize = 10_000;
const MOST_STAGES: usize = 1_000_000;

/// An axis: a dotted key and its values.
pub struct Axis {
    pub key: String,
    pub origin: Origin,
    pub values: Vec<TreeNode>,
}

impl Axis {
    /// # Errors
    /// `node` is not an array, the array is empty, or a value occurs twice.
    pub fn new(key: String, origin: Origin, node: TreeNode) -> Result<Self, Problem> {
        let found = node.type_name();
        let NodeContent::Array(values) = node.content else {
            let message = format!("the sweep of `{key}` must be an array of values, not {found}");
            return Err(node.origin.problem(message));
        };
        if values.is_empty() {
            return Err(node
                .origin
                .problem(format!("the sweep of `{key}` has no values, so there is nothing to build")));
        }
        let mut seen = BTreeSet::new();
        for value in &values {
            let json = value.to_json().to_string();
            if seen.contains(&json) {
                return Err(value.origin.problem(format!("the sweep of `{key}` has the value {json} twice")));
            }
            seen.insert(json);
        }
        Ok(Self { key, origin, values })
    }

    pub fn into_values(self) -> (String, Vec<Value>) {
        (self.key, self.values.iter().map(TreeNode::to_json).collect())
    }
}

/// One value for each axis.
pub type Combination<'a> = Vec<(&'a Axis, &'a TreeNode)>;

/// Removes `[sweep]` from a pipeline, and returns the axes. `"stage.a.b" = [..]` and `stage.a.b = [..]` are the same
/// axis.
///
/// # Errors
/// A value is not an array of different values, or a key occurs twice.
pub fn take(root: &mut Table) -> Result<Vec<Axis>, Vec<Problem>> {
    let Some(sweep) = root.remove("sweep") else { return Ok(Vec::new()) };
    let found = sweep.node.type_name();
    let NodeContent::Table(table) = sweep.node.content else {
        return Err(vec![sweep.node.origin.problem(format!("`sweep` must be a table, not {found}"))]);
    };
    let mut axes: Vec<Axis> = Vec::new();
    let mut problems = Vec::new();
    flatten("", table, &mut axes, &mut problems);
    if problems.is_empty() { Ok(axes) } else { Err(problems) }
}

fn flatten(prefix: &str, table: Table, axes: &mut Vec<Axis>, problems: &mut Vec<Problem>) {
    for entry in table.entries {
        let key = if prefix.is_empty() { entry.key } else { format!("{prefix}.{}", entry.key) };
        if let NodeContent::Table(table) = entry.node.content {
            flatten(&key, table, axes, problems);
            continue;
        }
        match Axis::new(key, entry.origin, entry.node) {
            Ok(axis) if axes.iter().any(|other| other.key == axis.key) => {
                problems.push(axis.origin.problem(format!("`{}` is swept twice", axis.key)));
            }
            Ok(axis) => axes.push(axis),
            Err(problem) => problems.push(problem),
        }
    }
}

/// Checks that each axis leads to a parameter, and that no axis is below another axis.
///
/// # Errors
/// One problem for each wrong axis, at its key.
pub fn check(root: &Table, axes: &[Axis]) -> Result<(), Vec<Problem>> {
    check_size(root, axes).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    for axis in axes {
        if axis.key == "pipeline.name" {
            problems.push(axis.origin.problem("`pipeline.name` cannot be swept: a pipeline has one name"));
        }
        if axis.key.starts_with("executor.") {
            let message = format!("`{}` cannot be swept: where a stage runs does not change its result", axis.key);
            problems.push(axis.origin.problem(message));
        }
        if let Some(outer) = axes.iter().find(|other| overrides::is_below(&axis.key, &other.key)) {
            problems
                .push(axis.origin.problem(format!("`{}` is part of `{}`, which is swept too", axis.key, outer.key)));
        }
        let mut copy = root.clone();
        let mut values = axis.values.iter().cloned();
        problems.extend(values.find_map(|value| overrides::set(&mut copy, &axis.key, &axis.origin, value).err()));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Refuses a sweep that would take minutes and gigabytes before its first stage runs.
fn check_size(root: &Table, axes: &[Axis]) -> Result<(), Problem> {
    let Some(last) = axes.last() else { return Ok(()) };
    let variants = axes.iter().fold(1, |count: usize, axis| count.saturating_mul(axis.values.len()));
    let stages = root.get("stage").and_then(TreeNode::table).map_or(0, |table| table.entries.len());
    let message = if variants > MOST_VARIANTS {
        format!("the sweep has {variants} variants, more than the limit of {MOST_VARIANTS}")
    } else if variants.saturating_mul(stages) > MOST_STAGES {
        format!("the sweep has {variants} variants of {stages} stages, more than the limit of {MOST_STAGES} stages")
    } else {
        return Ok(());
    };
    Err(last.origin.problem(message).hint("build the sweep in parts, for example with --set or --sweep of one axis"))
}

/// All combinations. The last axis varies fastest. Without axes, there is one empty combination.
pub fn combinations(axes: &[Axis]) -> Vec<Combination<'_>> {
    let mut all: Vec<Combination<'_>> = vec![Vec::new()];
    for axis in axes {
        all = all
            .into_iter()
            .flat_map(|combination| {
                axis.values.iter().map(move |value| {
                    let mut longer = combination.clone();
                    longer.push((axis, value));
                    longer
                })
            })
            .collect();
    }
    all
}

/// The names of the variants with these values of the axes. Each name is unique and usable as the name of a folder.
pub fn names<'v>(axes: &[&str], variants: impl Iterator<Item = &'v Map<String, Value>>) -> Vec<String> {
    let labels: Vec<String> = axes.iter().map(|key| shortest_suffix(key, axes)).collect();
    let mut taken = BTreeSet::new();
    let name = |values: &Map<String, Value>| {
        let words: Vec<String> = labels
            .iter()
            .zip(values.values())
            .map(|(label, value)| format!("{label}={}", folder_safe(value)))
            .collect();
        let plain = words.join(",");
        let mut name = plain.clone();
        let mut number = 1;
        while !taken.insert(name.clone()) {
            number += 1;
            name = format!("{plain}~{number}");
        }
        name
    };
    variants.map(name).collect()
}

fn shortest_suffix(key: &str, axes: &[&str]) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    for length in 1..parts.len() {
        let suffix = parts[parts.len() - length..].join(".");
        let tail = format!(".{suffix}");
        if axes.iter().filter(|axis| axis.ends_with(&tail)).count() == 1 {
            return suffix;
        }
    }
    key.to_owned()
}

/// Of a table, only the values are named: `{ method = "length", top = 240 }` becomes `length+240`.
fn folder_safe(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Object(entries) => entries.values().map(folder_safe).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    };
    text.chars().map(|letter| if letter.is_alphanumeric() || "._+-%".contains(letter) { letter } else { '_' }).collect()
}
