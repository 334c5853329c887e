//! The parts of a conversation beside prompt and response: system text, context, earlier turns, tools, thoughts, weight
//! and label.

use raisin_settings::{FieldNames, Mapping};
use serde_json::Value;

use super::calls;
use super::fields::{Fields, fields_of, is_blank, list, not_a, scalar};
use super::notice::{Filter, Notice};
use super::turns::{FoundTurns, TurnKeys, asks_for_answer, is_other_weight, push, push_asked, transcript, weight};
use crate::message::Message;

/// The names under which a reader looks for each part. Of several names, the first that holds something counts; only
/// the contexts are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    system: PartNames,
    context: PartNames,
    history: PartNames,
    tools: PartNames,
    rejected: PartNames,
    reasoning: PartNames,
    weight: PartNames,
    label: PartNames,
    /// Whether prompt and response have the names of a file of rated responses. Then `label` is the rating.
    is_rated: bool,
    pub turns: TurnKeys,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PartNames {
    names: Vec<String>,
    /// Whether the user gave the name. Then a value of the wrong type is an error; under a usual name, it is another
    /// field.
    given: bool,
}

const SYSTEM: [&str; 3] = ["system", "system_prompt", "system_message"];
const CONTEXT: [&str; 3] = ["input", "context", "passage"];

/// Names of fields that belong to the conversation wherever they occur. `auto` takes no reader that ignores one of them.
pub fn is_part(name: &str) -> bool {
    SYSTEM.contains(&name)
        || CONTEXT.contains(&name)
        || matches!(
            name,
            "history" | "tools" | "functions" | "messages" | "conversations" | "conversation" | "chosen" | "rejected"
        )
        || matches!(name, "image" | "images" | "video" | "videos" | "audio" | "audios")
}

