//! Reads from artifacts what a chooser needs, and turns its choices into rows of the table `selection`. raisin-selector
//! chooses, and `finetune` trains.

mod scores;

use std::path::Path;

use arrow_array::{Array, FixedSizeListArray, Float32Array, Float64Array, RecordBatch, UInt32Array};
use arrow_cast::cast;
use arrow_schema::DataType;

use crate::tables::SelectionRow;
use raisin_base::error::{Context as _, Problem, Result, anyhow};
use raisin_contract::referenced;
use raisin_corpus::Instruction;
use raisin_selector::{Candidates, SelectedCandidate, SelectionMethod};
use raisin_table as table;
use raisin_training::TrainingPool;

pub use scores::read_scores;

/// The columns from which the baselines compute their scores, for the rows that can be trained on.
pub fn candidate_columns(
    method: SelectionMethod,
    instructions: &[Instruction],
    pool: &TrainingPool,
    clusters: Option<&Path>,
    scores: Vec<Option<f64>>,
) -> Result<raisin_selector::CandidateColumns> {
    let ids = pool.trainable();
    let at = |id: u32| id as usize;
    let mut columns = raisin_selector::CandidateColumns {
        response_tokens: ids
            .iter()
            .map(|&id| pool.get(id).map(|sequence| sequence.supervised_tokens() as u32))
            .collect(),
        labels: ids.iter().map(|&id| instructions.get(at(id)).and_then(|row| row.label.clone())).collect(),
        scores: if scores.is_empty() { scores } else { ids.iter().map(|&id| scores[at(id)]).collect() },
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
        let counts = |name: &str| -> Result<Vec<Option<u32>>> {
            let column: &UInt32Array = table::column(&rows.table, name)?;
            let pick = |id: u32| rows.position(id).filter(|&row| column.is_valid(row)).map(|row| column.value(row));
            Ok(ids.iter().map(|&id| pick(id)).collect())
        };
        let log_probs = |name: &str| -> Result<Vec<Option<f64>>> {
            let column = numbers(&rows.table, name)?;
            let pick = |id: u32| rows.position(id).filter(|&row| column.is_valid(row)).map(|row| column.value(row));
            Ok(ids.iter().map(|&id| pick(id)).collect())
        };
        columns.clusters = counts("cluster")?;
        columns.response_tokens = counts("response_tokens")?;
        columns.unconditional_tokens = counts("unconditional_tokens")?;
        columns.logp_conditional = log_probs("logp_conditional")?;
        columns.logp_unconditional = log_probs("logp_unconditional")?;
        if method == SelectionMethod::Rds {
            let features = referenced(folder, "features")?
                .ok_or_else(|| anyhow!("the clusters have no reference to their features"))?;
            let rows = table::read_columns(&features.join("features.parquet"), &["id", "weighted_embedding"])?;
            let rows = by_id(&rows, instructions.len())?;
            let vectors = vectors(&rows.table, "weighted_embedding")?;
            columns.embeddings = ids.iter().map(|&id| vectors[rows.position(id)?].clone()).collect();
            let validation = features.join("validation_features.parquet");
            if !validation.is_file() {
                let problem = Problem::new(
                    "the method `rds` needs features of the validation examples, and the features stage has none",
                );
                return Err(problem.hint("give the features stage a `task`").into());
            }
            let found = table::read_columns(&validation, &["weighted_embedding"])?;
            let found = self::vectors(&found, "weighted_embedding")?;
            columns.validation_embeddings = found.into_iter().flatten().collect();
        }
    }
    columns.ids = ids;
    Ok(columns)
}

/// The candidates of a policy: all rows of a `clusters` artifact that can be trained on.
pub fn candidates(clusters: &Path, pool: &TrainingPool) -> Result<Candidates> {
    let rows = table::read_columns(&clusters.join("clusters.parquet"), &["id", "cluster", "state"])?;
    let constants = std::fs::read(clusters.join("constants.json")).context("the clusters have no constants.json")?;
    let constants: serde_json::Value = serde_json::from_slice(&constants)?;
    let columns: Vec<String> = serde_json::from_value(constants["columns"].clone())?;
    let (ids, clusters): (&UInt32Array, &UInt32Array) = (table::column(&rows, "id")?, table::column(&rows, "cluster")?);
    let states = vectors(&rows, "state")?;
    // The ids of another pool (such as the pool before its overlap was left out) would mean other rows.
    by_id(&rows, pool.len())?;
    let (mut kept, mut kept_clusters, mut kept_states) = (Vec::new(), Vec::new(), Vec::new());
    for (row, state) in states.into_iter().enumerate().filter(|(row, _)| clusters.is_valid(*row)) {
        if let (Some(state), Some(_)) = (state, pool.get(ids.value(row))) {
            kept.push(ids.value(row));
            kept_clusters.push(clusters.value(row));
            kept_states.extend(state);
        }
    }
    Candidates::new(&kept, &kept_clusters, &kept_states, columns)
}

/// A table and the position of each id in it.
pub struct ById {
    pub table: RecordBatch,
    positions: Vec<Option<usize>>,
}

impl ById {
    pub fn position(&self, id: u32) -> Option<usize> {
        self.positions.get(id as usize).copied().flatten()
    }
}

/// # Errors
/// An id is not in the pool: the table belongs to other instructions.
pub fn by_id(rows: &RecordBatch, instructions: usize) -> Result<ById> {
    let ids: &UInt32Array = table::column(rows, "id")?;
    let mut positions = vec![None; instructions];
    for (position, id) in ids.values().iter().enumerate() {
        let place = positions.get_mut(*id as usize);
        *place.ok_or_else(|| {
            Problem::new(format!("the features describe an instruction {id}, but the pool has {instructions}"))
                .hint("`features` and `instructions` must come from the same pool")
        })? = Some(position);
    }
    Ok(ById { table: rows.clone(), positions })
}

/// A column of any numeric type as f64.
fn numbers(rows: &RecordBatch, name: &str) -> Result<Float64Array> {
    let column = rows.column_by_name(name).ok_or_else(|| anyhow!("there is no column `{name}`"))?;
    let column = cast(column, &DataType::Float64)?;
    column.as_any().downcast_ref::<Float64Array>().cloned().ok_or_else(|| anyhow!("`{name}` is not numeric"))
}

fn vectors(rows: &RecordBatch, name: &str) -> Result<Vec<Option<Vec<f32>>>> {
    let lists: &FixedSizeListArray = table::column(rows, name)?;
    let values = lists.values().as_any().downcast_ref::<Float32Array>();
    let values = values.ok_or_else(|| anyhow!("`{name}` does not hold f32 vectors"))?.values();
    let width = lists.value_length() as usize;
    Ok((0..lists.len())
        .map(|row| lists.is_valid(row).then(|| values[row * width..(row + 1) * width].to_vec()))
        .collect())
}

/// The rows of the table `selection` for the choices of a step. `times` counts how often a run has chosen each instruction;
/// this function adds the choices to the counts.
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
