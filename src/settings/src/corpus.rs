//! How files of instructions and benchmarks are read, and how answers are scored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the records of a file are to be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Whichever of the others most of the first records fit.
    #[default]
    Auto,
    /// `{"instruction", "input", "output"}`, perhaps with `system` and `history`.
    Alpaca,
    /// A question and an answer in two fields, which `prompt` and `response` name.
    Qa,
    /// `{"messages": [{"role", "content"}, ...]}`.
    Messages,
    /// `{"conversations": [{"from", "value"}, ...]}`, perhaps with `system` and `tools`.
    Sharegpt,
    /// Rows of a Parquet file, in any of the layouts above.
    Parquet,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Alpaca => "alpaca",
            Self::Qa => "qa",
            Self::Messages => "messages",
            Self::Sharegpt => "sharegpt",
            Self::Parquet => "parquet",
        }
    }
}

/// The layout of a benchmark's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskFormat {
    /// Whichever of alpaca, messages, sharegpt and qa fits most of the first records.
    #[default]
    Auto,
    /// A question and an answer in the fields that `prompt` and `response` name (GSM8K: question, answer).
    Qa,
    /// `{"instruction", "input", "output"}`.
    Alpaca,
    /// `{"messages": [{"role", "content"}, ...]}`.
    Messages,
    /// `{"conversations": [{"from", "value"}, ...]}`.
    Sharegpt,
    /// A question, a list of choices and the right one, in the fields that `prompt`, `choices` and `answer` name.
    Choices,
    /// CommonsenseQA as published: `question.stem`, `question.choices`, `answerKey`.
    Csqa,
    /// LLM-Adapters: Alpaca with `answer`, and `Answer format: answer1/answer2/...` at the end of the instruction.
    Adapters,
}

impl TaskFormat {
    pub fn has_choices(self) -> bool {
        matches!(self, Self::Choices | Self::Csqa | Self::Adapters)
    }
}

/// How a multiple-choice question is put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// The question alone; the choices' texts compete as its answer.
    #[default]
    Text,
    /// The question with its choices listed as A, B, C; the letters compete.
    Letters,
}

/// How answers are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scored {
    /// The mean loss of a response token.
    Loss,
    /// The most probable of the choices.
    Choice,
    /// The generated text.
    Match,
}

/// How the answer is found in a generated text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Extract {
    /// The number after `####`; flexibly the last number of the text.
    Gsm8k,
    /// The whole text without surrounding white space.
    Exact,
}

/// A skill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The same word again.
    #[default]
    Copy,
    /// The word from its end.
    Reverse,
    /// In capitals.
    Upper,
    /// The word's letters in alphabetical order.
    Sort,
    /// How often a letter occurs.
    Count,
    /// The last letter.
    Last,
    /// The first letters of three words.
    Initials,
    /// The sum of two numbers below 50.
    Add,
    /// The number that follows.
    Next,
    /// The larger of two numbers.
    Larger,
    /// The English plural.
    Plural,
    /// The vowels of a word.
    Vowels,
}

impl Family {
    pub const ALL: [Self; 12] = [
        Self::Copy,
        Self::Reverse,
        Self::Upper,
        Self::Sort,
        Self::Count,
        Self::Last,
        Self::Initials,
        Self::Add,
        Self::Next,
        Self::Larger,
        Self::Plural,
        Self::Vowels,
    ];
}

/// Which examples of the task are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The examples that no stage trains on or selects with.
    #[default]
    Test,
    /// The examples that rewards come from.
    Validation,
}

impl Split {
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Validation => "validation",
        }
    }
}
