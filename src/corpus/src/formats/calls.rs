//! Tools and calls of tools in the forms in which data sets have them, as the objects of the OpenAI interface.

use serde_json::{Map, Value, json};

use super::fields::{fields_of, is_exact, list};

/// The calls of a turn: a list, a single call, or the JSON text of one of them. Each call becomes `{"type": "function",
/// "function": {"name", "arguments": {...}}, "id"?}`.
///
/// # Errors
/// A call has no name, or its arguments are no object.
pub fn calls(value: &Value, key: &str) -> Result<Vec<Value>, String> {
    list(value, key)?.iter().map(|item| call(item, key)).collect()
}

fn call(item: &Value, key: &str) -> Result<Value, String> {
    let parsed;
    let object = match item {
        Value::Object(object) => object,
        Value::String(text) => {
            parsed = serde_json::from_str::<Map<String, Value>>(text)
                .map_err(|error| format!("has in `{key}` a text that is no JSON object: {error}"))?;
            &parsed
        }
        other => return Err(format!("has in `{key}` {}, not a call", fields_of(other))),
    };
    let function = object.get("function").and_then(Value::as_object).unwrap_or(object);
    let name = function.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| format!("has in `{key}` a call without a `name`"))?;
    let given = ["arguments", "parameters", "input"].iter().find_map(|key| function.get(*key));
    let arguments = match given {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| format!("has arguments of the call `{name}` that are not valid JSON: {error}"))?,
        Some(other) => other.clone(),
    };
    if !arguments.is_object() {
        return Err(format!("has as arguments of the call `{name}` {}, not an object", fields_of(&arguments)));
    }
    if !is_exact(&arguments) {
        return Err(format!(
            "has an argument of the call `{name}` that is a number of more digits than can be kept; write it as a text"
        ));
    }
    let mut call = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
    let id = ["id", "call_id", "tool_call_id"].iter().find_map(|key| object.get(*key)).and_then(Value::as_str);
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        call["id"] = json!(id);
    }
    Ok(call)
}

/// The tools that a conversation may use: a list, a single tool, or the JSON text of one of them. Each tool becomes
/// `{"type": "function", "function": {"name", "description", "parameters"}}`.
///
/// # Errors
/// A tool has no name.
pub fn tools(value: &Value, key: &str) -> Result<Vec<Value>, String> {
    list(value, key)?.iter().map(|item| tool(item, key)).collect()
}

fn tool(item: &Value, key: &str) -> Result<Value, String> {
    if let Value::String(text) = item {
        let parsed = serde_json::from_str(text)
            .map_err(|error| format!("`{key}` holds a text that is no JSON object: {error}"))?;
        return match parsed {
            Value::String(_) => Err(format!("`{key}` holds a text that is no JSON object")),
            parsed => tool(&parsed, key),
        };
    }
    let named = |object: &Value| object["name"].as_str().is_some_and(|name| !name.is_empty());
    if named(&item["function"]) {
        let mut tool = item.clone();
        tool["type"] = json!("function");
        return Ok(tool);
    }
    if !named(item) {
        return Err(format!("`{key}` holds {}, and no tool with a `name`", fields_of(item)));
    }
    let mut function = item.clone();
    if let Value::Object(entries) = &mut function {
        entries.shift_remove("type");
        if let Some(schema) = entries.shift_remove("input_schema") {
            entries.insert("parameters".to_owned(), schema);
        }
    }
    Ok(json!({"type": "function", "function": function}))
}
