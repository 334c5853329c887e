//! `resources = { ... }` of a stage: what the stage may take of the machine while it runs. Resources are never part of
//! an action key. The engine schedules stages by their resources.

use serde::{Deserialize, Serialize};

/// The resources that a stage declares. The engine chooses the other resources by the kind of the stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// The number of threads of a tensor stage or a `command`. Default: the cores, divided by the number of stages that `-j` allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The maximum memory of the stage, such as "4GB". Stages run at the same time only if their memory fits together.
    /// A stage that takes more fails. Default: 1GB for a tensor stage or a `command`, 256MB for another stage. Without this key, a
    /// tensor stage has no limit, and another stage is held to half of the machine's memory.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text")]
    #[schemars(with = "Option<String>")]
    pub memory: Option<u64>,
    /// The share of a GPU that a tensor stage or a `command` takes: with 1 it has the GPU alone, with 0.5 two stages share
    /// the GPU. Default: 1; for a `command` none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<f64>,
}

impl Resources {
    /// An impossible value that the types allow: the name of the parameter, and the message.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        if self.threads == Some(0) {
            return Some(("threads", "nothing runs with 0 threads"));
        }
        if self.gpus.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Some(("gpus", "a stage takes more than 0 and at most 1 of a GPU"));
        }
        None
    }
}

/// Reads a size such as `500MB` or `20GB`, in bytes. The units are powers of 1000.
pub fn bytes(text: &str) -> Option<u64> {
    let at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..at].trim().parse().ok().filter(|number| *number >= 0.0)?;
    let unit = match text[at..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "T" | "TB" => 1e12,
        _ => return None,
    };
    Some((number * unit) as u64)
}

/// Reads and writes a number of bytes as text with a unit.
mod text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub fn serialize<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&format!("{bytes}B")),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let bytes = super::bytes(&text);
        bytes
            .map(Some)
            .ok_or_else(|| serde::de::Error::custom(format!("a size looks like 500MB or 20GB, not `{text}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(bytes("20GB"), Some(20_000_000_000));
        assert_eq!((bytes("500mb"), bytes("1.5 k"), bytes("17")), (Some(500_000_000), Some(1500), Some(17)));
        assert_eq!([bytes("much"), bytes("3 parsecs"), bytes("-1GB"), bytes("")], [None; 4]);
    }

    #[test]
    fn resources_come_back_as_they_were_written() {
        let written = Resources { threads: Some(2), memory: Some(4_000_000_000), gpus: Some(0.5) };
        let text = serde_json::to_string(&written).unwrap();
        assert_eq!(serde_json::from_str::<Resources>(&text).unwrap(), written);
        assert_eq!(serde_json::from_str::<Resources>("{}").unwrap(), Resources::default());
        assert!(serde_json::from_str::<Resources>(r#"{"memory": "lots"}"#).is_err());
    }
}
