//! The formats of instruction data.
//!
//! A reader returns the conversation of a record, or the reason why the record has none. The author of the file reads
//! the reason in the table `rejects`. A reader marks each field that it reads, so that the rest can be reported.

mod calls;
mod choice;
pub mod fields;
pub mod notice;
mod pair;
pub mod parts;
mod shape;
pub mod turns;

pub use choice::Choice;
pub use fields::{fields_of, scalar};
pub use notice::{Filter, Notice, Notices, RecordRefusal};
pub use shape::ShapeReading;

use std::sync::Arc;

use raisin_settings::Mapping;
use serde_json::Value;

use self::fields::Fields;
use self::parts::Parts;
use self::turns::{FoundTurns, split_thoughts};
use super::message::Message;
use super::records::FlatRecord;

/// A record as a conversation. The last turn is the response of the assistant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    pub messages: Vec<Message>,
    /// The tools that the assistant may call, as JSON schemas of the OpenAI interface.
    pub tools: Vec<Value>,
    /// The rejected response of a preference file.
    pub rejected: Option<String>,
}

/// What a reader made of a record, and which fields it read.
#[derive(Debug)]
pub struct Readout<'a, T> {
    pub outcome: Result<T, RecordRefusal>,
    /// The number of the format among those of the file.
    pub format: usize,
    pub used: Vec<&'a str>,
    /// The fields that hold something and were not read.
    pub unread: Vec<&'a str>,
    /// The keys of turns that were not read, such as `messages[].id`.
    pub unread_below: Vec<String>,
    pub notices: Notices,
}

impl<'a, T> Readout<'a, T> {
    /// The same with the next step applied to the item.
    pub fn and_then<U>(self, step: impl FnOnce(T) -> Result<U, RecordRefusal>) -> Readout<'a, U> {
        let Self { outcome, format, used, unread, unread_below, notices } = self;
        Readout { outcome: outcome.and_then(step), format, used, unread, unread_below, notices }
    }

    pub fn rejected(reason: String) -> Self {
        Self {
            outcome: Err(RecordRefusal::Rejected(reason)),
            format: 0,
            used: Vec::new(),
            unread: Vec::new(),
            unread_below: Vec::new(),
            notices: Notices::default(),
        }
    }
}

/// What a reader made of a record whose shape it knows. [`ShapeReading`] says which fields it read.
#[derive(Debug)]
pub struct FlatReadout<'r, T> {
    pub outcome: Result<T, RecordRefusal>,
    pub plan: &'r Arc<ShapeReading>,
}

/// Reads the records of a file as items, such as instructions or task examples.
pub trait RecordReader: Sync {
    type Item: Send;

    fn read<'a>(&self, record: &'a Value) -> Readout<'a, Self::Item>;

    /// The same for a record without lists and objects in it, faster; `None` if the record has to be read with
    /// [`Self::read`].
    fn read_flat(&self, record: &FlatRecord) -> Option<FlatReadout<'_, Self::Item>> {
        let _ = record;
        None
    }

    /// The names of the formats that [`Readout::format`] counts.
    fn formats(&self) -> Vec<String>;
}

/// A format with the names of its fields. It reads a record as a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    name: String,
    body: Body,
    pub parts: Parts,
}

/// Where a record holds its turns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    /// In a list, in the first of these fields that the record has.
    Turns(Vec<String>),
    /// The record is the list.
    Bare,
    /// In a prompt and a response. The first of the fields `prompts` that the record has is the prompt. Without
    /// `prompts`, or if the record has none of them and `is_whole`, the response is the whole conversation.
    Pair { prompts: Vec<String>, response: String, is_whole: bool },
    /// In a prompt and a list `instances` with one `{"input", "output"}`: Self-Instruct.
    Instances,
    /// In a prompt `query` and a list of calls `answers`.
    Calls,
    /// In a list `data` of texts.
    Texts,
}

impl Reader {
    pub fn alpaca(mapping: &Mapping) -> Self {
        Self { name: "alpaca".to_owned(), ..Self::qa("instruction", "output", mapping) }
    }

    pub fn qa(prompt: &str, response: &str, mapping: &Mapping) -> Self {
        Self::pair(format!("qa ({prompt}, {response})"), &[prompt], response, mapping)
    }

