//! The fields of one record. Each field that is read is marked, so that the rest can be reported.

use std::cell::RefCell;

use serde_json::{Map, Value};

/// A record whose read fields are marked.
pub struct Fields<'a> {
    record: &'a Map<String, Value>,
    used: RefCell<Vec<&'a str>>,
    /// The paths below fields of which only parts were read.
    paths: RefCell<Vec<(&'a str, String)>>,
}

impl<'a> Fields<'a> {
    pub fn new(record: &'a Map<String, Value>) -> Self {
        Self { record, used: RefCell::new(Vec::with_capacity(8)), paths: RefCell::default() }
    }

    /// The value at a name or a path such as `question.stem`; also null. The field of the record that holds the value
    /// is marked as read.
    pub fn get(&self, path: &str) -> Option<&'a Value> {
        let (name, value) = find(self.record, path)?;
        let mut used = self.used.borrow_mut();
        if !used.contains(&name) {
            used.push(name);
        }
        // The whole field has the empty path.
        let below = if path == name { "" } else { path.get(name.len() + 1..).unwrap_or_default() };
        let mut paths = self.paths.borrow_mut();
        if !(below.is_empty() && paths.is_empty()) {
            paths.push((name, below.to_owned()));
        }
        Some(value)
    }

    /// The value at a path; `None` if the value is missing or empty. The field is not marked.
    pub fn look(&self, path: &str) -> Option<&'a Value> {
        look(self.record, path)
    }

    /// Whether the record has the field, empty or not.
    pub fn has(&self, path: &str) -> bool {
        find(self.record, path).is_some()
    }

    /// A field as text; `None` if it is null or missing. A whole number has no fraction: `51.0` becomes `51`.
    ///
    /// # Errors
    /// The field holds a list or an object.
    pub fn text(&self, path: &str) -> Result<Option<String>, String> {
        match self.get(path) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => scalar(value).map(Some).ok_or_else(|| not_a(path, value, "text")),
        }
    }

    /// A field that must not be missing.
    ///
    /// # Errors
    /// The field is missing or null.
    pub fn required(&self, path: &str) -> Result<&'a Value, String> {
        match self.get(path) {
            Some(Value::Null) => Err(format!("`{path}` is null")),
            Some(value) => Ok(value),
            None => Err(format!("there is no `{path}`; there are {}", fields_of_map(self.record))),
        }
    }

    /// The text of a field that must not be missing. `a+b` joins the texts of the fields `a` and `b` with a space.
    ///
    /// # Errors
    /// A field is missing, or holds no text.
    pub fn joined(&self, names: &str) -> Result<String, String> {
        let text = |path: &str| {
            let value = self.required(path)?;
            scalar(value).ok_or_else(|| not_a(path, value, "text"))
        };
        if !names.contains('+') || self.has(names) {
            return text(names);
        }
        Ok(names.split('+').map(|name| text(name.trim())).collect::<Result<Vec<_>, _>>()?.join(" "))
    }

    /// The fields that were read and the fields that were not, each in the order of the record. A field without content
    /// that was not read is in neither list. The third list names what stands beside the paths that were read, such as
    /// `answers[1]` beside `answers.0`.
    pub fn split(self) -> (Vec<&'a str>, Vec<&'a str>, Vec<String>) {
        let used = self.used.into_inner();
        let paths = self.paths.into_inner();
        let mut below = Vec::new();
        for name in used.iter().filter(|name| paths.iter().any(|(of, _)| of == *name)) {
            let read: Vec<&str> = paths.iter().filter(|(of, _)| of == name).map(|(_, path)| path.as_str()).collect();
            unread_below(&self.record[*name], name, &read, &mut below);
        }
        let unread = self.record.iter().filter(|(name, value)| !used.contains(&name.as_str()) && !is_blank(value));
        let unread = unread.map(|(name, _)| name.as_str()).collect();
        (used, unread, below)
    }
}

/// The value at a path; `None` if the value is missing or empty.
pub fn look<'a>(record: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    find(record, path).map(|(_, value)| value).filter(|value| !is_blank(value))
}

/// A record has few fields. Comparing their names takes less time than a hash.
const FEW: usize = 16;

