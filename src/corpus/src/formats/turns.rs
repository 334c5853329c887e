//! Turns of a conversation: `{"role", "content"}`, `{"from", "value"}`, or keys that the user names; texts or typed
//! parts; tool calls; weights.

use std::collections::{BTreeMap, HashSet};

use raisin_settings::{FieldNames, Role};
use serde_json::{Map, Value, json};

use super::calls;
use super::fields::{fields_of, is_blank, list, scalar};
use super::notice::{Notice, Notices};
use crate::message::Message;

/// The keys of a turn that hold the speaker and the text, and the names of speakers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnKeys {
    role: Vec<String>,
    content: Vec<String>,
    roles: BTreeMap<String, Role>,
}

/// What a reader finds beside the turns.
#[derive(Debug, Default)]
pub struct FoundTurns {
    pub tools: Vec<Value>,
    pub notices: Notices,
    /// The keys of turns that are not read, such as `messages[].id`.
    pub unread: Vec<String>,
    /// The same names, for a fast look-up. Turns can have thousands of keys.
    known: HashSet<String>,
}

impl Default for TurnKeys {
    fn default() -> Self {
        Self::new(&FieldNames::default(), &BTreeMap::new())
    }
}

impl TurnKeys {
    pub fn new(fields: &FieldNames, roles: &BTreeMap<String, Role>) -> Self {
        let keys = |given: &Option<String>, usual: [&str; 2]| match given {
            Some(name) => vec![name.clone()],
            None => usual.map(str::to_owned).to_vec(),
        };
        Self {
            role: keys(&fields.role, ["role", "from"]),
            content: keys(&fields.content, ["content", "value"]),
            roles: roles.clone(),
        }
    }

    /// Whether a value looks like a turn: an object with a speaker and a text.
    pub fn is_turn(&self, value: &Value) -> bool {
        let has = |keys: &[String]| keys.iter().any(|key| value.get(key).is_some());
        has(&self.role) && has(&self.content)
    }

    /// The turns in the field `name`.
    ///
    /// # Errors
    /// The value is no list of turns, or a turn cannot be read.
    pub fn read(&self, value: &Value, name: &str, found: &mut FoundTurns) -> Result<Vec<Message>, String> {
        let owned;
        let turns: &[Value] = match value {
            Value::Array(turns) => turns,
            other => {
                owned = list(other, name)?;
                &owned
            }
        };
        if turns.is_empty() {
            return Err(format!("`{name}` has no turns"));
        }
        let pairs: Option<Vec<[Value; 2]>> = turns.iter().map(pair).collect();
        if let Some(pairs) = pairs {
            let usual = Self::default();
            return usual.read(&Value::Array(pairs.into_iter().flatten().collect()), name, found);
        }
        let mut messages = Vec::with_capacity(turns.len() + 1);
        for (index, turn) in turns.iter().enumerate() {
            let message = turn.as_object().ok_or_else(|| format!("is {}, not an object", fields_of(turn)));
            let message = message.and_then(|turn| self.turn(turn, name, found));
            push(&mut messages, message.map_err(|reason| format!("message {} {reason}", index + 1))?, found);
        }
        Ok(messages)
    }

