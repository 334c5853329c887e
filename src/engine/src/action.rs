//! The action of a stage: everything that its result depends on, as one JSON value.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::resolve::GatheredEntry;
use raisin_base::digest::Digest;
use raisin_base::error::{Result, anyhow};
use raisin_contract::{Declaration, Environment, Process, Resolved};

/// Raised when the meaning of an action changes; every key changes with it.
pub const ACTION_FORMAT: u32 = 1;

/// The key of an action.
pub fn key_of(action: &Value) -> Digest {
    Digest::of_json(action)
}

/// The value that stands for an input stage; without a digest while its artifact is still to be made.
pub fn artifact_value(digest: Option<Digest>) -> Value {
    json!({ "artifact": digest })
}

/// The value that stands for the gathered artifacts of an input stage.
pub fn artifacts_value(entries: &[GatheredEntry]) -> Value {
    let entries: Vec<Value> = entries
        .iter()
        .map(|entry| json!({ "stage": entry.stage, "variant": entry.variant, "artifact": entry.artifact }))
        .collect();
    json!({ "artifacts": entries })
}

/// The value that stands for an input file.
pub fn file_value(blake3: Digest, name: &str) -> Value {
    json!({ "file": blake3, "name": name })
}

/// The value that stands for the files of a folder or a pattern, by their names below it.
pub fn files_value(files: &BTreeMap<String, Digest>) -> Value {
    json!({ "files": files })
}

/// Puts an action together: `inputs` holds what stands at the pointers of the stage's needs.
pub fn action(
    declaration: &Declaration,
    resolved: &Resolved,
    inputs: impl IntoIterator<Item = (String, Value)>,
    seed: u64,
    environment: &Environment,
) -> Result<Value> {
    let mut parameters = resolved.parameters.clone();
    for (pointer, value) in inputs {
        *at(&mut parameters, &pointer, declaration)? = value;
    }
    for file in &resolved.needs.files {
        // The pin says nothing that the file's own digest does not say.
        if let Some(pointer) = &file.pin_pointer
            && let Some(pin) = parameters.pointer_mut(pointer)
        {
            *pin = Value::Null;
        }
    }
    let mut action = Map::new();
    action.insert("format".into(), json!(ACTION_FORMAT));
    action.insert("kind".into(), json!(declaration.name));
    action.insert("kind_version".into(), json!(declaration.version));
    action.insert("parameters".into(), parameters);
    if declaration.seeded {
        action.insert("seed".into(), json!(seed));
    }
    if declaration.process == Process::Tensor {
        action.insert("environment".into(), json!({ "device": environment.device, "dtype": environment.dtype }));
    }
    Ok(Value::Object(action))
}

fn at<'a>(parameters: &'a mut Value, pointer: &str, declaration: &Declaration) -> Result<&'a mut Value> {
    parameters
        .pointer_mut(pointer)
        .ok_or_else(|| anyhow!("the kind `{}` names an input at {pointer}, where no parameter is", declaration.name))
}
