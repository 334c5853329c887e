//! The test project of the engine tests: a temporary folder with a cache, and functions that build in it. kinds.rs has
//! the stage kinds.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};

use raisin_base::error::FilePosition;
use raisin_engine::{self as engine, DeviceChoice, Options, Status, Summary, words};
use raisin_pipeline::{CacheSettings, ExecutorSettings, Pipeline, Resources, Stage, Variant, Written};
use raisin_store::{JournalEvent, Store};
pub use raisin_tests::processes::wait_for;
use serde_json::{Map, Value, json};

use crate::kinds::KINDS;

/// A folder with a cache, input files and links.
pub struct EngineProject {
    pub folder: PathBuf,
    _kept: Option<tempfile::TempDir>,
}

pub type StageText<'s> = (&'s str, &'s str, Value);

impl EngineProject {
    /// A project in a folder that another process made.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder, _kept: None }
    }

    pub fn new() -> Self {
        raisin_tests::processes::limit_this_process();
        let kept = tempfile::tempdir().unwrap();
        let folder = kept.path().to_owned();
        let own = std::env::current_exe().unwrap();
        let text = format!(
            "#!/bin/sh\nRAISIN_TEST_WORKER=\"$1\" exec '{}' --exact worker_process --nocapture --test-threads 2\n",
            own.display()
        );
        for script in ["raisin-data", "raisin-worker"].map(|name| folder.join(name)) {
            std::fs::write(&script, &text).unwrap();
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder, _kept: Some(kept) }
    }

    pub fn variant(name: &str, values: Value, seed: u64, stages: &[StageText<'_>]) -> Variant {
        let stages = stages
            .iter()
            .enumerate()
            .map(|(index, (name, kind, parameters))| {
                let declaration = KINDS.iter().find(|declaration| declaration.name == *kind).unwrap();
                let resolved = declaration.resolve(parameters.clone()).unwrap();
                let line = |pointer: &String| {
                    let file = "story.toml".to_owned();
                    (pointer.clone(), Written::At(FilePosition { file, line: index + 3, column: 1 }))
                };
                let written = resolved.needs.files.iter().map(|file| line(&file.pointer)).collect();
                Stage {
                    name: (*name).to_owned(),
                    declaration,
                    resolved,
                    resources: Resources::default(),
                    seed,
                    written,
                }
            })
            .collect();
        let values: Map<String, Value> = values.as_object().cloned().unwrap_or_default();
        Variant { name: name.to_owned(), values, seed, dtype: None, stages }
    }

    pub fn pipeline(&self, variants: Vec<Variant>) -> Pipeline {
        let (file, folder) = (self.folder.join("story.toml"), self.folder.clone());
        let (sweep, overrides) = (Vec::new(), Vec::new());
        let (cache, executor) = (CacheSettings::default(), ExecutorSettings::default());
        Pipeline { name: "story".into(), seed_default: 17, file, folder, variants, sweep, overrides, cache, executor }
    }

    pub fn one(&self, stages: &[StageText<'_>]) -> Pipeline {
        self.pipeline(vec![Self::variant("", json!({}), 17, stages)])
    }

    pub fn options(&self) -> Options {
        Options {
            cache: self.folder.join("cache"),
            out: self.folder.join("out"),
            device: DeviceChoice::Cpu,
            quiet: true,
            executables: Some(self.folder.clone()),
            ..Options::default()
        }
    }

    pub fn build(&self, pipeline: &Pipeline) -> Summary {
        engine::build(pipeline, &self.options()).unwrap()
    }

    pub fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.folder.join("out/story").join(path).join("text")).unwrap()
    }

    pub fn write(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = self.folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    pub fn store(&self) -> Store {
        Store::open(&self.folder.join("cache")).unwrap()
    }

    /// Builds with changed options.
    pub fn build_so(&self, pipeline: &Pipeline, change: impl FnOnce(&mut Options)) -> Summary {
        let mut options = self.options();
        change(&mut options);
        engine::build(pipeline, &options).unwrap()
    }

    /// The reasons why stages would run, each with the label of its stage. A cached stage has no entry.
    pub fn why(&self, pipeline: &Pipeline) -> Vec<String> {
        let plan = engine::plan(pipeline, &self.options()).unwrap();
        let mut lines = Vec::new();
        for stage in plan.stages {
            if let Status::WouldRun { why, .. } = stage.status {
                lines.extend(words(&why).iter().map(|reason| format!("{}: {reason}", stage.label)));
            }
        }
        lines
    }

    /// Starts a build of one slow stage in its own process, and waits until the stage runs.
    pub fn start_slow(&self) -> Child {
        self.start_with(json!({"milliseconds": 3000}))
    }

    /// The command that builds one stage in its own process.
    pub fn builder(&self, parameters: &Value) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "builder_process", "--nocapture"])
            .env("RAISIN_TEST_BUILD", &self.folder)
            .env("RAISIN_TEST_PARAMETERS", parameters.to_string());
        command
    }

    /// The command that accepts the earlier artifact for this stage, in its own process.
    pub fn accepter(&self, parameters: &Value) -> Command {
        let mut command = self.builder(parameters);
        command.env("RAISIN_TEST_ACCEPT", "1");
        command
    }

    pub fn start_with(&self, parameters: Value) -> Child {
        let child = self.builder(&parameters).spawn().unwrap();
        self.wait_until_started();
        child
    }

    pub fn wait_until_started(&self) {
        wait_for("the stage starts", || self.store_has_started());
    }

    /// Whether no process of a stage still holds the lock in its staging folder.
    pub fn nobody_is_at_work(&self) -> bool {
        let folders = std::fs::read_dir(self.folder.join("cache/tmp")).unwrap();
        folders.flatten().all(|folder| {
            // A build that was killed very early has not written this file.
            let file = std::fs::File::open(folder.path().join("assignment.json"));
            file.map_or(true, |file| file.try_lock().is_ok())
        })
    }

    /// The logs of all stages, one after another.
    pub fn log(&self) -> String {
        let logs = std::fs::read_dir(self.folder.join("cache/logs")).into_iter().flatten().flatten();
        logs.filter_map(|log| std::fs::read_to_string(log.path()).ok()).collect()
    }

    pub fn store_has_started(&self) -> bool {
        let lines = self.store().journal().unwrap();
        lines.iter().any(|line| matches!(line.event, JournalEvent::Started { .. }))
    }
}

pub fn chain(text: &str, between: &str) -> Vec<StageText<'static>> {
    vec![
        ("a", "write", json!({ "text": text })),
        ("b", "write", json!({"text": "bee"})),
        ("c", "join", json!({"left": "a", "right": "b", "between": between})),
        ("d", "join", json!({"left": "c", "right": "c"})),
    ]
}
