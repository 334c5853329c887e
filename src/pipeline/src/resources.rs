//! `resources = { ... }` of a stage: what it may take of the machine while it runs. Never part of an action key.

use serde::{Deserialize, Serialize};

/// What a stage says that it takes. What it does not say, the engine chooses by the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Threads of a tensor stage. Default: the cores, shared out among the stages that `-j` lets run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The most memory that it takes, such as "4GB": stages run side by side only while all of theirs fits.
    /// Default: 1GB for a tensor stage, 256MB for another.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text")]
    #[schemars(with = "Option<String>")]
    pub memory: Option<u64>,
    /// How much of a GPU a tensor stage takes where there is one: 1 has it alone, 0.5 shares it with another stage.
    /// Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<f64>,
}

impl Resources {
    /// What the types cannot say: the parameter that is impossible, and why.
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

/// `500MB`, `20GB` in bytes.
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

/// Bytes as a person writes them.
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
