//! JSON values for templates, and JSON texts as Python's `json.dumps` writes them.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// A JSON value as a value of a template. The order of keys stays.
pub fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(entries) => Value::from_pairs(entries.iter().map(|(key, entry)| (key.as_str(), value(entry)))),
    }
}

/// The text that `json.dumps(value, ensure_ascii=False)` gives.
pub fn text(json: &serde_json::Value) -> String {
    write(&value(json), &JsonStyle::new(None, None, false, false)).unwrap_or_else(|_| json.to_string())
}

/// The keyword arguments of `json.dumps`.
pub struct JsonStyle {
    indent: Option<usize>,
    between_items: String,
    after_key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonStyle {
    pub fn new(
        indent: Option<usize>,
        separators: Option<(String, String)>,
        ensure_ascii: bool,
        sort_keys: bool,
    ) -> Self {
        let usual = || (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
        let (between_items, after_key) = separators.unwrap_or_else(usual);
        Self { indent, between_items, after_key, ensure_ascii, sort_keys }
    }
}

/// # Errors
/// The value has no form in JSON, for example an undefined value.
pub fn write(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut text = String::new();
    value_into(value, style, 0, &mut text)?;
    Ok(text)
}

fn value_into(value: &Value, style: &JsonStyle, depth: usize, text: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => string_into(value.as_str().unwrap_or_default(), style, text),
        ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => text.push_str(&value.to_string()),
        ValueKind::Number => text.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort_by_key(ToString::to_string);
            }
            list_into(['{', '}'], keys, style, depth, text, |key, text| {
                string_into(&key_text(key)?, style, text);
                text.push_str(&style.after_key);
                value_into(&value.get_item(key)?, style, depth + 1, text)
            })?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            list_into(['[', ']'], items, style, depth, text, |item, text| value_into(item, style, depth + 1, text))?;
        }
        kind => return Err(Error::new(ErrorKind::InvalidOperation, format!("{kind} cannot be written as JSON"))),
    }
    Ok(())
}

/// The text of a key. Keys of other types become texts, as in Python.
fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::None => "null".to_owned(),
        ValueKind::Number if !key.is_integer() => float(f64::try_from(key.clone())?),
        _ => key.to_string(),
    })
}

fn list_into(
    brackets: [char; 2],
    items: Vec<Value>,
    style: &JsonStyle,
    depth: usize,
    text: &mut String,
    mut item_into: impl FnMut(&Value, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |depth: usize, text: &mut String| {
        if let Some(width) = style.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    text.push(brackets[0]);
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            text.push_str(&style.between_items);
        }
        line(depth + 1, text);
        item_into(item, text)?;
    }
    if !items.is_empty() {
        line(depth, text);
    }
    text.push(brackets[1]);
    Ok(())
}

fn string_into(value: &str, style: &JsonStyle, text: &mut String) {
    let quoted = serde_json::Value::from(value).to_string();
    if !style.ensure_ascii {
        return text.push_str(&quoted);
    }
    for character in quoted.chars() {
        // As in Python, the delete character is not escaped, because it is ASCII.
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
}

/// The text of a float in Python; `None` for another value.
pub fn float_text(value: &Value) -> Option<String> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float.then(|| f64::try_from(value.clone()).ok().map(float))?
}

/// A float as `repr(float)` writes it: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let exponential = format!("{value:e}");
    let Some((digits, exponent)) = exponential.split_once('e') else { return exponential };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let written = [0.0, -0.0, 1.0, 0.1, 1e15, 1e16, 1.5e-5, 0.0001, 1e22, -2.5e-10, 123_456.789].map(float);
        let python = [
            "0.0",
            "-0.0",
            "1.0",
            "0.1",
            "1000000000000000.0",
            "1e+16",
            "1.5e-05",
            "0.0001",
            "1e+22",
            "-2.5e-10",
            "123456.789",
        ];
        assert_eq!(written, python);
    }

    #[test]
    fn every_keyword_argument_has_its_effect() -> Result<(), Error> {
        let value = super::value(&serde_json::json!({"b": [1, true], "a": "ü\u{1f642}\u{1}<"}));
        let with = |style: JsonStyle| write(&value, &style);
        assert_eq!(
            with(JsonStyle::new(None, None, true, true))?,
            r#"{"a": "\u00fc\ud83d\ude42\u0001<", "b": [1, true]}"#
        );
        let tight = Some((",".to_owned(), ":".to_owned()));
        assert_eq!(with(JsonStyle::new(None, tight, false, false))?, "{\"b\":[1,true],\"a\":\"ü🙂\\u0001<\"}");
        assert_eq!(with(JsonStyle::new(Some(1), None, true, true))?.lines().nth(2), Some(" \"b\": ["));
        Ok(())
    }
}
