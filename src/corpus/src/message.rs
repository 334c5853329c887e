//! Instructions and task examples, independent of the format of their files.

use raisin_settings::{Extract, Scored, Split};
use serde::{Deserialize, Serialize};

/// One turn of a conversation. The roles are those of chat templates: `system`, `user`, `assistant`, `tool`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into() }
    }

    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The row in the pool, from 0.
    pub id: u32,
    /// The last message is the final response of the assistant.
    pub messages: Vec<Message>,
    /// The label that a synthetic pool gives this row.
    pub label: Option<String>,
}

impl Instruction {
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
    pub response: String,
    /// The choices of a multiple-choice question; empty for other questions.
    pub choices: Vec<String>,
    /// The index of the right choice.
    pub answer: Option<usize>,
}

impl Example {
    /// The text of the last turn that asks. Earlier turns are not part of it.
    pub fn prompt(&self) -> &str {
        prompt_of(&self.messages)
    }

    /// The whole conversation: the messages and the reference response.
    pub fn answered(&self) -> Vec<Message> {
        let response = Message::new("assistant", self.response.clone());
        self.messages.iter().cloned().chain([response]).collect()
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
        let instruction = Instruction { id: 0, messages, label: None };
        assert_eq!((instruction.prompt(), instruction.response()), ("two", "2"));
    }
}
