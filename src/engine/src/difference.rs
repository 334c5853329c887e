//! The differences between two actions, as data and as text: the answer to the question why a stage would run.
//! explain.rs finds the earlier action for the comparison.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::change::{FileChange, in_words};
use super::graph::words_of_values;
use raisin_base::digest::Digest;
use raisin_base::printable::one_line;
use raisin_contract::{Action, DType, DeviceKind, GatheredArtifact, Input, NumericEnvironment, Part};

/// One difference between an earlier action and the action that is wanted now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "difference")]
pub enum ActionDifference {
    NeverBuilt,
    /// The actions do not differ; the user forces the stage to run.
    Forced,
    /// There was an equal action, but its artifact cannot be used.
    Lost {
        reason: String,
    },
    KindVersion {
        from: u32,
        to: u32,
    },
    Seed {
        from: Option<u64>,
        to: Option<u64>,
    },
    /// The device kind or the dtype of a tensor stage.
    Environment {
        from: Option<NumericEnvironment>,
        to: Option<NumericEnvironment>,
    },
    Parameter {
        path: String,
        from: Option<Value>,
        to: Option<Value>,
    },
    /// An input stage has another artifact.
    Input {
        path: String,
        /// The name of the input stage, with its variant if the stage gathers. If the name is unknown, the parameter.
        name: String,
        from: Option<Digest>,
        to: Option<Digest>,
        /// The differences between the two artifacts. Empty if one of them is gone.
        #[serde(default)]
        changes: Vec<FileChange>,
    },
    /// An input stage must run first, so its artifact is not known yet.
    InputPending {
        path: String,
        name: String,
    },
    File {
        path: String,
        name: String,
    },
    /// The files of a folder or a pattern differ.
    Files {
        path: String,
        added: Vec<String>,
        removed: Vec<String>,
        changed: Vec<String>,
    },
    Renamed {
        path: String,
        from: String,
        to: String,
    },
    /// The number of gathered artifacts differs, or their variants differ.
    Gathered {
        path: String,
        from: usize,
        to: usize,
    },
}

impl fmt::Display for ActionDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("never built"),
            Self::Forced => f.write_str("forced"),
            Self::Lost { reason } => f.write_str(reason),
            Self::KindVersion { from, to } => write!(f, "kind version {from} -> {to}"),
            Self::Seed { from, to } => {
                let side = |seed: &Option<u64>| seed.map_or("none".to_owned(), |seed| seed.to_string());
                write!(f, "seed {} -> {}", side(from), side(to))
            }
            Self::Environment { from, to } => write!(f, "numeric environment: {} -> {}", numbers(*from), numbers(*to)),
            Self::Parameter { path, from: Some(Value::Array(from)), to: Some(Value::Array(to)) } => {
                let (place, from, to) = differing(from, to);
                write!(f, "{path}.{place}: {} -> {}", briefly(from), briefly(to))
            }
            Self::Parameter { path, from, to } => {
                let side = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), brief);
                write!(f, "{path}: {} -> {}", side(from), side(to))
            }
            Self::Input { name, changes, .. } => write!(f, "input {name}: {}", in_words(changes)),
            Self::InputPending { name, .. } => write!(f, "input {name} will be made anew"),
            Self::File { path, name } => write!(f, "file {name} ({path}): other bytes"),
            Self::Files { path, added, removed, changed } => {
                let some = [("new", added), ("gone", removed), ("other bytes", changed)];
                let some = some.into_iter().filter(|(_, names)| !names.is_empty());
                let words: Vec<String> = some.map(|(what, names)| format!("{what}: {}", several(names))).collect();
                write!(f, "files {path}: {}", words.join("; "))
            }
            Self::Renamed { path, from, to } => write!(f, "file {path}: {from} -> {to}"),
            Self::Gathered { path, from, to } if from == to => write!(f, "input {path}: other variants"),
            Self::Gathered { path, from, to } => write!(f, "input {path}: {from} -> {to} artifacts"),
        }
    }
}

