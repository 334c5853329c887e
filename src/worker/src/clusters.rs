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

use crate::tables::vector_column;
use crate::vectors::VectorColumn;
use basis::{Basis, embedded_tokens};
use raisin_base::error::{Context as _, Error, Problem, Result, anyhow};
use raisin_contract::{Context, Progress};
use raisin_kinds::clusters::Parameters;
use raisin_kinds::features::EmbeddedTokens;
use raisin_selector::clustering::NumberRows as _;
use raisin_selector::clustering::kmeans::{Clustering, assigned, kmeans};
use raisin_selector::clustering::pca::Pca;
use raisin_table::{self as table, WriteTable as _};
use state::{NUMBERS, Semantic, StateColumn, StaticState, numbers_of};

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let folder = context.input("/features")?;
    let like = if parameters.like.is_some() { Some(Basis::read(context.input("/like")?)?) } else { None };
    let file = folder.join("features.parquet");
    let all = table::read_columns(&file, &[&["id"], NUMBERS.as_slice()].concat())?;
    let count = all.num_rows();
    let numbers = numbers_read(&all, like.as_ref(), context)?;
    let (all, joined) = columns::join(all, &parameters, context)?;
    // The embeddings stay in the file: they are read in parts, several times.
    let embeddings = VectorColumn::open(&file, "embedding")?;
    let complete = complete_rows(&all, &numbers, &joined, embeddings.present()?)?;
    let rows = kept(all, &complete)?;
    let excluded = count - rows.num_rows();
    if excluded > 0 {
        context.note(format!("{excluded} of {count} instructions have no complete features and are no candidates"));
    }
    let embedding = embedding_of(folder)?;
    if let Some(like) = &like {
        like.check_embeddings(embeddings.width(), embedding)?;
    }
    let mut more = similarity::columns(folder, &complete, like.as_ref(), context)?;
    let embeddings = embeddings.only(complete)?;
    // With `like`, all constants are those of the other stage, also those that its states do not use.
    let similarity_mean = like.as_ref().map_or(more.mean.take(), |like| like.similarity_mean.clone());
    more.columns.extend(columns::of_state(&rows, joined)?);
    if parameters.instructions.is_some() {
        more.columns.extend(sources::columns(&rows, count, like.is_some(), context)?);
    }
    let more = match &like {
        Some(like) => {
            let files_known = parameters.instructions.is_some();
            like.chosen(&numbers, more.columns, rows.num_rows(), files_known, context)?
        }
        None => more.columns,
    };
    let PlacedRows { pca, found, components } = match &like {
        Some(like) => placed(like, &embeddings, context)?,
        None => fitted(&parameters, &embeddings, context)?,
    };
    let (dimensions, whiten) = (pca.components.len(), like.as_ref().map_or(parameters.whiten(), |like| like.whiten));
    let semantic = if whiten { pca.project(&embeddings, true)? } else { components };
    let scales = like.map(|like| like.scales);
    let of_rows = Semantic { values: &semantic, dimensions, whiten };
    let StaticState { columns, scales, values } = StaticState::fuse(&rows, &of_rows, &numbers, &more, scales)?;
    drop((semantic, more));
    context.write_table("clusters", &clusters_table(&rows, &found, vector_column(values, columns.len(), None)?)?)?;
    let explained = pca.explained;
    let basis = Basis { embedding, columns, whiten, pca, centres: found.centres, scales, similarity_mean };
    basis.write(&context.out())?;
    let mut constants = json!({
        "columns": basis.columns,
        "means": basis.scales.means,
        "deviations": basis.scales.deviations,
        "whiten": whiten,
        "explained_variance": explained,
        "inertia": found.inertia,
        "excluded": excluded,
        "basis": basis.digest().to_hex(),
    });
    if embedding != EmbeddedTokens::default() {
        constants["embedding"] = json!(embedding);
    }
    context.write_json("constants.json", &constants)?;
    context.add_reference("features", folder)?;
    progress(context, "k-means", 2);
    Ok(())
}

/// The tokens that the embeddings of these features describe. The features of a `command` may have no summary, or one of
/// its own.
fn embedding_of(features: &Path) -> Result<EmbeddedTokens> {
    let path = features.join("summary.json");
    if !path.is_file() {
        return Ok(EmbeddedTokens::default());
    }
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(summary) if summary["pass"] == "features" => embedded_tokens(&summary, &path),
        _ => Ok(EmbeddedTokens::default()),
    }
}

/// The rows along principal components, and their clusters.
struct PlacedRows {
    pca: Pca,
    found: Clustering,
    /// The coordinates of each row, which are not whitened.
    components: Vec<f32>,
}

