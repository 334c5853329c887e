//! The `influence` kind: numbers of every instruction that know the task. How much does its loss fall if the model
//! trains on the validation examples, and how well does its gradient agree with theirs (docs/method.md, section 6)?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{AdaptationSettings, Overlong, SequenceLimit, default_max_tokens};

use crate::{is_off, number, numbers, outputs};

pub struct InfluenceKind;

/// Parameters of an `influence` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose instructions are measured.
    pub instructions: String,
    /// The stage whose model is trained and measures. A proxy with a frozen prefix is the cheapest.
    pub model: String,
    /// The task: the model trains on its validation examples.
    pub task: String,
    /// The number of training steps on the validation examples.
    #[serde(default = "number::<8>")]
    pub steps: usize,
    /// The number of validation examples in a step.
    #[serde(default = "number::<8>")]
    pub batch_size: usize,
    /// The learning rate, the same in every step.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// How the model is adapted.
    #[serde(default)]
    pub adaptation: AdaptationSettings,
    /// Computes the column `alignment` too. This takes a backward pass for each instruction.
    #[serde(default, skip_serializing_if = "is_off")]
    pub alignment: bool,
    /// The number of groups of validation examples whose mean gradients are compared with those of the instructions; for
    /// `alignment`. Without it, each example is compared alone. Each group takes 4 bytes of memory for each trained
    /// number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// The largest number of tokens in a sequence.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What happens to rows of more than `max_tokens` tokens: `truncate` cuts them, `drop` leaves them out, and with
    /// `error` the stage fails before it computes anything.
    #[serde(default)]
    pub on_overlong: Overlong,
    /// A forward pass holds at most this many tokens.
    #[serde(default = "number::<4096>")]
    pub micro_batch_tokens: usize,
}

impl Parameters {
    pub fn sequence_limit(&self) -> SequenceLimit {
        SequenceLimit { max_tokens: self.max_tokens, on_overlong: self.on_overlong }
    }
}

fn default_learning_rate() -> f64 {
    2e-4
}

impl Kind for InfluenceKind {
    const NAME: &'static str = "influence";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Measures how much training on the validation examples lowers the loss of every instruction.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["columns"];
    const TABLES: &'static [TableDeclaration] = outputs::influence::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::influence::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::influence::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/task", &parameters.task, "task");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        if let Some((key, message)) = parameters.adaptation.problem() {
            return Err(ParameterProblem::new(format!("/adaptation/{key}"), message));
        }
        if let (Some(_), false) = (parameters.groups, parameters.alignment) {
            return Err(ParameterProblem::new("/groups", "groups of validation examples belong to `alignment`")
                .hint("set alignment = true, or remove `groups`"));
        }
        let Parameters { steps, batch_size, micro_batch_tokens, .. } = *parameters;
        numbers::counts(&[
            ("steps", steps),
            ("batch_size", batch_size),
            ("micro_batch_tokens", micro_batch_tokens),
            ("groups", parameters.groups.unwrap_or(1)),
        ])?;
        numbers::sequence_lengths(&[("max_tokens", parameters.max_tokens)])?;
        numbers::positive(&[("learning_rate", parameters.learning_rate)])
    }
}
