//! Artifacts as plain structs. What an artifact is, its tables say: `rounds` a trained selector, `summary.json` with
//! a method a tuned model, `metrics` and `items` an evaluation, `clusters` the candidates' clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow_array::{Array as _, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow_cast::cast;
use arrow_schema::DataType;
use serde_json::Value;

use raisin_base::error::{Context as _, Result};
use raisin_contract::Source;
use raisin_table as table;

/// Which artifact it is, in a person's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The method, and the other swept values but the seed.
    pub label: String,
    /// `None` where all seeds share the artifact, or there is no sweep over seeds.
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

/// (round, sum of the rewards, performance at the end)
pub type Round = (f64, Option<f64>, Option<f64>);

/// A trained selector.
pub struct Training {
    pub name: Name,
    pub rounds: Vec<Round>,
    pub picked: Vec<Picked>,
    pub cost: Spent,
    /// Forward passes before the first episode: features, the states of a frozen prefix.
    pub passes: Vec<(String, Spent)>,
}

/// A tuned model.
pub struct Tuning {
    pub name: Name,
    /// (step, performance) where it was measured.
    pub performance: Vec<(f64, f64)>,
    pub picked: Vec<Picked>,
    pub cost: Spent,
}

/// What training took, as far as the artifact says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    pub steps: f64,
    /// The steps of three epochs of the whole pool; 0 where a summary does not say.
    pub full_steps: f64,
    pub tokens: f64,
    pub supervised_tokens: f64,
    /// Training steps.
    pub flops: f64,
    /// Passes over the validation examples.
    pub evaluation_flops: f64,
}

/// One row of a table `items`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    pub loss: Option<f64>,
    pub tokens: f64,
    pub correct: Option<f64>,
    pub correct_norm: Option<f64>,
}

/// An evaluation.
pub struct Scoring {
    pub name: Name,
    /// (split, metric, value)
    pub metrics: Vec<(String, String, f64)>,
    pub items: BTreeMap<u32, Item>,
    /// Of the model that was scored, where it says so.
    pub cost: Option<Spent>,
}

/// All that a page shows.
#[derive(Default)]
pub struct Gathered {
    pub trainings: Vec<Training>,
    pub tunings: Vec<Tuning>,
    pub scorings: Vec<Scoring>,
    /// Clusters of candidates, by seed.
    pub clusters: BTreeMap<Option<String>, BTreeMap<u32, u32>>,
    /// Stages of which nothing is shown.
    pub ignored: BTreeSet<String>,
}

impl Gathered {
    pub fn read(sources: &[Source]) -> Result<Self> {
        let mut gathered = Self::default();
        for source in sources {
            gathered.add(source).with_context(|| format!("cannot report stage `{}`", source.stage))?;
        }
        tell_apart(gathered.trainings.iter_mut().map(|training| &mut training.name).collect());
        tell_apart(gathered.tunings.iter_mut().map(|tuning| &mut tuning.name).collect());
        tell_apart(gathered.scorings.iter_mut().map(|scoring| &mut scoring.name).collect());
        gathered.learn_clusters();
        Ok(gathered)
    }

    fn add(&mut self, source: &Source) -> Result<()> {
        let folder = source.folder.as_path();
        let has = |table: &str| folder.join(format!("{table}.parquet")).is_file();
        let summary = json(&folder.join("summary.json"))?;
        if has("rounds") {
            self.trainings.push(training(source, summary.as_ref())?);
        } else if has("metrics") {
            self.scorings.push(scoring(source)?);
        } else if let (Some(summary), true) = (&summary, has("steps"))
            && summary.get("method").is_some()
        {
            self.tunings.push(tuning(source, summary)?);
        } else if has("clusters") {
            let rows = table::read_columns(&folder.join("clusters.parquet"), &["id", "cluster"])?;
            let pairs = numbers(&rows, "id")?.into_iter().zip(numbers(&rows, "cluster")?);
            let known = self.clusters.entry(name(source, None).seed).or_default();
            known.extend(pairs.filter_map(|(id, cluster)| Some((id? as u32, cluster? as u32))));
        } else {
            self.ignored.insert(source.stage.clone());
        }
        Ok(())
    }

