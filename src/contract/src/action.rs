//! The action of a stage: everything that the result of the stage depends on. Key, explanation, plan and assignment all
//! use this one value. The engine decides which digests are in an action.
//!
//! The action key is the digest of the canonical JSON of the action. Action records and plan files also hold the action
//! as JSON; only [`Action::of_json`] reads this JSON. part.rs has the parameters and inputs of an action.

mod canonical;
mod part;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use raisin_base::digest::{Digest, canonical};
use raisin_base::error::{Context as _, Result, anyhow, bail};

use self::canonical::put_text;
pub use self::part::{GatheredArtifact, Input, Part};
use crate::{DType, Declaration, DeviceKind, Environment, Process, ResolvedParameters};

/// The version of the action format. Raise it if the meaning of an action changes; every key then changes.
pub const ACTION_FORMAT: u32 = 1;

/// A stage with everything resolved. An action borrows plain values from the pipeline, or from the JSON from which the
/// action was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Action<'a> {
    pub format: u32,
    pub kind: Cow<'a, str>,
    pub kind_version: u32,
    pub parameters: Part<'a>,
    /// The seed of the pipeline; `None` for kinds that draw no random numbers.
    pub seed: Option<u64>,
    /// `None` for kinds without tensors.
    pub environment: Option<NumericEnvironment>,
}

/// The part of the environment on which the last digits of a tensor stage depend. The device index is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumericEnvironment {
    pub device: DeviceKind,
    pub dtype: DType,
}

impl From<&Environment> for NumericEnvironment {
    fn from(environment: &Environment) -> Self {
        Self { device: environment.device, dtype: environment.dtype }
    }
}

impl<'a> Action<'a> {
    /// The action of a stage. `inputs` gives the input for the pointer of each need of the stage.
    ///
    /// # Errors
    /// The kind names an input at a pointer that leads to no parameter.
    pub fn of<'p>(
        declaration: &'a Declaration,
        resolved: &'a ResolvedParameters,
        inputs: impl IntoIterator<Item = (&'p str, Input<'a>)>,
        seed: u64,
        environment: &Environment,
    ) -> Result<Self> {
        let mut parameters = Part::plain(&resolved.parameters);
        for (pointer, input) in inputs {
            let place = parameters.at_mut(pointer).ok_or_else(|| {
                anyhow!("the kind `{}` names an input at {pointer}, but it has no such parameter", declaration.name)
            })?;
            *place = Part::Input(input);
        }
        for pointer in resolved.needs.files.iter().filter_map(|file| file.expected_digest_pointer.as_deref()) {
            // The action contains the digest of the file. The expected digest adds nothing and is therefore left out.
            if let Some(digest) = parameters.at_mut(pointer) {
                *digest = Part::Input(Input::Plain(Cow::Owned(Value::Null)));
            }
        }
        for (pointer, value) in &resolved.needs.replaced {
            if let Some(place) = parameters.at_mut(pointer) {
                *place = Part::plain(value);
            }
        }
        for pointer in &resolved.needs.ignored {
            parameters.remove(pointer);
        }
        Ok(Self {
            format: ACTION_FORMAT,
            kind: Cow::Borrowed(declaration.name),
            kind_version: declaration.version,
            parameters,
            seed: resolved.is_seeded.then_some(seed),
            environment: (declaration.process == Process::Tensor).then(|| environment.into()),
        })
    }

    /// The action key; `None` while an input is pending.
    pub fn key(&self) -> Option<Digest> {
        (!self.parameters.is_pending()).then(|| Digest::of(self.canonical().as_bytes()))
    }

    /// The input at the pointer of a parameter.
    pub fn input(&self, pointer: &str) -> Option<&Input<'a>> {
        match self.parameters.at(pointer)? {
            Part::Input(input) => Some(input),
            _ => None,
        }
    }

    /// The canonical JSON of the action. The key is the digest of these bytes. For the same action, the bytes must
    /// never change.
    pub fn canonical(&self) -> String {
        let mut text = String::with_capacity(1024);
        text.push('{');
        if let Some(environment) = &self.environment {
            text.push_str("\"environment\":");
            text.push_str(&canonical(&json!(environment)));
            text.push(',');
        }
        text.push_str(&format!("\"format\":{},\"kind\":", self.format));
        put_text(&self.kind, &mut text);
        text.push_str(&format!(",\"kind_version\":{},\"parameters\":", self.kind_version));
        self.parameters.put_canonical(&mut text);
        if let Some(seed) = self.seed {
            text.push_str(&format!(",\"seed\":{seed}"));
        }
        text.push('}');
        text
    }

    /// The action as JSON, for action records and plan files.
    pub fn to_json(&self) -> Value {
        let mut action = Map::new();
        action.insert("format".into(), json!(self.format));
        action.insert("kind".into(), json!(self.kind));
        action.insert("kind_version".into(), json!(self.kind_version));
        action.insert("parameters".into(), self.parameters.to_json());
        if let Some(seed) = self.seed {
            action.insert("seed".into(), json!(seed));
        }
        if let Some(environment) = &self.environment {
            action.insert("environment".into(), json!(environment));
        }
        Value::Object(action)
    }

    /// Reads the output of [`Self::to_json`]. An object is an input if it has exactly the form that [`Input::to_json`]
    /// writes.
    ///
    /// # Errors
    /// The JSON is not an action: a member is missing, or unknown to this version of raisin.
    pub fn of_json(json: &'a Value) -> Result<Self> {
        let action = json.as_object().context("an action is a JSON object")?;
        let known = ["format", "kind", "kind_version", "parameters", "seed", "environment"];
        if let Some(unknown) = action.keys().find(|name| !known.contains(&name.as_str())) {
            bail!("an action has no member `{unknown}`");
        }
        let number = |name: &str| {
            let number = action.get(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
            number.with_context(|| format!("the `{name}` of an action is a whole number"))
        };
        let seed = action.get("seed").map(|seed| seed.as_u64().context("the `seed` of an action is a whole number"));
        let environment = action.get("environment").map(NumericEnvironment::deserialize).transpose();
        Ok(Self {
            format: number("format")?,
            kind: Cow::Borrowed(
                action.get("kind").and_then(Value::as_str).context("the `kind` of an action is a text")?,
            ),
            kind_version: number("kind_version")?,
            parameters: Part::of_json(action.get("parameters").context("an action has `parameters`")?),
            seed: seed.transpose()?,
            environment: environment.context("the `environment` of an action is unreadable")?,
        })
    }

    /// The same action, with owned values only.
    pub fn into_owned(self) -> Action<'static> {
        Action {
            format: self.format,
            kind: Cow::Owned(self.kind.into_owned()),
            kind_version: self.kind_version,
            parameters: self.parameters.into_owned(),
            seed: self.seed,
            environment: self.environment,
        }
    }

    /// All values that the key depends on: dotted path (`parameters.clusters`, `seed`) and value.
    pub fn leaves(&self) -> Vec<(String, String)> {
        fn below(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
            let name = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            match value {
                Value::Object(entries) if !entries.is_empty() => {
                    entries.iter().for_each(|(key, value)| below(&name(key), value, found));
                }
                Value::Array(items) if !items.is_empty() => {
                    items.iter().enumerate().for_each(|(place, value)| below(&name(&place.to_string()), value, found));
                }
                Value::String(text) => found.push((path.to_owned(), text.clone())),
                other => found.push((path.to_owned(), other.to_string())),
            }
        }
        let mut found = Vec::new();
        below("", &self.to_json(), &mut found);
        found
    }
}