/// The usual names of the parts that the user leaves out with an empty name.
pub fn left_out(fields: &FieldNames) -> Vec<&'static str> {
    let parts: [(&Option<String>, &[&'static str]); 5] = [
        (&fields.system, &SYSTEM),
        (&fields.context, &CONTEXT),
        (&fields.history, &["history"]),
        (&fields.tools, &["tools", "functions"]),
        (&fields.rejected, &["rejected"]),
    ];
    parts.into_iter().filter(|(name, _)| name.as_deref() == Some("")).flat_map(|(_, names)| names).copied().collect()
}

/// Names of fields that usually stand below the prompt.
pub fn is_context(name: &str) -> bool {
    CONTEXT.contains(&name)
}

impl Parts {
    /// `main`: the fields of prompt and response, which are no other part.
    pub fn new(mapping: &Mapping, main: &[&str]) -> Self {
        let FieldNames { system, context, history, tools, rejected, reasoning, weight, label, .. } = &mapping.fields;
        let is_main = |name: &str| main.iter().any(|main| main.split('+').any(|part| part.trim() == name));
        let part = |given: &Option<String>, usual: &[&str]| match given {
            Some(name) if name.is_empty() => PartNames { names: Vec::new(), given: true },
            Some(name) => PartNames { names: vec![name.clone()], given: true },
            None => {
                let names = usual.iter().filter(|name| !is_main(name)).map(|name| (*name).to_owned()).collect();
                PartNames { names, given: false }
            }
        };
        let mut contexts = CONTEXT.to_vec();
        if is_main("instruction") || is_main("prompt") {
            contexts.push("query");
        }
        Self {
            system: part(system, &SYSTEM),
            context: part(context, &contexts),
            history: part(history, &["history"]),
            tools: part(tools, &["tools", "functions"]),
            rejected: part(rejected, &["rejected"]),
            reasoning: part(reasoning, &[]),
            weight: part(weight, &["weight", "loss_weight"]),
            label: part(label, &["label", "kto_tag"]),
            is_rated: is_main("prompt") && is_main("completion"),
            turns: TurnKeys::new(&mapping.fields, &mapping.roles),
        }
    }

    /// The names of all parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let Self { system, context, history, tools, rejected, reasoning, weight, label, is_rated: _, turns: _ } = self;
        let parts = [system, context, history, tools, rejected, reasoning, weight, label];
        parts.into_iter().flat_map(|part| part.names.iter().map(String::as_str))
    }

    /// The same parts for records whose turns are all in one list.
    pub fn of_turns(mapping: &Mapping, main: &[&str]) -> Self {
        let parts = Self::new(mapping, main);
        let (context, history) = (PartNames::default(), PartNames::default());
        Self { context, history, ..parts }
    }

    /// The same parts with another usual name of the context.
    #[must_use]
    pub fn with_context(mut self, name: &str) -> Self {
        if !self.context.given {
            self.context.names = vec![name.to_owned()];
        }
        self
    }

    /// The turns before the response: system text, earlier turns, prompt with its context. `prompt` is the field of the
    /// prompt; without it, only system text and earlier turns are read.
    pub fn asked(&self, fields: &Fields, prompt: Option<&str>, found: &mut FoundTurns) -> Result<Vec<Message>, String> {
        let mut messages = Vec::with_capacity(2);
        messages.extend(self.system.text(fields, " ")?.map(|text| Message::new("system", text)));
        self.read_history(fields, &mut messages, found)?;
        let Some(prompt) = prompt else { return Ok(messages) };
        match fields.look(prompt) {
            Some(turns @ (Value::Array(_) | Value::Object(_))) => {
                fields.get(prompt);
                for turn in self.turns.read(turns, prompt, found)? {
                    push_asked(&mut messages, turn, found);
                }
            }
            _ => {
                let text = fields.joined(prompt)?;
                let is_transcript = text.starts_with("\n\n") || asks_for_answer(&text);
                match is_transcript.then(|| transcript(&text)).flatten() {
                    Some(mut turns) => {
                        // The response is in a field of its own.
                        turns.pop_if(|last| last.is_assistant() && last.content.is_empty());
                        turns.into_iter().for_each(|turn| push_asked(&mut messages, turn, found));
                    }
                    None => messages.push(Message::new("user", text)),
                }
            }
        }
        if let Some(context) = self.context.text(fields, "\n\n")?
            && let Some(asks) = messages.iter_mut().rev().find(|message| message.role == "user")
        {
            asks.content =
                if asks.content.trim().is_empty() { context } else { format!("{}\n\n{context}", asks.content) };
        }
        Ok(messages)
    }

    fn read_history(&self, fields: &Fields, messages: &mut Vec<Message>, found: &mut FoundTurns) -> Result<(), String> {
        let Some((name, value)) = self.history.value(fields) else { return Ok(()) };
        let items = match value {
            Value::Array(_) | Value::String(_) => list(value, name)?,
            other => return Err(format!("`{name}` is {}, not a list of pairs", fields_of(other))),
        };
        if items.iter().all(Value::is_object) {
            for turn in
                self.turns.read(&Value::Array(items), name, found).map_err(|reason| format!("in `{name}`, {reason}"))?
            {
                push(messages, turn, found);
            }
            return Ok(());
        }
        for pair in &items {
            let pair = pair.as_array().filter(|pair| pair.len() == 2);
            let texts = pair.and_then(|pair| Some((scalar(&pair[0])?, scalar(&pair[1])?)));
            let (asked, answered) = texts.ok_or_else(|| format!("`{name}` must hold pairs of texts"))?;
            messages.push(Message::new("user", asked));
            messages.push(Message::new("assistant", answered));
        }
        Ok(())
    }

    pub fn tools(&self, fields: &Fields, found: &mut FoundTurns) -> Result<(), String> {
        if let Some((name, value)) = self.tools.value(fields) {
            found.tools.extend(calls::tools(value, name)?);
        }
        Ok(())
    }

    /// Puts the thoughts of a field of their own into the last turn.
    pub fn reasoning(&self, fields: &Fields, messages: &mut [Message]) -> Result<(), String> {
        let Some(text) = self.reasoning.text(fields, " ")? else { return Ok(()) };
        let Some(last) = messages.last_mut().filter(|last| last.is_assistant()) else { return Ok(()) };
        if last.reasoning.as_ref().is_some_and(|other| other.trim() != text.trim()) {
            return Err(format!("there are thoughts in `{}` and others in the response", self.reasoning.names[0]));
        }
        last.reasoning = Some(text);
        Ok(())
    }

    /// The rejected response and its field.
    pub fn rejected<'a>(&self, fields: &Fields<'a>) -> Option<(&str, &'a Value)> {
        self.rejected.value(fields)
    }

    /// Whether the file excludes the record.
    pub fn filter(&self, fields: &Fields, found: &mut FoundTurns) -> Result<Option<Filter>, String> {
        for part in [&self.label, &self.weight] {
            // A given name counts as read also if it holds nothing.
            for name in part.names.iter().filter(|_| part.given) {
                fields.get(name);
            }
        }
        for name in &self.label.names {
            match fields.look(name) {
                Some(Value::Bool(good)) => {
                    fields.get(name);
                    if !good {
                        return Ok(Some(Filter::Label));
                    }
                }
                Some(value) if self.label.given || self.is_rated || name == "kto_tag" || is_truth(value) => {
                    fields.get(name);
                    match weight(value) {
                        Some(0.0) => return Ok(Some(Filter::Label)),
                        Some(1.0) => {}
                        _ if self.label.given => return Err(not_a(name, value, "truth value")),
                        _ => {
                            let reason = not_a(name, value, "truth value");
                            return Err(format!(
                                "{reason}; fields = {{ label = \"\" }} says that it does not rate the response"
                            ));
                        }
                    }
                }
                _ => {}
            }
        }
        for name in &self.weight.names {
            let Some(value) = fields.look(name) else { continue };
            match weight(value) {
                Some(weight) => {
                    fields.get(name);
                    if weight <= 0.0 {
                        return Ok(Some(Filter::Weight));
                    }
                    if is_other_weight(weight) {
                        found.notices.add(Notice::WeightIgnored);
                    }
                }
                None if self.weight.given => return Err(not_a(name, value, "weight")),
                None => {}
            }
        }
        Ok(None)
    }
}

/// Whether a value is the text of a truth value.
fn is_truth(value: &Value) -> bool {
    value.as_str().is_some_and(|text| ["true", "false"].contains(&text.trim().to_ascii_lowercase().as_str()))
}

impl PartNames {
    /// The first of the names that holds something, and its value.
    fn value<'a>(&self, fields: &Fields<'a>) -> Option<(&str, &'a Value)> {
        for name in &self.names {
            if let Some(value) = fields.get(name).filter(|value| !is_blank(value)) {
                return Some((name, value));
            }
        }
        None
    }

    /// The text of the part. The texts of several names are joined by `between` if the part is a context.
    fn text(&self, fields: &Fields, between: &str) -> Result<Option<String>, String> {
        let mut joined: Option<String> = None;
        for name in &self.names {
            let paths = if self.given && !fields.has(name) { name.split('+').collect() } else { vec![name.as_str()] };
            for path in paths {
                let Some(text) = fields.text(path.trim())?.filter(|text| !text.trim().is_empty()) else { continue };
                joined = Some(joined.map_or(text.clone(), |before| format!("{before}{between}{text}")));
            }
            if joined.is_some() && between == " " {
                break;
            }
        }
        Ok(joined)
    }
}
