//! A question and an answer in two fields, whose names the user gives: GSM8K, Dolly, SVAMP, and tables of the user.

use serde_json::{Map, Value};

use super::{Message, required, system_message};

pub fn read(record: &Map<String, Value>, prompt: &str, response: &str) -> Result<Vec<Message>, String> {
    let mut messages = Vec::with_capacity(3);
    if prompt != "system" && response != "system" {
        messages.extend(system_message(record)?);
    }
    messages.push(Message::new("user", fields(record, prompt)?));
    messages.push(Message::new("assistant", fields(record, response)?));
    Ok(messages)
}

/// The text of a field. `a+b` joins the texts of the fields `a` and `b` with a space.
pub fn fields(record: &Map<String, Value>, names: &str) -> Result<String, String> {
    if record.contains_key(names) || !names.contains('+') {
        return required(record, names);
    }
    let parts = names.split('+').map(|name| required(record, name.trim())).collect::<Result<Vec<_>, _>>()?;
    Ok(parts.join(" "))
}
