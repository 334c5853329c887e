//! Records with a prompt and a response in two fields. Each is a text, a turn or a list of turns: question and answer,
//! Alpaca, TRL, preference files.

use serde_json::Value;

use super::fields::{Fields, fields_of, scalar};
use super::parts::Parts;
use super::turns::{FoundTurns, asks_for_answer, push, transcript};
use crate::message::Message;

/// The conversation of a record. `prompt` is missing if the response holds the whole conversation.
pub fn read(
    fields: &Fields,
    parts: &Parts,
    prompt: Option<&str>,
    response: &str,
    found: &mut FoundTurns,
) -> Result<Vec<Message>, String> {
    let mut messages = parts.asked(fields, prompt, found)?;
    let mut turns = if response.contains('+') && !fields.has(response) {
        vec![Message::new("assistant", fields.joined(response)?)]
    } else {
        answer(fields.required(response)?, parts, response, prompt.is_none(), found)?
    };
    if let ([answer], Some(prompt)) = (turns.as_mut_slice(), prompt)
        && fields.look(prompt).and_then(Value::as_str).is_some_and(asks_for_answer)
    {
        // The text follows `Assistant:` of a transcript, and begins with the space between them.
        answer.content = answer.content.trim().to_owned();
    }
    if turns.first().is_some_and(Message::is_assistant) {
        if prompt.is_none() {
            return Err(format!("`{response}` begins with a response, and there is no prompt"));
        }
        messages.extend(turns);
        return Ok(messages);
    }
    // The response is the whole conversation. It must contain what was asked.
    if let (Some(prompt), Some(asked)) = (prompt, messages.iter().rfind(|message| message.role == "user"))
        && !turns.iter().any(|turn| turn.role == "user" && turn.content.trim() == asked.content.trim())
    {
        return Err(format!("`{response}` begins with a prompt, and `{prompt}` holds another one"));
    }
    messages.retain(|message| message.role == "system");
    turns.into_iter().for_each(|turn| push(&mut messages, turn, found));
    Ok(messages)
}

/// The turns of a response.
pub fn answer(
    value: &Value,
    parts: &Parts,
    name: &str,
    whole: bool,
    found: &mut FoundTurns,
) -> Result<Vec<Message>, String> {
    if let Some(text) = scalar(value) {
        let is_transcript = whole || text.starts_with("\n\nHuman:");
        let turns = is_transcript.then(|| transcript(&text)).flatten();
        return Ok(turns.unwrap_or_else(|| vec![Message::new("assistant", text)]));
    }
    match value {
        Value::Object(_) | Value::Array(_) if parts.turns.is_turn(value) || is_list_of_turns(value, parts) => {
            parts.turns.read(value, name, found).map_err(|reason| format!("in `{name}`, {reason}"))
        }
        _ => Err(format!("`{name}` is {}, not a text", fields_of(value))),
    }
}

/// The response beside a list of turns that ends with a question. Without it, an older response would be the last one.
pub fn answer_beside(
    fields: &Fields,
    parts: &Parts,
    list: &str,
    found: &mut FoundTurns,
) -> Result<Vec<Message>, String> {
    const RESPONSES: [&str; 4] = ["response", "completion", "output", "answer"];
    let mut names = RESPONSES.into_iter().filter(|name| fields.look(name).is_some());
    let Some(name) = names.next() else { return Ok(Vec::new()) };
    let value = fields.required(name)?;
    if let Some(other) = names.find(|other| fields.look(other) != Some(value)) {
        return Err(format!(
            "`{list}` ends with a question, and both `{name}` and `{other}` may answer it; say which with fields = {{ \
             messages = \"{list}\", response = \"{name}\" }}"
        ));
    }
    let turns = answer(value, parts, name, false, found)?;
    match turns.first() {
        Some(first) if first.is_assistant() => Ok(turns),
        _ => Err(format!("`{list}` ends with a question, and `{name}` does not begin with a response")),
    }
}

fn is_list_of_turns(value: &Value, parts: &Parts) -> bool {
    value
        .as_array()
        .and_then(|turns| turns.first())
        .is_some_and(|turn| parts.turns.is_turn(turn) || turn.get("role").is_some())
}

/// The rejected response for the column `rejected`: its text if it is one text after the turns of the conversation, else
/// its JSON.
pub fn rejected(value: &Value, parts: &Parts, name: &str, messages: &[Message]) -> String {
    if let Some(text) = scalar(value) {
        return match transcript(&text)
            .filter(|_| text.starts_with("\n\nHuman:"))
            .and_then(|turns| turns.last().cloned())
        {
            Some(last) if last.is_assistant() => last.content,
            _ => text,
        };
    }
    let Ok(turns) = parts.turns.read(value, name, &mut FoundTurns::default()) else { return value.to_string() };
    let same = |pair: &(&Message, &Message)| (&pair.0.role, &pair.0.content) == (&pair.1.role, &pair.1.content);
    let asked: Vec<&Message> = messages.iter().collect();
    let shared = turns.iter().zip(asked).take_while(same).count();
    match &turns[shared..] {
        [turn] if turn.is_assistant() && turn.is_text() => turn.content.clone(),
        _ => value.to_string(),
    }
}
