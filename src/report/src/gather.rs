//! Reads artifacts into plain structs. The files of an artifact decide how it is read: `rounds` belongs to a trained
//! selector, `steps` and a `summary.json` with a method to a tuned model, `metrics` and `items` to an evaluation,
//! `clusters` to the clusters of candidates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow_array::{Array as _, Float64Array, RecordBatch, StringArray};
use arrow_cast::cast;
use arrow_schema::DataType;
use serde_json::Value;

use super::learned::{CreditSummary, LearnedEffects};
use raisin_base::error::{Context as _, Result, anyhow};
use raisin_base::files::if_there;
use raisin_contract::InputArtifact;
use raisin_table as table;

/// The name of an artifact on the page.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodName {
    /// The method and all swept values except the seed.
    pub label: String,
    /// `None` if all seeds share the artifact, or the pipeline does not sweep over seeds.
    pub seed: Option<String>,
    stage: String,
}

/// One row of a table `selection`.
#[derive(Clone, Debug, PartialEq)]
pub struct Picked {
    pub round: Option<u32>,
    pub step: u32,
    pub id: u32,
    pub cluster: Option<u32>,
    pub score: Option<f64>,
    pub label: Option<String>,
    pub instruction: String,
}

/// (round, sum of the rewards, performance at the end of the episode)
pub type RoundPoint = (f64, Option<f64>, Option<f64>);

/// A trained selector.
pub struct TrainedSelector {
    pub name: MethodName,
    pub rounds: Vec<RoundPoint>,
    pub picked: Vec<Picked>,
    pub cost: TrainingCost,
    /// What the last round says about the measured effects.
    pub credit: CreditSummary,
    /// The effects of columns and candidates, if the policy learns them.
    pub learned: Option<LearnedEffects>,
    /// The forward passes before the first episode: features, and the states of a frozen prefix.
    pub passes: Vec<(String, TrainingCost)>,
}

/// A tuned model.
pub struct TunedModel {
    pub name: MethodName,
    /// The steps at which the performance was measured, from step 0.
    pub progress: Vec<CurvePoint>,
    pub picked: Vec<Picked>,
    pub cost: TrainingCost,
}

/// The performance after some steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    pub step: f64,
    pub performance: f64,
    /// The tokens of the steps so far.
    pub tokens: f64,
    /// The FLOPs of all that was computed before the first step, and of the steps so far with their share of validation
    /// passes and of the gradients that a method chooses by.
    pub total_flops: f64,
}

/// The cost of a training. A number is 0 if the artifact does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrainingCost {
    pub steps: f64,
    /// The steps of three epochs of the whole pool.
    pub full_steps: f64,
    pub tokens: f64,
    pub supervised_tokens: f64,
    /// The FLOPs of training steps.
    pub flops: f64,
    /// The FLOPs of passes over the validation examples, and of the gradients or effects that a method chooses by.
    pub evaluation_flops: f64,
    /// The FLOPs of what was computed before the first step: features, hidden states, influence, and the training of a
    /// selector.
    pub before_flops: f64,
    /// The FLOPs of three epochs of the whole pool: Phi.
    pub full_flops: f64,
}

impl TrainingCost {
    pub fn total_flops(&self) -> f64 {
        self.flops + self.evaluation_flops + self.before_flops
    }
}

/// One row of a table `items`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemScore {
    pub loss: Option<f64>,
    pub tokens: f64,
    /// By the name of the metric: 1 if the model is right, else 0.
    pub correct: BTreeMap<&'static str, f64>,
}

/// The columns of the table `items` that say whether the model is right.
const MATCHES: [&str; 4] = ["acc", "acc_norm", "exact_match", "flexible_match"];

/// An evaluation.
pub struct Evaluation {
    pub name: MethodName,
    /// (split, metric, value)
    pub metrics: Vec<(String, String, f64)>,
    pub items: BTreeMap<u32, ItemScore>,
    /// The cost of training the scored model, if the evaluation has the summary of the model.
    pub cost: Option<TrainingCost>,
}

/// Everything that a page shows.
#[derive(Default)]
pub struct ReportData {
    pub selectors: Vec<TrainedSelector>,
    pub tuned_models: Vec<TunedModel>,
    pub evaluations: Vec<Evaluation>,
    /// Clusters of candidates, by seed.
    pub clusters: BTreeMap<Option<String>, BTreeMap<u32, u32>>,
    /// The stages that the page does not show.
    pub ignored: BTreeSet<String>,
}

