//! The settings for reading instructions and benchmarks, and for scoring answers. The crate corpus reads the files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The layout of the raw records in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordFormat {
    /// The layout that reads most of the first records and ignores no field that another layout would read. A record
    /// that this layout does not fit is read by another that does.
    #[default]
    Auto,
    /// `{"instruction", "input", "output"}`, optionally with `system` and `history`.
    Alpaca,
    /// A question and an answer in two fields: texts, turns or lists of turns.
    Qa,
    /// `{"messages": [{"role", "content"}, ...]}`, optionally with `system` and `tools`.
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
    /// The layout of open questions that reads most of the first records and ignores no field that another layout would
    /// read.
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
    /// The format of the records of an open question. `None` for a format of multiple-choice questions.
    pub fn open(self) -> Option<RecordFormat> {
        match self {
            Self::Auto => Some(RecordFormat::Auto),
            Self::Qa => Some(RecordFormat::Qa),
            Self::Alpaca => Some(RecordFormat::Alpaca),
            Self::Messages => Some(RecordFormat::Messages),
            Self::Sharegpt => Some(RecordFormat::Sharegpt),
            Self::Choices | Self::Csqa | Self::Adapters => None,
        }
    }

    pub fn has_choices(self) -> bool {
        self.open().is_none()
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scored {
    /// The mean loss per response token.
    #[default]
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

/// A synthetic pool with known labels, its task, and a pre-training text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// The number of instructions in the pool.
    pub size: usize,
    /// The share of instructions that ask for a target skill and answer correctly.
    pub relevant: f64,
    /// The share of instructions that ask for a target skill and answer wrongly.
    pub wrong: f64,
    /// The share of instructions that ask for another skill and answer wrongly.
    pub corrupted: f64,
    /// The share of near-copies of a few correct instructions for other skills. The rest of the pool asks for other
    /// skills and answers correctly. If the shares do not give whole numbers of instructions, the largest remainders
    /// are rounded up.
    pub redundant: f64,
    /// The skills that occur.
    pub families: Vec<Family>,
    /// The skills that the task asks for.
    pub targets: Vec<Family>,
    /// The number of validation examples.
    pub validation: usize,
    /// The number of test examples.
    pub test: usize,
    /// The number of short texts for the pre-training of a base model; 0 writes no such table.
    pub pretraining_size: usize,
    /// The share of these texts that show a target skill.
    pub target_share_in_pretraining: f64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            size: 3000,
            relevant: 0.08,
            wrong: 0.06,
            corrupted: 0.25,
            redundant: 0.05,
            families: Family::ALL.to_vec(),
            targets: vec![Family::Add, Family::Sort],
            validation: 64,
            test: 256,
            pretraining_size: 20_000,
            target_share_in_pretraining: 0.02,
        }
    }
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
