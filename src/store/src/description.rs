//! `out/<pipeline>/build.json`: what the links of the last build of a pipeline lead to. The engine writes the file; SQL works
//! from it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};

/// The file name of the [`BuildDescription`].
pub const DESCRIPTION: &str = "build.json";

/// The last build of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildDescription {
    pub format: u32,
    pub pipeline: String,
    /// One for each stage of each variant; for a gathering stage, one.
    pub stages: Vec<BuiltStage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuiltStage {
    pub stage: String,
    pub kind: String,
    /// The variant's name; empty without a sweep and for a gathering stage.
    pub variant: String,
    /// The sweep's values of the variant.
    pub values: Map<String, Value>,
    pub artifact: Digest,
    pub key: Digest,
}

impl BuildDescription {
    /// The description in a pipeline's folder under out/; `None` before its first build.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(DESCRIPTION);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let parsed = serde_json::from_slice(&bytes);
                Ok(Some(parsed.with_context(|| format!("{} is unreadable", path.display()))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}
