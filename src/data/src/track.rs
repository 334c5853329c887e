//! Runs a stage of kind `track`: writes the numbers of other stages in the forms of trackers. event.rs has the form of
//! TensorBoard, wandb.rs that of Weights & Biases, and mlflow.rs what is sent to MLflow after the build.
//!
//! Every table of an input with a column `step` or `round` gives a series for each of its columns of numbers, and every
//! table `metrics` a point for each of its rows. Each variant of the sweep is a run.

mod event;
mod mlflow;
mod protocol_buffer;
mod wandb;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array};
use arrow_cast::cast;
use arrow_schema::DataType;
use serde_json::{Map, Value, json};

use event::EventFile;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::Context;
use raisin_contract::track::TRACKED_RUNS;
use raisin_corpus::intake::{counted, grouped};
use raisin_kinds::track::Parameters;
use raisin_table::{self as table, WriteTable as _};

/// The column that orders a series.
const STEP: &str = "step";

/// A column of a `selector`, counted from 0. Its steps begin again in each round. A table with rounds and without steps is
/// ordered by the rounds.
const ROUND: &str = "round";

/// The number of the episode of a round: the episodes are averaged.
const EPISODE: &str = "episode";

/// Tables with a column `step` whose numbers are no curves.
const NO_CURVES: [&str; 3] = ["selection", "effects", "credits"];

/// The longest name of a run, in characters.
const MOST_CHARACTERS: usize = 120;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut runs: BTreeMap<String, TrackedRun> = BTreeMap::new();
    let mut without = BTreeSet::new();
    for place in 0..parameters.of.len() {
        for source in context.gathered(&format!("/of/{place}"))? {
            let mut name = run_name(&source.variant);
            if runs.get(&name).is_some_and(|run| run.variant != source.variant) {
                // Two axes of the sweep can end with the same word.
                name = format!("{name}-{}", short_digest(&json!(source.variant).to_string()));
            }
            let run = runs.entry(name).or_insert_with(|| TrackedRun::of(source.variant.clone()));
            let before = run.series.len();
            // The name of the folder of an artifact is its digest.
            let digest = source.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            run.artifacts.insert(source.stage.clone(), digest);
            run.add(&source.stage, &source.folder).with_context(|| format!("cannot track stage `{}`", source.stage))?;
            if run.series.len() == before {
                without.insert(source.stage.clone());
            }
        }
    }
    if !without.is_empty() {
        let names = without.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        context.note(format!(
            "no numbers to track in {names}: no table with a column `step` or `round`, and no table `metrics`"
        ));
    }
    let series: usize = runs.values().map(|run| run.series.len()).sum();
    if series == 0 {
        let problem = Problem::new("the stages have no numbers to track");
        return Err(problem.hint("name trainings, selectors and evaluations: of = [\"tuned\", \"scores\"]").into());
    }
    for (name, run) in &runs {
        let folder = format!("tensorboard/{name}");
        write(context, &folder, "events.out.tfevents.0.raisin", &run.events())?;
        if let Some(wandb) = &parameters.wandb {
            let id = wandb::id(name, run)?;
            let folder = format!("wandb/{}", wandb::folder(&id));
            write(context, &folder, &wandb::file(&id), &wandb::log(&wandb.project, name, &id, run))?;
        }
        if let Some(mlflow) = &parameters.mlflow {
            let sent = serde_json::to_vec(&mlflow::run_to_send(&mlflow.experiment, name, run))?;
            write(context, TRACKED_RUNS, &format!("{name}.json"), &sent)?;
        }
    }
    let not_finite: usize = runs.values().map(|run| run.not_finite).sum();
    if not_finite > 0 {
        context.note(format!("{} left out: they are not finite", counted(not_finite as u64, "number")));
    }
    context.note(format!("{} series of numbers in {}", grouped(series as u64), counted(runs.len() as u64, "run")));
    context.write_table("series", &listed(&runs)?)
}