    /// The turns of a list that can also hold texts of user and assistant in turn.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn read_list(&self, value: &Value, name: &str, found: &mut FoundTurns) -> Result<Vec<Message>, String> {
        let Some(texts) = value.as_array().filter(|_| is_list_of_texts(value)) else {
            return self.read(value, name, found);
        };
        let turns = texts.iter().zip(["user", "assistant"].into_iter().cycle());
        Ok(turns.map(|(text, role)| Message::new(role, text.as_str().unwrap_or_default())).collect())
    }

    fn turn(&self, turn: &Map<String, Value>, name: &str, found: &mut FoundTurns) -> Result<Message, String> {
        let first = |keys: &[String]| keys.iter().find_map(|key| turn.get_key_value(key).filter(|it| !it.1.is_null()));
        let (role_key, word) = first(&self.role).ok_or_else(|| {
            if let Some(key) = self.role.iter().find(|key| turn.contains_key(*key)) {
                return format!("has null as `{key}`, and no speaker");
            }
            format!("has no `{}`; there are {}", self.role[0], fields_of(&Value::Object(turn.clone())))
        })?;
        let word = word.as_str().ok_or_else(|| format!("has as `{role_key}` {}, not a text", fields_of(word)))?;
        let role = self.role_of(word)?;
        let mut message = Message::new(role, "");
        let text = first(&self.content);
        if let Some((_, value)) = text {
            message.content = content(value, &mut message, found)?;
        }
        for (key, value) in turn {
            if key == role_key || text.is_some_and(|(name, _)| name == key) || is_blank(value) {
                continue;
            }
            match key.as_str() {
                "reasoning_content" | "reasoning" | "thinking" => add_thoughts(&mut message, key, value)?,
                // A program that knows both interfaces may write the same call twice.
                "function_call" if turn.get("tool_calls").is_some_and(|calls| !is_blank(calls)) => {}
                "tool_calls" | "function_call" => message.tool_calls.extend(calls::calls(value, key)?),
                "name" => message.name = scalar(value),
                "tool_call_id" => message.tool_call_id = scalar(value),
                "weight" | "train" | "loss" | "loss_weight" | "training" => {
                    apply_weight(&mut message, key, value, found)?;
                }
                "image" | "images" | "audio" | "audios" | "video" | "videos" => {
                    return Err(format!("has `{key}`, and only texts can be read"));
                }
                _ => {
                    let key = format!("{name}[].{key}");
                    if found.known.insert(key.clone()) {
                        found.unread.push(key);
                    }
                }
            }
        }
        if is_call(word) {
            let text = std::mem::take(&mut message.content);
            message.tool_calls = calls::calls(&Value::String(text), "function_call")?;
            if message.tool_calls.is_empty() {
                return Err(format!("is a `{word}` without a call"));
            }
        }
        if text.is_none() && message.is_empty() && !self.content.iter().any(|key| turn.contains_key(key)) {
            let fields = fields_of(&Value::Object(turn.clone()));
            return Err(format!("has no `{}`; there are {fields}", self.content[0]));
        }
        if !message.tool_calls.is_empty() && !message.is_assistant() {
            return Err(format!("has calls of tools, and the role `{word}`"));
        }
        Ok(message)
    }

    fn role_of(&self, word: &str) -> Result<&'static str, String> {
        let given = self.roles.get(word).map(|role| role.name());
        given.or_else(|| role_of(word)).ok_or_else(|| {
            format!(
                "has the unknown role `{word}`; say who that is, for example with roles = {{ {word:?} = \"user\" }}"
            )
        })
    }
}

/// Whether a value is a list of texts, none of which is the JSON of an object.
pub fn is_list_of_texts(value: &Value) -> bool {
    let is_text = |text: &Value| {
        text.as_str().is_some_and(|text| {
            !text.trim_start().starts_with('{') || serde_json::from_str::<Map<String, Value>>(text).is_err()
        })
    };
    value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(is_text))
}

/// The question and the answer of a pair `{"input", "output"}` that is one of several turns: Capybara.
fn pair(turn: &Value) -> Option<[Value; 2]> {
    let turn = turn.as_object().filter(|turn| turn.len() == 2)?;
    let text = |key: &str| turn.get(key).filter(|text| text.is_string());
    let (asked, answered) = (text("input")?, text("output")?);
    Some([json!({"role": "user", "content": asked}), json!({"role": "assistant", "content": answered})])
}

/// The role in chat templates for the name that a data set gives a speaker.
fn role_of(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "system" | "developer" => "system",
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "chatgpt" | "model" | "bot" | "ai" | "bing" | "bard" | "function_call" => "assistant",
        "tool" | "function" | "observation" | "ipython" | "tool_response" | "function_response" => "tool",
        _ => return None,
    })
}

