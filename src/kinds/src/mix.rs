//! The `mix` kind: makes one pool from several pools, with a declared part of each.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::{number, numbers, outputs, word};

pub struct MixKind;

/// The unit of `size`, of `take` and of the parts of a mix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MixUnit {
    /// Rows.
    #[default]
    Rows,
    /// Characters of all turns.
    Characters,
    /// Tokens of the whole row, in the chat template of `model`, before a training cuts the row at its `max_tokens`.
    Tokens,
}

impl MixUnit {
    /// The word by which a pipeline file names the unit.
    pub fn name(self) -> String {
        word(&self)
    }
}

/// A pool of a mix, and its part. Without `share` and `take`, the part follows the size of the pool and `temperature`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MixedPool {
    /// The stage that provides the instructions.
    pub instructions: String,
    /// Only the rows to which a `filter` gave this `source`. If absent, all rows of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The part of the pool relative to the `share` of the other pools: with shares 3 and 1, three quarters of the mix
    /// come from the first pool. If one pool has a share, each pool without `take` needs one. If absent, the part follows
    /// the size of the pool and `temperature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The amount from this pool, in `unit`. It counts towards `size`, and the other pools divide what is left. If absent,
    /// the pool is one of those that divide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take: Option<u64>,
}

/// Parameters of a `mix` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The pools by name. The name stands in the column `pool` of the result. The mix has the pools in the order of
    /// their names.
    pub pools: BTreeMap<String, MixedPool>,
    /// The amount of the whole mix, in `unit`. If absent, the mix is the largest one that keeps the parts and repeats
    /// no row more than `passes` allows.
    #[serde(default)]
    pub size: Option<u64>,
    /// The unit of amounts.
    #[serde(default)]
    pub unit: MixUnit,
    /// The stage of the model whose tokenizer and chat template count tokens. If absent, `unit` cannot be `tokens`.
    #[serde(default)]
    pub model: Option<String>,
    /// Without shares, a pool of n rows (or characters, or tokens) has a part in proportion to n^(1/temperature): 1
    /// keeps the proportions of the pools, and a high temperature makes the parts equal.
    #[serde(default = "one")]
    pub temperature: f64,
    /// How often the mix may contain a row. With 1, no row is repeated.
    #[serde(default = "number::<1>")]
    pub passes: usize,
}

fn one() -> f64 {
    1.0
}

impl Kind for MixKind {
    const NAME: &'static str = "mix";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Makes one pool from several, with a declared part of each.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["instructions"];
    const TABLES: &'static [TableDeclaration] = outputs::mix::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::mix::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::mix::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        for (name, pool) in &parameters.pools {
            needs.stage(format!("/pools/{name}/instructions"), &pool.instructions, "instructions");
        }
        if let Some(model) = &parameters.model {
            needs.stage("/model", model, "model");
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let Parameters { pools, size, unit, model, temperature, passes } = parameters;
        if pools.is_empty() {
            let problem = ParameterProblem::new("/pools", "a mix needs at least one pool");
            return Err(problem.hint("name pools: pools.alpaca = { instructions = \"alpaca\", share = 3 }"));
        }
        for name in pools.keys() {
            let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
            if name.is_empty() || !name.chars().all(is_name) {
                let problem = ParameterProblem::new("/pools", format!("`{name}` is not a name for a pool"));
                return Err(problem.hint("use letters, digits, `_` and `-`"));
            }
        }
        numbers::positive(&[("temperature", *temperature)])?;
        numbers::counts(&[("passes", *passes)])?;
        if *size == Some(0) {
            return Err(ParameterProblem::new("/size", "a mix of nothing is empty"));
        }
        match (unit, model) {
            (MixUnit::Tokens, None) => {
                let problem = ParameterProblem::new("/unit", "the unit `tokens` needs a tokenizer");
                return Err(problem.hint("name the stage of a model: model = \"base\""));
            }
            (MixUnit::Rows | MixUnit::Characters, Some(_)) => {
                let message = format!("a model counts tokens, and the unit is `{}`", unit.name());
                return Err(ParameterProblem::new("/model", message).hint("set unit = \"tokens\", or remove `model`"));
            }
            _ => {}
        }
        check_parts(pools, *temperature)
    }
}