impl ReportData {
    pub fn read(sources: &[InputArtifact]) -> Result<Self> {
        let mut gathered = Self::default();
        for source in sources {
            gathered.add(source).with_context(|| format!("cannot report stage `{}`", source.stage))?;
        }
        tell_apart(gathered.selectors.iter_mut().map(|selector| &mut selector.name).collect());
        tell_apart(gathered.tuned_models.iter_mut().map(|model| &mut model.name).collect());
        tell_apart(gathered.evaluations.iter_mut().map(|evaluation| &mut evaluation.name).collect());
        gathered.learn_clusters();
        Ok(gathered)
    }

    fn add(&mut self, source: &InputArtifact) -> Result<()> {
        let folder = source.folder.as_path();
        let has = |table: &str| folder.join(format!("{table}.parquet")).is_file();
        let summary = json(&folder.join("summary.json"))?;
        if has("rounds") {
            self.selectors.push(selector(source, summary.as_ref())?);
        } else if has("metrics") {
            self.evaluations.push(evaluation(source)?);
        } else if let (Some(summary), true) = (&summary, has("steps"))
            && summary.get("method").is_some()
        {
            self.tuned_models.push(tuned_model(source, summary)?);
        } else if has("clusters") {
            let rows = table::read_columns(&folder.join("clusters.parquet"), &["id", "cluster"])?;
            let pairs = numbers(&rows, "id")?.into_iter().zip(numbers(&rows, "cluster")?);
            let known = self.clusters.entry(name(source, None).seed).or_default();
            for (id, cluster) in pairs.filter_map(|(id, cluster)| id.zip(cluster)) {
                known.insert(whole(id, "id")?, whole(cluster, "cluster")?);
            }
        } else {
            self.ignored.insert(source.stage.clone());
        }
        Ok(())
    }

    /// Fills in the missing clusters of selected rows from other artifacts of the same seed. A method without features
    /// does not write clusters.
    fn learn_clusters(&mut self) {
        let selectors = self.selectors.iter().map(|selector| (&selector.name.seed, &selector.picked));
        let tuned_models = self.tuned_models.iter().map(|model| (&model.name.seed, &model.picked));
        for (seed, picked) in selectors.chain(tuned_models) {
            let known = self.clusters.entry(seed.clone()).or_default();
            for row in picked {
                if let Some(cluster) = row.cluster {
                    known.entry(row.id).or_insert(cluster);
                }
            }
        }
        for model in &mut self.tuned_models {
            let known = self.clusters.get(&model.name.seed).or_else(|| self.clusters.get(&None));
            for row in model.picked.iter_mut().filter(|row| row.cluster.is_none()) {
                row.cluster = known.and_then(|known| known.get(&row.id).copied());
            }
        }
    }

    /// All labels in the order of their first appearance. The labels of evaluations, which are compared, come first.
    pub fn labels(&self) -> Vec<String> {
        let evaluations = self.evaluations.iter().map(|evaluation| &evaluation.name);
        let tuned_models = self.tuned_models.iter().map(|model| &model.name);
        let selectors = self.selectors.iter().map(|selector| &selector.name);
        in_order(evaluations.chain(tuned_models).chain(selectors).map(|name| name.label.clone()))
    }

    /// The trained selectors with this label.
    pub fn selectors_of(&self, label: &str) -> impl Iterator<Item = &TrainedSelector> {
        self.selectors.iter().filter(move |selector| selector.name.label == label)
    }

    /// The tuned models with this label.
    pub fn tuned_models_of(&self, label: &str) -> impl Iterator<Item = &TunedModel> {
        self.tuned_models.iter().filter(move |model| model.name.label == label)
    }

    /// The evaluations with this label.
    pub fn evaluations_of(&self, label: &str) -> impl Iterator<Item = &Evaluation> {
        self.evaluations.iter().filter(move |evaluation| evaluation.name.label == label)
    }
}

/// The distinct values, in the order of their first appearance.
pub fn in_order<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

fn selector(source: &InputArtifact, summary: Option<&Value>) -> Result<TrainedSelector> {
    let rows = table::read(&source.folder.join("rounds.parquet"))?;
    let credit = CreditSummary::of(&rows)?;
    let rounds = numbers(&rows, "round")?;
    let (rewards, ends) = (numbers(&rows, "episode_reward")?, numbers(&rows, "final_performance")?);
    let rounds =
        rounds.into_iter().zip(rewards).zip(ends).filter_map(|((round, reward), end)| Some((round?, reward, end)));
    let mut cost = TrainingCost::default();
    let steps = source.folder.join("steps.parquet");
    if steps.is_file() {
        let rows = table::read(&steps)?;
        let sum =
            |name: &str| Ok::<_, raisin_base::error::Error>(numbers(&rows, name)?.into_iter().flatten().sum::<f64>());
        cost = TrainingCost {
            steps: rows.num_rows() as f64,
            tokens: sum("tokens")?,
            supervised_tokens: sum("supervised_tokens")?,
            flops: sum("flops")?,
            evaluation_flops: summary
                .map_or(0.0, |summary| number(summary, "evaluation_flops") + number(summary, "effect_flops")),
            ..TrainingCost::default()
        };
    }
    let passes = summary.and_then(|summary| summary.get("passes")?.as_array());
    let passes = passes.into_iter().flatten().map(|pass| {
        let name = pass.get("pass").and_then(Value::as_str).unwrap_or("a forward pass").to_owned();
        (name, cost_in(pass))
    });
    Ok(TrainedSelector {
        name: name(source, None),
        rounds: rounds.collect(),
        picked: picked(&source.folder)?,
        cost,
        credit,
        learned: LearnedEffects::read(&source.folder)?,
        passes: passes.collect(),
    })
}

