//! The action of a stage: everything that the result of the stage depends on. Key, explanation, plan and assignment all
//! use this one value. The engine decides which digests are in an action.
//!
//! The action key is the digest of the canonical JSON of the action. Action records and plan files also hold the action
//! as JSON; only [`Action::of_json`] reads this JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use raisin_base::digest::{Digest, canonical};
use raisin_base::error::{Context as _, Result, anyhow, bail, ensure};

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

/// A part of the parameters: a tree whose leaves are inputs.
#[derive(Clone, Debug)]
pub enum Part<'a> {
    /// Names and parts, in the order in which the kind declares them.
    Table(Vec<(Cow<'a, str>, Part<'a>)>),
    List(Vec<Part<'a>>),
    Input(Input<'a>),
}

/// A leaf of the parameters: a plain value, or an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<'a> {
    /// A text, a number, true, false or null.
    Plain(Cow<'a, Value>),
    /// The artifact of a stage; `None` until the stage has made the artifact.
    Artifact(Option<Digest>),
    /// The artifacts of a stage in all variants, for a gathering kind.
    Artifacts(Vec<GatheredArtifact>),
    /// A file: the digest of its content, and its name without folders.
    File { blake3: Digest, name: String },
    /// The files of a folder or a pattern: the digest of each file, by its path relative to the folder.
    Files(Arc<BTreeMap<String, Digest>>),
}

/// An artifact that a gathering stage sees, with the values of the sweep in its variant.
#[derive(Clone, Debug, PartialEq)]
pub struct GatheredArtifact {
    pub stage: String,
    pub variant: Map<String, Value>,
    /// `None` until the stage has made the artifact.
    pub artifact: Option<Digest>,
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
        Ok(Self {
            format: ACTION_FORMAT,
            kind: Cow::Borrowed(declaration.name),
            kind_version: declaration.version,
            parameters,
            seed: declaration.seeded.then_some(seed),
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

impl Serialize for Action<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Action<'static> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Value::deserialize(deserializer)?;
        Action::of_json(&json).map(Action::into_owned).map_err(serde::de::Error::custom)
    }
}

impl<'a> Part<'a> {
    /// A part with plain values only, even if an object in `value` has the form of an input.
    pub fn plain(value: &'a Value) -> Self {
        Self::of(value, &|_| None)
    }

    /// Reads the output of [`Self::to_json`].
    fn of_json(value: &'a Value) -> Self {
        Self::of(value, &Input::of_json)
    }

    fn of(value: &'a Value, input: &impl Fn(&Map<String, Value>) -> Option<Input<'a>>) -> Self {
        match value {
            Value::Object(map) => match input(map) {
                Some(input) => Self::Input(input),
                None => {
                    let entry =
                        |(name, value): (&'a String, &'a Value)| (Cow::from(name.as_str()), Self::of(value, input));
                    Self::Table(map.iter().map(entry).collect())
                }
            },
            Value::Array(items) => Self::List(items.iter().map(|item| Self::of(item, input)).collect()),
            scalar => Self::Input(Input::Plain(Cow::Borrowed(scalar))),
        }
    }

    /// The part at a pointer (RFC 6901).
    fn at(&self, pointer: &str) -> Option<&Self> {
        pointer.split('/').skip(1).try_fold(self, |part, segment| match part {
            Self::Table(entries) => {
                let segment = unescaped(segment);
                entries.iter().find(|(name, _)| *name == segment).map(|(_, part)| part)
            }
            Self::List(items) => items.get(segment.parse::<usize>().ok()?),
            Self::Input(_) => None,
        })
    }

    fn at_mut(&mut self, pointer: &str) -> Option<&mut Self> {
        pointer.split('/').skip(1).try_fold(self, |part, segment| match part {
            Self::Table(entries) => {
                let segment = unescaped(segment);
                entries.iter_mut().find(|(name, _)| *name == segment).map(|(_, part)| part)
            }
            Self::List(items) => items.get_mut(segment.parse::<usize>().ok()?),
            Self::Input(_) => None,
        })
    }

    /// Whether the part contains an artifact that no stage has made yet.
    pub fn is_pending(&self) -> bool {
        match self {
            Self::Table(entries) => entries.iter().any(|(_, part)| part.is_pending()),
            Self::List(items) => items.iter().any(Self::is_pending),
            Self::Input(input) => input.pending().is_some(),
        }
    }

    /// The canonical JSON of this part.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        self.put_canonical(&mut text);
        text
    }

    fn put_canonical(&self, text: &mut String) {
        match self {
            Self::Table(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                put_table(text, sorted.into_iter().map(|(name, part)| (name.as_ref(), part)), Self::put_canonical);
            }
            Self::List(items) => put_list(text, items, Self::put_canonical),
            Self::Input(input) => input.put_canonical(text),
        }
    }

    pub fn to_json(&self) -> Value {
        match self {
            Self::Table(entries) => {
                Value::Object(entries.iter().map(|(name, part)| (name.clone().into_owned(), part.to_json())).collect())
            }
            Self::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Self::Input(input) => input.to_json(),
        }
    }

    fn into_owned(self) -> Part<'static> {
        match self {
            Self::Table(entries) => {
                let owned = |(name, part): (Cow<'_, str>, Self)| (Cow::Owned(name.into_owned()), part.into_owned());
                Part::Table(entries.into_iter().map(owned).collect())
            }
            Self::List(items) => Part::List(items.into_iter().map(Self::into_owned).collect()),
            Self::Input(input) => Part::Input(input.into_owned()),
        }
    }
}

/// The order of entries in a table does not matter for equality.
impl PartialEq for Part<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Table(one), Self::Table(other)) => {
                let value = |name: &str| other.iter().find(|(key, _)| key == name).map(|(_, part)| part);
                one.len() == other.len() && one.iter().all(|(name, part)| value(name) == Some(part))
            }
            (Self::List(one), Self::List(other)) => one == other,
            (Self::Input(one), Self::Input(other)) => one == other,
            _ => false,
        }
    }
}

