//! The JSON Schema of pipeline files, made from the parameter types of the kinds. Editors use the schema for completion
//! and checks; raisin itself checks pipelines in check.rs.
//!
//! The schema is Draft 7, because TOML language servers read Draft 7.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Resources;
use raisin_contract::query::RESERVED_SCHEMAS;
use raisin_contract::{DType, Declaration};

/// The schema of a whole pipeline file. A paragraph of a description has no line breaks.
pub fn of(kinds: &[Declaration]) -> Value {
    let mut generator = SchemaSettings::draft07().for_deserialize().into_generator();
    let mut choices = Vec::new();
    for kind in kinds {
        let parameters = kind.schema(&mut generator).to_value();
        choices.push(stage(kind, parameters, &mut generator));
    }
    let dtype = generator.subschema_for::<DType>().to_value();
    let executor = super::executor::schema(&mut generator);
    let definitions: Map<String, Value> = generator.take_definitions(true);
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A raisin pipeline",
        "type": "object",
        "properties": {
            "include": {
                "description": "Pipeline files to include, relative to this file. The values in this file take precedence.",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "pipeline": {
                "type": "object",
                "properties": {
                    "name": {
                        "description": "The folder under out/. Default: the file's name without `.toml`.",
                        "type": "string",
                        "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]*$",
                    },
                    "seed": {
                        "description": "The seed from which the random draws of the stages derive, unless a parameter \
                                        gives a seed of its own. Default: 0.",
                        "type": "integer",
                        "minimum": 0,
                    },
                    "dtype": {
                        "description": "The dtype of matrix products. Default: f32 on a CPU, bf16 on CUDA.",
                        "allOf": [dtype],
                    },
                },
                "additionalProperties": false,
            },
            "cache": super::cache::schema(),
            "executor": executor,
            "stage": {
                "description": "The stages, by name.",
                "type": "object",
                "propertyNames": { "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]*$", "not": { "enum": RESERVED_SCHEMAS } },
                "additionalProperties": { "oneOf": choices },
            },
            "sweep": {
                "description": "Dotted keys such as \"stage.tuned.select.method\", each with an array of values. Every combination is a variant.",
                "type": "object",
                "additionalProperties": { "type": ["array", "object"] },
            },
        },
        "additionalProperties": false,
        "definitions": definitions,
    });
    join_lines(&mut schema);
    schema
}

/// The schema of the parameters of one kind, with the definitions to which it refers. A paragraph of a description has
/// no line breaks.
pub fn of_kind(kind: &Declaration) -> Value {
    let mut generator = SchemaSettings::draft07().for_deserialize().into_generator();
    let parameters = kind.schema(&mut generator).to_value();
    let mut schema = stage(kind, parameters, &mut generator);
    schema["definitions"] = Value::Object(generator.take_definitions(true).into_iter().collect());
    join_lines(&mut schema);
    schema
}

/// Removes the line breaks of the source code from all descriptions.
fn join_lines(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::String(description)) = members.get_mut("description") {
                let paragraphs: Vec<String> = description.split("\n\n").map(|text| text.replace('\n', " ")).collect();
                *description = paragraphs.join("\n\n");
            }
            members.values_mut().for_each(join_lines);
        }
        Value::Array(values) => values.iter_mut().for_each(join_lines),
        _ => {}
    }
}

/// The content of `schemas/pipeline.schema.json`.
pub fn text(kinds: &[Declaration]) -> String {
    format!("{:#}\n", of(kinds))
}

fn stage(kind: &Declaration, parameters: Value, generator: &mut SchemaGenerator) -> Value {
    let mut properties = Map::new();
    properties.insert("kind".to_owned(), json!({ "description": kind.about, "const": kind.name }));
    if let Some(known) = parameters.get("properties").and_then(Value::as_object) {
        properties.extend(known.clone());
    }
    let resources = generator.subschema_for::<Resources>().to_value();
    let about = "What the stage may take of the machine while it runs. Resources are not part of the action key.";
    properties.insert("resources".to_owned(), json!({ "description": about, "allOf": [resources] }));
    if kind.seeded {
        let about = "The seed of this stage, in place of `pipeline.seed`.";
        properties.insert("seed".to_owned(), json!({ "description": about, "type": "integer", "minimum": 0 }));
    }
    let mut required = vec![json!("kind")];
    required.extend(parameters.get("required").and_then(Value::as_array).into_iter().flatten().cloned());
    json!({
        "title": kind.name,
        "description": kind.about,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}
