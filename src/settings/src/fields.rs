//! The settings that say where a record holds the parts of a conversation.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RecordFormat;

/// The fields of a record, where their names are not the usual ones. A name may be a path such as `question.stem` or
/// `turns.0`. `a+b` joins the texts of `a` and `b` with a space. An empty name leaves the part out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FieldNames {
    /// The list of turns. If absent, the format gives the field.
    pub messages: Option<String>,
    /// The question: a text, or a list of turns. If absent, the format gives the field.
    pub prompt: Option<String>,
    /// The answer: a text, a turn, or a list of turns. `chosen` in a preference file. If absent, the format gives the
    /// field.
    pub response: Option<String>,
    /// The system text. Usual names: system, system_prompt, system_message.
    pub system: Option<String>,
    /// A text that is put below the question, after a blank line. Usual names: input, context, passage; beside
    /// `instruction` or `prompt` also query.
    pub context: Option<String>,
    /// Earlier turns: a list of pairs or of turns. Usual name: history.
    pub history: Option<String>,
    /// The tools that the assistant may call. Usual names: tools, functions.
    pub tools: Option<String>,
    /// The rejected response of a preference file. It is kept in the column `rejected`. Usual name: rejected.
    pub rejected: Option<String>,
    /// The thoughts before the answer. They are read only if this setting names them.
    pub reasoning: Option<String>,
    /// The weight of the record: 0 leaves the record out. Usual names: weight, loss_weight.
    pub weight: Option<String>,
    /// Whether the response is good: `false` leaves the record out. Usual names: label, kto_tag.
    pub label: Option<String>,
    /// The key of a turn that holds the speaker. Usual names: role, from.
    pub role: Option<String>,
    /// The key of a turn that holds the text. Usual names: content, value.
    pub content: Option<String>,
}

impl FieldNames {
    /// All names that are given, each with the setting that gives it.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Self { messages, prompt, response, system, context, history, tools, .. } = self;
        let Self { rejected, reasoning, weight, label, role, content, .. } = self;
        [
            ("messages", messages),
            ("prompt", prompt),
            ("response", response),
            ("system", system),
            ("context", context),
            ("history", history),
            ("tools", tools),
            ("rejected", rejected),
            ("reasoning", reasoning),
            ("weight", weight),
            ("label", label),
            ("role", role),
            ("content", content),
        ]
        .into_iter()
        .filter_map(|(setting, name)| Some((setting, name.as_deref()?)))
    }
}

/// The speaker of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instructions before the conversation.
    System,
    /// The speaker who asks.
    User,
    /// The model: its turns carry the loss.
    Assistant,
    /// The result of a call.
    Tool,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// How the records of a file become conversations: the format, the names of fields, the names of speakers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    pub format: RecordFormat,
    pub fields: FieldNames,
    pub roles: BTreeMap<String, Role>,
}
