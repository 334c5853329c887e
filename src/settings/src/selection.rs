//! The names of the selection methods. The crate selector implements the methods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The method that selects instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SelectionMethod {
    /// The trained policy of a `selector` stage. The policy draws as in training, unless its `deployment` is `top`.
    Raise,
    /// Uniform draws, without replacement until every candidate was drawn once.
    Random,
    /// All candidates, epoch after epoch, in a new order in each epoch.
    Full,
    /// The longest responses, in tokens, come first.
    Length,
    /// Instruction-following difficulty: mean NLL(y|x) / mean NLL(y). The highest come first; those above 1 are
    /// dropped.
    Ifd,
    /// The candidates in the low, middle or high third of the mean NLL(y|x), in random order.
    Perplexity,
    /// An external score; the highest come first.
    Scores,
    /// The candidates are sorted by loss and divided into as many buckets as there are steps, from easy to hard.
    Sspl,
    /// The candidates nearest to the validation examples, by the cosine of position-weighted mean hidden states. The
    /// examples take turns (round robin).
    Rds,
    /// The validation examples themselves, in random order, instead of rows of the pool.
    Validation,
    /// Only rows with the label `relevant`, in random order: an upper bound on synthetic data.
    Oracle,
}

impl SelectionMethod {
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
    /// The candidates with the lowest perplexity.
    Low,
    /// The candidates between the other two thirds.
    #[default]
    Middle,
    /// The candidates with the highest perplexity.
    High,
}
