//! For tests: a folder with the artifacts `pool` and `task`, and contexts of stages that use them.

use std::path::PathBuf;

use raisin_base::error::Result;
use raisin_contract::{Assignment, Context, DType, DeviceKind, Environment, InputArtifact};
use serde_json::{Map, Value, json};

pub struct DataFixture {
    folder: tempfile::TempDir,
}

impl DataFixture {
    pub fn new() -> Result<Self> {
        let store = Self { folder: tempfile::tempdir()? };
        for name in ["pool", "task"] {
            std::fs::create_dir(store.artifact(name))?;
        }
        let scoring = json!({"scoring": "match", "extract": "gsm8k", "max_new_tokens": 4});
        std::fs::write(store.artifact("task").join("task.json"), scoring.to_string())?;
        Ok(store)
    }

    pub fn artifact(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The context of a stage of this kind with this folder. `inputs` are pointers of parameters and names of artifacts.
    pub fn context(&self, kind: &str, folder: &str, inputs: &[(&str, &str)]) -> Result<Context> {
        let source = |artifact: &str| InputArtifact {
            stage: artifact.to_owned(),
            variant: Map::new(),
            folder: self.artifact(artifact),
        };
        let stages = inputs.iter().map(|(pointer, artifact)| ((*pointer).to_owned(), vec![source(artifact)])).collect();
        Context::silent(Assignment {
            kind: kind.to_owned(),
            kind_version: 1,
            stage: kind.to_owned(),
            parameters: Value::Null,
            stages,
            files: std::collections::BTreeMap::new(),
            seed: 17,
            environment: Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 },
            threads: 1,
            folder: self.folder.path().join(folder),
            tokens: None,
        })
    }

    /// A table that a stage wrote.
    pub fn table(&self, folder: &str, name: &str) -> Result<arrow_array::RecordBatch> {
        raisin_table::read(&self.artifact(folder).join("out").join(format!("{name}.parquet")))
    }

    /// Makes the output of a stage an artifact of this name.
    pub fn keep(&self, folder: &str, name: &str) -> Result<()> {
        Ok(std::fs::rename(self.artifact(folder).join("out"), self.artifact(name))?)
    }
}