impl Input<'_> {
    /// `None` if all artifacts of the input exist. Otherwise the stage name of a missing artifact: `Some(Some(name))`
    /// for gathered artifacts, `Some(None)` for a single artifact, which has no name here.
    pub fn pending(&self) -> Option<Option<&str>> {
        match self {
            Self::Artifact(None) => Some(None),
            Self::Artifacts(all) => all.iter().find(|one| one.artifact.is_none()).map(|one| Some(one.stage.as_str())),
            _ => None,
        }
    }

    fn put_canonical(&self, text: &mut String) {
        match self {
            Self::Plain(value) => match value.as_ref() {
                Value::String(plain) => put_text(plain, text),
                other => text.push_str(&canonical(other)),
            },
            Self::Artifact(artifact) => {
                text.push_str("{\"artifact\":");
                put_digest(*artifact, text);
                text.push('}');
            }
            Self::Artifacts(all) => {
                text.push_str("{\"artifacts\":");
                put_list(text, all, |one, text| {
                    text.push_str("{\"artifact\":");
                    put_digest(one.artifact, text);
                    text.push_str(",\"stage\":");
                    put_text(&one.stage, text);
                    text.push_str(",\"variant\":");
                    text.push_str(&canonical(&Value::Object(one.variant.clone())));
                    text.push('}');
                });
                text.push('}');
            }
            Self::File { blake3, name } => {
                text.push_str("{\"file\":");
                put_digest(Some(*blake3), text);
                text.push_str(",\"name\":");
                put_text(name, text);
                text.push('}');
            }
            Self::Files(files) => {
                text.push_str("{\"files\":");
                let sorted = files.iter().map(|(name, digest)| (name.as_str(), digest));
                put_table(text, sorted, |digest, text| put_digest(Some(*digest), text));
                text.push('}');
            }
        }
    }

    pub fn to_json(&self) -> Value {
        match self {
            Self::Plain(value) => value.clone().into_owned(),
            Self::Artifact(artifact) => json!({ "artifact": artifact }),
            Self::Artifacts(all) => {
                let entry = |one: &GatheredArtifact| json!({ "stage": one.stage, "variant": one.variant, "artifact": one.artifact });
                json!({ "artifacts": all.iter().map(entry).collect::<Vec<_>>() })
            }
            Self::File { blake3, name } => json!({ "file": blake3, "name": name }),
            Self::Files(files) => json!({ "files": **files }),
        }
    }

    /// The input that [`Self::to_json`] writes as this object; `None` for any other object.
    fn of_json(map: &Map<String, Value>) -> Option<Self> {
        match map.len() {
            1 => {
                let (name, value) = map.iter().next()?;
                match (name.as_str(), value) {
                    ("artifact", value) => Some(Self::Artifact(artifact(value).ok()?)),
                    ("artifacts", Value::Array(all)) => {
                        Some(Self::Artifacts(all.iter().map(GatheredArtifact::of_json).collect::<Option<_>>()?))
                    }
                    ("files", Value::Object(files)) => {
                        let file = |(name, value): (&String, &Value)| Some((name.clone(), artifact(value).ok()??));
                        Some(Self::Files(Arc::new(files.iter().map(file).collect::<Option<_>>()?)))
                    }
                    _ => None,
                }
            }
            2 => {
                let (blake3, name) = (artifact(map.get("file")?).ok()??, map.get("name")?.as_str()?);
                Some(Self::File { blake3, name: name.to_owned() })
            }
            _ => None,
        }
    }

    fn into_owned(self) -> Input<'static> {
        match self {
            Self::Plain(value) => Input::Plain(Cow::Owned(value.into_owned())),
            Self::Artifact(artifact) => Input::Artifact(artifact),
            Self::Artifacts(all) => Input::Artifacts(all),
            Self::File { blake3, name } => Input::File { blake3, name },
            Self::Files(files) => Input::Files(files),
        }
    }
}

