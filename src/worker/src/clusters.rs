//! Runs a stage of kind `clusters`: writes the static part of the fused state of every candidate, and the cluster of
//! the candidate (docs/method.md, section 2). The features come from a stage of kind `features`. The selector adds the
//! part of the state that changes during training.

mod columns;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;
use serde_json::{Value, json};
use tch::Tensor;

use crate::tables::{vector_column, vectors};
use raisin_base::error::{Context as _, Error, Problem, Result, anyhow};
use raisin_contract::{Context, Progress};
use raisin_kinds::clusters::Parameters;
use raisin_selector::clustering::kmeans::{Clustering, kmeans};
use raisin_selector::clustering::pca::Pca;
use raisin_selector::save::write_tensors;
use raisin_table::{self as table, WriteTable as _};

/// The columns of the difficulty part. Sums of log-probabilities grow with the length by three orders of magnitude.
/// Therefore the part also has their means per token.
const DIFFICULTY: [&str; 6] = [
    "difficulty.prompt_tokens",
    "difficulty.response_tokens",
    "difficulty.logp_conditional",
    "difficulty.logp_unconditional",
    "difficulty.logp_conditional_per_token",
    "difficulty.logp_unconditional_per_token",
];

mod similarity;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let folder = context.input("/features")?;
    let all = table::read_columns(&folder.join("features.parquet"), &[&["id"], COMPLETE.as_slice()].concat())?;
    let count = all.num_rows();
    let unconditional = has_second_pass(folder)?;
    if !unconditional {
        context.note("the features have no log p(y), so that the state of a candidate has none");
    }
    let (all, joined) = columns::join(all, &parameters, context)?;
    let rows = complete_rows(all, unconditional, &joined)?;
    let excluded = count - rows.num_rows();
    if excluded > 0 {
        context.note(format!("{excluded} of {count} instructions have no complete features and are no candidates"));
    }
    let (n, needed) = (rows.num_rows(), parameters.clusters.max(parameters.dimensions + 1));
    if n < needed {
        let problem = format!(
            "{n} candidates with features are too few for {} dimensions and {} clusters",
            parameters.dimensions, parameters.clusters
        );
        let hint = "take a larger pool, or lower `dimensions` and `clusters`";
        return Err(Problem::new(problem).hint(hint).into());
    }
    let (embeddings, width) = vectors(&rows, "embedding")?;
    let dimensions = parameters.dimensions.min(width);
    if dimensions < parameters.dimensions {
        context.note(format!("the embeddings have only {width} numbers, so that all of them are kept"));
    }
    progress(context, "principal components", 0);
    let pca = Pca::fit(embeddings, width, dimensions)?;
    let components = pca.project(embeddings, false);
    progress(context, "k-means", 1);
    let seed = context.seed().at("kmeans");
    let found = kmeans(&components, dimensions, parameters.clusters, parameters.iterations, parameters.starts, &seed)?;
    if !found.converged {
        context.note(format!("k-means did not converge in {} iterations", parameters.iterations));
    }
    let semantic = if parameters.whiten { pca.project(embeddings, true) } else { components };
    let mut more = similarity::columns(folder, &rows, context)?;
    more.extend(columns::of_state(&rows, joined)?);
    let state = StaticState::fuse(&rows, &semantic, dimensions, parameters.whiten, unconditional, &more)?;
    context.write_table("clusters", &clusters_table(&rows, &found, &state)?)?;
    context.write_json(
        "constants.json",
        &json!({
            "columns": state.columns,
            "means": state.means,
            "deviations": state.deviations,
            "whiten": parameters.whiten,
            "explained_variance": pca.explained,
            "inertia": found.inertia,
            "excluded": excluded,
        }),
    )?;
    let matrix = |rows: &[Vec<f64>]| Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1]);
    write_tensors(
        &context.out().join("projection.safetensors"),
        &[
            ("mean".to_owned(), Tensor::from_slice(&pca.mean)),
            ("components".to_owned(), matrix(&pca.components)),
            ("variances".to_owned(), Tensor::from_slice(&pca.variances)),
            ("centres".to_owned(), matrix(&found.centres)),
        ],
    )?;
    context.add_reference("features", folder)?;
    progress(context, "k-means", 2);
    Ok(())
}

fn progress(context: &Context, phase: &str, done: u64) {
    context.progress(Progress { phase: phase.to_owned(), done, total: 2, unit: "phases".into(), ..Default::default() });
}

/// Whether the features have log p(y), which a second pass over the responses alone gives.
fn has_second_pass(features: &Path) -> Result<bool> {
    let path = features.join("summary.json");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let summary: Value = serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))?;
    summary["unconditional"].as_bool().with_context(|| format!("{} has no `unconditional`", path.display()))
}

/// Whether a column comes from the second pass.
fn is_unconditional(column: &str) -> bool {
    column.contains("unconditional")
}

/// The columns that must not be null in the row of a candidate. The columns of the second pass may be null without this
/// pass.
const COMPLETE: [&str; 6] =
    ["prompt_tokens", "response_tokens", "logp_conditional", "logp_unconditional", "unconditional_tokens", "embedding"];

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| anyhow!("the features have no column `{name}`"))
}

