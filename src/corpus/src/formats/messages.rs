//! Chat messages in the format of the OpenAI interface. A content is a text or a list of typed parts.

use serde_json::{Map, Value};

use super::{Message, fields_of, no_list, scalar, text_field};

pub fn read(record: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let turns = match record.get("messages") {
        Some(Value::Array(turns)) => turns.clone(),
        // A table without nested columns holds the list as JSON text.
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|error| format!("`messages` is not a JSON list: {error}"))?
        }
        _ => return Err(no_list(record, "messages")),
    };
    let mut messages = Vec::with_capacity(turns.len() + 1);
    messages.extend(tools_message(record)?);
    for (index, turn) in turns.iter().enumerate() {
        let message = turn.as_object().ok_or_else(|| format!("is {}, not an object", fields_of(turn)));
        let message = message.and_then(read_turn).map_err(|reason| format!("message {} {reason}", index + 1))?;
        push(&mut messages, message);
    }
    Ok(messages)
}

fn read_turn(turn: &Map<String, Value>) -> Result<Message, String> {
    let role = turn.get("role").and_then(Value::as_str).ok_or("has no `role`")?;
    let role = role_of(role).ok_or_else(|| format!("has the unknown role `{role}`"))?;
    let mut content = turn.get("content").map_or(Ok(String::new()), content)?;
    if let Some(calls) = turn.get("tool_calls").filter(|calls| !calls.is_null()) {
        if !content.is_empty() {
            content.push('\n');
        }
        content.push_str(&calls.to_string());
    }
    Ok(Message::new(role, content))
}

/// The text of a content, which is a text or a list of parts `{"type": "text", "text" | "value" | "content": ...}`.
fn content(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        other => scalar(other).ok_or_else(|| format!("has as content {}, not a text", fields_of(other))),
    }
}

fn part(part: &Value) -> Result<String, String> {
    if let Some(text) = part.as_str() {
        return Ok(text.to_owned());
    }
    let text = ["text", "value", "content"].iter().find_map(|key| part.get(key).and_then(scalar));
    match part.get("type").and_then(Value::as_str) {
        None | Some("text" | "content" | "input_text" | "output_text" | "reasoning" | "tool_call" | "tools") => {
            text.ok_or_else(|| format!("has a part without text: {}", fields_of(part)))
        }
        Some(kind) => Err(format!("has a part of the type `{kind}`, and only texts can be read")),
    }
}

/// A system message with the tools that the conversation may use.
pub fn tools_message(record: &Map<String, Value>) -> Result<Option<Message>, String> {
    let tools = match record.get("tools") {
        Some(Value::Array(tools)) if tools.is_empty() => None,
        Some(list @ Value::Array(_)) => Some(list.to_string()),
        _ => text_field(record, "tools")?.filter(|text| !matches!(text.trim(), "" | "[]")),
    };
    Ok(tools.map(|tools| Message::new("system", format!("Tools:\n{tools}"))))
}

/// Appends a message. Successive system messages become one.
pub fn push(messages: &mut Vec<Message>, message: Message) {
    match messages.last_mut() {
        Some(last) if last.role == "system" && message.role == "system" => {
            last.content = format!("{}\n\n{}", message.content, last.content);
        }
        _ => messages.push(message),
    }
}

/// The role in chat templates for the name that a data set gives a speaker.
pub fn role_of(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "system" | "developer" => "system",
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "chatgpt" | "model" | "bot" | "bing" | "bard" | "function_call" => "assistant",
        "tool" | "function" | "observation" | "ipython" => "tool",
        _ => return None,
    })
}
