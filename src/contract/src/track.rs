//! What a stage of kind `track` leaves for a tracking server, and the question with which `raisin` has `raisin-remote`
//! send it. Sending is no part of a stage: docs/decisions/0036-trackers-and-flight.md.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind of the stages with runs to send.
pub const TRACK: &str = "track";

/// The folder, in an artifact of kind `track`, of the runs for MLflow: one file `RUN.json` for each.
pub const TRACKED_RUNS: &str = "mlflow";

/// The variable with the address of the MLflow server. MLflow's own client reads it too.
pub const TRACKING_URI: &str = "MLFLOW_TRACKING_URI";

/// A run for MLflow: a file of [`TRACKED_RUNS`]. Its digest identifies the run on a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunToSend {
    /// The name of the experiment.
    pub experiment: String,
    /// The name of the run: the values of the sweep, or `all` without a sweep.
    pub run: String,
    /// The values of the sweep in the variant.
    pub variant: Map<String, Value>,
    /// The digests of the artifacts that have the numbers, by stage.
    pub artifacts: BTreeMap<String, String>,
    /// The points (step, value) of each metric. The values are finite.
    pub metrics: BTreeMap<String, Vec<(i64, f64)>>,
}

/// What to send, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrackQuestion {
    pub cache: PathBuf,
    /// The folder of the links: `out`.
    pub out: PathBuf,
    /// The pipelines whose last builds are sent.
    pub pipelines: Vec<String>,
    /// The word that names the pipeline in a hint: its file or its name, as the user gave it.
    pub named: String,
    /// Whether this is the end of a build: what was sent before is skipped without a request, the time is limited, and
    /// nothing is a failure.
    pub after_build: bool,
    /// Print no line if everything was sent.
    pub quiet: bool,
}
