//! Alpaca: `instruction`, `output`, and optionally `input`, `system` and earlier turns in `history`.

use serde_json::{Map, Value};

use super::{Message, fields_of, required, scalar, system_message, text_field};

pub fn read(record: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let mut messages = asked(record)?;
    messages.push(Message::new("assistant", required(record, "output")?));
    Ok(messages)
}

/// The conversation without the response: the system text, the turns of `history`, the instruction.
pub fn asked(record: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let mut messages = Vec::with_capacity(3);
    messages.extend(system_message(record)?);
    for pair in history(record)? {
        let turn = |index: usize| pair.get(index).and_then(scalar).ok_or("`history` must hold pairs of texts");
        messages.push(Message::new("user", turn(0)?));
        messages.push(Message::new("assistant", turn(1)?));
    }
    messages.push(Message::new("user", prompt(record)?));
    Ok(messages)
}

fn history(record: &Map<String, Value>) -> Result<&[Value], String> {
    match record.get("history") {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::String(text)) if text.is_empty() => Ok(&[]),
        Some(Value::Array(pairs)) => Ok(pairs),
        Some(other) => Err(format!("`history` is {}, not a list of pairs", fields_of(other))),
    }
}

/// The instruction, and below it, after a blank line, the input if there is one.
fn prompt(record: &Map<String, Value>) -> Result<String, String> {
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