fn tuned_model(source: &InputArtifact, summary: &Value) -> Result<TunedModel> {
    let rows = table::read(&source.folder.join("steps.parquet"))?;
    let cost = cost_in(summary);
    // The steps of a fine-tune count from 1. Step 0 is the model before the fine-tune.
    let base = summary.get("base_performance").and_then(Value::as_f64);
    let mut at = CurvePoint { step: 0.0, performance: 0.0, tokens: 0.0, total_flops: cost.before_flops };
    let mut progress: Vec<CurvePoint> = base.map(|performance| CurvePoint { performance, ..at }).into_iter().collect();
    let (steps, performances) = (numbers(&rows, "step")?, numbers(&rows, "performance")?);
    let (tokens, flops) = (numbers(&rows, "tokens")?, numbers(&rows, "flops")?);
    // The steps share evaluations and the gradients that a method chooses by.
    let beside = cost.evaluation_flops / rows.num_rows().max(1) as f64;
    for row in 0..rows.num_rows() {
        at.tokens += tokens[row].unwrap_or_default();
        at.total_flops += flops[row].unwrap_or_default() + beside;
        if let (Some(step), Some(performance)) = (steps[row], performances[row]) {
            progress.push(CurvePoint { step, performance, ..at });
        }
    }
    Ok(TunedModel { name: name(source, Some(summary)), progress, picked: picked(&source.folder)?, cost })
}

fn evaluation(source: &InputArtifact) -> Result<Evaluation> {
    let rows = table::read(&source.folder.join("metrics.parquet"))?;
    let metrics = texts(&rows, "split")?.into_iter().zip(texts(&rows, "metric")?).zip(numbers(&rows, "value")?);
    let metrics =
        metrics.filter_map(|((split, name), value)| Some((split.unwrap_or_default(), name?, value?))).collect();
    let mut items = BTreeMap::new();
    let path = source.folder.join("items.parquet");
    if path.is_file() {
        let rows = table::read(&path)?;
        let (losses, tokens) = (numbers(&rows, "loss")?, numbers(&rows, "tokens")?);
        let matches: Vec<(&str, Vec<Option<f64>>)> =
            MATCHES.into_iter().map(|name| Ok((name, truths(&rows, name)?))).collect::<Result<_>>()?;
        for (row, id) in numbers(&rows, "id")?.into_iter().enumerate() {
            let item = ItemScore {
                loss: losses[row],
                tokens: tokens[row].unwrap_or(0.0),
                correct: matches.iter().filter_map(|(name, of)| Some((*name, of[row]?))).collect(),
            };
            if let Some(id) = id {
                items.insert(whole(id, "id")?, item);
            }
        }
    }
    let summary = json(&source.folder.join("model_summary.json"))?;
    // The summary of a forward pass, such as the states of a proxy, is not the cost of a training.
    let cost = summary.as_ref().filter(|summary| summary.get("pass").is_none()).map(cost_in);
    Ok(Evaluation { name: name(source, summary.as_ref()), metrics, items, cost })
}

/// The rows of the table `selection`; empty if the artifact does not have this table.
pub(crate) fn picked(folder: &Path) -> Result<Vec<Picked>> {
    let path = folder.join("selection.parquet");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let rows = table::read(&path)?;
    let (rounds, steps, ids) = (numbers(&rows, "round")?, numbers(&rows, "step")?, numbers(&rows, "id")?);
    let (clusters, scores) = (numbers(&rows, "cluster")?, numbers(&rows, "score")?);
    let (labels, instructions) = (texts(&rows, "label")?, texts(&rows, "instruction")?);
    let optional = |value: Option<f64>, name: &str| value.map(|value| whole(value, name)).transpose();
    let mut picked = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let (Some(step), Some(id)) = (steps[row], ids[row]) else { continue };
        picked.push(Picked {
            round: optional(rounds[row], "round")?,
            step: whole(step, "step")?,
            id: whole(id, "id")?,
            cluster: optional(clusters[row], "cluster")?,
            score: scores[row],
            label: labels[row].clone(),
            instruction: instructions[row].clone().unwrap_or_default(),
        });
    }
    Ok(picked)
}

