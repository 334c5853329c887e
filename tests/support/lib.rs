//! Support for tests with the real executables: a project in a temporary folder, in which `raisin` runs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub mod python;

/// The root folder of the repository, which contains the pipelines and the tests.
pub fn package() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The path of an executable of this workspace. cargo does not build the executable for a test of another package;
/// `just test` builds it before.
pub fn executable(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the running test");
    let path = own.ancestors().nth(2).expect("the target folder").join(name);
    assert!(path.is_file(), "{} is not built: run `cargo build --workspace`, as `just test` does", path.display());
    path
}

/// A temporary project with its own cache. `raisin` runs in the folder of the project.
pub struct Project {
    folder: tempfile::TempDir,
}

impl Default for Project {
    fn default() -> Self {
        Self::new()
    }
}

impl Project {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// A project with a copy of one of the files of `tests/pipelines`.
    pub fn with_pipeline(name: &str) -> Self {
        let project = Self::new();
        let text = std::fs::read_to_string(package().join("tests/pipelines").join(name)).expect("a test pipeline");
        project.write(name, &text);
        project
    }

    pub fn raisin(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(executable("raisin"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("RAISIN_CACHE")
            .env_remove("RAISIN_OUT")
            .env("RAISIN_WORKER", executable("raisin-worker"))
            .env("NO_COLOR", "1");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Answer {
        Answer::from(self.raisin(arguments).output().expect("raisin starts"))
    }

    /// Starts a command, and does not wait for its end.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.raisin(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("raisin starts")
    }

    /// The stages of a pipeline's last build, from `out/<pipeline>/build.json`.
    pub fn built(&self, pipeline: &str) -> Vec<BuiltStage> {
        let text = std::fs::read(self.path(&format!("out/{pipeline}/build.json"))).expect("build.json");
        let build: Value = serde_json::from_slice(&text).expect("JSON");
        build["stages"]
            .as_array()
            .expect("stages")
            .iter()
            .map(|stage| BuiltStage {
                stage: stage["stage"].as_str().expect("a name").to_owned(),
                variant: stage["variant"].as_str().unwrap_or_default().to_owned(),
                artifact: stage["artifact"].as_str().expect("a digest").to_owned(),
            })
            .collect()
    }

    /// The rows of a query, as JSON.
    pub fn sql(&self, query: &str) -> Vec<Value> {
        let answer = self.run(&["sql", query, "--format", "jsonl"]);
        assert_eq!(answer.code, 0, "{query}\n{}", answer.stderr);
        answer.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuiltStage {
    pub stage: String,
    pub variant: String,
    pub artifact: String,
}

/// The output and the exit code of a command.
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
