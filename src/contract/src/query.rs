//! A query as `raisin` hands it to `raisin-sql`: one JSON argument.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The schema of the tool's own history.
pub const TOOL: &str = "raisin";
/// The schema of every artifact's tables.
pub const HISTORY: &str = "history";
/// Schemas that mean something else than a stage: no stage can have one of these names.
pub const RESERVED_SCHEMAS: [&str; 4] = [TOOL, HISTORY, "information_schema", "public"];

/// One query and where its answer goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueryOptions {
    pub sql: String,
    /// The store.
    pub cache: PathBuf,
    /// The folder of pipelines' links and descriptions.
    pub out: PathBuf,
    /// Whose stages the query means; by default the pipeline whose results changed last.
    pub pipeline: Option<String>,
    pub format: Format,
    /// A file; by default standard output.
    pub output: Option<PathBuf>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Aligned text for people; the row count goes to standard error.
    #[default]
    Table,
    Csv,
    /// JSON lines, one object a row.
    Json,
    Parquet,
}
