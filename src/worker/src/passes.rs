//! What was computed before a selection begins: features, the columns that joined them, the states of a frozen prefix,
//! and the training of a selector. `summary.json` of a `selector` and of a `finetune` stage lists these passes, so that
//! a report counts them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use raisin_base::error::{Context as _, Result};
use raisin_base::files::if_there;
use raisin_contract::{referenced, references};

/// The summaries of the passes of a `clusters` artifact, if there is one, and of a model: the features of the pool, the
/// columns that joined them, the states of a frozen prefix. Each has the digest of its artifact. References that
/// `is_used` refuses are left out.
pub fn passes_before(clusters: Option<&Path>, model: &Path, is_used: impl Fn(&str) -> bool) -> Result<Vec<Value>> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(clusters) = clusters {
        for name in references(clusters)?.into_keys().filter(|name| is_used(name)) {
            folders.extend(referenced(clusters, &name)?);
        }
    }
    folders.push(model.to_owned());
    let mut passes = Vec::new();
    for folder in folders {
        // The summary of a model that an earlier stage trained is not the summary of a forward pass.
        if let Some(mut pass) = summary(&folder)?.filter(|summary| summary["pass"].is_string()) {
            pass["artifact"] = json!(folder.file_name().map(|digest| digest.to_string_lossy()));
            passes.push(pass);
        }
    }
    Ok(passes)
}

/// The passes before the first episode of a selector, and the training of the selector itself.
pub fn passes_of_policy(policy: &Path) -> Result<Vec<Value>> {
    let summary = summary(policy)?.with_context(|| format!("{} has no summary.json", policy.display()))?;
    let number = |key: &str| summary[key].as_f64().unwrap_or_default();
    let mut passes = summary["passes"].as_array().cloned().unwrap_or_default();
    passes.push(json!({
        "pass": "selector",
        "tokens": number("tokens"),
        "supervised_tokens": number("supervised_tokens"),
        "flops": number("flops"),
        "evaluation_flops": number("evaluation_flops") + number("effect_flops"),
    }));
    Ok(passes)
}

/// Each pass once.
pub fn distinct(passes: Vec<Value>) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for pass in passes {
        if !found.contains(&pass) {
            found.push(pass);
        }
    }
    found
}

fn summary(folder: &Path) -> Result<Option<Value>> {
    let path = folder.join("summary.json");
    let bytes = if_there(std::fs::read(&path)).with_context(|| format!("cannot read {}", path.display()))?;
    bytes
        .map(|bytes| serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display())))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_costs_its_passes_and_its_training_and_each_pass_counts_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let features = json!({"pass": "features", "flops": 7.0, "tokens": 3});
        let written = json!({
            "passes": [features], "tokens": 10, "supervised_tokens": 4, "flops": 100.0, "evaluation_flops": 20.0,
            "effect_flops": 30.0,
        });
        std::fs::write(folder.path().join("summary.json"), written.to_string())?;
        let passes = passes_of_policy(folder.path())?;
        assert_eq!(passes[0], features);
        assert_eq!((&passes[1]["flops"], &passes[1]["evaluation_flops"]), (&json!(100.0), &json!(50.0)));
        let twice = [vec![features.clone()], passes].concat();
        assert_eq!(distinct(twice).len(), 2);
        Ok(())
    }
}
