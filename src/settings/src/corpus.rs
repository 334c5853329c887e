//! The settings for reading instructions and benchmarks, and for scoring answers. The crate corpus reads the files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The layout of the raw records in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordFormat {
    /// The layout that fits most of the first records.
    #[default]
    Auto,
    /// `{"instruction", "input", "output"}`, optionally with `system` and `history`.
    Alpaca,
    /// A question and an answer, in the two fields that `prompt` and `response` name.
    Qa,
    /// `{"messages": [{"role", "content"}, ...]}`.
    Messages,
    /// `{"conversations": [{"from", "value"}, ...]}`, optionally with `system` and `tools`.
    Sharegpt,
    /// Rows of a Parquet file, in any of the layouts above.
    Parquet,
}

impl RecordFormat {
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

/// The layout of the file of a benchmark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskFormat {
    /// The layout among alpaca, messages, sharegpt and qa that fits most of the first records.
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
    /// A question, a list of choices and the correct choice, in the fields that `prompt`, `choices` and `answer` name.
    Choices,
    /// CommonsenseQA as published: `question.stem`, `question.choices`, `answerKey`.
    Csqa,
    /// LLM-Adapters: Alpaca with `answer`, and with `Answer format: answer1/answer2/...` at the end of the instruction.
    Adapters,
}

impl TaskFormat {
    pub fn has_choices(self) -> bool {
        matches!(self, Self::Choices | Self::Csqa | Self::Adapters)
    }
}

/// How a multiple-choice question is presented to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChoiceStyle {
    /// Only the question. The texts of the choices are compared as answers.
    #[default]
    Text,
    /// The question with its choices listed as A, B, C. The letters are compared as answers.
    Letters,
}

/// How answers are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scored {
    /// The mean loss per response token.
    Loss,
    /// The most probable choice is the answer.
    Choice,
    /// The answer is taken from a generated text.
    Match,
}

/// How the answer is extracted from a generated text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Extract {
    /// The number after `####`. The flexible score takes the last number of the text.
    Gsm8k,
    /// The whole text without surrounding white space.
    Exact,
}

/// A skill that synthetic questions test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Repeat a word.
    #[default]
    Copy,
    /// Write a word backwards.
    Reverse,
    /// Write a word in capital letters.
    Upper,
    /// Put the letters of a word into alphabetical order.
    Sort,
    /// Count how often a letter occurs in a word.
    Count,
    /// Name the last letter of a word.
    Last,
    /// Write the first letters of three words.
    Initials,
    /// Add two numbers below 50.
    Add,
    /// Name the next number.
    Next,
    /// Name the larger of two numbers.
    Larger,
    /// Write the English plural of a word.
    Plural,
    /// List the vowels of a word.
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
    /// The examples with which no stage trains or selects.
    #[default]
    Test,
    /// The examples from which rewards are computed.
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