    /// Rows of methods that look at no features have no cluster; others of the same seed know it.
    fn learn_clusters(&mut self) {
        let trainings = self.trainings.iter().map(|training| (&training.name.seed, &training.picked));
        let tunings = self.tunings.iter().map(|tuning| (&tuning.name.seed, &tuning.picked));
        for (seed, picked) in trainings.chain(tunings) {
            let known = self.clusters.entry(seed.clone()).or_default();
            for row in picked {
                if let Some(cluster) = row.cluster {
                    known.entry(row.id).or_insert(cluster);
                }
            }
        }
        for tuning in &mut self.tunings {
            let known = self.clusters.get(&tuning.name.seed).or_else(|| self.clusters.get(&None));
            for row in tuning.picked.iter_mut().filter(|row| row.cluster.is_none()) {
                row.cluster = known.and_then(|known| known.get(&row.id).copied());
            }
        }
    }

    /// Every label, in the order of its first appearance: evaluations first, for they are what is compared.
    pub fn labels(&self) -> Vec<String> {
        let scored = self.scorings.iter().map(|scoring| &scoring.name);
        let tuned = self.tunings.iter().map(|tuning| &tuning.name);
        let trained = self.trainings.iter().map(|training| &training.name);
        let mut labels: Vec<String> = Vec::new();
        for name in scored.chain(tuned).chain(trained) {
            if !labels.contains(&name.label) {
                labels.push(name.label.clone());
            }
        }
        labels
    }
}

fn training(source: &Source, summary: Option<&Value>) -> Result<Training> {
    let rows = table::read(&source.folder.join("rounds.parquet"))?;
    let rounds = numbers(&rows, "round")?;
    let (rewards, ends) = (numbers(&rows, "episode_reward")?, numbers(&rows, "final_performance")?);
    let rounds =
        rounds.into_iter().zip(rewards).zip(ends).filter_map(|((round, reward), end)| Some((round?, reward, end)));
    let mut cost = Spent::default();
    let steps = source.folder.join("steps.parquet");
    if steps.is_file() {
        let rows = table::read(&steps)?;
        let sum =
            |name: &str| Ok::<_, raisin_base::error::Error>(numbers(&rows, name)?.into_iter().flatten().sum::<f64>());
        cost = Spent {
            full_steps: 0.0,
            steps: rows.num_rows() as f64,
            tokens: sum("tokens")?,
            supervised_tokens: sum("supervised_tokens")?,
            flops: sum("flops")?,
            evaluation_flops: summary.map_or(0.0, |summary| number(summary, "evaluation_flops")),
        };
    }
    let passes = summary.and_then(|summary| summary.get("passes")?.as_array());
    let passes = passes.into_iter().flatten().map(|pass| {
        let name = pass.get("pass").and_then(Value::as_str).unwrap_or("a forward pass").to_owned();
        (name, spent(pass))
    });
    let passes = passes.collect();
    Ok(Training { name: name(source, None), rounds: rounds.collect(), picked: picked(&source.folder)?, cost, passes })
}

fn tuning(source: &Source, summary: &Value) -> Result<Tuning> {
    let rows = table::read(&source.folder.join("steps.parquet"))?;
    let points = numbers(&rows, "step")?.into_iter().zip(numbers(&rows, "performance")?);
    // Steps of a fine-tune count from 1; 0 is the model before it.
    let measured = points.filter_map(|(step, performance)| Some((step?, performance?)));
    let start = summary.get("base_performance").and_then(Value::as_f64).map(|performance| (0.0, performance));
    Ok(Tuning {
        name: name(source, Some(summary)),
        performance: start.into_iter().chain(measured).collect(),
        picked: picked(&source.folder)?,
        cost: spent(summary),
    })
}

