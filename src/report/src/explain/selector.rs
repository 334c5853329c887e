//! The tables of a selector and of the stages around it, as `raisin explain` reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow_array::{Array as _, FixedSizeListArray, Float32Array};
use serde_json::Value;

use crate::gather::{Picked, json, numbers, picked, texts, whole};
use crate::learned::{CreditSummary, LearnedEffects};
use raisin_base::error::{Context as _, Result};
use raisin_contract::explain::SelectorArtifacts;
use raisin_table as table;

/// What a selector learned and did.
pub struct ExplainedSelector {
    pub learner: String,
    /// The column of the prior, and its weight.
    pub prior: Option<(String, f64)>,
    /// The steps of an episode, and the size of a batch.
    pub steps: u32,
    pub batch_size: u32,
    pub credit: CreditSummary,
    /// By round: among how many candidates a slot was drawn in effect.
    pub effective_candidates: Vec<Option<f64>>,
    pub learned: Option<LearnedEffects>,
    /// The selections of all episodes.
    pub picked: Vec<Picked>,
    pub episodes: usize,
    pub measured: Vec<MeasuredEffect>,
    pub clusters: BTreeMap<u32, u32>,
    pub prompts: BTreeMap<u32, String>,
    /// Each run that the policy selected for: its label and its selections.
    pub deployed: Vec<(String, Vec<Picked>)>,
}

/// One row of the table `effects`.
pub struct MeasuredEffect {
    pub id: u32,
    pub round: u32,
    pub step: u32,
    /// In nats per token.
    pub effect: f64,
}

impl ExplainedSelector {
    pub fn read(of: &SelectorArtifacts) -> Result<Self> {
        let file = of.artifact.join("policy.json");
        let policy = json(&file)?.with_context(|| format!("{} is not there", file.display()))?;
        let count = |pointer: &str| policy.pointer(pointer).and_then(Value::as_u64).unwrap_or(0) as u32;
        let text = |pointer: &str| policy.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let weight = policy.pointer("/prior/weight").and_then(Value::as_f64);
        let rounds = table::read(&of.artifact.join("rounds.parquet"))?;
        let steps = table::read_columns(&of.artifact.join("steps.parquet"), &["round", "episode"])?;
        let episodes = numbers(&steps, "round")?.into_iter().zip(numbers(&steps, "episode")?);
        let episodes: BTreeSet<(u64, u64)> =
            episodes.filter_map(|(round, episode)| Some((round? as u64, episode? as u64))).collect();
        let rows = table::read_columns(&of.clusters.join("clusters.parquet"), &["id", "cluster"])?;
        let mut clusters = BTreeMap::new();
        for (id, cluster) in numbers(&rows, "id")?.into_iter().zip(numbers(&rows, "cluster")?) {
            if let (Some(id), Some(cluster)) = (id, cluster) {
                clusters.insert(whole(id, "id")?, whole(cluster, "cluster")?);
            }
        }
        let rows = table::read_columns(&of.instructions.join("instructions.parquet"), &["id", "prompt"])?;
        let mut prompts = BTreeMap::new();
        for (id, prompt) in numbers(&rows, "id")?.into_iter().zip(texts(&rows, "prompt")?) {
            if let Some(id) = id {
                prompts.insert(whole(id, "id")?, prompt.unwrap_or_default());
            }
        }
        let deployed = of.deployed.iter().map(|run| Ok((run.label.clone(), picked(&run.artifact)?)));
        Ok(Self {
            learner: text("/learner").unwrap_or_else(|| "unknown".to_owned()),
            prior: text("/prior/column").zip(weight),
            steps: count("/conditions/steps"),
            batch_size: count("/conditions/batch_size"),
            credit: CreditSummary::of(&rounds)?,
            effective_candidates: numbers(&rounds, "effective_candidates")?,
            learned: LearnedEffects::read(&of.artifact)?,
            picked: picked(&of.artifact)?,
            episodes: episodes.len(),
            measured: measured(&of.artifact)?,
            clusters,
            prompts,
            deployed: deployed.collect::<Result<_>>()?,
        })
    }

    /// The number of the last round.
    pub fn last_round(&self) -> u32 {
        self.credit.rounds.saturating_sub(1) as u32
    }

    /// The selections of the last round, or with a step, those of this step in all rounds.
    pub fn shown_selections(&self, step: Option<u32>) -> impl Iterator<Item = &Picked> {
        let last = self.last_round();
        self.picked.iter().filter(move |row| match step {
            Some(step) => row.step == step,
            None => row.round == Some(last),
        })
    }
}

fn measured(folder: &Path) -> Result<Vec<MeasuredEffect>> {
    let path = folder.join("effects.parquet");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let rows = table::read(&path)?;
    let (ids, rounds) = (numbers(&rows, "id")?, numbers(&rows, "round")?);
    let (steps, effects) = (numbers(&rows, "step")?, numbers(&rows, "effect")?);
    let mut measured = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        if let (Some(id), Some(round), Some(step), Some(effect)) = (ids[row], rounds[row], steps[row], effects[row]) {
            let (id, round, step) = (whole(id, "id")?, whole(round, "round")?, whole(step, "step")?);
            measured.push(MeasuredEffect { id, round, step, effect });
        }
    }
    Ok(measured)
}

/// The static state of a candidate, by the name of the column.
///
/// # Errors
/// The artifact of the clusters lacks a table, a file, or the candidate.
pub fn state_of(clusters: &Path, id: u32) -> Result<BTreeMap<String, f64>> {
    let file = clusters.join("constants.json");
    let constants = json(&file)?.with_context(|| format!("{} is not there", file.display()))?;
    let names = constants.get("columns").and_then(Value::as_array).context("constants.json names no columns")?;
    let path = clusters.join("clusters.parquet");
    let rows = table::read_columns(&path, &["id", "state"])?;
    let row = numbers(&rows, "id")?.into_iter().position(|found| found == Some(f64::from(id)));
    let row = row.with_context(|| format!("{} has no row of instruction {id}", path.display()))?;
    let values = table::column::<FixedSizeListArray>(&rows, "state")?.value(row);
    let values = values.as_any().downcast_ref::<Float32Array>().context("the column `state` holds no numbers")?;
    let names = names.iter().map(|name| name.as_str().unwrap_or_default().to_owned());
    Ok(names.zip(values.iter().map(|value| f64::from(value.unwrap_or_default()))).collect())
}
