//! Which choice an answer means: its label, its text, or its number from 0 or from 1.

use serde_json::Value;

use super::Labels;
use crate::formats::fields::{fields_of, scalar};

/// What the answers of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    Label,
    Text,
    /// The number of the choice, with the number of the first choice.
    Number(u8),
    /// The number of the choice from 0, although all answers also fit numbers from 1.
    UndecidedNumber,
    /// False is the first choice and true the second.
    Truth,
}

/// The answer of a record beside its choices.
pub(super) struct RightAnswer<'a> {
    pub value: &'a Value,
    pub labels: &'a Labels,
    pub choices: &'a [String],
}

impl AnswerKind {
    const ALL: [Self; 4] = [Self::Label, Self::Text, Self::Number(0), Self::Number(1)];

    pub fn from_base(base: u8) -> Self {
        Self::Number(base)
    }

    pub fn name(self) -> String {
        match self {
            Self::Label => "a label".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Number(base) => format!("a number from {base}"),
            Self::UndecidedNumber => {
                "a number, read as from 0; numbers from 1 would fit too: answer_base = 1 reads them so".to_owned()
            }
            Self::Truth => "true or false".to_owned(),
        }
    }
}

/// The number of answers that each kind explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerCounts([u64; AnswerKind::ALL.len()]);

impl AnswerCounts {
    pub(super) fn of(answer: &RightAnswer) -> Self {
        Self(AnswerKind::ALL.map(|kind| u64::from(answer.as_kind(kind).is_some())))
    }

    pub fn add(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// The kind that explains most answers. One record alone can be ambiguous: the answer `1` to the choices `1` and `2`
    /// can be a text or a number. Of equal kinds, the first of [`AnswerKind::ALL`] is taken. `base` says from where
    /// numbers count if the answers do not say it.
    pub fn kind(self, base: Option<u8>) -> AnswerKind {
        let best = (0..self.0.len()).rev().max_by_key(|&place| self.0[place]).unwrap_or_default();
        match AnswerKind::ALL[best] {
            AnswerKind::Number(_) if self.0[2] == self.0[3] => {
                base.map_or(AnswerKind::UndecidedNumber, AnswerKind::Number)
            }
            kind => kind,
        }
    }
}

impl RightAnswer<'_> {
    /// The index of the right choice.
    pub fn find(&self, kind: AnswerKind) -> Result<usize, String> {
        let text = scalar(self.value).ok_or_else(|| format!("the answer is {}", fields_of(self.value)))?;
        // An answer that is no number cannot be mistaken for one.
        let plain = || {
            let is_number = text.trim().parse::<f64>().is_ok();
            if is_number || kind == AnswerKind::Truth {
                None
            } else {
                self.as_kind(AnswerKind::Label).or_else(|| self.as_kind(AnswerKind::Text))
            }
        };
        let index = self.as_kind(kind).or_else(plain);
        index.ok_or_else(|| {
            let count = self.choices.len();
            format!(
                "the answer `{text}` is none of the {count} choices; the answers of this file are read as {}",
                kind.name()
            )
        })
    }

    fn as_kind(&self, kind: AnswerKind) -> Option<usize> {
        let text = scalar(self.value)?;
        match kind {
            AnswerKind::UndecidedNumber => self.as_kind(AnswerKind::Number(0)),
            AnswerKind::Label if self.value.is_string() || self.labels.are_given => {
                let labels = &self.labels.texts;
                labels.iter().position(|label| *label == text).filter(|&index| index < self.choices.len())
            }
            AnswerKind::Text if self.value.is_string() => self.choices.iter().position(|choice| *choice == text),
            AnswerKind::Label | AnswerKind::Text => None,
            AnswerKind::Number(base) => {
                let number: usize = text.trim().parse().ok()?;
                number.checked_sub(usize::from(base)).filter(|&index| index < self.choices.len())
            }
            AnswerKind::Truth => match text.trim().to_ascii_lowercase().as_str() {
                "false" | "no" => Some(0),
                "true" | "yes" => Some(1),
                _ => None,
            },
        }
    }
}
