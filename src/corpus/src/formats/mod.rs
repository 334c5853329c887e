//! The formats of instruction data.
//!
//! A reader returns the conversation of a record, or the reason why the record has none. The author of the file reads
//! the reason in the table `rejects`.

pub mod alpaca;
pub mod messages;
pub mod qa;
pub mod sharegpt;

use raisin_settings::RecordFormat;
use serde_json::{Map, Value};

use super::message::Message;

/// A format with the names of its fields. It reads a record as a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    Alpaca,
    Qa { prompt: String, response: String },
    Messages,
    Sharegpt,
}

/// The names that the two fields of a `qa` record usually have.
const QA_FIELDS: [(&str, &str); 8] = [
    ("prompt", "response"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("instruction", "response"),
    ("query", "response"),
    ("question", "response"),
    ("input", "output"),
    ("instruction", "output"),
];

impl Reader {
    /// The reader of a format. For `auto`, `parquet` and `qa` without field names, it is the reader that fits most of
    /// `sample`.
    ///
    /// # Errors
    /// No reader fits any record of the sample.
    pub fn choose(
        format: RecordFormat,
        prompt: Option<&str>,
        response: Option<&str>,
        sample: &[&Value],
    ) -> Result<Self, String> {
        let qa = |prompt: &str, response: &str| Self::Qa { prompt: prompt.to_owned(), response: response.to_owned() };
        match (format, prompt, response) {
            (RecordFormat::Alpaca, ..) => return Ok(Self::Alpaca),
            (RecordFormat::Messages, ..) => return Ok(Self::Messages),
            (RecordFormat::Sharegpt, ..) => return Ok(Self::Sharegpt),
            (_, Some(prompt), Some(response)) => return Ok(qa(prompt, response)),
            _ => {}
        }
        let mut candidates = Vec::new();
        if format != RecordFormat::Qa {
            candidates.extend([Self::Messages, Self::Sharegpt, Self::Alpaca]);
        }
        candidates.extend(
            QA_FIELDS
                .iter()
                .filter(|fields| prompt.is_none_or(|name| name == fields.0))
                .filter(|fields| response.is_none_or(|name| name == fields.1))
                .map(|fields| qa(fields.0, fields.1)),
        );
        let fits = |reader: &Self| sample.iter().filter(|record| reader.read(record).is_ok()).count();
        // If several readers fit equally many records, the first of them is taken, because more specific formats come
        // first.
        let best = candidates.into_iter().rev().max_by_key(fits).filter(|reader| fits(reader) > 0);
        best.ok_or_else(|| {
            let fields = sample.first().map_or("nothing".to_owned(), |record| fields_of(record));
            format!("no known format fits: the first record has {fields}")
        })
    }

    pub fn name(&self) -> String {
        match self {
            Self::Alpaca => "alpaca".to_owned(),
            Self::Qa { prompt, response } => format!("qa ({prompt}, {response})"),
            Self::Messages => "messages".to_owned(),
            Self::Sharegpt => "sharegpt".to_owned(),
        }
    }

    /// The conversation of a record. Its last turn is the response of the assistant.
    ///
    /// # Errors
    /// The reason why the record has no such conversation.
    pub fn read(&self, record: &Value) -> Result<Vec<Message>, String> {
        let Value::Object(record) = record else {
            return Err(format!("the record is {}, not an object", fields_of(record)));
        };
        let messages = match self {
            Self::Alpaca => alpaca::read(record),
            Self::Qa { prompt, response } => qa::read(record, prompt, response),
            Self::Messages => messages::read(record),
            Self::Sharegpt => sharegpt::read(record),
        }?;
        finished(messages)
    }
}

/// Removes the turns after the last response. A conversation without a response or without a prompt is refused.
fn finished(mut messages: Vec<Message>) -> Result<Vec<Message>, String> {
    let last = messages.iter().rposition(Message::is_assistant).ok_or("there is no response")?;
    messages.truncate(last + 1);
    if messages.last().is_none_or(|message| message.content.trim().is_empty()) {
        return Err("the response is empty".to_owned());
    }
    if !messages.iter().any(|message| !message.is_assistant() && !message.content.trim().is_empty()) {
        return Err("the prompt is empty".to_owned());
    }
    Ok(messages)
}

/// The description of a value for a message.
pub fn fields_of(value: &Value) -> String {
    match value {
        Value::Object(map) if map.is_empty() => "no fields".to_owned(),
        Value::Object(map) => {
            let names: Vec<String> = map.keys().take(12).map(|key| format!("`{key}`")).collect();
            format!("the fields {}", names.join(", "))
        }
        Value::Array(_) => "a list".to_owned(),
        Value::String(_) => "a text".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::Bool(_) => "a truth value".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

/// A field as text; `None` if it is null or missing. A whole number has no fraction: `51.0` becomes `51`.
///
/// # Errors
/// The field holds a list or an object.
pub fn text_field(record: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match record.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => scalar(value).map(Some).ok_or_else(|| format!("`{name}` is {}, not a text", fields_of(value))),
    }
}

/// A field that must not be missing, as text.
pub fn required(record: &Map<String, Value>, name: &str) -> Result<String, String> {
    text_field(record, name)?
        .ok_or_else(|| if record.contains_key(name) { format!("`{name}` is null") } else { missing(record, name) })
}

/// The system message of a record with a field `system`.
fn system_message(record: &Map<String, Value>) -> Result<Option<Message>, String> {
    let text = text_field(record, "system")?.filter(|text| !text.is_empty());
    Ok(text.map(|text| Message::new("system", text)))
}

/// The reason to reject a record whose field `name` is not a list.
fn no_list(record: &Map<String, Value>, name: &str) -> String {
    record
        .get(name)
        .map_or_else(|| missing(record, name), |other| format!("`{name}` is {}, not a list", fields_of(other)))
}

fn missing(record: &Map<String, Value>, name: &str) -> String {
    format!("there is no `{name}`; there are {}", fields_of(&Value::Object(record.clone())))
}

/// A text, a number or a truth value as text; `None` for another value.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        }),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