/// Whether the text of the turns of this speaker is the JSON of a call.
fn is_call(word: &str) -> bool {
    word == "function_call"
}

/// The text of a content: a text or a list of typed parts. Thoughts and calls among the parts go to `message`.
fn content(value: &Value, message: &mut Message, found: &mut FoundTurns) -> Result<String, String> {
    match value {
        Value::Array(parts) if parts.iter().all(|part| part.is_string() || is_typed(part)) => {
            let mut text = String::new();
            for part in parts {
                add_part(part, &mut text, message, found)?;
            }
            Ok(text)
        }
        // A tool may answer with any JSON.
        Value::Array(_) | Value::Object(_) if message.role == "tool" => Ok(value.to_string()),
        Value::Array(parts) => {
            let part =
                parts.iter().find(|part| !part.is_string() && !is_typed(part)).map_or_else(String::new, fields_of);
            Err(format!("has a part without `type` and text: {part}"))
        }
        other => scalar(other).ok_or_else(|| format!("has as content {}, not a text", fields_of(other))),
    }
}

fn is_typed(part: &Value) -> bool {
    part.get("type").is_some_and(Value::is_string) || part_text(part).is_some()
}

fn part_text(part: &Value) -> Option<String> {
    ["text", "value", "content", "thinking", "reasoning"].iter().find_map(|key| part.get(key).and_then(scalar))
}

fn add_part(part: &Value, text: &mut String, message: &mut Message, found: &mut FoundTurns) -> Result<(), String> {
    if let Value::String(part) = part {
        text.push_str(part);
        return Ok(());
    }
    let wanted = || part_text(part).ok_or_else(|| format!("has a part without text: {}", fields_of(part)));
    let kind = part.get("type").and_then(Value::as_str);
    match kind {
        None | Some("text" | "content" | "input_text" | "output_text") => text.push_str(&wanted()?),
        Some("reasoning" | "thinking") => message.reasoning.get_or_insert_default().push_str(&wanted()?),
        Some("tool_result") if message.role == "tool" => text.push_str(&wanted()?),
        Some("tool_call" | "function_call") => {
            let call = part.get("value").or_else(|| part.get("content")).unwrap_or(part);
            message.tool_calls.extend(calls::calls(call, "content")?);
        }
        Some("tool_use") => message.tool_calls.extend(calls::calls(part, "content")?),
        Some("tools") => found.tools.extend(calls::tools(&Value::String(wanted()?), "content")?),
        Some(kind) => return Err(format!("has a part of the type `{kind}`, and only texts can be read")),
    }
    Ok(())
}

fn add_thoughts(message: &mut Message, key: &str, value: &Value) -> Result<(), String> {
    let text = scalar(value).ok_or_else(|| format!("has as `{key}` {}, not a text", fields_of(value)))?;
    match &message.reasoning {
        Some(other) if *other != text => Err(format!("has two different texts of thoughts, one of them in `{key}`")),
        _ => {
            message.reasoning = Some(text);
            Ok(())
        }
    }
}

/// Applies the weight of a turn. Only the turns of the assistant are trained on.
fn apply_weight(message: &mut Message, key: &str, value: &Value, found: &mut FoundTurns) -> Result<(), String> {
    let weight = weight(value).ok_or_else(|| format!("has as `{key}` {}, not a weight", fields_of(value)))?;
    if !message.is_assistant() {
        if weight > 0.0 {
            found.notices.add(Notice::OtherTurnsWeighted);
        }
    } else if weight <= 0.0 {
        message.untrained = true;
        found.notices.add(Notice::UntrainedTurns);
    } else if is_other_weight(weight) {
        found.notices.add(Notice::WeightIgnored);
    }
    Ok(())
}

/// Whether a weight asks for more or less training than usual.
pub fn is_other_weight(weight: f64) -> bool {
    weight > 0.0 && (weight - 1.0).abs() > 1e-9
}