/// Refuses parts that contradict each other.
fn check_parts(pools: &BTreeMap<String, MixedPool>, temperature: f64) -> Result<(), ParameterProblem> {
    let with_share = pools.iter().find(|(_, pool)| pool.share.is_some()).map(|(name, _)| name);
    for (name, pool) in pools {
        let at = |key: &str| format!("/pools/{name}{key}");
        if pool.source.as_ref().is_some_and(String::is_empty) {
            let problem = ParameterProblem::new(at("/source"), "no row has an empty source");
            return Err(problem.hint("remove `source` to take all rows of the pool"));
        }
        match (pool.share, pool.take) {
            (Some(_), Some(_)) => {
                let message = format!("`{name}` has a share and an amount");
                return Err(ParameterProblem::new(at("/take"), message).hint("keep `share` or `take`"));
            }
            (Some(share), None) if !(share.is_finite() && share > 0.0) => {
                let problem = ParameterProblem::new(at("/share"), "must be a number above 0");
                return Err(problem.hint("leave the pool out if the mix has nothing of it"));
            }
            (None, Some(0)) => {
                let problem = ParameterProblem::new(at("/take"), "must be at least 1");
                return Err(problem.hint("leave the pool out if the mix has nothing of it"));
            }
            (None, None) => {
                if let Some(other) = with_share {
                    let message = format!("`{other}` has a share, and `{name}` has none");
                    return Err(ParameterProblem::new(at(""), message).hint("add `share` or `take`"));
                }
            }
            _ => {}
        }
    }
    #[expect(clippy::float_cmp, reason = "the default is written as exactly this number")]
    let has_temperature = temperature != one();
    if let Some(name) = with_share.filter(|_| has_temperature) {
        let message = format!("`{name}` has a share, and a temperature sets the parts of pools without shares");
        let problem = ParameterProblem::new(format!("/pools/{name}/share"), message);
        return Err(problem.hint("remove `temperature` or the shares"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::declaration;

    fn said(parameters: Value) -> String {
        let problem = declaration("mix").unwrap().resolve(parameters).unwrap_err();
        format!("{}: {} ({})", problem.pointer, problem.message, problem.hint.unwrap_or_default())
    }

    #[test]
    fn parts_that_contradict_each_other_are_refused() {
        let pool = |part: Value| {
            let mut pool = json!({"instructions": "a"});
            pool.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            pool
        };
        let mix = |a: Value, b: Value| json!({"pools": {"a": pool(a), "b": pool(b)}});
        assert_eq!(
            said(mix(json!({"share": 1, "take": 3}), json!({}))),
            "/pools/a/take: `a` has a share and an amount (keep `share` or `take`)"
        );
        assert_eq!(
            said(mix(json!({"share": 1}), json!({}))),
            "/pools/b: `a` has a share, and `b` has none (add `share` or `take`)"
        );
        assert!(said(mix(json!({"share": 0}), json!({"share": 1}))).starts_with("/pools/a/share: must be"));
        assert!(said(mix(json!({"take": 0}), json!({}))).starts_with("/pools/a/take: must be at least 1"));
        let mut hot = mix(json!({"share": 1}), json!({"share": 1}));
        hot["temperature"] = json!(2);
        assert!(said(hot).starts_with("/pools/a/share: `a` has a share, and a temperature sets the parts"));
        assert!(declaration("mix").unwrap().resolve(mix(json!({"share": 1}), json!({"take": 5}))).is_ok());
    }

    #[test]
    fn tokens_need_a_model_and_other_units_none() {
        let mix = |more: Value| {
            let mut parameters = json!({"pools": {"a": {"instructions": "a"}}});
            parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            parameters
        };
        let hint = "name the stage of a model: model = \"base\"";
        assert_eq!(
            said(mix(json!({"unit": "tokens"}))),
            format!("/unit: the unit `tokens` needs a tokenizer ({hint})")
        );
        assert!(
            said(mix(json!({"model": "base"}))).starts_with("/model: a model counts tokens, and the unit is `rows`")
        );
        assert!(said(mix(json!({"size": 0}))).starts_with("/size: "));
        assert!(said(mix(json!({"passes": 0}))).starts_with("/passes: must be at least 1"));
        assert!(said(json!({"pools": {}})).starts_with("/pools: a mix needs at least one pool"));
        assert!(said(json!({"pools": {"a/b": {"instructions": "a"}}})).starts_with("/pools: `a/b` is not a name"));
    }
}