/// The differences as texts for the user, without duplicates.
pub fn words(why: &[ActionDifference]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in why.iter().map(ToString::to_string) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

impl ActionDifference {
    /// Whether the difference is only in the artifact of an input, or in an artifact that is not made yet.
    pub fn is_of_an_artifact(&self) -> bool {
        matches!(self, Self::Input { .. } | Self::InputPending { .. } | Self::Gathered { .. })
    }
}

/// The environment as text, such as `cpu f32`.
fn numbers(environment: Option<NumericEnvironment>) -> String {
    let Some(NumericEnvironment { device, dtype }) = environment else { return "none".to_owned() };
    let device = match device {
        DeviceKind::Cpu => "cpu",
        DeviceKind::Cuda => "cuda",
    };
    let dtype = match dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
    };
    format!("{device} {dtype}")
}

/// The first three names, and the number of the others.
fn several(names: &[String]) -> String {
    let shown = names.iter().take(3).map(|name| one_line(name)).collect::<Vec<_>>().join(", ");
    if names.len() > 3 { format!("{shown} and {} more", names.len() - 3) } else { shown }
}

/// A value as text of at most 60 characters.
fn brief(value: &Value) -> String {
    if let Some(digest) = value.get("artifact").and_then(Value::as_str) {
        return format!("the artifact {}", digest.get(..12).unwrap_or(digest));
    }
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}

/// Some items of a list as text.
fn briefly(items: &[Value]) -> String {
    match items {
        [] => "nothing".to_owned(),
        [one] => brief(one),
        several => brief(&Value::from(several)),
    }
}

/// The items in which two lists differ, without those at the beginning and at the end that are equal, and the place of
/// the first of them.
fn differing<'v>(from: &'v [Value], to: &'v [Value]) -> (usize, &'v [Value], &'v [Value]) {
    let first = from.iter().zip(to).take_while(|(from, to)| from == to).count();
    let (from, to) = (&from[first..], &to[first..]);
    let last = from.iter().rev().zip(to.iter().rev()).take_while(|(from, to)| from == to).count();
    (first, &from[..from.len() - last], &to[..to.len() - last])
}

/// The differences between two actions. Empty if both have the same key.
pub fn differences(old: &Action<'_>, new: &Action<'_>) -> Vec<ActionDifference> {
    let mut found = Vec::new();
    if old.kind != new.kind {
        let (from, to) = (Some(json!(old.kind)), Some(json!(new.kind)));
        found.push(ActionDifference::Parameter { path: "kind".to_owned(), from, to });
    }
    if old.format != new.format {
        let (from, to) = (Some(json!(old.format)), Some(json!(new.format)));
        found.push(ActionDifference::Parameter { path: "format".to_owned(), from, to });
    }
    if old.kind_version != new.kind_version {
        found.push(ActionDifference::KindVersion { from: old.kind_version, to: new.kind_version });
    }
    compare("", &old.parameters, &new.parameters, &mut found);
    if old.seed != new.seed {
        found.push(ActionDifference::Seed { from: old.seed, to: new.seed });
    }
    if old.environment != new.environment {
        found.push(ActionDifference::Environment { from: old.environment, to: new.environment });
    }
    found
}

fn compare(path: &str, old: &Part<'_>, new: &Part<'_>, found: &mut Vec<ActionDifference>) {
    let below = |name: &dyn fmt::Display| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    let parameter = |path: String, from: Option<&Part<'_>>, to: Option<&Part<'_>>| {
        let (from, to) = (from.map(Part::to_json), to.map(Part::to_json));
        ActionDifference::Parameter { path, from, to }
    };
    if let Part::Input(input) = new
        && let Some(name) = input.pending()
    {
        let (path, name) = (path.to_owned(), name.unwrap_or(path).to_owned());
        return found.push(ActionDifference::InputPending { path, name });
    }
    match (old, new) {
        (Part::Table(from), Part::Table(to)) => {
            for (name, old) in from {
                match new.get(name) {
                    Some(new) => compare(&below(name), old, new, found),
                    None => found.push(parameter(below(name), Some(old), None)),
                }
            }
            for (name, new) in to.iter().filter(|(name, _)| old.get(name).is_none()) {
                found.push(parameter(below(name), None, Some(new)));
            }
        }
        (Part::List(from), Part::List(to)) if from.len() == to.len() => {
            for (index, (old, new)) in from.iter().zip(to).enumerate() {
                compare(&below(&index), old, new, found);
            }
        }
        _ if old == new => {}
        (Part::Input(from), Part::Input(to)) => compare_inputs(path, from, to, found),
        _ => found.push(parameter(path.to_owned(), Some(old), Some(new))),
    }
}

