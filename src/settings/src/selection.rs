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
    /// A column of the static state, which `select.column` names; the highest come first.
    Column,
    /// The candidates whose loss falls most, as a share, when the model trains on the validation examples: the column
    /// `influence.relative_drop` of the state.
    #[serde(rename = "warm-loss")]
    WarmLoss,
    /// The candidates whose gradient agrees most with the gradient of a validation example: the column
    /// `influence.alignment` of the state.
    Less,
    /// A bandit (EXP3) over the clusters. A cluster is rewarded for the progress of its losses in training; its rows with
    /// the highest losses come first.
    Bandit,
    /// In each step, twice as many candidates as the batch needs are drawn at random. The batch is chosen among them by
    /// gradients: how much a row lowers the loss of validation examples, minus what it has in common with the rows that
    /// are already chosen.
    Greats,
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
            Self::Column => "column",
            Self::WarmLoss => "warm-loss",
            Self::Less => "less",
            Self::Bandit => "bandit",
            Self::Greats => "greats",
            Self::Sspl => "sspl",
            Self::Rds => "rds",
            Self::Validation => "validation",
            Self::Oracle => "oracle",
        }
    }

    /// The column of the static state by which the method orders. `named` is `select.column`.
    pub fn state_column(self, named: &str) -> Option<&str> {
        match self {
            Self::Column => Some(named),
            Self::WarmLoss => Some("influence.relative_drop"),
            Self::Less => Some("influence.alignment"),
            _ => None,
        }
    }

    /// Whether the method serves the candidates in the order of a fixed score, the best first.
    pub fn has_score_order(self) -> bool {
        match self {
            Self::Length | Self::Ifd | Self::Scores | Self::Column | Self::WarmLoss | Self::Less | Self::Rds => true,
            Self::Raise
            | Self::Random
            | Self::Full
            | Self::Perplexity
            | Self::Bandit
            | Self::Greats
            | Self::Sspl
            | Self::Validation
            | Self::Oracle => false,
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