/// The rows without a null in the columns of the features and in the joined columns. If all rows are complete, nothing
/// is copied.
fn complete_rows(all: RecordBatch, unconditional: bool, joined: &[String]) -> Result<RecordBatch> {
    let needed = COMPLETE.into_iter().filter(|name| unconditional || !is_unconditional(name));
    let names = needed.chain(joined.iter().map(String::as_str));
    let columns: Vec<&ArrayRef> = names.map(|name| column(&all, name)).collect::<Result<_>>()?;
    if columns.iter().all(|column| column.null_count() == 0) {
        return Ok(all);
    }
    let complete = (0..all.num_rows() as u32).filter(|&row| columns.iter().all(|column| column.is_valid(row as usize)));
    Ok(take_record_batch(&all, &UInt32Array::from_iter_values(complete))?)
}

/// A column of the state beside the difficulty part and the semantic part: a number for each candidate.
struct StateColumn {
    name: String,
    values: Vec<f64>,
}

/// The static state of all candidates.
struct StaticState {
    columns: Vec<String>,
    means: Vec<f64>,
    deviations: Vec<f64>,
    /// The standardised values, row by row.
    values: Vec<f32>,
}

impl StaticState {
    /// Joins the difficulty part, the semantic part and `more` columns. Every column has mean 0. The columns of the
    /// difficulty part, `more` columns and whitened dimensions have variance 1. Dimensions that are not whitened have
    /// one common scale, so that their proportions stay. Without `unconditional`, the difficulty part has no log p(y).
    fn fuse(
        rows: &RecordBatch,
        semantic: &[f32],
        dimensions: usize,
        whiten: bool,
        unconditional: bool,
        more: &[StateColumn],
    ) -> Result<Self> {
        let difficulty: Vec<&str> =
            DIFFICULTY.into_iter().filter(|name| unconditional || !is_unconditional(name)).collect();
        let prompt: &UInt32Array = table::column(rows, "prompt_tokens")?;
        let response: &UInt32Array = table::column(rows, "response_tokens")?;
        let conditional: &Float32Array = table::column(rows, "logp_conditional")?;
        let alone: &Float32Array = table::column(rows, "logp_unconditional")?;
        let alone_tokens: &UInt32Array = table::column(rows, "unconditional_tokens")?;
        let columns = difficulty.iter().map(|&name| name.to_owned());
        let columns = columns.chain((0..dimensions).map(|d| format!("semantic.{d:02}")));
        let columns: Vec<String> = columns.chain(more.iter().map(|column| column.name.clone())).collect();
        let mut raw = Vec::with_capacity(rows.num_rows() * columns.len());
        for row in 0..rows.num_rows() {
            let tokens = f64::from(response.value(row));
            let (with, without) = (f64::from(conditional.value(row)), f64::from(alone.value(row)));
            let (prompt, per) = (f64::from(prompt.value(row)), tokens.max(1.0));
            let per_alone = f64::from(alone_tokens.value(row)).max(1.0);
            let of_row = [prompt.ln_1p(), tokens.ln_1p(), with, without, with / per, without / per_alone];
            raw.extend(DIFFICULTY.iter().zip(of_row).filter(|(name, _)| difficulty.contains(name)).map(|(_, it)| it));
            raw.extend(semantic[row * dimensions..(row + 1) * dimensions].iter().map(|&value| f64::from(value)));
            raw.extend(more.iter().map(|column| column.values[row]));
        }
        let width = columns.len();
        let n = rows.num_rows().max(1) as f64;
        let mut means = vec![0.0; width];
        raw.iter().enumerate().for_each(|(place, value)| means[place % width] += value / n);
        let mut deviations = vec![0.0; width];
        for (place, value) in raw.iter().enumerate() {
            deviations[place % width] += (value - means[place % width]).powi(2) / n;
        }
        if !whiten {
            let semantic = &mut deviations[difficulty.len()..difficulty.len() + dimensions];
            let shared = semantic.iter().sum::<f64>() / dimensions.max(1) as f64;
            semantic.fill(shared);
        }
        // A constant column becomes 0 for every row.
        deviations.iter_mut().for_each(|square| *square = if *square > 1e-24 { square.sqrt() } else { 1.0 });
        let values = raw
            .iter()
            .enumerate()
            .map(|(place, value)| ((value - means[place % width]) / deviations[place % width]) as f32)
            .collect();
        Ok(Self { columns, means, deviations, values })
    }
}

fn clusters_table(rows: &RecordBatch, found: &Clustering, state: &StaticState) -> Result<RecordBatch> {
    let copied = |name: &'static str| Ok::<_, Error>((name, column(rows, name)?.clone()));
    table::batch(vec![
        copied("id")?,
        ("cluster", Arc::new(UInt32Array::from(found.assignments.clone()))),
        ("state", vector_column(state.values.clone(), state.columns.len(), None)?),
        copied("prompt_tokens")?,
        copied("response_tokens")?,
        copied("logp_conditional")?,
        copied("logp_unconditional")?,
        copied("unconditional_tokens")?,
    ])
}
