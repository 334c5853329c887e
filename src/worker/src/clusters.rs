//! Runs a stage of kind `clusters`: writes the static part of the fused state of every candidate, and the cluster of
//! the candidate (docs/method.md, section 2). The features come from a stage of kind `features`. The selector adds the
//! part of the state that changes during training.

mod basis;
mod columns;
mod similarity;
mod sources;
mod state;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;
use serde_json::{Value, json};

use crate::tables::{vector_column, vectors};
use basis::Basis;
use raisin_base::error::{Context as _, Error, Problem, Result, anyhow};
use raisin_contract::{Context, Progress};
use raisin_kinds::clusters::Parameters;
use raisin_selector::clustering::kmeans::{Clustering, assigned, kmeans};
use raisin_selector::clustering::pca::Pca;
use raisin_table::{self as table, WriteTable as _};
use state::{Semantic, StateColumn, StaticState, is_unconditional};

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let folder = context.input("/features")?;
    let like = if parameters.like.is_some() { Some(Basis::read(context.input("/like")?)?) } else { None };
    let all = table::read_columns(&folder.join("features.parquet"), &[&["id"], COMPLETE.as_slice()].concat())?;
    let count = all.num_rows();
    let unconditional = reads_second_pass(folder, like.as_ref(), context)?;
    let (all, joined) = columns::join(all, &parameters, context)?;
    let rows = complete_rows(all, unconditional, &joined)?;
    let excluded = count - rows.num_rows();
    if excluded > 0 {
        context.note(format!("{excluded} of {count} instructions have no complete features and are no candidates"));
    }
    let (embeddings, width) = vectors(&rows, "embedding")?;
    if let Some(like) = &like {
        like.check_width(width)?;
    }
    let mut more = similarity::columns(folder, &rows, like.as_ref(), context)?;
    // With `like`, all constants are those of the other stage, also those that its states do not use.
    let similarity_mean = like.as_ref().map_or(more.mean.take(), |like| like.similarity_mean.clone());
    more.columns.extend(columns::of_state(&rows, joined)?);
    if parameters.instructions.is_some() {
        more.columns.extend(sources::columns(&rows, count, like.is_some(), context)?);
    }
    let more = match &like {
        Some(like) => {
            let files_known = parameters.instructions.is_some();
            like.chosen(unconditional, more.columns, rows.num_rows(), files_known, context)?
        }
        None => more.columns,
    };
    let (pca, found) = match &like {
        Some(like) => placed(like, embeddings, context),
        None => fitted(&parameters, embeddings, width, context)?,
    };
    let (dimensions, whiten) = (pca.components.len(), like.as_ref().map_or(parameters.whiten(), |like| like.whiten));
    let semantic = pca.project(embeddings, whiten);
    let semantic = Semantic { values: &semantic, dimensions, whiten };
    let scales = like.map(|like| like.scales);
    let state = StaticState::fuse(&rows, &semantic, unconditional, &more, scales)?;
    context.write_table("clusters", &clusters_table(&rows, &found, &state)?)?;
    let explained = pca.explained;
    let StaticState { columns, scales, .. } = state;
    let basis = Basis { columns, whiten, pca, centres: found.centres, scales, similarity_mean };
    basis.write(&context.out())?;
    context.write_json(
        "constants.json",
        &json!({
            "columns": basis.columns,
            "means": basis.scales.means,
            "deviations": basis.scales.deviations,
            "whiten": whiten,
            "explained_variance": explained,
            "inertia": found.inertia,
            "excluded": excluded,
            "basis": basis.digest().to_hex(),
        }),
    )?;
    context.add_reference("features", folder)?;
    progress(context, "k-means", 2);
    Ok(())
}

/// The principal components of the embeddings, and clusters of the rows.
fn fitted(parameters: &Parameters, embeddings: &[f32], width: usize, context: &Context) -> Result<(Pca, Clustering)> {
    let n = embeddings.len() / width.max(1);
    if n < parameters.clusters().max(parameters.dimensions() + 1) {
        let problem = format!(
            "{n} candidates with features are too few for {} dimensions and {} clusters",
            parameters.dimensions(),
            parameters.clusters()
        );
        let hint = "take a larger pool, or lower `dimensions` and `clusters`";
        return Err(Problem::new(problem).hint(hint).into());
    }
    let dimensions = parameters.dimensions().min(width);
    if dimensions < parameters.dimensions() {
        context.note(format!("the embeddings have only {width} numbers, so that all of them are kept"));
    }
    progress(context, "principal components", 0);
    let pca = Pca::fit(embeddings, width, dimensions)?;
    let components = pca.project(embeddings, false);
    progress(context, "k-means", 1);
    let (clusters, iterations) = (parameters.clusters(), parameters.iterations());
    let seed = context.seed().at("kmeans");
    let found = kmeans(&components, dimensions, clusters, iterations, parameters.starts(), &seed)?;
    if !found.converged {
        context.note(format!("k-means did not converge in {iterations} iterations"));
    }
    Ok((pca, found))
}

/// The principal components of another stage, and the rows in the clusters of that stage.
fn placed(like: &Basis, embeddings: &[f32], context: &Context) -> (Pca, Clustering) {
    progress(context, "principal components", 0);
    let pca = like.pca.clone();
    let components = pca.project(embeddings, false);
    progress(context, "clusters", 1);
    let found = assigned(&components, pca.components.len(), like.centres.clone());
    (pca, found)
}

fn progress(context: &Context, phase: &str, done: u64) {
    context.progress(Progress { phase: phase.to_owned(), done, total: 2, unit: "phases".into(), ..Default::default() });
}

/// Whether the state has the numbers of the second pass, over the responses alone.
///
/// # Errors
/// The state of the stage `like` has these numbers, and the features do not.
fn reads_second_pass(features: &Path, like: Option<&Basis>, context: &Context) -> Result<bool> {
    let present = has_second_pass(features)?;
    let Some(like) = like else {
        if !present {
            context.note("the features have no log p(y), so that the state of a candidate has none");
        }
        return Ok(present);
    };
    let is_second = |column: &String| column.starts_with("difficulty.") && is_unconditional(column);
    let wanted = like.columns.iter().any(is_second);
    if wanted && !present {
        return Err(Problem::new("the states of `like` have log p(y), and these features have none")
            .hint("leave out `unconditional = false` in the features stage")
            .into());
    }
    Ok(wanted)
}

/// Whether the features have log p(y), which a second pass over the responses alone gives.
fn has_second_pass(features: &Path) -> Result<bool> {
    let path = features.join("summary.json");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let summary: Value = serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))?;
    summary["unconditional"].as_bool().with_context(|| format!("{} has no `unconditional`", path.display()))
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
