//! How long a sequence of tokens may be. Every kind that encodes rows has the two parameters `max_tokens` and
//! `on_overlong`. serde cannot flatten a struct into one that refuses unknown fields; therefore each kind lists both
//! parameters, with the defaults of this file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a stage does with rows of more than `max_tokens` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// The rows are cut. A row whose response lies behind the cut is left out.
    #[default]
    Truncate,
    /// The rows are left out.
    Drop,
    /// The stage fails before it computes anything.
    Error,
}

impl Overlong {
    pub fn name(self) -> &'static str {
        match self {
            Self::Truncate => "truncate",
            Self::Drop => "drop",
            Self::Error => "error",
        }
    }
}

/// The limit of the sequences of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceLimit {
    pub max_tokens: usize,
    pub on_overlong: Overlong,
}

impl Default for SequenceLimit {
    fn default() -> Self {
        Self { max_tokens: default_max_tokens(), on_overlong: Overlong::default() }
    }
}

/// The default of `max_tokens`, the same for all kinds: stages with equal limits share the tokens of a pool.
pub fn default_max_tokens() -> usize {
    1024
}
