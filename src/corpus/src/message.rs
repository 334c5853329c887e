//! Instructions and task examples, independent of the format of their files.

use raisin_settings::{Extract, Scored, Split};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One turn of a conversation. The roles are those of chat templates: `system`, `user`, `assistant`, `tool`. The fields
/// have the names of the OpenAI interface, and their JSON is the turn in the column `messages` of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
    /// The thoughts of the assistant before its answer.
    #[serde(default, rename = "reasoning_content", skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The calls of the assistant: `{"type": "function", "function": {"name", "arguments": {...}}, "id"?}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// The name of the tool that answers, or of the speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The call that this turn of a tool answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Whether the file excludes this turn of the assistant from training (`weight: 0`, `train: false`, `loss: false`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrained: bool,
}

impl Message {
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into(), ..Self::default() }
    }

    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    /// Whether the turn has a role and a text alone.
    pub fn is_text(&self) -> bool {
        let Self { role: _, content: _, reasoning, tool_calls, name, tool_call_id, untrained } = self;
        reasoning.is_none() && tool_calls.is_empty() && name.is_none() && tool_call_id.is_none() && !untrained
    }

    /// Whether the turn says nothing: no text, no thoughts, no calls.
    pub fn is_empty(&self) -> bool {
        self.content.trim().is_empty()
            && self.tool_calls.is_empty()
            && self.reasoning.as_ref().is_none_or(|text| text.trim().is_empty())
    }

    /// The number of characters of all texts, for limits.
    pub fn characters(&self) -> usize {
        let calls: usize = self.tool_calls.iter().map(|call| call.to_string().chars().count()).sum();
        self.content.chars().count() + self.reasoning.as_ref().map_or(0, |text| text.chars().count()) + calls
    }
}

/// A conversation of at most one system text, one prompt and at most one response.
pub fn conversation(system: Option<&str>, prompt: &str, response: Option<&str>) -> Vec<Message> {
    let mut messages = Vec::with_capacity(3);
    messages.extend(system.map(|text| Message::new("system", text)));
    messages.push(Message::new("user", prompt));
    messages.extend(response.map(|text| Message::new("assistant", text)));
    messages
}

/// One training example of the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// The row in the pool, from 0.
    pub id: u32,
    /// The last message is the final response of the assistant.
    pub messages: Vec<Message>,
    /// The tools that the assistant may call, as JSON schemas of the OpenAI interface.
    pub tools: Vec<Value>,
    /// The label that a synthetic pool gives this row.
    pub label: Option<String>,
    /// The index of the file in the table `sources` of the pool, and the position of the record in the file.
    pub source: u32,
    pub line: u64,
}

impl Instruction {
    pub fn new(id: u32, messages: Vec<Message>) -> Self {
        Self { id, messages, ..Self::default() }
    }

    /// The text of the last turn that asks; empty if no turn asks.
    pub fn prompt(&self) -> &str {
        prompt_of(&self.messages)
    }

    /// The final response of the assistant.
    pub fn response(&self) -> &str {
        self.messages.last().filter(|message| message.is_assistant()).map_or("", |message| &message.content)
    }
}

/// The text of the last turn that asks: a turn that is neither the system's nor the assistant's.
pub fn prompt_of(messages: &[Message]) -> &str {
    let asks = |message: &&Message| !message.is_assistant() && message.role != "system";
    messages.iter().rev().find(asks).map_or("", |message| &message.content)
}

/// One validation or test example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub id: u32,
    /// The conversation without the response.
    pub messages: Vec<Message>,
    /// The tools that the assistant may call, as JSON schemas of the OpenAI interface.
    pub tools: Vec<Value>,
    /// The reference response: a turn of the assistant.
    pub response: Message,
    /// The choices of a multiple-choice question; empty for other questions.
    pub choices: Vec<String>,
    /// The index of the right choice.
    pub answer: Option<usize>,
}

impl Example {
    /// An open question with one prompt and one response.
    pub fn open(id: u32, messages: Vec<Message>, response: impl Into<String>) -> Self {
        let response = Message::new("assistant", response);
        Self { id, messages, tools: Vec::new(), response, choices: Vec::new(), answer: None }
    }

    /// The text of the last turn that asks. Earlier turns are not part of it.
    pub fn prompt(&self) -> &str {
        prompt_of(&self.messages)
    }

    /// The whole conversation: the messages and the reference response.
    pub fn answered(&self) -> Vec<Message> {
        self.messages.iter().chain([&self.response]).cloned().collect()
    }
}

/// The examples that a model is tuned towards and scored on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The examples that training may look at.
    pub validation: Vec<Example>,
    /// The examples that training never sees.
    pub test: Vec<Example>,
    pub scoring: ScoringRule,
}

impl Task {
    pub fn examples(&self, split: Split) -> &[Example] {
        match split {
            Split::Test => &self.test,
            Split::Validation => &self.validation,
        }
    }

    pub(crate) fn examples_mut(&mut self, split: Split) -> &mut Vec<Example> {
        match split {
            Split::Test => &mut self.test,
            Split::Validation => &mut self.validation,
        }
    }
}

/// How answers are scored; the content of `task.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoringRule {
    #[serde(rename = "scoring")]
    pub by: Scored,
    /// How the answer is found in a generated text; only with `match`.
    pub extract: Option<Extract>,
    /// The largest number of tokens that are generated; only with `match`.
    pub max_new_tokens: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_the_last_turn_before_the_response_that_is_not_the_systems() {
        let mut messages = conversation(Some("be brief"), "one", Some("1"));
        messages.extend(conversation(None, "two", Some("2")));
        let instruction = Instruction::new(0, messages);
        assert_eq!((instruction.prompt(), instruction.response()), ("two", "2"));
    }
}
