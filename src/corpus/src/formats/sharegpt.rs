//! ShareGPT conversations, with the tool turns that LLaMA-Factory adds to them.
//!
//! A function call is a turn of the assistant, on which a model is trained. An observation is a turn of a tool.

use serde_json::{Map, Value};

use super::messages::{push, role_of, tools_message};
use super::{Message, fields_of, scalar, text_field};

pub fn read(record: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let turns = match record.get("conversations") {
        Some(Value::Array(turns)) => turns,
        Some(other) => return Err(format!("`conversations` is {}, not a list", fields_of(other))),
        None => return Err(format!("there is no `conversations`; there are {}", fields_of(&record.clone().into()))),
    };
    let mut messages = Vec::with_capacity(turns.len() + 1);
    messages.extend(tools_message(record)?);
    if let Some(system) = text_field(record, "system")?.filter(|text| !text.is_empty()) {
        push(&mut messages, Message::new("system", system));
    }
    for (index, turn) in turns.iter().enumerate() {
        let word =
            turn.get("from").and_then(Value::as_str).ok_or_else(|| format!("turn {} has no `from`", index + 1))?;
        let role = role_of(word).ok_or_else(|| format!("turn {} is from the unknown speaker `{word}`", index + 1))?;
        let text =
            turn.get("value").and_then(scalar).ok_or_else(|| format!("turn {} has no text in `value`", index + 1))?;
        push(&mut messages, Message::new(role, text));
    }
    Ok(messages)
}