/// Compares two inputs that differ. The artifact or file of the second input is known.
fn compare_inputs(path: &str, from: &Input<'_>, to: &Input<'_>, found: &mut Vec<ActionDifference>) {
    let path_of = || path.to_owned();
    match (from, to) {
        (Input::Artifact(from), Input::Artifact(to)) => found.push(ActionDifference::Input {
            path: path_of(),
            name: path_of(),
            from: *from,
            to: *to,
            changes: Vec::new(),
        }),
        (Input::Artifacts(from), Input::Artifacts(to)) => compare_gathered(path, from, to, found),
        (Input::Files(from), Input::Files(to)) => {
            let names = |these: &BTreeMap<String, Digest>, keep: &dyn Fn(&String, &Digest) -> bool| -> Vec<String> {
                these.iter().filter(|(name, digest)| keep(name, digest)).map(|(name, _)| name.clone()).collect()
            };
            found.push(ActionDifference::Files {
                path: path_of(),
                added: names(to, &|name, _| !from.contains_key(name)),
                removed: names(from, &|name, _| !to.contains_key(name)),
                changed: names(to, &|name, digest| from.get(name).is_some_and(|before| before != digest)),
            });
        }
        (Input::File { blake3: old, name: from }, Input::File { blake3: new, name: to }) => {
            if old != new {
                found.push(ActionDifference::File { path: path_of(), name: to.clone() });
            }
            if from != to {
                found.push(ActionDifference::Renamed { path: path_of(), from: from.clone(), to: to.clone() });
            }
        }
        _ => found.push(ActionDifference::Parameter {
            path: path_of(),
            from: Some(from.to_json()),
            to: Some(to.to_json()),
        }),
    }
}

