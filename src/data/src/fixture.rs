//! For tests: a folder with the artifacts `pool` and `task`, and contexts of stages that use them.

use std::path::PathBuf;

use raisin_base::error::Result;
use raisin_contract::{Assignment, Context};
use serde_json::json;

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

    /// The context of a stage of this kind with this folder. `inputs` are pointers of parameters and names of
    /// artifacts.
    pub fn context(&self, kind: &str, folder: &str, inputs: &[(&str, &str)]) -> Result<Context> {
        let inputs: Vec<_> = inputs.iter().map(|(pointer, name)| (*pointer, self.artifact(name))).collect();
        raisin_kinds::context_for_test(Assignment::for_test(kind, self.artifact(folder), &inputs))
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