/// The cost in a `summary.json`.
fn cost_in(summary: &Value) -> TrainingCost {
    let passes = summary.get("passes").and_then(Value::as_array).into_iter().flatten();
    TrainingCost {
        steps: number(summary, "steps"),
        full_steps: number(summary, "full_steps"),
        tokens: number(summary, "tokens"),
        supervised_tokens: number(summary, "supervised_tokens"),
        flops: number(summary, "flops"),
        evaluation_flops: number(summary, "evaluation_flops") + number(summary, "selection_flops"),
        before_flops: passes.map(|pass| number(pass, "flops") + number(pass, "evaluation_flops")).sum(),
        full_flops: number(summary, "full_flops"),
    }
}

fn number(summary: &Value, key: &str) -> f64 {
    summary.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

/// A JSON file; `None` if there is no such file.
pub(crate) fn json(path: &Path) -> Result<Option<Value>> {
    if_there(std::fs::read(path))
        .with_context(|| format!("cannot read {}", path.display()))?
        .map(|bytes| serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display())))
        .transpose()
}

/// The label consists of the method and the swept values: `raise`, or `raise, budget=5%`. A swept table counts as its
/// entries: `{ method = "length", top = 240 }` gives `length, top=240`.
fn name(source: &InputArtifact, summary: Option<&Value>) -> MethodName {
    let mut words: Vec<String> = Vec::new();
    let mut seed = None;
    let swept = source.variant.iter().flat_map(|(key, value)| match value {
        Value::Object(entries) => entries.iter().collect(),
        _ => vec![(key, value)],
    });
    for (key, value) in swept {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match key.rsplit('.').next().unwrap_or(key) {
            // A stage may have a seed of its own.
            "seed" if key == "pipeline.seed" => seed = Some(text),
            "method" => words.insert(0, text),
            short => words.push(format!("{short}={text}")),
        }
    }
    let method = summary.and_then(|summary| summary.get("method")).and_then(Value::as_str);
    if let Some(method) = method
        && !words.iter().any(|word| word == method)
    {
        words.insert(0, method.to_owned());
    }
    let label = if words.is_empty() { source.stage.clone() } else { words.join(", ") };
    MethodName { label, seed, stage: source.stage.clone() }
}

/// Adds the name of the stage to each label that several stages share.
fn tell_apart(mut names: Vec<&mut MethodName>) {
    let mut stages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in &names {
        stages.entry(name.label.clone()).or_default().insert(name.stage.clone());
    }
    for name in &mut names {
        if stages.get(&name.label).is_some_and(|stages| stages.len() > 1) {
            name.label = format!("{} ({})", name.label, name.stage);
        }
    }
}

/// A count or an id from a column of numbers. The table of an `sql` stage can have any number in such a column.
///
/// # Errors
/// The number is negative, has a fraction, or needs more than 32 bits.
pub(crate) fn whole(value: f64, column: &str) -> Result<u32> {
    let is_whole = value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value);
    is_whole
        .then_some(value as u32)
        .ok_or_else(|| anyhow!("column `{column}` has {value}, which is no count and no id"))
}

/// A column of any numeric type as f64. A number that is not finite is null. All values are null if the table has no
/// such column.
pub(crate) fn numbers(rows: &RecordBatch, name: &str) -> Result<Vec<Option<f64>>> {
    let Some(column) = rows.column_by_name(name) else { return Ok(vec![None; rows.num_rows()]) };
    let column = cast(column, &DataType::Float64)?;
    let values: Option<&Float64Array> = column.as_any().downcast_ref();
    Ok(values
        .map(|values| values.iter().map(|value| value.filter(|value| value.is_finite())).collect())
        .unwrap_or_default())
}

/// A column as texts. All values are null if the table has no such column.
pub(crate) fn texts(rows: &RecordBatch, name: &str) -> Result<Vec<Option<String>>> {
    let Some(column) = rows.column_by_name(name) else { return Ok(vec![None; rows.num_rows()]) };
    let column = cast(column, &DataType::Utf8)?;
    let values: Option<&StringArray> = column.as_any().downcast_ref();
    Ok(values.map(|values| values.iter().map(|value| value.map(str::to_owned)).collect()).unwrap_or_default())
}

/// A column of truth values as 1 and 0. All values are null if the table has no such column or the column has another
/// type.
fn truths(rows: &RecordBatch, name: &str) -> Result<Vec<Option<f64>>> {
    match rows.column_by_name(name) {
        Some(column) if *column.data_type() == DataType::Boolean => numbers(rows, name),
        _ => Ok(vec![None; rows.num_rows()]),
    }
}
