//! The files of a table, and the constant columns of each file.
//!
//! In a pipeline with a sweep, each variant has an artifact of each stage. But a stage may depend on few axes of the
//! sweep: if 21 variants share one pool, the rows of the pool must not appear 21 times. Therefore a table has only the
//! files of the *distinct* variants of its stage: one for each combination of values of the axes on which the action
//! key of the stage depends.
//!
//! Variants with different values of such an axis are distinct even if their keys are equal. For example, a baseline
//! that draws no random numbers has the same key for every seed. The baseline still counts once for each seed, so that
//! averages over seeds are right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Map, Value};

/// A Parquet file and the constant columns of its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct TableFile {
    pub path: PathBuf,
    /// The names and values of the constant columns, in order. A value is null if the column does not apply to the
    /// file.
    pub constants: Vec<(String, Value)>,
}

/// The artifact of a stage in one variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Member<T> {
    /// The name of the variant; empty if the variants share the artifact.
    pub variant: String,
    /// The values of the sweep by their whole keys.
    pub values: Map<String, Value>,
    /// The action key. Two variants have the same key if the stage does not depend on their differences.
    pub identity: String,
    pub of: T,
}

/// The distinct members, each with its constant columns: `variant`, and one for each axis on which the stage depends.
/// Without a sweep there are no constant columns.
pub fn distinct<T: Clone>(members: &[Member<T>]) -> Vec<(T, Vec<(String, Value)>)> {
    let axes = axes(members);
    let sweeps = !axes.is_empty() || members.iter().any(|member| !member.variant.is_empty());
    let relevant = relevant(members, &axes);
    let names = short_names(&axes);
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for member in members {
        let values: Vec<(String, Value)> = relevant
            .iter()
            .map(|axis| (names[axis].clone(), member.values.get(axis).cloned().unwrap_or(Value::Null)))
            .collect();
        let all: Value = values.iter().map(|(_, value)| value.clone()).collect();
        if !seen.insert(all.to_string()) {
            continue;
        }
        let mut constants = Vec::new();
        if sweeps {
            let variant = if relevant.is_empty() {
                Value::Null
            } else if relevant.len() == axes.len() && !member.variant.is_empty() {
                Value::String(member.variant.clone())
            } else {
                let words: Vec<String> = values.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
                Value::String(words.join(","))
            };
            constants.push(("variant".to_owned(), variant));
        }
        constants.extend(values);
        found.push((member.of.clone(), constants));
    }
    found
}

/// [`distinct`] for the artifacts of a gathering stage, for which the values but no keys are known.
pub fn spread(sources: &[(PathBuf, Map<String, Value>)]) -> Vec<(PathBuf, Vec<(String, Value)>)> {
    let members: Vec<Member<PathBuf>> = sources
        .iter()
        .map(|(folder, values)| Member {
            variant: String::new(),
            values: values.clone(),
            identity: folder.to_string_lossy().into_owned(),
            of: folder.clone(),
        })
        .collect();
    distinct(&members)
}

/// All axes, in the order of their first appearance.
fn axes<T>(members: &[Member<T>]) -> Vec<String> {
    let mut axes: Vec<String> = Vec::new();
    for axis in members.iter().flat_map(|member| member.values.keys()) {
        if !axes.contains(axis) {
            axes.push(axis.clone());
        }
    }
    axes
}

/// The axes on which the identity depends: two members differ in nothing but this axis, and their identities differ. If
/// these axes do not explain all differences, all axes.
fn relevant<T>(members: &[Member<T>], axes: &[String]) -> Vec<String> {
    let identities_by = |chosen: &dyn Fn(&str) -> bool| {
        let mut groups: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for member in members {
            let values: Vec<&Value> = axes
                .iter()
                .filter(|axis| chosen(axis))
                .map(|axis| member.values.get(axis).unwrap_or(&Value::Null))
                .collect();
            groups.entry(format!("{values:?}")).or_default().insert(&member.identity);
        }
        groups
    };
    let several = |groups: BTreeMap<String, BTreeSet<&str>>| groups.values().any(|identities| identities.len() > 1);
    let found: Vec<String> =
        axes.iter().filter(|axis| several(identities_by(&|other| other != axis.as_str()))).cloned().collect();
    if several(identities_by(&|axis| found.iter().any(|other| other == axis))) { axes.to_vec() } else { found }
}

/// A short name for each axis: the shortest end of its key that no other axis has. `stage.tuned.select.method` becomes
/// `method`.
fn short_names(axes: &[String]) -> BTreeMap<String, String> {
    let name = |axis: &String| {
        let parts: Vec<&str> = axis.split('.').collect();
        for length in 1..=parts.len() {
            let suffix = &parts[parts.len() - length..];
            let ends_so = |other: &&String| other.split('.').collect::<Vec<_>>().ends_with(suffix);
            if axes.iter().filter(ends_so).count() == 1 {
                return suffix.join("_");
            }
        }
        parts.join("_")
    };
    axes.iter().map(|axis| (axis.clone(), name(axis))).collect()
}

/// A value as text, without quotes.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn member(method: &str, seed: u32, identity: &str) -> Member<String> {
        let values = json!({"stage.tuned.select.method": method, "pipeline.seed": seed});
        Member {
            variant: format!("method={method},seed={seed}"),
            values: values.as_object().cloned().unwrap_or_default(),
            identity: identity.to_owned(),
            of: identity.to_owned(),
        }
    }

    fn grid(identity: impl Fn(&str, u32) -> String) -> Vec<Member<String>> {
        let pairs = ["raise", "random"].iter().flat_map(|method| [17, 18].map(|seed| (*method, seed)));
        pairs.map(|(method, seed)| member(method, seed, &identity(method, seed))).collect()
    }

    #[test]
    fn a_stage_that_no_axis_reaches_appears_once_with_no_variant() {
        let found = distinct(&grid(|_, _| "pool".to_owned()));
        assert_eq!(found, [("pool".to_owned(), vec![("variant".to_owned(), Value::Null)])]);
    }

    #[test]
    fn a_stage_appears_once_for_each_value_of_the_axes_that_reach_it() {
        let found = distinct(&grid(|_, seed| format!("clusters of {seed}")));
        let variants: Vec<&Value> = found.iter().map(|(_, constants)| &constants[0].1).collect();
        assert_eq!(variants, [&json!("seed=17"), &json!("seed=18")]);
        assert_eq!(found[0].1[1], ("seed".to_owned(), json!(17)));
        assert_eq!(found[0].1.len(), 2, "there is no column for the method");
    }

    #[test]
    fn variants_with_equal_results_count_separately() {
        let found =
            distinct(&grid(|method, seed| if method == "random" { "same".into() } else { format!("raise {seed}") }));
        assert_eq!(found.len(), 4);
        assert_eq!(found[2].1[0].1, json!("method=random,seed=17"));
        assert_eq!(found[3].1[1..], [("method".to_owned(), json!("random")), ("seed".to_owned(), json!(18))]);
    }

    #[test]
    fn without_a_sweep_there_are_no_columns() {
        let alone = Member { variant: String::new(), values: Map::new(), identity: "a".into(), of: "a" };
        assert_eq!(distinct(&[alone]), [("a", vec![])]);
    }

    #[test]
    fn short_names_stay_different() {
        let axes = ["stage.a.rate", "stage.b.rate", "pipeline.seed"].map(str::to_owned);
        let names = short_names(&axes);
        assert_eq!(names.values().collect::<Vec<_>>(), ["seed", "a_rate", "b_rate"]);
    }
}
