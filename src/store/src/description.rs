//! `out/<pipeline>/build.json`: the stages of the last build of a pipeline, with the artifacts of their links. This
//! file defines the format and reads it. The engine writes build.json, and SQL queries find the artifacts with it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::if_there;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};

/// The file name of the [`BuildDescription`].
pub const DESCRIPTION: &str = "build.json";

/// The version of the format that this raisin writes and reads.
pub const DESCRIPTION_FORMAT: u32 = 1;

/// The last build of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildDescription {
    pub format: u32,
    pub pipeline: String,
    /// The absolute path of the pipeline file. Descriptions of earlier versions of raisin have no path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// One entry for each stage of each variant. A gathering stage has one entry.
    pub stages: Vec<BuiltStage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuiltStage {
    pub stage: String,
    pub kind: String,
    /// The variant's name; empty without a sweep and for a gathering stage.
    pub variant: String,
    /// The values of the sweep in this variant.
    pub values: Map<String, Value>,
    pub artifact: Digest,
    pub key: Digest,
}

impl BuildDescription {
    /// Reads the description in the folder of a pipeline under out/; `None` before the first build.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(DESCRIPTION);
        let bytes = if_there(std::fs::read(&path)).with_context(|| format!("cannot read {}", path.display()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let parsed = serde_json::from_slice::<Value>(&bytes).and_then(|value| {
            let format = value.get("format").and_then(Value::as_u64);
            if let Some(newer) = format.filter(|format| *format > u64::from(DESCRIPTION_FORMAT)) {
                let message =
                    format!("a newer raisin wrote it (format {newer}, and this raisin reads {DESCRIPTION_FORMAT})");
                return Err(serde::de::Error::custom(message));
            }
            Self::deserialize(value)
        });
        parsed.map(Some).with_context(|| format!("{} is unreadable", path.display()))
    }
}