impl GatheredArtifact {
    fn of_json(value: &Value) -> Option<Self> {
        let map = value.as_object().filter(|map| map.len() == 3)?;
        Some(Self {
            stage: map.get("stage")?.as_str()?.to_owned(),
            variant: map.get("variant")?.as_object()?.clone(),
            artifact: artifact(map.get("artifact")?).ok()?,
        })
    }
}

/// Reads a digest or null. The text must have exactly the form in which digests are written.
fn artifact(value: &Value) -> Result<Option<Digest>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => {
            let digest: Digest = text.parse()?;
            ensure!(digest.to_hex() == *text, "a digest is written in lower-case digits");
            Ok(Some(digest))
        }
        _ => bail!("a digest is a text"),
    }
}

fn unescaped(segment: &str) -> Cow<'_, str> {
    if segment.contains('~') { segment.replace("~1", "/").replace("~0", "~").into() } else { segment.into() }
}

fn put_digest(digest: Option<Digest>, text: &mut String) {
    match digest {
        Some(digest) => {
            text.push('"');
            text.push_str(&digest.to_hex());
            text.push('"');
        }
        None => text.push_str("null"),
    }
}

/// Appends a text as serde_json writes it. A text without special characters, the common case, needs no escape.
fn put_text(plain: &str, text: &mut String) {
    if plain.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        return text.push_str(&Value::from(plain).to_string());
    }
    text.push('"');
    text.push_str(plain);
    text.push('"');
}

fn put_list<T>(text: &mut String, items: &[T], put: impl Fn(&T, &mut String)) {
    text.push('[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        put(item, text);
    }
    text.push(']');
}

fn put_table<'t, T: 't>(
    text: &mut String,
    sorted: impl Iterator<Item = (&'t str, &'t T)>,
    put: impl Fn(&T, &mut String),
) {
    text.push('{');
    for (place, (name, value)) in sorted.enumerate() {
        if place > 0 {
            text.push(',');
        }
        put_text(name, text);
        text.push(':');
        put(value, text);
    }
    text.push('}');
}

#[cfg(test)]
mod tests;