fn entry<'a>(record: &'a Map<String, Value>, name: &str) -> Option<(&'a str, &'a Value)> {
    if record.len() > FEW {
        return record.get_key_value(name).map(|(name, value)| (name.as_str(), value));
    }
    record.iter().find(|(key, _)| *key == name).map(|(name, value)| (name.as_str(), value))
}

fn find<'a>(record: &'a Map<String, Value>, path: &str) -> Option<(&'a str, &'a Value)> {
    if let Some(entry) = entry(record, path) {
        return Some(entry);
    }
    let (first, rest) = path.split_once('.')?;
    let (name, mut value) = entry(record, first)?;
    for part in rest.split('.') {
        value = match value {
            Value::Object(entries) => entries.get(part)?,
            Value::Array(items) => items.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some((name, value))
}

/// The number of unread items of a list that are named. Lists can be long.
const NAMED_ITEMS: usize = 4;

/// Names the parts of a value that lie on none of the paths `read`.
fn unread_below(value: &Value, name: &str, read: &[&str], unread: &mut Vec<String>) {
    let below = |part: &str| -> Vec<&str> {
        let rest =
            |path: &&'_ str| path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        read.iter().filter(|path| rest(path)).map(|path| path.get(part.len() + 1..).unwrap_or_default()).collect()
    };
    let mut visit = |part: &str, name: &str, value: &Value| {
        let read = below(part);
        let is_unread = read.is_empty() && !is_blank(value);
        if is_unread {
            unread.push(name.to_owned());
        } else if !read.is_empty() {
            unread_below(value, name, &read, unread);
        }
        is_unread
    };
    match value {
        _ if read.contains(&"") => {}
        Value::Object(entries) => {
            for (key, value) in entries {
                visit(key, &format!("{name}.{key}"), value);
            }
        }
        Value::Array(items) => {
            let mut named = 0;
            for (index, item) in items.iter().enumerate() {
                named += usize::from(visit(&index.to_string(), &format!("{name}[{index}]"), item));
                if named == NAMED_ITEMS && index + 1 < items.len() {
                    unread.push(format!("{name}[{}..]", index + 1));
                    break;
                }
            }
        }
        _ => {}
    }
}

/// Whether a value holds nothing.
pub fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The description of a value for a message.
pub fn fields_of(value: &Value) -> String {
    match value {
        Value::Object(map) => fields_of_map(map),
        Value::Array(_) => "a list".to_owned(),
        Value::String(_) => "a text".to_owned(),
        Value::Number(_) if !is_exact(value) => {
            "a number of more digits than can be kept (write it as a text)".to_owned()
        }
        Value::Number(_) => "a number".to_owned(),
        Value::Bool(_) => "a truth value".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

fn fields_of_map(map: &Map<String, Value>) -> String {
    if map.is_empty() {
        return "no fields".to_owned();
    }
    let names: Vec<String> = map.keys().take(12).map(|key| format!("`{key}`")).collect();
    let more = if map.len() > 12 { format!(" and {} more", map.len() - 12) } else { String::new() };
    format!("the fields {}{more}", names.join(", "))
}

/// The reason to reject a record: the value of a field has the wrong type.
pub fn not_a(path: &str, value: &Value, wanted: &str) -> String {
    format!("`{path}` is {}, not a {wanted}", fields_of(value))
}

/// Whether no number in a value has lost digits. A number beyond the whole numbers of 64 bits is kept with about 16
/// digits.
pub fn is_exact(value: &Value) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => !number.is_f64() || number.as_f64().is_some_and(|float| float.abs() < EXACT),
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(entries) => entries.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// A text, a number or a truth value as text; `None` for another value, and for a number that has lost digits.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) if !is_exact(value) => None,
        Value::Number(number) => Some(match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        }),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// The list that a value holds: a list, or the JSON text of a list, as a table without nested columns has it. A single
/// object is a list of one.
///
/// # Errors
/// The value is no list.
pub fn list(value: &Value, name: &str) -> Result<Vec<Value>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items.clone()),
        Value::Object(_) => Ok(vec![value.clone()]),
        Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Array(items)) => Ok(items),
            Ok(object @ Value::Object(_)) => Ok(vec![object]),
            Ok(other) => Err(format!("the JSON text in `{name}` is {}, not a list", fields_of(&other))),
            Err(error) => Err(format!("`{name}` is a text, and no JSON list: {error}")),
        },
        other => Err(not_a(name, other, "list")),
    }
}
