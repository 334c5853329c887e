//! Where the results of a page come from: name, seed and sweep of the pipeline, and the settings of the stages. The loader
//! of pipelines writes it, and a stage of a kind with [`crate::Kind::SHOWS_SETUP`] reads it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The parameter that has the setup.
pub const SETUP: &str = "setup";

/// What a pipeline file says about itself, for one stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineSetup {
    pub pipeline: String,
    /// `pipeline.seed` as written; a sweep may vary it.
    pub seed: u64,
    /// The values of each axis of the sweep, by dotted key.
    pub sweep: Map<String, Value>,
    /// The stages that lead to the stage, each after its inputs.
    pub stages: Vec<StageSetup>,
}

/// A stage, and its settings as the pipeline file gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageSetup {
    pub name: String,
    pub kind: String,
    /// By dotted key, without what a sweep varies. An absolute path is its last part: an artifact says nothing about the
    /// machine.
    pub settings: Map<String, Value>,
}
