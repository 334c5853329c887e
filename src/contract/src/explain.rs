//! What `raisin explain` passes to `raisin-data` as one JSON argument: the artifacts of a selector and of the stages
//! around it. src/report explains them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The selectors to explain, and the question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainOptions {
    pub selectors: Vec<SelectorArtifacts>,
    /// The `id`s of the instructions to explain.
    pub ids: Vec<u32>,
    /// The step of a training, from 1, whose effects are shown beside those of start, middle and end.
    pub step: Option<u32>,
}

/// The artifact of a selector, and the artifacts that it was made from and that were made with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelectorArtifacts {
    /// The stage with its variant.
    pub label: String,
    pub artifact: PathBuf,
    /// The pool.
    pub instructions: PathBuf,
    pub clusters: PathBuf,
    /// The fine-tuned models that the policy selected for.
    pub deployed: Vec<DeployedRun>,
}

/// A fine-tuned model that a policy selected for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeployedRun {
    /// The stage with its variant.
    pub label: String,
    pub artifact: PathBuf,
}