/// A weight: a number, a truth value, or the text of one of them.
pub fn weight(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" => Some(1.0),
            "false" => Some(0.0),
            text => text.parse().ok().filter(|weight: &f64| weight.is_finite()),
        },
        _ => None,
    }
}

/// Appends a message. Successive system messages become one.
pub fn push(messages: &mut Vec<Message>, message: Message, found: &mut FoundTurns) {
    match messages.last_mut() {
        Some(last) if last.role == "system" && message.role == "system" => {
            if last.content != message.content {
                last.content = format!("{}\n\n{}", last.content, message.content);
                found.notices.add(Notice::SystemsJoined);
            }
        }
        _ => messages.push(message),
    }
}

/// Appends a turn of the prompt. Its responses are not trained on.
pub fn push_asked(messages: &mut Vec<Message>, mut turn: Message, found: &mut FoundTurns) {
    if turn.is_assistant() && !turn.untrained {
        turn.untrained = true;
        found.notices.add(Notice::PromptTurns);
    }
    push(messages, turn, found);
}

/// Moves the text before `</think>` at the start of a response to the thoughts, without the line breaks between thoughts,
/// tags and answer: chat templates write their own.
///
/// # Errors
/// The turn has other thoughts already.
pub fn split_thoughts(message: &mut Message, notices: &mut Notices) -> Result<(), String> {
    let Some((thoughts, answer)) = tagged(&message.content).filter(|_| message.is_assistant()) else { return Ok(()) };
    let given = message.reasoning.as_deref().map(str::trim).filter(|given| !given.is_empty());
    if given.is_some_and(|given| !thoughts.trim().is_empty() && thoughts.trim() != given) {
        return Err("has two different texts of thoughts, one of them before `</think>`".to_owned());
    }
    if given.is_none() {
        message.reasoning = Some(thoughts.to_owned());
    }
    message.content = answer.to_owned();
    notices.add(Notice::Thoughts);
    Ok(())
}

/// The thoughts and the answer of a text that begins with thoughts. The opening tag may be missing, because some chat
/// templates end the prompt with it. Then the closing tag must begin or end a line: a sentence may speak of the tag.
fn tagged(text: &str) -> Option<(&str, &str)> {
    let (before, answer) = text.split_once("</think>")?;
    let thoughts = match before.trim_start().strip_prefix("<think>") {
        Some(thoughts) => thoughts,
        None if before.contains("<think>") => return None,
        None if before.ends_with('\n') || answer.is_empty() || answer.starts_with('\n') => before,
        None => return None,
    };
    Some((thoughts.trim_matches('\n'), answer.trim_start_matches('\n')))
}

/// Whether a transcript ends where the assistant answers.
pub fn asks_for_answer(text: &str) -> bool {
    text.trim_end().ends_with("\n\nAssistant:")
}

/// The turns of a transcript such as `\n\nHuman: ...\n\nAssistant: ...`; `None` for another text.
pub fn transcript(text: &str) -> Option<Vec<Message>> {
    const SPEAKERS: [(&str, &str); 3] =
        [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant"), ("\n\nSystem:", "system")];
    let text = if text.starts_with("\n\n") { text.to_owned() } else { format!("\n\n{text}") };
    let mut starts: Vec<(usize, &str, &str)> = Vec::new();
    for (mark, role) in SPEAKERS {
        starts.extend(text.match_indices(mark).map(|(place, mark)| (place, mark, role)));
    }
    starts.sort_unstable();
    if starts.first().is_none_or(|first| first.0 != 0 || first.2 == "assistant") {
        return None;
    }
    let ends = starts.iter().skip(1).map(|next| next.0).chain([text.len()]);
    let turn = |(&(place, mark, role), end): (&(usize, &str, &str), usize)| {
        Message::new(role, text[place + mark.len()..end].trim())
    };
    Some(starts.iter().zip(ends).map(turn).collect())
}
