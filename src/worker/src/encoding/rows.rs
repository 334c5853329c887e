//! Sets of rows as tokens, and the reasons why rows are left out.

use raisin_base::error::{Problem, Result};
use raisin_corpus::Sequence;
use raisin_corpus::intake::grouped;

/// The rows of which a stage encodes a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsOf {
    Instructions,
    Validation,
    Test,
}

impl RowsOf {
    /// The value in the column `of`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    pub(super) fn one(self) -> &'static str {
        match self {
            Self::Instructions => "instruction",
            Self::Validation => "validation example",
            Self::Test => "test example",
        }
    }

    pub(super) fn many(self) -> String {
        format!("{}s", self.one())
    }
}

/// Why a row is left out: the column `reason` of the table. The later of two causes is the better example for a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The parameter `on_overlong` is `drop`.
    Overlong,
    /// The response lies behind the cut.
    NoTarget,
    /// Not every choice of a question fits.
    CutChoice,
    /// The example is no multiple-choice question.
    NoChoice,
    /// The prompt is longer than the context of the model.
    LongPrompt,
    Unsupervised,
    Refused,
}

impl Cause {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Overlong => "longer than max_tokens",
            Self::NoTarget => "no response token within max_tokens",
            Self::CutChoice => "a choice that does not fit within max_tokens",
            Self::NoChoice => "no choices or no answer",
            Self::LongPrompt => "a prompt longer than the context of the model",
            Self::Refused => "refused by the chat template or the tokenizer",
            Self::Unsupervised => "no turn that carries a loss",
        }
    }
}

impl Cause {
    /// Whether the count and the limit do not say enough.
    pub(super) fn needs_example(self) -> bool {
        matches!(self, Self::Unsupervised | Self::Refused)
    }
}

/// A row that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub(super) cause: Cause,
    /// The whole reason, with numbers and the message of a template.
    pub(super) reason: String,
}

impl Missing {
    pub fn new(cause: Cause, reason: impl Into<String>) -> Self {
        Self { cause, reason: reason.into() }
    }
}

/// A set of rows as tokens, in the order of the rows.
#[derive(Debug)]
pub struct EncodedRows<T = Sequence> {
    pub rows: Vec<Option<T>>,
    /// Why a row is `None`; `None` for a row with tokens.
    pub missing: Vec<Option<String>>,
}

impl<T> EncodedRows<T> {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self { rows: Vec::with_capacity(count), missing: Vec::with_capacity(count) }
    }

    pub(super) fn push(&mut self, row: Option<T>, missing: Option<Missing>) {
        self.rows.push(row.filter(|_| missing.is_none()));
        self.missing.push(missing.map(|missing| missing.reason));
    }

    /// The rows that are not left out.
    pub fn present(&self) -> impl Iterator<Item = &T> {
        self.rows.iter().flatten()
    }

    /// The places of the rows that are not left out.
    pub fn places(&self) -> Vec<usize> {
        self.rows.iter().enumerate().filter(|(_, row)| row.is_some()).map(|(place, _)| place).collect()
    }

    /// # Errors
    /// There are rows, but every row is left out. The error has the reason of the first row.
    pub fn not_empty(&self, of: RowsOf, metric: Option<&str>) -> Result<()> {
        let first = self.missing.first().and_then(Option::as_ref);
        let (Some(first), None) = (first, self.present().next()) else { return Ok(()) };
        let (count, metric) = (grouped(self.rows.len() as u64), metric.map(|metric| format!(" for `{metric}`")));
        let problem = format!("none of the {count} {} can be used{}", of.many(), metric.unwrap_or_default());
        Err(Problem::new(problem).hint(format!("the reason of the first: {first}")).into())
    }
}
