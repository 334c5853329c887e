//! What `raisin init` asks of the executables that read data and models, as one JSON argument and one JSON answer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The question for `raisin-data`: files or folders.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DataQuestion {
    pub pool: PathBuf,
    pub task: PathBuf,
    pub test: Option<PathBuf>,
}

/// What `raisin-data` found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFindings {
    pub pool: PoolFindings,
    pub task: TaskFindings,
    pub test: Option<TaskFindings>,
}

/// A pool of instructions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolFindings {
    /// The settings of the source beside its path, such as `format`.
    pub settings: Map<String, Value>,
    /// One sentence for each file.
    pub told: Vec<String>,
    pub instructions: usize,
    /// The number of characters that 95 of 100 instructions do not exceed.
    pub characters: usize,
}

/// A benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskFindings {
    pub settings: Map<String, Value>,
    pub told: Vec<String>,
    /// The number of different questions; of the main source, without those that the test source asks too.
    pub questions: usize,
    /// `choice`, `match` or `loss`, as in the kind `task`.
    pub scoring: String,
    /// How an answer is found in a generated text.
    pub extract: Option<String>,
    /// The largest number of characters of a response.
    pub characters: usize,
    /// Why this scoring, as a clause.
    pub reason: String,
}

/// What `raisin-worker` found in a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFindings {
    pub architecture: String,
    pub layers: usize,
    pub hidden_size: i64,
    pub vocabulary: i64,
    /// The largest number of tokens of a sequence.
    pub context: usize,
    /// The approximate number of parameters.
    pub parameters: f64,
    pub has_chat_template: bool,
}
