//! SQL over artifacts and runs. DataFusion is known to this room only.
//!
//! One catalog a pipeline in `out/`, the chosen one being the default, so that `tuned.selection` is enough and
//! `"other-pipeline".tuned.selection` works too. In each:
//!
//! | schema | tables |
//! |---|---|
//! | a stage's name | every `<table>.parquet` of its artifacts: the union over the variants, with columns for what was swept |
//! | `raisin` | `runs`, `actions`, `artifacts`, `costs`, `stages`: the tool's own history |
//! | `history` | `<table>`: the union over every artifact in the store that has such a table |
//!
//! Tables are opened when a query names them, and not before: a query must not pay for a store of 10,000 artifacts.
//! A table is a list of files with constants (see [`sources`]); files whose schemas differ are read by column name,
//! with nulls where a file lacks a column. A table named `metrics` is shown wide, one column a metric (see [`pivot`]).

mod catalog;
mod files;
mod history;
pub mod kind;
mod pivot;
mod problems;
mod render;
mod session;
mod sources;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use arrow::array::RecordBatch;

pub use raisin_contract::query::{Format, QueryOptions};
pub use sources::{TableFile, spread};

use raisin_base::error::{Problem, Result, anyhow};
use raisin_store::Store;

/// Answers a query on standard output or into a file.
pub fn run(options: &QueryOptions) -> Result<()> {
    let to_terminal = options.output.is_none() && std::io::stdout().is_terminal();
    if options.format == Format::Parquet && to_terminal {
        return Err(Problem::usage("Parquet is not for the terminal")
            .hint("name a file: --output rows.parquet")
            .into());
    }
    let width = to_terminal.then(render::terminal_width).flatten();
    let mut note = |text: &str| eprintln!("{text}");
    match &options.output {
        None => answer(options, &mut std::io::stdout(), width, &mut note),
        Some(path) => write::replace(path, |file| answer(options, file, None, &mut note)),
    }
}

/// Answers a query into `to`. Words for people go to `note`, a line each.
pub fn answer(
    options: &QueryOptions,
    to: &mut (dyn std::io::Write + Send),
    width: Option<usize>,
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    let store = Store::open(&options.cache)?;
    let catalogs = catalog::Catalogs::open(store, &options.out, options.pipeline.as_deref())?;
    let result = session::block_on(async {
        let session = session::Session::over(catalogs)?;
        let rows = session.stream(&options.sql, note).await?;
        match options.format {
            Format::Table => write::as_table(rows, to, width, note).await,
            Format::Csv => write::as_csv(rows, to).await,
            Format::Json => write::as_json(rows, to).await,
            Format::Parquet => write::as_parquet(rows, to).await,
        }
    })?;
    match result.and_then(|()| Ok(to.flush()?)) {
        // `raisin sql ... | head` has what it wanted.
        Err(error) if write::is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

/// The tables of one query, by schema and name.
pub type Tables = BTreeMap<(String, String), Vec<TableFile>>;

/// Answers a query over given tables, as one batch. The order of rows is the query's own; without ORDER BY it is
/// the order of the files and of the rows in them, because there is one partition only.
pub fn collect(sql: &str, tables: Tables) -> Result<RecordBatch> {
    session::block_on(async {
        let session = session::Session::over(catalog::Catalogs::of_tables(tables))?;
        session.stream(sql, &mut |_| {}).await?.all().await
    })?
}

/// The files of an artifact that are tables, by table name.
pub fn tables_of(artifact: &std::path::Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut tables = BTreeMap::new();
    let entries =
        std::fs::read_dir(artifact).map_err(|error| anyhow!("cannot list {}: {error}", artifact.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "parquet")
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
        {
            tables.insert(name.to_owned(), path);
        }
    }
    Ok(tables)
}
