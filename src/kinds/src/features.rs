//! The `features` kind: log-probabilities, lengths and embeddings of every instruction from an auxiliary model,
//! computed once (docs/method.md, section 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::{Overlong, SequenceLimit, default_max_tokens};

use crate::{number, numbers, outputs};

pub struct FeaturesKind;

/// Parameters of a `features` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose instructions get features.
    pub instructions: String,
    /// The stage whose model computes the features. If it is a proxy with a frozen prefix, the pass over prompts and
    /// responses starts from the hidden states of the proxy. The proxy must have been made from the same
    /// `instructions` and, with `task`, from the same `task`. The features equal those of the base of the proxy.
    pub model: String,
    /// A task whose validation examples get features too. The baseline `rds` needs them. If absent, no such features
    /// are computed, and a selector has no prior and no target columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// A forward pass holds at most this many tokens.
    #[serde(default = "number::<8192>")]
    pub batch_tokens: usize,
    /// The largest number of tokens in a sequence.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What happens to rows of more than `max_tokens` tokens: `truncate` cuts them, `drop` leaves them out, and with
    /// `error` the stage fails before it computes anything.
    #[serde(default)]
    pub on_overlong: Overlong,
    /// True: a second pass over the responses alone gives log p(y). A proxy has no states for this pass, so that it
    /// runs all layers of the base. False: there is no second pass, `logp_unconditional` and `unconditional_tokens`
    /// are null for all rows, the state of a `clusters` stage has no log p(y), and the method `ifd` cannot be used.
    #[serde(default = "yes")]
    pub unconditional: bool,
    /// The tokens over whose hidden states the embeddings of a row are means. The embeddings decide the clusters, the
    /// semantic part of the state, and every similarity: the prior of a selector and the method `rds`. If absent, all
    /// tokens count.
    #[serde(default, skip_serializing_if = "is_whole")]
    pub embedding: EmbeddedTokens,
}

/// The tokens of a row that its embeddings describe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddedTokens {
    /// All tokens: prompts and responses.
    #[default]
    Whole,
    /// The supervised tokens only. Take it if rows have long prompts and short responses, and differ in their
    /// responses.
    Responses,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_whole(tokens: &EmbeddedTokens) -> bool {
    *tokens == EmbeddedTokens::Whole
}

fn yes() -> bool {
    true
}

impl Parameters {
    pub fn sequence_limit(&self) -> SequenceLimit {
        SequenceLimit { max_tokens: self.max_tokens, on_overlong: self.on_overlong }
    }
}

impl Kind for FeaturesKind {
    const NAME: &'static str = "features";
    const VERSION: u32 = 6;
    const ABOUT: &'static str = "Runs a model over instructions once: log-probabilities, lengths, pooled embeddings.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["features"];
    const TABLES: &'static [TableDeclaration] = outputs::features::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::features::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::features::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        needs.stage("/model", &parameters.model, "model");
        if let Some(task) = &parameters.task {
            needs.stage("/task", task, "task");
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        numbers::sequence_lengths(&[("max_tokens", parameters.max_tokens)])?;
        numbers::counts(&[("batch_tokens", parameters.batch_tokens)])
    }
}