fn compare_gathered(path: &str, from: &[GatheredArtifact], to: &[GatheredArtifact], found: &mut Vec<ActionDifference>) {
    let variant =
        |one: &GatheredArtifact, other: &GatheredArtifact| one.stage == other.stage && one.variant == other.variant;
    if from.len() != to.len() || !from.iter().zip(to).all(|(one, other)| variant(one, other)) {
        return found.push(ActionDifference::Gathered { path: path.to_owned(), from: from.len(), to: to.len() });
    }
    for (from, to) in from.iter().zip(to).filter(|(from, to)| from != to) {
        // The action has no name of a stage whose name does not matter.
        let name = if to.stage.is_empty() { path.to_owned() } else { to.stage.clone() };
        found.push(ActionDifference::Input {
            path: path.to_owned(),
            name: match words_of_values(&to.variant) {
                words if words.is_empty() => name.clone(),
                words => format!("{name} [{words}]"),
            },
            from: from.artifact,
            to: to.artifact,
            changes: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(old: &Value, new: &Value) -> Vec<String> {
        words(&differences(&Action::of_json(old).unwrap(), &Action::of_json(new).unwrap()))
    }

    /// A digest of 64 hexadecimal digits with this beginning.
    fn hex(first: &str) -> String {
        format!("{first:0<64}")
    }

    #[test]
    fn each_part_of_the_key_has_its_words() {
        let gathered = json!({"stage": "scores", "variant": {}, "artifact": hex("aa")});
        let old = json!({"format": 1, "kind": "k", "kind_version": 2, "seed": 17,
            "environment": {"device": "cpu", "dtype": "f32"},
            "parameters": {"clusters": 4, "features": {"artifact": hex("aa")}, "of": {"artifacts": [gathered]},
                "sources": [{"path": {"file": hex("bb"), "name": "pool.json"}}], "model": {"artifact": hex("cc")}}});
        let new = json!({"format": 1, "kind": "k", "kind_version": 3, "seed": 18,
            "environment": {"device": "cuda", "dtype": "bf16"},
            "parameters": {"clusters": 8, "features": {"artifact": hex("dd")}, "of": {"artifacts": []},
                "sources": [{"path": {"file": hex("ee"), "name": "pool2.json"}}], "model": {"artifact": null},
                "new": "x"}});
        assert_eq!(
            told(&old, &new),
            [
                "kind version 2 -> 3",
                "clusters: 4 -> 8",
                "input features: other bytes",
                "input of: 1 -> 0 artifacts",
                "file pool2.json (sources.0.path): other bytes",
                "file sources.0.path: pool.json -> pool2.json",
                "input model will be made anew",
                "new: nothing -> \"x\"",
                "seed 17 -> 18",
                "numeric environment: cpu f32 -> cuda bf16",
            ]
        );
    }

    #[test]
    fn the_files_of_a_folder_and_the_variants_of_a_gathered_stage_are_told_one_by_one() {
        let action = |files: Value, last: Option<&str>| {
            let gathered = |method: &str, artifact: Option<&str>| json!({"stage": "scores", "variant": {"stage.x.m": method}, "artifact": artifact.map(hex)});
            let all = [gathered("one", Some("aa")), gathered("two", last)];
            let parameters = json!({"path": {"files": files}, "of": {"artifacts": all}});
            json!({"format": 1, "kind": "k", "kind_version": 1, "parameters": parameters})
        };
        let old = action(json!({"a": hex("11"), "b": hex("22"), "c": hex("33")}), Some("bb"));
        let files = json!({"b": hex("23"), "c": hex("33"), "d": hex("44")});
        assert_eq!(
            told(&old, &action(files.clone(), Some("cc"))),
            ["files path: new: d; gone: a; other bytes: b", "input scores [m=\"two\"]: other bytes"]
        );
        let pending = action(files, None);
        let words = told(&old, &pending);
        assert_eq!(words[1], "input scores will be made anew");
        let (old, pending) = (Action::of_json(&old).unwrap(), Action::of_json(&pending).unwrap());
        let found = differences(&old, &pending);
        assert_eq!(found.iter().map(ActionDifference::is_of_an_artifact).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn of_lists_of_different_lengths_the_items_that_differ_are_named() {
        let told = |from: Value, to: Value| {
            let action =
                |list: Value| json!({"format": 1, "kind": "k", "kind_version": 1, "parameters": {"run": list}});
            super::tests::told(&action(from), &action(to))
        };
        assert_eq!(told(json!(["a", "b", "c"]), json!(["a", "x", "b", "c"])), ["run.1: nothing -> \"x\""]);
        assert_eq!(told(json!(["a", "b"]), json!([])), ["run.0: [\"a\",\"b\"] -> nothing"]);
        assert_eq!(told(json!(["a", "b", "c"]), json!(["a", "d"])), ["run.1: [\"b\",\"c\"] -> \"d\""]);
        assert_eq!(told(json!(["a"]), json!(["a", "a"])), ["run.1: nothing -> \"a\""]);
    }

    #[test]
    fn differences_are_kept_as_they_always_were() {
        let kept = json!([
            {"difference": "kind_version", "from": 1, "to": 2},
            {"difference": "seed", "from": null, "to": 3},
            {"difference": "environment", "from": {"device": "cpu", "dtype": "f32"}, "to": null},
            {"difference": "input", "path": "of", "name": "pool", "from": hex("aa"), "to": null, "changes": []},
        ]);
        let read: Vec<ActionDifference> = serde_json::from_value(kept.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), kept);
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..4_i64).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
            (0..3_u8).prop_map(|digit| json!({"artifact": hex(&digit.to_string())})),
            (0..3_u8).prop_map(|digit| json!({"file": hex(&digit.to_string()), "name": digit.to_string()})),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// There are differences if and only if the keys differ.
        #[test]
        fn there_is_a_difference_exactly_where_the_keys_differ(one in json_value(), other in json_value()) {
            let json = |parameters| json!({"format": 1, "kind": "k", "kind_version": 1, "parameters": parameters});
            let (old, new) = (json(one), json(other));
            let (old, new) = (Action::of_json(&old).unwrap(), Action::of_json(&new).unwrap());
            prop_assert_eq!(differences(&old, &new).is_empty(), old.key() == new.key());
            prop_assert!(differences(&old, &old).is_empty());
        }
    }
}
