//! The question of `raisin ui`, which `raisin` passes to `raisin-sql` as one JSON argument; and the graph of stages, as
//! the journal keeps it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What to serve, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UiOptions {
    /// The cache folder. It need not exist.
    pub cache: PathBuf,
    /// The out folder. It need not exist.
    pub out: PathBuf,
    /// The pipeline that the page shows first. Default: that of the last run.
    pub pipeline: Option<PipelineChoice>,
    /// The port on the loopback interface; 0 for any free port.
    pub port: u16,
    /// Whether to open a browser.
    pub open: bool,
}

/// A pipeline that the user named.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PipelineChoice {
    pub name: String,
    /// The file, if the user named the pipeline by it.
    pub file: Option<PathBuf>,
    /// The stages of the file; empty without a file. The page shows them as long as there was no run.
    pub stages: Vec<GraphStage>,
}

/// A stage of a graph. A stage that variants of a sweep share is one stage. The inputs of a stage come before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphStage {
    pub stage: String,
    /// The name of the variant, as in the events of the stage.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub kind: String,
    /// The places of the inputs in the list of stages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<usize>,
}
