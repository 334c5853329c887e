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
//! (see [`pivot`]). A stage with a table `instructions` has the view `quality` over it (see [`quality`]), and the table has
//! the computed column `digest` (see [`content`]).

mod arithmetic;
mod ask;
mod catalog;
mod content;
mod dictionary;
pub mod elsewhere;
mod export;
mod files;
pub mod filter;
pub mod flight;
mod functions;
mod history;
mod json;
pub mod kind;
mod parallel;
mod pivot;
mod pool;
mod prepare;
mod problems;
mod prompt;
mod quality;
mod reading;
mod render;
mod rows;
mod sample;
mod script;
mod session;
mod sources;
mod special;
mod summary;
mod temporary;
#[cfg(test)]
mod tests;
pub mod ui;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use ask::run;
use sources::TableFile;

use raisin_base::error::{Result, anyhow};

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
