//! `raisin kinds`: prints the stage kinds and their parameters, from the JSON Schema that editors also use.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use raisin_base::error::{Problem, Result, nearest};
use raisin_contract::Declaration;
use raisin_kinds::{KINDS, declaration};
use raisin_pipeline::schema;

/// List the stage kinds, or one kind's parameters.
#[derive(Args)]
pub struct Arguments {
    /// A stage kind.
    name: Option<String>,
}

/// The most characters of a line of a description.
const WIDTH: usize = 94;

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let text = match &arguments.name {
        None => list(KINDS),
        Some(name) => match declaration(name) {
            Some(kind) => describe(kind),
            None => {
                let problem = Problem::usage(format!("there is no kind `{name}`"));
                let hint = match nearest(name, KINDS.iter().map(|kind| kind.name)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`raisin kinds` lists them".to_owned(),
                };
                return Err(problem.hint(hint).into());
            }
        },
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(kinds: &[Declaration]) -> String {
    let width = kinds.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    kinds.iter().map(|kind| format!("{:width$}  {}\n", kind.name, kind.about)).collect()
}

fn describe(kind: &Declaration) -> String {
    let schema = schema::of_kind(kind);
    let mut text = format!("{}: {}\n", kind.name, kind.about);
    if !kind.provides.is_empty() {
        let _ = writeln!(text, "provides: {}", kind.provides.join(", "));
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // Every stage has these two properties.
        if name == "kind" || name == "resources" {
            continue;
        }
        let state = match property.get("default") {
            Some(default) => format!("default {default}"),
            None if required.contains(&name.as_str()) => "required".to_owned(),
            None => "optional".to_owned(),
        };
        let _ = writeln!(text, "\n  {name}  ({}; {state})", type_of(property));
        let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
        for line in description.lines().flat_map(wrapped) {
            let _ = writeln!(text, "      {line}");
        }
    }
    text
}

/// A paragraph as lines of at most [`WIDTH`] characters, unless a word is longer.
fn wrapped(paragraph: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in paragraph.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The type of a property: `integer`, `array`, or the name of a type with its own definition.
fn type_of(property: &Value) -> String {
    if let Some(name) = property.get("$ref").and_then(Value::as_str) {
        return name.rsplit('/').next().unwrap_or(name).to_owned();
    }
    match property.get("type") {
        Some(Value::String(name)) if name == "array" => {
            property.get("items").map_or_else(|| name.clone(), |items| format!("array of {}", type_of(items)))
        }
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect::<Vec<_>>().join(" or ")
        }
        _ => ["allOf", "anyOf", "oneOf"]
            .iter()
            .filter_map(|key| property.get(key)?.as_array())
            .flatten()
            .map(type_of)
            .filter(|name| name != "null")
            .collect::<Vec<_>>()
            .join(" or "),
    }
}
