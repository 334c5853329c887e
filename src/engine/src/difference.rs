//! How two actions differ, in words: the answer to "why would this run?".

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{FileChange, in_words};

/// One difference between an earlier action and the one that is wanted now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "difference")]
pub enum Difference {
    NeverBuilt,
    /// Nothing differs: the person wants it run.
    Forced,
    /// There was an equal action, whose artifact cannot be served.
    Lost {
        reason: String,
    },
    KindVersion {
        from: Value,
        to: Value,
    },
    Seed {
        from: Value,
        to: Value,
    },
    /// Device kind and dtype of a tensor stage.
    Environment {
        from: Value,
        to: Value,
    },
    Parameter {
        path: String,
        from: Option<Value>,
        to: Option<Value>,
    },
    /// An input stage with another artifact.
    Input {
        path: String,
        /// The stage, with its variant if it was gathered; the parameter where that is not known.
        name: String,
        from: Value,
        to: Value,
        /// What the two artifacts differ in; empty where one of them is gone.
        #[serde(default)]
        changes: Vec<FileChange>,
    },
    /// An input stage that will run first, so that nobody knows its artifact yet.
    InputPending {
        path: String,
        name: String,
    },
    File {
        path: String,
        name: String,
    },
    /// The files of a folder or a pattern.
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
    /// The gathered artifacts of a stage are more, fewer, or of other variants.
    Gathered {
        path: String,
        from: usize,
        to: usize,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("never built"),
            Self::Forced => f.write_str("forced"),
            Self::Lost { reason } => f.write_str(reason),
            Self::KindVersion { from, to } => write!(f, "kind version {from} -> {to}"),
            Self::Seed { from, to } => write!(f, "seed {from} -> {to}"),
            Self::Environment { from, to } => write!(f, "numeric environment: {} -> {}", numbers(from), numbers(to)),
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

/// The differences for people, each text once.
pub fn words(why: &[Difference]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in why.iter().map(ToString::to_string) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// `cpu f32`
fn numbers(environment: &Value) -> String {
    let word = |part: &str| environment.get(part).and_then(Value::as_str);
    match (word("device"), word("dtype")) {
        (Some(device), Some(dtype)) => format!("{device} {dtype}"),
        _ => brief(environment),
    }
}

/// The first few names.
fn several(names: &[String]) -> String {
    let shown = names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 3 { format!("{shown} and {} more", names.len() - 3) } else { shown }
}

/// A value in at most 60 characters.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}

/// What makes `new` another action than `old`; empty if they have the same key.
pub fn differences(old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    let nothing = Value::Null;
    let side = |action: &'_ Value, name: &str| action.get(name).cloned().unwrap_or(Value::Null);
    for name in ["kind", "format"] {
        let (from, to) = (side(old, name), side(new, name));
        if from != to {
            found.push(Difference::Parameter { path: name.to_owned(), from: Some(from), to: Some(to) });
        }
    }
    let (from, to) = (side(old, "kind_version"), side(new, "kind_version"));
    if from != to {
        found.push(Difference::KindVersion { from, to });
    }
    let (from, to) = (old.get("parameters").unwrap_or(&nothing), new.get("parameters").unwrap_or(&nothing));
    compare("", Some(from), Some(to), &mut found);
    let (from, to) = (side(old, "seed"), side(new, "seed"));
    if from != to {
        found.push(Difference::Seed { from, to });
    }
    let (from, to) = (side(old, "environment"), side(new, "environment"));
    if from != to {
        found.push(Difference::Environment { from, to });
    }
    found
}

/// What a parameter's value is, once inputs have been put in.
enum Shape<'a> {
    Artifact(&'a Value),
    Artifacts(&'a [Value]),
    File { blake3: &'a Value, name: &'a str },
    Files(&'a Map<String, Value>),
    Plain,
}

fn shape(value: &Value) -> Shape<'_> {
    let Some(map) = value.as_object() else { return Shape::Plain };
    match map.len() {
        1 => match (map.get("artifact"), map.get("artifacts"), map.get("files")) {
            (Some(artifact), ..) => Shape::Artifact(artifact),
            (_, Some(Value::Array(artifacts)), _) => Shape::Artifacts(artifacts),
            (_, _, Some(Value::Object(files))) => Shape::Files(files),
            _ => Shape::Plain,
        },
        2 => match (map.get("file"), map.get("name")) {
            (Some(blake3), Some(Value::String(name))) => Shape::File { blake3, name },
            _ => Shape::Plain,
        },
        _ => Shape::Plain,
    }
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Difference>) {
    let path_of = || path.to_owned();
    let (Some(from), Some(to)) = (old, new) else {
        if old.is_some() || new.is_some() {
            found.push(Difference::Parameter { path: path_of(), from: old.cloned(), to: new.cloned() });
        }
        return;
    };
    match (shape(from), shape(to)) {
        (_, Shape::Artifact(Value::Null)) => {
            found.push(Difference::InputPending { path: path_of(), name: path_of() });
        }
        (_, Shape::Artifacts(entries)) if entries.iter().any(|entry| entry["artifact"].is_null()) => {
            let pending = entries.iter().find(|entry| entry["artifact"].is_null());
            let name = pending.and_then(|entry| entry["stage"].as_str()).unwrap_or(path).to_owned();
            found.push(Difference::InputPending { path: path_of(), name });
        }
        _ if from == to => {}
        (Shape::Artifact(from), Shape::Artifact(to)) => found.push(Difference::Input {
            path: path_of(),
            name: path_of(),
            from: from.clone(),
            to: to.clone(),
            changes: Vec::new(),
        }),
        (Shape::Artifacts(from), Shape::Artifacts(to)) => compare_gathered(path, from, to, found),
        (Shape::Files(from), Shape::Files(to)) => {
            let names = |these: &Map<String, Value>, keep: &dyn Fn(&String, &Value) -> bool| -> Vec<String> {
                these.iter().filter(|(name, digest)| keep(name, digest)).map(|(name, _)| name.clone()).collect()
            };
            found.push(Difference::Files {
                path: path_of(),
                added: names(to, &|name, _| !from.contains_key(name)),
                removed: names(from, &|name, _| !to.contains_key(name)),
                changed: names(to, &|name, digest| from.get(name).is_some_and(|before| before != digest)),
            });
        }
        (Shape::File { blake3: old, name: from }, Shape::File { blake3: new, name: to }) => {
            if old != new {
                found.push(Difference::File { path: path_of(), name: to.to_owned() });
            }
            if from != to {
                found.push(Difference::Renamed { path: path_of(), from: from.to_owned(), to: to.to_owned() });
            }
        }
        _ => compare_plain(path, from, to, found),
    }
}

fn compare_gathered(path: &str, from: &[Value], to: &[Value], found: &mut Vec<Difference>) {
    let same_variants = from.len() == to.len()
        && from
            .iter()
            .zip(to)
            .all(|(one, other)| (&one["stage"], &one["variant"]) == (&other["stage"], &other["variant"]));
    if !same_variants {
        return found.push(Difference::Gathered { path: path.to_owned(), from: from.len(), to: to.len() });
    }
    for (from, to) in from.iter().zip(to).filter(|(from, to)| from != to) {
        let variant = to["variant"].as_object().map(variant_words).unwrap_or_default();
        found.push(Difference::Input {
            path: path.to_owned(),
            name: format!("{}{variant}", to["stage"].as_str().unwrap_or(path)),
            from: from["artifact"].clone(),
            to: to["artifact"].clone(),
            changes: Vec::new(),
        });
    }
}

/// ` [method=raise]`; nothing without a sweep.
fn variant_words(values: &Map<String, Value>) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let words: Vec<String> = values.iter().map(|(key, value)| format!("{}={value}", last(key))).collect();
    if words.is_empty() { String::new() } else { format!(" [{}]", words.join(",")) }
}

fn compare_plain(path: &str, from: &Value, to: &Value, found: &mut Vec<Difference>) {
    let below = |name: &dyn fmt::Display| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match (from, to) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                compare(&below(name), Some(value), new.get(name), found);
            }
            for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                compare(&below(name), None, Some(value), found);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&below(&index), Some(old), Some(new), found);
            }
        }
        _ => {
            found.push(Difference::Parameter { path: path.to_owned(), from: Some(from.clone()), to: Some(to.clone()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use raisin_base::digest::Digest;

    fn told(old: &Value, new: &Value) -> Vec<String> {
        words(&differences(old, new))
    }

    #[test]
    fn each_part_of_the_key_has_its_words() {
        let old = json!({"format": 1, "kind": "k", "kind_version": 2, "seed": 17,
            "environment": {"device": "cpu", "dtype": "f32"},
            "parameters": {"clusters": 4, "features": {"artifact": "aa"}, "of": {"artifacts": [{"artifact": "aa"}]},
                "sources": [{"path": {"file": "bb", "name": "pool.json"}}], "model": {"artifact": "cc"}}});
        let new = json!({"format": 1, "kind": "k", "kind_version": 3, "seed": 18,
            "environment": {"device": "cuda", "dtype": "bf16"},
            "parameters": {"clusters": 8, "features": {"artifact": "dd"}, "of": {"artifacts": []},
                "sources": [{"path": {"file": "ee", "name": "pool2.json"}}], "model": {"artifact": null}, "new": "x"}});
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
        let old = json!({"kind": "k", "parameters": {"path": {"files": {"a": "11", "b": "22", "c": "33"}},
            "of": {"artifacts": [{"stage": "scores", "variant": {"stage.x.m": "one"}, "artifact": "aa"},
                {"stage": "scores", "variant": {"stage.x.m": "two"}, "artifact": "bb"}]}}});
        let new = json!({"kind": "k", "parameters": {"path": {"files": {"b": "23", "c": "33", "d": "44"}},
            "of": {"artifacts": [{"stage": "scores", "variant": {"stage.x.m": "one"}, "artifact": "aa"},
                {"stage": "scores", "variant": {"stage.x.m": "two"}, "artifact": "cc"}]}}});
        assert_eq!(
            told(&old, &new),
            ["files path: new: d; gone: a; other bytes: b", "input scores [m=\"two\"]: other bytes"]
        );
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..4_i64).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
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
        /// The explanation can never disagree with the key.
        #[test]
        fn there_is_a_difference_exactly_where_the_keys_differ(one in json_value(), other in json_value()) {
            let (old, new) = (json!({"kind": "k", "parameters": one}), json!({"kind": "k", "parameters": other}));
            prop_assert_eq!(differences(&old, &new).is_empty(), Digest::of_json(&old) == Digest::of_json(&new));
            prop_assert!(differences(&old, &old).is_empty());
        }
    }
}
