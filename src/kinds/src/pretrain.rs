//! The `pretrain` kind: next-token training of all weights of a small model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{LearningRateSchedule, Overlong, SequenceLimit, default_max_tokens};

use crate::{is_off, number, numbers, outputs};

pub struct PretrainKind;

/// Which tokens carry a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Supervised {
    /// Every token except the first.
    #[default]
    All,
    /// The tokens of the response.
    Response,
}

/// Parameters of a `pretrain` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose model is trained: usually a `model` stage with an `init` source.
    pub model: String,
    /// A stage with a table `pretraining` (columns `prompt` and `response`, or `text`), or with instructions.
    pub text: String,
    /// The tokens that carry a loss: `all` tokens, or only those of the `response`.
    #[serde(default)]
    pub loss: Supervised,
    /// The number of steps.
    pub steps: usize,
    /// The number of rows in a step.
    #[serde(default = "number::<32>")]
    pub batch_size: usize,
    /// The highest learning rate.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// How the learning rate falls.
    #[serde(default)]
    pub schedule: LearningRateSchedule,
    /// The share of the steps in which the learning rate rises.
    #[serde(default = "default_warmup")]
    pub warmup: f64,
    /// The weight decay of AdamW.
    #[serde(default)]
    pub weight_decay: f64,
    /// The largest number of tokens in a sequence.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What happens to rows of more than `max_tokens` tokens: `truncate` cuts them, `drop` leaves them out, and with
    /// `error` the stage fails before it computes anything. A plain text is divided into rows of `max_tokens` instead.
    #[serde(default)]
    pub on_overlong: Overlong,
    /// A forward pass holds at most this many tokens. The number changes the memory, but not the results (except for
    /// rounding).
    #[serde(default = "number::<8192>")]
    pub micro_batch_tokens: usize,
    /// The backward pass computes activations again, instead of keeping them: less memory, a third more work.
    #[serde(default, skip_serializing_if = "is_off")]
    pub activation_checkpointing: bool,
}

impl Parameters {
    pub fn sequence_limit(&self) -> SequenceLimit {
        SequenceLimit { max_tokens: self.max_tokens, on_overlong: self.on_overlong }
    }
}

fn default_learning_rate() -> f64 {
    1e-3
}

fn default_warmup() -> f64 {
    0.05
}

impl Kind for PretrainKind {
    const NAME: &'static str = "pretrain";
    const VERSION: u32 = 5;
    const ABOUT: &'static str = "Trains all weights of a small model on the next token of text or instructions.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["model"];
    const TABLES: &'static [TableDeclaration] = outputs::pretrain::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::pretrain::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::pretrain::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/text", &parameters.text, "instructions");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let Parameters { steps, batch_size, micro_batch_tokens, max_tokens, .. } = *parameters;
        numbers::counts(&[("steps", steps), ("batch_size", batch_size), ("micro_batch_tokens", micro_batch_tokens)])?;
        numbers::sequence_lengths(&[("max_tokens", max_tokens)])?;
        numbers::positive(&[("learning_rate", parameters.learning_rate)])?;
        numbers::not_negative(&[("weight_decay", parameters.weight_decay)])?;
        numbers::warmup(parameters.warmup)
    }
}
