//! Reads the inputs of a chooser from artifacts, and turns its choices into rows of the table `selection`. The crate
//! raisin-selector chooses, and the kind `finetune` trains.

mod scores;

use std::borrow::Cow;
use std::path::Path;

use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, FixedSizeListArray, Float64Array, PrimitiveArray, RecordBatch, UInt32Array,
};
use arrow_cast::cast;
use arrow_schema::DataType;
use rayon::prelude::*;

use crate::tables::{self, Excerpts, SelectionRow};
use crate::vectors::VectorColumn;
use raisin_base::error::{Context as _, Error, Problem, Result, anyhow};
use raisin_contract::{Context, referenced};
use raisin_selector::clustering::NumberRows as _;
use raisin_selector::{CandidateColumns, Candidates, CosineTargets, SelectedCandidate, SelectionMethod};
use raisin_table as table;
use raisin_training::TrainingPool;

pub use scores::{columns_of, read_scores, scores_of_stage};

/// The columns from which the baselines compute their scores, for the trainable rows of the pool.
pub fn candidate_columns(
    method: SelectionMethod,
    instructions: &Excerpts,
    pool: &TrainingPool,
    clusters: Option<&Path>,
    scores: Vec<Option<f64>>,
    context: &Context,
) -> Result<CandidateColumns> {
    let ids = pool.trainable();
    let supervised = |id: &u32| pool.get(*id).map(|sequence| sequence.supervised_tokens() as u32);
    let mut columns = CandidateColumns {
        response_tokens: ids.iter().map(supervised).collect(),
        labels: ids.iter().map(|&id| instructions.label(id).map(str::to_owned)).collect(),
        scores: if scores.is_empty() { scores } else { ids.iter().map(|&id| scores[id as usize]).collect() },
        ..Default::default()
    };
    if columns.labels.iter().all(Option::is_none) {
        columns.labels.clear();
    }
    if let Some(folder) = clusters {
        let names =
            ["id", "cluster", "response_tokens", "logp_conditional", "logp_unconditional", "unconditional_tokens"];
        let rows = table::read_columns(&folder.join("clusters.parquet"), &names)?;
        let rows = by_id(&rows, instructions.len())?;
        check_log_probabilities(method, &rows.table)?;
        let counts = |name: &str| Ok::<_, Error>(rows.values(table::column::<UInt32Array>(&rows.table, name)?, &ids));
        let log_probs = |name: &str| Ok::<_, Error>(rows.values(&numbers(&rows.table, name)?, &ids));
        columns.clusters = counts("cluster")?;
        // Features of a program may have no counts of tokens. Those of the pool are then the best that is known.
        if !is_absent(&rows.table, "response_tokens")? {
            columns.response_tokens = counts("response_tokens")?;
        }
        columns.unconditional_tokens = counts("unconditional_tokens")?;
        columns.logp_conditional = log_probs("logp_conditional")?;
        columns.logp_unconditional = log_probs("logp_unconditional")?;
        if method == SelectionMethod::Rds {
            let features = referenced(folder, "features")?
                .ok_or_else(|| anyhow!("the clusters have no reference to their features"))?;
            let validation = features.join("validation_features.parquet");
            if !validation.is_file() {
                let problem = Problem::new(
                    "the method `rds` needs features of the validation examples, and the features stage has none",
                );
                return Err(problem.hint("give the features stage a `task`").into());
            }
            let found = table::read_columns(&validation, &["weighted_embedding"])?;
            let found = self::vectors(&found, "weighted_embedding")?;
            let count = found.len();
            let found: Vec<Vec<f32>> = found.into_iter().flatten().collect();
            let missing = count - found.len();
            if missing > 0 {
                context.note(format!("{missing} of {count} validation examples have no features, and choose no row"));
            }
            columns.cosines = cosines(&features, instructions.len(), &ids, &CosineTargets::new(&found)?)?;
        }
    }
    columns.ids = ids;
    Ok(columns)
}

/// Whether a column has rows and none of them has a value.
fn is_absent(rows: &RecordBatch, name: &str) -> Result<bool> {
    let column = column_of(rows, name)?;
    Ok(!column.is_empty() && column.null_count() == column.len())
}