    fn pair(name: String, prompts: &[&str], response: &str, mapping: &Mapping) -> Self {
        let main: Vec<&str> = prompts.iter().copied().chain([response]).collect();
        let prompts = prompts.iter().map(|name| (*name).to_owned()).collect();
        let body = Body::Pair { prompts, response: response.to_owned(), is_whole: false };
        Self { name, body, parts: Parts::new(mapping, &main) }
    }

    /// Prompt, `chosen` and `rejected`. Without a prompt, `chosen` holds the whole conversation.
    fn preference(mapping: &Mapping) -> Self {
        const PROMPTS: [&str; 6] = ["prompt", "instruction", "question", "messages", "conversations", "conversation"];
        let mut reader = Self::pair("preference".to_owned(), &PROMPTS, "chosen", mapping);
        if let Body::Pair { is_whole, .. } = &mut reader.body {
            *is_whole = true;
        }
        reader
    }

    /// A preference file whose prompt has a name that is a context beside other prompts.
    fn preference_of(prompt: &str, mapping: &Mapping) -> Self {
        Self::pair(format!("preference ({prompt})"), &[prompt], "chosen", mapping)
    }

    /// A question, and calls of tools as its answer: xLAM.
    fn calls(mapping: &Mapping) -> Self {
        let (body, parts) = (Body::Calls, Parts::new(mapping, &["query", "answers"]));
        Self { name: "calls (query, answers)".to_owned(), body, parts }
    }

    /// Texts of user and assistant in turn: UltraChat.
    fn texts(mapping: &Mapping) -> Self {
        Self { name: "list of texts".to_owned(), body: Body::Texts, parts: Parts::of_turns(mapping, &["data"]) }
    }

    fn turns(name: &str, lists: &[&str], mapping: &Mapping) -> Self {
        let names = lists.iter().map(|name| (*name).to_owned()).collect();
        Self { name: name.to_owned(), body: Body::Turns(names), parts: Parts::of_turns(mapping, lists) }
    }

    fn bare(mapping: &Mapping) -> Self {
        Self { name: "list of turns".to_owned(), body: Body::Bare, parts: Parts::of_turns(mapping, &[]) }
    }

    fn instances(mapping: &Mapping) -> Self {
        let parts = Parts::new(mapping, &["instruction", "instances"]).with_context("instances.0.input");
        Self { name: "self-instruct".to_owned(), body: Body::Instances, parts }
    }

    /// The name of the format in notes and tables.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the record holds something in the fields of prompt and response.
    fn applies(&self, record: &Value) -> bool {
        let Value::Object(record) = record else { return self.body == Body::Bare && record.is_array() };
        let holds = |name: &String| fields::look(record, name).is_some();
        match &self.body {
            Body::Turns(names) => names.iter().any(holds),
            Body::Bare => false,
            Body::Pair { prompts, response, is_whole } => holds(response) && (*is_whole || prompts.iter().any(holds)),
            Body::Instances => fields::look(record, "instances").is_some(),
            Body::Calls => ["query", "answers", "tools"].iter().all(|name| fields::look(record, name).is_some()),
            Body::Texts => fields::look(record, "data").is_some_and(turns::is_list_of_texts),
        }
    }

    /// The fields of prompt, response and turns.
    fn main(&self) -> Vec<&str> {
        match &self.body {
            Body::Turns(names) => names.iter().map(String::as_str).collect(),
            Body::Bare => Vec::new(),
            Body::Pair { prompts, response, .. } => {
                prompts.iter().map(String::as_str).chain([response.as_str()]).collect()
            }
            Body::Instances => vec!["instruction", "instances"],
            Body::Calls => vec!["query", "answers"],
            Body::Texts => vec!["data"],
        }
    }

