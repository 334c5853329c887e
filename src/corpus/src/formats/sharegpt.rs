//! ShareGPT conversations, with the tool turns that LLaMA-Factory adds to them.
//!
//! A function call is a turn of the assistant, on which a model is trained. An observation is a turn of a tool.

use serde_json::{Map, Value};

use super::messages::{push, role_of, tools_message};
use super::{Message, no_list, scalar, system_message};

pub fn read(record: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let turns = record.get("conversations").and_then(Value::as_array);
    let turns = turns.ok_or_else(|| no_list(record, "conversations"))?;
    let mut messages = Vec::with_capacity(turns.len() + 1);
    messages.extend(tools_message(record)?);
    if let Some(system) = system_message(record)? {
        push(&mut messages, system);
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