/// # Errors
/// The features of these clusters have no log-probabilities, and the method needs them.
fn check_log_probabilities(method: SelectionMethod, rows: &RecordBatch) -> Result<()> {
    use SelectionMethod::{Bandit, Ifd, Perplexity, Sspl};
    if matches!(method, Bandit | Ifd | Perplexity | Sspl) && is_absent(rows, "logp_conditional")? {
        let problem = format!(
            "the method `{}` needs log p(y|x), the log-probability of the response, and the features have none",
            method.name()
        );
        let hint = "name a `clusters` stage whose `features` come from a stage of kind `features`";
        return Err(Problem::new(problem).hint(hint).into());
    }
    if method == Ifd && is_absent(rows, "logp_unconditional")? {
        let problem = "the method `ifd` needs log p(y), the log-probability of the response without its prompt, and the \
                       features stage was run with `unconditional = false`";
        return Err(Problem::new(problem).hint("set `unconditional = true` in the features stage").into());
    }
    Ok(())
}

/// The cosines of the embedding of each instruction with the validation examples. The embeddings are read in parts.
fn cosines(
    features: &Path,
    instructions: usize,
    ids: &[u32],
    targets: &CosineTargets,
) -> Result<Vec<Option<Vec<f32>>>> {
    let file = features.join("features.parquet");
    let rows = by_id(&table::read_columns(&file, &["id"])?, instructions)?;
    let embeddings = VectorColumn::open(&file, "weighted_embedding")?;
    let (present, width) = (embeddings.present()?, embeddings.width());
    let mut found = Vec::with_capacity(present.len());
    embeddings.only(present.clone())?.for_each_part(&mut |part| {
        found.par_extend(part.par_chunks(width).map(|row| targets.cosines(row)));
        Ok(())
    })?;
    let mut found = found.into_iter();
    let mut of_rows: Vec<Option<Vec<f32>>> =
        present.into_iter().map(|present| if present { found.next().flatten() } else { None }).collect();
    Ok(ids.iter().map(|&id| of_rows[rows.position(id)?].take()).collect())
}

/// A number of the static state of each instruction, by id. An instruction without a state has none.
///
/// # Errors
/// The state has no such column. The hint names the columns that there are.
pub fn state_column(clusters: &Path, name: &str, instructions: usize) -> Result<Vec<Option<f64>>> {
    let columns = state_columns(clusters)?;
    let Some(place) = columns.iter().position(|column| column == name) else {
        let problem = Problem::new(format!("the state of the clusters has no column `{name}`"));
        let hint = match name.strip_prefix("influence.") {
            Some("alignment") => {
                "give the clusters stage `columns` with an influence stage that has alignment = true".to_owned()
            }
            Some(_) => "give the clusters stage `columns` with an influence stage".to_owned(),
            None => format!("it has {}", columns.join(", ")),
        };
        return Err(problem.hint(hint).into());
    };
    let rows = table::read_columns(&clusters.join("clusters.parquet"), &["id", "state"])?;
    let rows = by_id(&rows, instructions)?;
    let (states, width) = tables::vectors(&rows.table, "state")?;
    let value = |row: usize| states.get(row * width + place).copied().map(f64::from);
    Ok((0..instructions as u32).map(|id| rows.position(id).and_then(value)).collect())
}

/// The names of the numbers of a state.
fn state_columns(clusters: &Path) -> Result<Vec<String>> {
    Ok(serde_json::from_value(constants(clusters)?["columns"].clone())?)
}

fn constants(clusters: &Path) -> Result<serde_json::Value> {
    let constants = std::fs::read(clusters.join("constants.json")).context("the clusters have no constants.json")?;
    Ok(serde_json::from_slice(&constants)?)
}