/// The principal components of the embeddings, and clusters of the rows.
fn fitted(parameters: &Parameters, embeddings: &VectorColumn, context: &Context) -> Result<PlacedRows> {
    let (n, width) = (embeddings.count(), embeddings.width());
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
    let pca = Pca::fit(embeddings, dimensions)?;
    let components = pca.project(embeddings, false)?;
    progress(context, "k-means", 1);
    let (clusters, iterations) = (parameters.clusters(), parameters.iterations());
    let seed = context.seed().at("kmeans");
    let found = kmeans(&components, dimensions, clusters, iterations, parameters.starts(), &seed)?;
    if !found.converged {
        context.note(format!("k-means did not converge in {iterations} iterations"));
    }
    Ok(PlacedRows { pca, found, components })
}

/// The principal components of another stage, and the rows in the clusters of that stage.
fn placed(like: &Basis, embeddings: &VectorColumn, context: &Context) -> Result<PlacedRows> {
    progress(context, "principal components", 0);
    let pca = like.pca.clone();
    let components = pca.project(embeddings, false)?;
    progress(context, "clusters", 1);
    let found = assigned(&components, pca.components.len(), like.centres.clone());
    Ok(PlacedRows { pca, found, components })
}

fn progress(context: &Context, phase: &str, done: u64) {
    context.progress(Progress { phase: phase.to_owned(), done, total: 2, unit: "phases".into(), ..Default::default() });
}

/// Those of [`NUMBERS`] from which the states are made: those of the states of `like`, or else those that the features
/// have. `features` makes no log p(y) without its second pass, and a program may give embeddings alone.
///
/// # Errors
/// The states of `like` have numbers that these features do not have.
fn numbers_read(all: &RecordBatch, like: Option<&Basis>, context: &Context) -> Result<Vec<&'static str>> {
    let mut present = Vec::new();
    for name in NUMBERS {
        let values = column(all, name)?;
        if values.null_count() < values.len() {
            present.push(name);
        }
    }
    let without = |wanted: &[&'static str]| -> Option<String> {
        let absent: Vec<&str> = wanted.iter().filter(|name| !present.contains(name)).copied().collect();
        let is_second_pass = absent.iter().all(|name| name.contains("unconditional"));
        let words = if is_second_pass { "log p(y)".to_owned() } else { absent.join(", ") };
        (!absent.is_empty()).then_some(words)
    };
    let Some(like) = like else {
        if let Some(absent) = without(&NUMBERS) {
            context.note(format!("the features have no {absent}, so that the state of a candidate has none"));
        }
        return Ok(present);
    };
    let wanted = numbers_of(&like.columns);
    if let Some(absent) = without(&wanted) {
        let problem = Problem::new(format!("the states of `like` have {absent}, and these features have none"));
        return Err(problem
            .hint(if absent == "log p(y)" {
                "leave out `unconditional = false` in the features stage"
            } else {
                "make the features of both stages in the same way"
            })
            .into());
    }
    Ok(wanted)
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| anyhow!("the features have no column `{name}`"))
}

/// For each row, whether it has an embedding and no null among the `numbers` of the features and in the joined columns.
fn complete_rows(all: &RecordBatch, numbers: &[&str], joined: &[String], embedded: Vec<bool>) -> Result<Vec<bool>> {
    let names = numbers.iter().copied().chain(joined.iter().map(String::as_str));
    let columns: Vec<&ArrayRef> = names.map(|name| column(all, name)).collect::<Result<_>>()?;
    let is_complete = |(row, embedded): (usize, bool)| embedded && columns.iter().all(|column| column.is_valid(row));
    Ok(embedded.into_iter().enumerate().map(is_complete).collect())
}

/// The rows for which `complete` is true. If all rows are complete, nothing is copied.
fn kept(all: RecordBatch, complete: &[bool]) -> Result<RecordBatch> {
    if complete.iter().all(|complete| *complete) {
        return Ok(all);
    }
    let rows = (0..all.num_rows() as u32).filter(|&row| complete[row as usize]);
    Ok(take_record_batch(&all, &UInt32Array::from_iter_values(rows))?)
}

fn clusters_table(rows: &RecordBatch, found: &Clustering, states: ArrayRef) -> Result<RecordBatch> {
    let copied = |name: &'static str| Ok::<_, Error>((name, column(rows, name)?.clone()));
    table::batch(vec![
        copied("id")?,
        ("cluster", Arc::new(UInt32Array::from(found.assignments.clone()))),
        ("state", states),
        copied("prompt_tokens")?,
        copied("response_tokens")?,
        copied("logp_conditional")?,
        copied("logp_unconditional")?,
        copied("unconditional_tokens")?,
    ])
}
