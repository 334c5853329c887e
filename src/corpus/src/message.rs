//! What an instruction and a task example are, independent of the file that they came from.

use raisin_settings::{Extract, Scored};
use serde::{Deserialize, Serialize};

/// One turn of a conversation. Roles are those of chat templates: `system`, `user`, `assistant`, `tool`.
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

/// The conversation of one system text (if any), one prompt and, if given, one response.
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
    /// The row in the pool, 0..N.
    pub id: u32,
    /// The last one is the assistant's final response.
    pub messages: Vec<Message>,
    /// What a synthetic pool knows about this row.
    pub label: Option<String>,
}

impl Instruction {
    /// The user's text before the final response; empty where there is none.
    pub fn prompt(&self) -> &str {
        prompt_of(&self.messages)
    }

    /// The assistant's final response.
    pub fn response(&self) -> &str {
        self.messages.last().filter(|message| message.is_assistant()).map_or("", |message| &message.content)
    }
}

/// The text of the last turn that is neither the system's nor the assistant's.
pub fn prompt_of(messages: &[Message]) -> &str {
    let asks = |message: &&Message| !message.is_assistant() && message.role != "system";
    messages.iter().rev().find(asks).map_or("", |message| &message.content)
}

/// One validation or test example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub id: u32,
    /// Without the response.
    pub messages: Vec<Message>,
    pub response: String,
    /// Empty unless it is a multiple-choice question.
    pub choices: Vec<String>,
    /// The index of the right choice.
    pub answer: Option<usize>,
}

impl Example {
    pub fn prompt(&self) -> &str {
        prompt_of(&self.messages)
    }
}

/// What a model is tuned towards, and what it is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Training may look at these.
    pub validation: Vec<Example>,
    /// Training never sees these.
    pub test: Vec<Example>,
    pub scoring: Scoring,
}

/// How an answer is judged; the content of `task.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scoring {
    #[serde(rename = "scoring")]
    pub by: Scored,
    /// How the answer is taken from a generated text; only with `match`.
    pub extract: Option<Extract>,
    /// Where generation ends at the latest; only with `match`.
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