/// The candidates of a policy: the rows of a `clusters` artifact that are trainable.
pub fn candidates(clusters: &Path, pool: &TrainingPool, context: &Context) -> Result<Candidates> {
    let rows = table::read_columns(&clusters.join("clusters.parquet"), &["id", "cluster", "state"])?;
    let columns = state_columns(clusters)?;
    let basis = constants(clusters)?["basis"].as_str().map(str::to_owned);
    let (ids, clusters): (&UInt32Array, &UInt32Array) = (table::column(&rows, "id")?, table::column(&rows, "cluster")?);
    let (states, width) = tables::vectors(&rows, "state")?;
    let state_column = column_of(&rows, "state")?;
    // An id of another pool, for example the pool before an `overlap` stage, is the id of another row here.
    by_id(&rows, pool.len())?;
    let is_candidate =
        |row: &usize| clusters.is_valid(*row) && state_column.is_valid(*row) && pool.get(ids.value(*row)).is_some();
    let places: Vec<usize> = (0..ids.len()).filter(is_candidate).collect();
    let kept: Vec<u32> = places.iter().map(|&row| ids.value(row)).collect();
    let kept_clusters: Vec<u32> = places.iter().map(|&row| clusters.value(row)).collect();
    // The states of a large pool are in memory once more only if some rows are left out.
    let kept_states = if places.len() == ids.len() {
        Cow::Borrowed(states)
    } else {
        let state = |&row: &usize| &states[row * width..(row + 1) * width];
        Cow::Owned(places.iter().flat_map(state).copied().collect())
    };
    let trainable = pool.trainable().len();
    if kept.len() < trainable {
        let without = trainable - kept.len();
        context.note(format!("{without} of {trainable} trainable rows are no candidates: they have no features"));
    }
    Ok(Candidates { basis, ..Candidates::new(&kept, &kept_clusters, &kept_states, columns)? })
}

/// A table and the position of each id in the table.
struct ById {
    table: RecordBatch,
    positions: Vec<Option<usize>>,
}

impl ById {
    fn position(&self, id: u32) -> Option<usize> {
        self.positions.get(id as usize).copied().flatten()
    }

    /// The values of a column of the table for these ids.
    fn values<T: ArrowPrimitiveType>(&self, column: &PrimitiveArray<T>, ids: &[u32]) -> Vec<Option<T::Native>> {
        let row_of = |id: &u32| self.position(*id).filter(|&row| column.is_valid(row));
        ids.iter().map(|id| row_of(id).map(|row| column.value(row))).collect()
    }
}

/// Finds the rows of a table with a column `id`. `instructions` is the size of the pool.
///
/// # Errors
/// An id is not in the pool: the table belongs to other instructions.
fn by_id(rows: &RecordBatch, instructions: usize) -> Result<ById> {
    let ids: &UInt32Array = table::column(rows, "id")?;
    let mut positions = vec![None; instructions];
    for (position, id) in ids.values().iter().enumerate() {
        let place = positions.get_mut(*id as usize);
        *place.ok_or_else(|| {
            Problem::new(format!("the features have a row for instruction {id}, but the pool has {instructions} rows"))
                .hint("`features` and `instructions` must come from the same pool")
        })? = Some(position);
    }
    Ok(ById { table: rows.clone(), positions })
}

fn column_of<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| anyhow!("there is no column `{name}`"))
}

/// A column of any numeric type as f64.
fn numbers(rows: &RecordBatch, name: &str) -> Result<Float64Array> {
    let column = cast(column_of(rows, name)?, &DataType::Float64)?;
    column.as_any().downcast_ref::<Float64Array>().cloned().ok_or_else(|| anyhow!("`{name}` is not numeric"))
}

/// A column of vectors, row by row.
fn vectors(rows: &RecordBatch, name: &str) -> Result<Vec<Option<Vec<f32>>>> {
    let (values, width) = tables::vectors(rows, name)?;
    let lists: &FixedSizeListArray = table::column(rows, name)?;
    let vector = |row: usize| lists.is_valid(row).then(|| values[row * width..(row + 1) * width].to_vec());
    Ok((0..lists.len()).map(vector).collect())
}

/// The rows of the table `selection` for the choices of a step. `times` counts how often a run has chosen each
/// instruction; this function adds the choices to the counts.
pub fn selected(step: u32, choices: &[SelectedCandidate], times: &mut [u32]) -> Vec<SelectionRow> {
    let row = |(slot, choice): (usize, &SelectedCandidate)| {
        let SelectedCandidate { id, cluster, score, log_prob } = *choice;
        let times_selected = times[id as usize];
        SelectionRow { of: None, step, slot: slot as u32, id, cluster, score, log_prob, times_selected }
    };
    let rows = choices.iter().enumerate().map(row).collect();
    choices.iter().for_each(|choice| times[choice.id as usize] += 1);
    rows
}