/// Writes a file in a folder of the artifact.
fn write(context: &Context, folder: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let folder = context.out().join(folder);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The numbers of one variant.
struct TrackedRun {
    variant: Map<String, Value>,
    /// The digests of the artifacts, by stage.
    artifacts: BTreeMap<String, String>,
    /// By tag: the points (step, value).
    series: BTreeMap<String, Vec<(i64, f64)>>,
    /// The numbers that are left out.
    not_finite: usize,
}

impl TrackedRun {
    fn of(variant: Map<String, Value>) -> Self {
        Self { variant, artifacts: BTreeMap::new(), series: BTreeMap::new(), not_finite: 0 }
    }

    fn add(&mut self, stage: &str, folder: &Path) -> Result<()> {
        let mut tables: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
        tables.sort_by_key(std::fs::DirEntry::file_name);
        for entry in tables {
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".parquet")) else {
                continue;
            };
            if name == "metrics" {
                self.add_metrics(stage, &table::read(&path)?)?;
            } else if !NO_CURVES.contains(&name) && is_ordered(&path)? {
                self.add_curves(&format!("{stage}.{name}"), &table::read(&path)?)?;
            }
        }
        Ok(())
    }

    /// The columns of numbers of a table with steps or rounds.
    fn add_curves(&mut self, prefix: &str, rows: &RecordBatch) -> Result<()> {
        let (steps, rounds) = (numbers(rows, STEP)?, numbers(rows, ROUND)?);
        let Some(order) = steps.as_ref().or(rounds.as_ref()) else { return Ok(()) };
        let longest = order.iter().flatten().fold(0.0, |longest: f64, step| longest.max(*step));
        let place = |row: usize| -> Option<i64> {
            let at = |column: &[Option<f64>]| column.get(row).copied().flatten();
            let earlier = steps.as_ref().and(rounds.as_ref()).and_then(|rounds| at(rounds)).unwrap_or(0.0);
            Some((at(order)? + earlier * longest) as i64)
        };
        for field in rows.schema_ref().fields() {
            let name = field.name();
            if [STEP, ROUND, EPISODE].contains(&name.as_str()) {
                continue;
            }
            let Some(values) = numbers(rows, name)? else { continue };
            let mut sums: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
            for (row, value) in values.iter().enumerate() {
                let (Some(place), Some(value)) = (place(row), value) else { continue };
                if value.is_finite() {
                    let (sum, count) = sums.entry(place).or_default();
                    *sum += value;
                    *count += 1.0;
                } else {
                    self.not_finite += 1;
                }
            }
            if !sums.is_empty() {
                let points = sums.into_iter().map(|(place, (sum, count))| (place, sum / count));
                self.series.insert(format!("{prefix}/{name}"), points.collect());
            }
        }
        Ok(())
    }

    /// The rows of a table `metrics`: `metric`, `value` and, of an evaluation, `split`.
    fn add_metrics(&mut self, stage: &str, rows: &RecordBatch) -> Result<()> {
        let names = table::column::<StringArray>(rows, "metric")?;
        let values = table::column::<Float64Array>(rows, "value")?;
        let splits = rows.column_by_name("split").and_then(|splits| splits.as_any().downcast_ref::<StringArray>());
        for row in (0..rows.num_rows()).filter(|row| values.is_valid(*row)) {
            if !values.value(row).is_finite() {
                self.not_finite += 1;
                continue;
            }
            let split = splits.map_or(String::new(), |splits| format!("{}/", splits.value(row)));
            let tag = format!("{stage}/{split}{}", names.value(row));
            self.series.entry(tag).or_default().push((0, values.value(row)));
        }
        Ok(())
    }

    /// The values of the sweep, by short names.
    fn hyperparameters(&self) -> Map<String, Value> {
        let short = |key: &str| key.strip_prefix("stage.").unwrap_or(key).to_owned();
        self.variant.iter().map(|(key, value)| (short(key), value.clone())).collect()
    }

    fn events(&self) -> Vec<u8> {
        let mut file = EventFile::new();
        if !self.variant.is_empty() {
            file.hyperparameters(&self.hyperparameters());
        }
        for (tag, points) in &self.series {
            points.iter().for_each(|(step, value)| file.scalar(tag, *step, *value));
        }
        file.into_bytes()
    }
}

/// Whether a table has steps or rounds.
fn is_ordered(path: &Path) -> Result<bool> {
    let first = table::batches(path)?.next().transpose()?;
    Ok(first.is_some_and(|rows| [STEP, ROUND].iter().any(|name| rows.column_by_name(name).is_some())))
}

/// A column of numbers; `None` if there is no such column, or if it holds no numbers.
fn numbers(rows: &RecordBatch, name: &str) -> Result<Option<Vec<Option<f64>>>> {
    let Some(column) = rows.column_by_name(name).filter(|column| column.data_type().is_numeric()) else {
        return Ok(None);
    };
    let column = cast(column, &DataType::Float64)?;
    Ok(column.as_any().downcast_ref::<Float64Array>().map(|values| values.iter().collect()))
}

/// The name of the folder of a run: the values of the sweep. `all` without a sweep.
fn run_name(variant: &Map<String, Value>) -> String {
    let parts = variant.iter().map(|(key, value)| {
        let key = key.rsplit('.').next().unwrap_or(key);
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{key}={value}")
    });
    let name: String = parts.collect::<Vec<_>>().join(",");
    let is_plain = |letter: char| letter.is_alphanumeric() || "=,.-_".contains(letter);
    let plain: String = name.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
    if plain.is_empty() {
        return "all".to_owned();
    }
    if plain == name && name.chars().count() <= MOST_CHARACTERS {
        return name;
    }
    // Two variants must not share a folder after their letters were replaced.
    format!("{}-{}", plain.chars().take(MOST_CHARACTERS).collect::<String>(), short_digest(&name))
}

/// The first digits of the digest of a text.
fn short_digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string().chars().take(8).collect()
}

/// A run, a tag, and the points of its curve.
type ListedSeries<'r> = (&'r str, &'r str, &'r Vec<(i64, f64)>);

/// The table `series`.
fn listed(runs: &BTreeMap<String, TrackedRun>) -> Result<RecordBatch> {
    let all: Vec<ListedSeries> = runs
        .iter()
        .flat_map(|(run, tracked)| tracked.series.iter().map(move |(tag, points)| (run.as_str(), tag.as_str(), points)))
        .collect();
    let texts = |of: &dyn Fn(&ListedSeries) -> String| -> ArrayRef {
        Arc::new(all.iter().map(|row| Some(of(row))).collect::<StringArray>())
    };
    let counts: ArrayRef = Arc::new(all.iter().map(|row| Some(row.2.len() as u32)).collect::<UInt32Array>());
    let last: ArrayRef = Arc::new(all.iter().map(|row| row.2.last().map(|point| point.1)).collect::<Float64Array>());
    table::batch(vec![
        ("run", texts(&|row| row.0.to_owned())),
        ("tag", texts(&|row| row.1.to_owned())),
        ("points", counts),
        ("last", last),
    ])
}

#[cfg(test)]
#[path = "track_tests.rs"]
mod tests;
