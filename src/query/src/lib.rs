//! SQL over artifacts and runs. Only this crate uses DataFusion.
//!
//! Each pipeline in `out/` is a catalog. The chosen pipeline is the default catalog: `tuned.selection` names a table of
//! this pipeline, and `"other-pipeline".tuned.selection` names a table of another pipeline. Each catalog has these
//! schemas:
//!
//! | schema | tables |
//! |---|---|
//! | the name of a stage | each `<table>.parquet` of its artifacts: the union over the variants |
//! | `raisin` | the history of builds: `actions`, `artifacts`, `costs`, `key_parts`, `runs`, `stages` |
//! | `history` | `<table>`: the union over all artifacts in the store that have this table |
//!
//! In a pipeline with a sweep, the table of a stage has a column for each swept key that matters for the stage.
//!
//! A table is opened only when a query names it, because a store may have 10,000 artifacts. A table is a list of files
//! with constant columns (see [`sources`]). If the schemas of the files differ, columns are matched by name, and a
//! column that a file lacks is null. A table with the name `metrics` is shown wide, with one column for each metric
//! (see [`pivot`]).

mod catalog;
mod files;
mod functions;
mod history;
pub mod kind;
mod pivot;
mod pool;
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

use raisin_contract::query::{OutputFormat, QueryOptions};
use sources::TableFile;

use raisin_base::error::{Problem, Result, anyhow};
use raisin_base::memory::default_limit;
use raisin_store::Store;

/// Answers a query on standard output or into a file.
pub fn run(options: &QueryOptions) -> Result<()> {
    let to_terminal = options.output.is_none() && std::io::stdout().is_terminal();
    if options.format == OutputFormat::Parquet && to_terminal {
        return Err(Problem::usage("Parquet is not for the terminal")
            .hint("name a file: --output rows.parquet")
            .into());
    }
    let width = to_terminal.then(render::terminal_width).flatten();
    let mut note = raisin_base::say::say;
    match &options.output {
        None => answer(options, &mut std::io::stdout(), width, &mut note),
        Some(path) => write::replace(path, |file| answer(options, file, None, &mut note)),
    }
}

/// Writes the answer of a query to `to`. `note` is called with each line that is meant for a person.
fn answer(
    options: &QueryOptions,
    to: &mut (dyn std::io::Write + Send),
    width: Option<usize>,
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    let store = Store::open(&options.cache)?;
    // gc removes what a killed query leaves there. In a cache that cannot be written, a large query fails.
    let spill = tempfile::Builder::new().prefix("sql-").tempdir_in(store.root().join("tmp")).ok();
    let folder = spill.as_ref().map(|folder| folder.path().to_owned());
    let memory = session::QueryMemory { limit: default_limit(), folder, stage: None };
    let catalogs = catalog::Catalogs::open(store, &options.out, options.pipeline.as_deref())?;
    let result = session::block_on(async {
        let session = session::Session::over(catalogs, memory)?;
        let rows = session.stream(&options.sql, note).await?;
        match options.format {
            OutputFormat::Table => write::as_table(rows, to, width, note).await,
            OutputFormat::Csv => write::as_csv(rows, to).await,
            OutputFormat::Json => write::as_json(rows, to).await,
            OutputFormat::Parquet => write::as_parquet(rows, to).await,
        }
    })?;
    match result.and_then(|()| Ok(to.flush()?)) {
        // The reader of a pipe, such as `head`, has read enough.
        Err(error) if write::is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

/// The files of the tables of one schema, by the name of the table.
type TableFiles = BTreeMap<String, Vec<TableFile>>;

/// The files of an artifact that are tables, by the name of the table.
fn tables_of(artifact: &std::path::Path) -> Result<BTreeMap<String, PathBuf>> {
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
