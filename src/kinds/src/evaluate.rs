//! The `evaluate` kind: how well a model does on the examples of a task, item by item (docs/method.md, section 7).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::Split;

pub struct Evaluate;

/// A way of scoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Mean loss per token of the reference response.
    Loss,
    /// The most likely of several choices: `acc`, and `acc_norm` by the choice's length in characters.
    Choice,
    /// Greedy generation compared with the reference: `exact_match`, and `flexible_match` for numbers.
    Match,
}

/// Parameters of an `evaluate` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose model is scored.
    pub model: String,
    /// The stage whose examples it is scored on.
    pub task: String,
    /// `test` or `validation`.
    #[serde(default)]
    pub split: Split,
    /// Ways of scoring; by default the loss, and what the task says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// An `overlap` stage: examples that overlap its pool are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
    /// Score the first so many examples only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// A forward pass holds at most this many tokens.
    #[serde(default = "default_batch_tokens")]
    pub batch_tokens: usize,
    /// Examples generate together, so many at a time.
    #[serde(default = "default_generate_rows")]
    pub generate_rows: usize,
    /// Longer sequences are cut at this many tokens.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
}

fn default_batch_tokens() -> usize {
    8192
}

fn default_generate_rows() -> usize {
    32
}

fn default_max_tokens() -> usize {
    1024
}

impl Kind for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Scores a model on a task: loss, multiple choice, match of generated answers.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["scores"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/task", &parameters.task, "task");
        if let Some(overlap) = &parameters.overlap {
            needs.stage("/overlap", overlap, "overlap");
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        match parameters {
            Parameters { limit: Some(0), .. } => Err(ParameterProblem::new("/limit", "0 examples give no score")),
            Parameters { generate_rows: 0, .. } => Err(ParameterProblem::new("/generate_rows", "must be at least 1")),
            _ => Ok(()),
        }
    }
}