    /// Reads a record.
    pub fn read<'a>(&self, record: &'a Value) -> Readout<'a, Conversation> {
        let mut found = FoundTurns::default();
        let Value::Object(map) = record else {
            let outcome = match (&self.body, record) {
                (Body::Bare, Value::Array(_)) => self.parts.turns.read(record, "the record", &mut found),
                (Body::Bare, _) => Err(format!("the record is {}, not a list of turns", fields_of(record))),
                _ => Err(format!("the record is {}, not an object", fields_of(record))),
            };
            let outcome = outcome.map_err(RecordRefusal::Rejected).and_then(|messages| finished(messages, &mut found));
            let outcome = outcome.map(|messages| Conversation { messages, ..Conversation::default() });
            return Readout {
                notices: found.notices,
                unread_below: found.unread,
                outcome,
                ..Readout::rejected(String::new())
            };
        };
        let fields = Fields::new(map);
        let outcome = self.conversation(&fields, &mut found);
        let (used, unread, mut unread_below) = fields.split();
        unread_below.append(&mut found.unread);
        Readout { outcome, format: 0, used, unread, unread_below, notices: found.notices }
    }

    fn conversation(&self, fields: &Fields, found: &mut FoundTurns) -> Result<Conversation, RecordRefusal> {
        let parts = &self.parts;
        let filter = parts.filter(fields, found)?;
        let mut messages = match &self.body {
            Body::Bare => return Err("the record is an object, not a list of turns".into()),
            Body::Turns(names) => {
                let mut messages = parts.asked(fields, None, found)?;
                let name = names.iter().find(|name| fields.look(name).is_some()).unwrap_or(&names[0]);
                let turns = parts.turns.read_list(fields.required(name)?, name, found)?;
                let is_asked = turns.last().is_some_and(|last| last.role == "user" || last.role == "tool");
                let answer = if is_asked { pair::answer_beside(fields, parts, name, found)? } else { Vec::new() };
                for turn in turns {
                    if answer.is_empty() {
                        turns::push(&mut messages, turn, found);
                    } else {
                        turns::push_asked(&mut messages, turn, found);
                    }
                }
                messages.extend(answer);
                messages
            }
            Body::Texts => {
                let mut messages = parts.asked(fields, None, found)?;
                messages.extend(parts.turns.read_list(fields.required("data")?, "data", found)?);
                messages
            }
            Body::Calls => {
                let mut messages = parts.asked(fields, Some("query"), found)?;
                let tool_calls = calls::calls(fields.required("answers")?, "answers")
                    .map_err(|reason| format!("the response {reason}"))?;
                messages.push(Message { tool_calls, ..Message::new("assistant", "") });
                messages
            }
            Body::Pair { prompts, response, is_whole } => {
                let prompt = prompts.iter().find(|name| fields.look(name).is_some());
                let prompt = prompt.or_else(|| prompts.first().filter(|_| !is_whole));
                pair::read(fields, parts, prompt.map(String::as_str), response, found)?
            }
            Body::Instances => {
                let instances = fields.required("instances")?.as_array().map_or(0, Vec::len);
                if instances != 1 {
                    return Err(format!(
                        "there are {instances} `instances`; make a record of each, or name one with `fields`, such as \
                         response = \"instances.0.output\""
                    )
                    .into());
                }
                pair::read(fields, parts, Some("instruction"), "instances.0.output", found)?
            }
        };
        parts.tools(fields, found)?;
        parts.reasoning(fields, &mut messages)?;
        let rejected = parts.rejected(fields).map(|(name, value)| pair::rejected(value, parts, name, &messages));
        if let Some(filter) = filter {
            return Err(RecordRefusal::Filtered(filter));
        }
        let messages = finished(messages, found)?;
        Ok(Conversation { messages, tools: std::mem::take(&mut found.tools), rejected })
    }
}

/// Removes the turns after the last response that is trained on, and splits thoughts from texts. A conversation without
/// a response or without a prompt is refused.
fn finished(mut messages: Vec<Message>, found: &mut FoundTurns) -> Result<Vec<Message>, RecordRefusal> {
    if !messages.iter().any(Message::is_assistant) {
        return Err("there is no response".into());
    }
    let trained = messages.iter().rposition(|message| message.is_assistant() && !message.untrained);
    let Some(end) = trained else { return Err(RecordRefusal::Filtered(Filter::Weight)) };
    if end + 1 < messages.len() {
        messages.truncate(end + 1);
        found.notices.add(Notice::TrailingTurns);
    }
    for (index, message) in messages.iter_mut().enumerate() {
        split_thoughts(message, &mut found.notices).map_err(|reason| format!("message {} {reason}", index + 1))?;
        let is_empty = message.content.trim().is_empty() && message.tool_calls.is_empty();
        if is_empty && index == end {
            let thoughts = if message.is_empty() { "" } else { " after its thoughts" };
            return Err(format!("the response is empty{thoughts}").into());
        }
        if is_empty && message.is_assistant() && !message.untrained {
            message.untrained = true;
            found.notices.add(Notice::EmptyTurns);
        }
    }
    if !messages.iter().any(|message| !message.is_assistant() && !message.content.trim().is_empty()) {
        return Err("the prompt is empty".into());
    }
    Ok(messages)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
#[path = "random_tests.rs"]
mod random_tests;
