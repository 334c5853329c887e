//! Alpaca: `instruction`, an optional `input` below it, and `output`; optionally `system` and earlier turns.

use serde_json::{Map, Value};

use super::{Message, required, scalar, text_field};

pub fn read(record: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let mut messages = Vec::with_capacity(3);
    if let Some(system) = text_field(record, "system")?.filter(|text| !text.is_empty()) {
        messages.push(Message::new("system", system));
    }
    for pair in record.get("history").and_then(Value::as_array).into_iter().flatten() {
        let turn = |index: usize| pair.get(index).and_then(scalar).ok_or("`history` must hold pairs of texts");
        messages.push(Message::new("user", turn(0)?));
        messages.push(Message::new("assistant", turn(1)?));
    }
    messages.push(Message::new("user", prompt(record)?));
    messages.push(Message::new("assistant", required(record, "output")?));
    Ok(messages)
}

/// The instruction, with the input after a blank line where there is one.
pub fn prompt(record: &Map<String, Value>) -> Result<String, String> {
    let mut prompt = required(record, "instruction")?;
    if let Some(input) = text_field(record, "input")?.filter(|text| !text.is_empty()) {
        prompt.push_str("\n\n");
        prompt.push_str(&input);
    }
    if prompt.trim().is_empty() {
        return Err("the instruction is empty".to_owned());
    }
    Ok(prompt)
}
