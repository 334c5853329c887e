//! The `evaluate` kind: scores a model on the examples of a task, item by item (docs/method.md, section 7).
//! outputs/evaluate.rs describes its tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{Overlong, SequenceLimit, Split, default_max_tokens};

use crate::{check_distinct, number, numbers, outputs, word};

pub struct EvaluateKind;

/// A way of scoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Mean loss per token of the reference response.
    Loss,
    /// The most probable of several choices: `acc`, and `acc_norm` (divided by the length of the choice in characters).
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
    /// The stage whose examples the model is scored on.
    pub task: String,
    /// `test` or `validation`.
    #[serde(default)]
    pub split: Split,
    /// Ways of scoring, each at most once. The default is the loss and what the task is scored by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// An `overlap` stage. Examples that overlap its pool are left out. If absent, all examples are scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
    /// Only the first examples are scored, at most this number. If absent, all examples are scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// A forward pass holds at most this many tokens.
    #[serde(default = "number::<8192>")]
    pub batch_tokens: usize,
    /// The number of examples that generate together.
    #[serde(default = "number::<32>")]
    pub generate_rows: usize,
    /// The largest number of tokens in a sequence.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What happens to examples of more than `max_tokens` tokens: `truncate` cuts them, `drop` leaves them out, and with
    /// `error` the stage fails before it computes anything. The limit is for `loss` and `choice`; the prompts of `match`
    /// are never cut. A question with a choice that does not fit is left out.
    #[serde(default)]
    pub on_overlong: Overlong,
}

impl Parameters {
    pub fn sequence_limit(&self) -> SequenceLimit {
        SequenceLimit { max_tokens: self.max_tokens, on_overlong: self.on_overlong }
    }
}

impl Kind for EvaluateKind {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 6;
    const ABOUT: &'static str = "Scores a model on a task: loss, multiple choice, match of generated answers.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["scores"];
    const TABLES: &'static [TableDeclaration] = outputs::evaluate::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::evaluate::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::evaluate::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/task", &parameters.task, "task");
        if let Some(overlap) = &parameters.overlap {
            needs.stage("/overlap", overlap, "overlap");
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        check_distinct("/metrics", &parameters.metrics, word)?;
        if parameters.limit == Some(0) {
            return Err(ParameterProblem::new("/limit", "0 examples give no score"));
        }
        numbers::counts(&[("generate_rows", parameters.generate_rows), ("batch_tokens", parameters.batch_tokens)])?;
        numbers::sequence_lengths(&[("max_tokens", parameters.max_tokens)])
    }
}
