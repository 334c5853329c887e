//! The query that `raisin` passes to `raisin-sql` as one JSON argument. src/query answers the query.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The SQL schema with the history of raisin: runs, stages, actions, parts of keys, artifacts, costs.
pub const TOOL: &str = "raisin";
/// The SQL schema with the tables of all artifacts.
pub const HISTORY: &str = "history";
/// SQL schemas that do not belong to a stage. A stage cannot have one of these names.
pub const RESERVED_SCHEMAS: [&str; 4] = [TOOL, HISTORY, "information_schema", "public"];

/// One query, and the place for its result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueryOptions {
    pub sql: String,
    /// The cache folder.
    pub cache: PathBuf,
    /// The out folder, with the links and the build.json of each pipeline.
    pub out: PathBuf,
    /// The pipeline whose stages the query reads. Default: the pipeline whose results changed last.
    pub pipeline: Option<String>,
    pub format: OutputFormat,
    /// The file for the result. Default: standard output.
    pub output: Option<PathBuf>,
}

/// The output format of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Aligned text for users; the number of rows goes to standard error.
    #[default]
    Table,
    Csv,
    /// JSON lines, one object per row.
    Json,
    Parquet,
}
