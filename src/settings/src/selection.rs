//! The methods of selection by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How instructions are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The trained policy of a `selector` stage, which draws as in training unless its `deployment` says `top`.
    Raise,
    /// Uniform, without replacement until every candidate was taken once.
    Random,
    /// All of the data, epoch after epoch, each in a new order.
    Full,
    /// The longest responses, in tokens.
    Length,
    /// Instruction-following difficulty: mean NLL(y|x) / mean NLL(y), highest first, above 1 dropped.
    Ifd,
    /// The low, middle or high third of the mean NLL(y|x), in random order.
    Perplexity,
    /// An external score, highest first.
    Scores,
    /// Sorted by loss and cut into as many buckets as there are steps, from easy to hard.
    Sspl,
    /// Nearest to the validation examples by the cosine of position-weighted mean hidden states, round robin.
    Rds,
    /// No row of the pool: the validation examples themselves, in random order.
    Validation,
    /// Only rows labelled `relevant`, in random order: an upper bound on synthetic data.
    Oracle,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Self::Raise => "raise",
            Self::Random => "random",
            Self::Full => "full",
            Self::Length => "length",
            Self::Ifd => "ifd",
            Self::Perplexity => "perplexity",
            Self::Scores => "scores",
            Self::Sspl => "sspl",
            Self::Rds => "rds",
            Self::Validation => "validation",
            Self::Oracle => "oracle",
        }
    }
}

/// Which third of the candidates, sorted by perplexity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Third {
    Low,
    #[default]
    Middle,
    High,
}
