//! What the encoding of a row as tokens found: what was not trained on, and what a chat template changed.

use serde::{Deserialize, Serialize};

use crate::Sequence;

/// A finding about one row. It never ends a stage: stages count findings, list them in the table `encoding`, and say
/// the counts in a note.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    /// The turn, counted from 1, if the finding is about one turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<u32>,
    /// More about the finding, for example the error of the template.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The chat template or the tokenizer refuses the conversation. The row has no sequence.
    Refused,
    /// The template does not show the turn, so that the turn carries no loss.
    TurnDropped,
    /// It is not certain which tokens of the chat are the turn, so that the turn carries no loss.
    TurnUnplaced,
    /// The turn says nothing, so that it carries no loss.
    TurnEmpty,
    /// The template shows only a part of the turn. The part carries the loss.
    TurnRewritten,
    /// The template does not show a turn of the system, the user or a tool.
    ContextDropped,
    /// The template leaves out the reasoning of the turn.
    ReasoningDropped,
    /// The template has no place for reasoning: the reasoning is written before the answer, within `<think>` tags.
    ReasoningAsText,
    /// The template has no place for tools: the tools are written into the system text.
    ToolsAsText,
    /// The template has no place for calls of tools: the calls are written after the text of the turn.
    CallsAsText,
    /// The template has no place for a system text: the text is written before the first prompt.
    SystemAsText,
}

impl FindingKind {
    pub const ALL: [Self; 11] = [
        Self::Refused,
        Self::TurnDropped,
        Self::TurnUnplaced,
        Self::TurnEmpty,
        Self::TurnRewritten,
        Self::ContextDropped,
        Self::ReasoningDropped,
        Self::ReasoningAsText,
        Self::ToolsAsText,
        Self::CallsAsText,
        Self::SystemAsText,
    ];

    /// The name in the column `kind` of the table `encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TurnDropped => "turn_dropped",
            Self::TurnUnplaced => "turn_unplaced",
            Self::TurnEmpty => "turn_empty",
            Self::TurnRewritten => "turn_rewritten",
            Self::ContextDropped => "context_dropped",
            Self::ReasoningDropped => "reasoning_dropped",
            Self::ReasoningAsText => "reasoning_as_text",
            Self::ToolsAsText => "tools_as_text",
            Self::CallsAsText => "calls_as_text",
            Self::SystemAsText => "system_as_text",
        }
    }

    /// What happened to the row, for a note: `3 rows: the chat template refuses the conversation`.
    pub fn about(self) -> &'static str {
        match self {
            Self::Refused => "the chat template or the tokenizer refuses the conversation",
            Self::TurnDropped => "the chat template leaves out a turn, which is not trained on",
            Self::TurnUnplaced => "a turn cannot be placed exactly in the chat, and is not trained on",
            Self::TurnEmpty => "a turn of the assistant is empty, and is not trained on",
            Self::TurnRewritten => "the chat template shows only a part of a turn",
            Self::ContextDropped => "the chat template leaves out a turn of the system, the user or a tool",
            Self::ReasoningDropped => "the chat template leaves out the reasoning of a turn",
            Self::ReasoningAsText => {
                "reasoning is written as text in <think> tags: the chat template has no place for it"
            }
            Self::ToolsAsText => "tools are written into the system text: the chat template has no place for them",
            Self::CallsAsText => "calls of tools are written as text: the chat template has no place for them",
            Self::SystemAsText => {
                "the system text is written before the first prompt: the template has no place for it"
            }
        }
    }

    /// Whether a turn carries no loss because of the finding.
    pub fn is_unsupervised(self) -> bool {
        matches!(self, Self::Refused | Self::TurnDropped | Self::TurnUnplaced | Self::TurnEmpty)
    }
}

impl Finding {
    pub fn of_row(kind: FindingKind, detail: impl Into<String>) -> Self {
        Self { kind, turn: None, detail: detail.into() }
    }

    /// `place` counts from 0.
    pub fn of_turn(kind: FindingKind, place: usize) -> Self {
        Self { kind, turn: u32::try_from(place + 1).ok(), detail: String::new() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.about())?;
        if let Some(turn) = self.turn {
            write!(f, " (turn {turn})")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// A row as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// `None` if no target is left within `max_tokens`; [`Self::missing`] says why.
    pub sequence: Option<Sequence>,
    /// The number of tokens of the whole row, before the row is cut at `max_tokens`; 0 if the row is refused.
    pub tokens: usize,
    /// The number of targets of the whole row.
    pub targets: usize,
    pub findings: Vec<Finding>,
}

impl Encoded {
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { findings: vec![Finding::of_row(FindingKind::Refused, reason)], ..Self::default() }
    }

    /// The number of tokens that do not fit within `max_tokens`.
    pub fn cut(&self, max_tokens: usize) -> usize {
        self.tokens.saturating_sub(max_tokens)
    }

    /// Why the row has no sequence; `None` if it has one.
    pub fn missing(&self, max_tokens: usize) -> Option<String> {
        if self.sequence.is_some() {
            return None;
        }
        if self.targets > 0 {
            let tokens = self.tokens;
            return Some(format!("no response token is left within {max_tokens} tokens: the row has {tokens} tokens"));
        }
        let causes: Vec<String> =
            self.findings.iter().filter(|it| it.kind.is_unsupervised()).map(ToString::to_string).collect();
        Some(if causes.is_empty() { "no turn carries a loss".to_owned() } else { causes.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_missing_row_is_the_limit_or_the_findings() {
        let cut = Encoded { tokens: 30, targets: 4, ..Encoded::default() };
        assert_eq!(cut.missing(20).unwrap(), "no response token is left within 20 tokens: the row has 30 tokens");
        assert_eq!(cut.cut(20), 10);
        let refused = Encoded::refused("roles must alternate");
        let wanted = "the chat template or the tokenizer refuses the conversation: roles must alternate";
        assert_eq!(refused.missing(20).unwrap(), wanted);
        let dropped = Encoded { findings: vec![Finding::of_turn(FindingKind::TurnDropped, 1)], ..Encoded::default() };
        assert_eq!(
            dropped.missing(20).unwrap(),
            "the chat template leaves out a turn, which is not trained on (turn 2)"
        );
    }

    #[test]
    fn each_kind_has_the_name_that_its_json_has() {
        for kind in FindingKind::ALL {
            assert_eq!(serde_json::json!(kind), kind.name());
        }
    }
}