fn scoring(source: &Source) -> Result<Scoring> {
    let rows = table::read(&source.folder.join("metrics.parquet"))?;
    let (names, values) = (texts(&rows, "metric")?, numbers(&rows, "value")?);
    let splits = texts(&rows, "split")?;
    let metrics = splits.into_iter().zip(names).zip(values);
    let metrics =
        metrics.filter_map(|((split, name), value)| Some((split.unwrap_or_default(), name?, value?))).collect();
    let mut items = BTreeMap::new();
    let path = source.folder.join("items.parquet");
    if path.is_file() {
        let rows = table::read(&path)?;
        let (losses, tokens) = (numbers(&rows, "loss")?, numbers(&rows, "tokens")?);
        let (correct, correct_norm) = (truths(&rows, "correct")?, truths(&rows, "correct_norm")?);
        for (row, id) in numbers(&rows, "id")?.into_iter().enumerate() {
            let item = Item {
                loss: losses[row],
                tokens: tokens[row].unwrap_or(0.0),
                correct: correct[row],
                correct_norm: correct_norm[row],
            };
            items.extend(id.map(|id| (id as u32, item)));
        }
    }
    let summary = json(&source.folder.join("model_summary.json"))?;
    let cost = summary.as_ref().map(spent);
    Ok(Scoring { name: name(source, summary.as_ref()), metrics, items, cost })
}

fn picked(folder: &Path) -> Result<Vec<Picked>> {
    let path = folder.join("selection.parquet");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let rows = table::read(&path)?;
    let (rounds, steps, ids) = (numbers(&rows, "round")?, numbers(&rows, "step")?, numbers(&rows, "id")?);
    let (clusters, scores) = (numbers(&rows, "cluster")?, numbers(&rows, "score")?);
    let (labels, instructions) = (texts(&rows, "label")?, texts(&rows, "instruction")?);
    let row = |row: usize| {
        Some(Picked {
            round: rounds[row].map(|round| round as u32),
            step: steps[row]? as u32,
            id: ids[row]? as u32,
            cluster: clusters[row].map(|cluster| cluster as u32),
            score: scores[row],
            label: labels[row].clone(),
            instruction: instructions[row].clone().unwrap_or_default(),
        })
    };
    Ok((0..rows.num_rows()).filter_map(row).collect())
}

fn spent(summary: &Value) -> Spent {
    Spent {
        steps: number(summary, "steps"),
        full_steps: number(summary, "full_steps"),
        tokens: number(summary, "tokens"),
        supervised_tokens: number(summary, "supervised_tokens"),
        flops: number(summary, "flops"),
        evaluation_flops: number(summary, "evaluation_flops"),
    }
}

fn number(summary: &Value, key: &str) -> f64 {
    summary.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

fn json(path: &Path) -> Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A label from the swept values and the model's own method: `raise`, `raise, budget=5%`.
fn name(source: &Source, summary: Option<&Value>) -> Name {
    let mut words: Vec<String> = Vec::new();
    let mut seed = None;
    for (key, value) in &source.variant {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match key.rsplit('.').next().unwrap_or(key) {
            "seed" => seed = Some(text),
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
    Name { label, seed, stage: source.stage.clone() }
}

/// Adds the stage to labels that two stages share.
fn tell_apart(mut names: Vec<&mut Name>) {
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

/// A column as numbers, whatever its width; all null where the table lacks it.
fn numbers(rows: &RecordBatch, name: &str) -> Result<Vec<Option<f64>>> {
    let Some(column) = rows.column_by_name(name) else { return Ok(vec![None; rows.num_rows()]) };
    let column = cast(column, &DataType::Float64)?;
    let values: Option<&Float64Array> = column.as_any().downcast_ref();
    Ok(values
        .map(|values| values.iter().map(|value| value.filter(|value| value.is_finite())).collect())
        .unwrap_or_default())
}

fn texts(rows: &RecordBatch, name: &str) -> Result<Vec<Option<String>>> {
    let Some(column) = rows.column_by_name(name) else { return Ok(vec![None; rows.num_rows()]) };
    let column = cast(column, &DataType::Utf8)?;
    let values: Option<&StringArray> = column.as_any().downcast_ref();
    Ok(values.map(|values| values.iter().map(|value| value.map(str::to_owned)).collect()).unwrap_or_default())
}

/// A column of truths as 1 and 0.
fn truths(rows: &RecordBatch, name: &str) -> Result<Vec<Option<f64>>> {
    let Some(column) = rows.column_by_name(name) else { return Ok(vec![None; rows.num_rows()]) };
    let values: Option<&BooleanArray> = column.as_any().downcast_ref();
    let as_number = |value: bool| f64::from(u8::from(value));
    Ok(match values {
        Some(values) => values.iter().map(|value| value.map(as_number)).collect(),
        None => vec![None; rows.num_rows()],
    })
}
