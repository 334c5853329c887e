//! The question that `raisin sql` passes to `raisin-sql` as one JSON argument. src/query answers the question.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The SQL schema with the history of raisin: runs, stages, actions, parts of keys, artifacts, costs.
pub const TOOL: &str = "raisin";
/// The SQL schema with the tables of all artifacts.
pub const HISTORY: &str = "history";
/// SQL schemas that do not belong to a stage. A stage cannot have one of these names.
pub const RESERVED_SCHEMAS: [&str; 4] = [TOOL, HISTORY, "information_schema", "public"];

/// A question, and the place for its result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueryOptions {
    pub source: QuerySource,
    /// The cache folder.
    pub cache: PathBuf,
    /// The out folder, with the links and the build.json of each pipeline.
    pub out: PathBuf,
    /// The pipeline whose stages the query reads. Default: the pipeline whose results changed last.
    pub pipeline: Option<String>,
    /// The address of the cluster that executes the queries; `None` for this process.
    pub remote: Option<String>,
    /// Default: by the ending of `output`, else [`OutputFormat::Table`].
    pub format: Option<OutputFormat>,
    /// The file for the result. Default: standard output.
    pub output: Option<PathBuf>,
    /// The values of `$name` in the query.
    pub parameters: Vec<(String, String)>,
    /// Whether each row is printed as one line for each column.
    pub expanded: bool,
    /// The largest number of rows that are printed on a terminal; `None` for the default.
    pub most_rows: Option<MostRows>,
    /// The memory of the query, in bytes; rows that need more go to the disk. Default: half of the machine.
    pub memory: Option<u64>,
}

/// Where the SQL comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuerySource {
    Text(String),
    File(PathBuf),
    /// Standard input. Without `is_demanded`, a terminal there opens the prompt.
    Input {
        is_demanded: bool,
    },
    /// No query: write the tables as views for DuckDB into this file.
    Export {
        file: PathBuf,
        is_absolute: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MostRows {
    All,
    At(usize),
}

/// The output format of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Aligned text for users; the number of rows goes to standard error.
    #[default]
    Table,
    /// A table in a frame.
    Box,
    Csv,
    /// One JSON array with an object per row.
    Json,
    /// JSON lines, one object per row.
    Jsonl,
    Markdown,
    Html,
    /// Arrow IPC: the file format in a file, the stream format on standard output.
    Arrow,
    Parquet,
}

impl OutputFormat {
    pub const ALL: [Self; 9] = [
        Self::Table,
        Self::Box,
        Self::Csv,
        Self::Json,
        Self::Jsonl,
        Self::Markdown,
        Self::Html,
        Self::Arrow,
        Self::Parquet,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Box => "box",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Markdown => "markdown",
            Self::Html => "html",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The endings of the files of this format.
    pub fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Table => &["txt"],
            Self::Box => &[],
            Self::Csv => &["csv"],
            Self::Json => &["json"],
            Self::Jsonl => &["jsonl", "ndjson"],
            Self::Markdown => &["md"],
            Self::Html => &["html"],
            Self::Arrow => &["arrow"],
            Self::Parquet => &["parquet"],
        }
    }

    /// The format of a file, by its ending.
    pub fn of_file(file: &Path) -> Option<Self> {
        let ending = file.extension()?.to_str()?.to_lowercase();
        Self::ALL.into_iter().find(|format| format.endings().contains(&ending.as_str()))
    }

    /// Whether the bytes are text for a terminal.
    pub fn is_text(self) -> bool {
        !matches!(self, Self::Arrow | Self::Parquet)
    }
}

impl Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
