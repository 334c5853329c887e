//! The parameters of an action: a tree whose leaves are plain values and inputs, and its JSON. canonical.rs writes the
//! pieces of canonical JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::canonical::{put_all, put_digest, put_table, put_text};
use crate::pointer::segments;
use raisin_base::digest::{Digest, canonical};
use raisin_base::error::{Result, bail, ensure};

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
    /// The name of the stage; empty if the result does not depend on it.
    pub stage: String,
    pub variant: Map<String, Value>,
    /// `None` until the stage has made the artifact.
    pub artifact: Option<Digest>,
}

impl<'a> Part<'a> {
    /// A part with plain values only, even if an object in `value` has the form of an input.
    pub fn plain(value: &'a Value) -> Self {
        Self::of(value, &|_| None)
    }

    /// Reads the output of [`Self::to_json`].
    pub(super) fn of_json(value: &'a Value) -> Self {
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

    /// The entry with this name, if the part is a table.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Table(entries) = self else { return None };
        entries.iter().find(|(key, _)| key == name).map(|(_, part)| part)
    }

    /// The part at a pointer (RFC 6901).
    pub(super) fn at(&self, pointer: &str) -> Option<&Self> {
        segments(pointer).try_fold(self, |part, segment| match part {
            Self::Table(_) => part.get(&segment),
            Self::List(items) => items.get(segment.parse::<usize>().ok()?),
            Self::Input(_) => None,
        })
    }

    pub(super) fn at_mut(&mut self, pointer: &str) -> Option<&mut Self> {
        segments(pointer).try_fold(self, |part, segment| match part {
            Self::Table(entries) => entries.iter_mut().find(|(name, _)| *name == segment).map(|(_, part)| part),
            Self::List(items) => items.get_mut(segment.parse::<usize>().ok()?),
            Self::Input(_) => None,
        })
    }

    /// All inputs of the part that are not plain values, with their pointers (RFC 6901).
    pub fn inputs(&self) -> Vec<(String, &Input<'a>)> {
        fn below<'p, 'a>(part: &'p Part<'a>, pointer: &str, found: &mut Vec<(String, &'p Input<'a>)>) {
            match part {
                Part::Table(entries) => entries.iter().for_each(|(name, part)| {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    below(part, &format!("{pointer}/{name}"), found);
                }),
                Part::List(items) => {
                    items
                        .iter()
                        .enumerate()
                        .for_each(|(place, part)| below(part, &format!("{pointer}/{place}"), found));
                }
                Part::Input(Input::Plain(_)) => {}
                Part::Input(input) => found.push((pointer.to_owned(), input)),
            }
        }
        let mut found = Vec::new();
        below(self, "", &mut found);
        found
    }

    /// Removes the entry of a table at a pointer.
    pub(super) fn remove(&mut self, pointer: &str) {
        let Some((table, _)) = pointer.rsplit_once('/') else { return };
        let Some(name) = segments(pointer).last() else { return };
        if let Some(Self::Table(entries)) = self.at_mut(table) {
            entries.retain(|(entry, _)| *entry != name);
        }
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

    pub(super) fn put_canonical(&self, text: &mut String) {
        match self {
            Self::Table(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                put_table(text, sorted.into_iter().map(|(name, part)| (name.as_ref(), part)), Self::put_canonical);
            }
            Self::List(items) => put_all(text, ['[', ']'], items, Self::put_canonical),
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

    pub(super) fn into_owned(self) -> Part<'static> {
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
            (Self::Table(entries), Self::Table(others)) => {
                entries.len() == others.len() && entries.iter().all(|(name, part)| other.get(name) == Some(part))
            }
            (Self::List(one), Self::List(other)) => one == other,
            (Self::Input(one), Self::Input(other)) => one == other,
            _ => false,
        }
    }
}

impl Input<'_> {
    /// `None` if all artifacts of the input exist. Otherwise the stage name of a missing artifact: `Some(Some(name))`
    /// for artifacts that are gathered by name, `Some(None)` for an artifact that has no name here.
    pub fn pending(&self) -> Option<Option<&str>> {
        match self {
            Self::Artifact(None) => Some(None),
            Self::Artifacts(all) => {
                let missing = all.iter().find(|one| one.artifact.is_none());
                missing.map(|one| Some(one.stage.as_str()).filter(|name| !name.is_empty()))
            }
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
                put_all(text, ['[', ']'], all, |one, text| {
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
                json!({ "artifacts": all.iter().map(GatheredArtifact::to_json).collect::<Vec<_>>() })
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
                    ("artifact", value) => Some(Self::Artifact(digest_or_null(value).ok()?)),
                    ("artifacts", Value::Array(all)) => {
                        Some(Self::Artifacts(all.iter().map(GatheredArtifact::of_json).collect::<Option<_>>()?))
                    }
                    ("files", Value::Object(files)) => {
                        let file =
                            |(name, value): (&String, &Value)| Some((name.clone(), digest_or_null(value).ok()??));
                        Some(Self::Files(Arc::new(files.iter().map(file).collect::<Option<_>>()?)))
                    }
                    _ => None,
                }
            }
            2 => {
                let (blake3, name) = (digest_or_null(map.get("file")?).ok()??, map.get("name")?.as_str()?);
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
    fn to_json(&self) -> Value {
        json!({ "stage": self.stage, "variant": self.variant, "artifact": self.artifact })
    }

    fn of_json(value: &Value) -> Option<Self> {
        let map = value.as_object().filter(|map| map.len() == 3)?;
        Some(Self {
            stage: map.get("stage")?.as_str()?.to_owned(),
            variant: map.get("variant")?.as_object()?.clone(),
            artifact: digest_or_null(map.get("artifact")?).ok()?,
        })
    }
}

/// Reads a digest or null. The text must have exactly the form in which digests are written.
fn digest_or_null(value: &Value) -> Result<Option<Digest>> {
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
