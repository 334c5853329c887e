//! The commands, told as stories through the real `raisin` in a folder of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    fn new(pipeline: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.toml"), pipeline).unwrap();
        Self { folder }
    }

    fn raisin(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_raisin"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("RAISIN_CACHE")
            .env_remove("RAISIN_OUT")
            .output()
            .unwrap()
    }

    /// The exit code and standard error.
    fn refused(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.raisin(arguments);
        assert_eq!(text(&output.stdout), "", "standard output is for data");
        (output.status.code(), text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_wrong_pipeline_is_refused_with_its_place_before_anything_is_made() {
    let project = Project::new("[pipeline]\nsed = 3\n");
    for command in ["build", "plan"] {
        let (code, words) = project.refused(&[command, "p.toml"]);
        assert_eq!(words, "error: p.toml:2:1: [pipeline] has no key `sed`\nhint: did you mean `seed`?\n");
        assert_eq!(code, Some(2));
    }
    assert!(!project.folder.path().join("cache").exists());
}

#[test]
fn a_missing_pipeline_and_a_wrong_flag_exit_with_two() {
    let project = Project::new("");
    let (code, words) = project.refused(&["build", "q.toml"]);
    assert_eq!(code, Some(2));
    assert!(words.starts_with("error: cannot read the pipeline q.toml"), "{words}");
    assert_eq!(project.refused(&["build", "p.toml", "--deivce", "cpu"]).0, Some(2));
    let (code, words) = project.refused(&["build", "p.toml", "--set", "seed"]);
    assert_eq!(code, Some(2));
    assert!(words.starts_with("error: from --set seed: there is no `=`"), "{words}");
}

#[test]
fn without_arguments_a_short_page_shows_how_to_begin() {
    let (code, words) = Project::new("").refused(&[]);
    assert_eq!(code, Some(2));
    assert!(words.contains("raisin build pipelines/quickstart.toml"), "{words}");
    assert!(!words.contains("run-stage"), "{words}");
}

#[test]
fn an_unknown_kind_to_describe_is_refused() {
    let (code, words) = Project::new("").refused(&["kinds", "nothing-like-it"]);
    assert_eq!(code, Some(2));
    assert!(words.contains("there is no kind `nothing-like-it`"), "{words}");
}

#[test]
fn doctor_follows_the_folders_that_it_is_given() {
    let output = Project::new("").raisin(&["doctor", "--cache", "elsewhere"]);
    assert!(text(&output.stdout).contains("cache     elsewhere does not exist yet"), "{}", text(&output.stdout));
}

#[test]
fn doctor_tells_what_the_worker_finds_and_what_to_do_about_what_is_missing() {
    let output = Project::new("").raisin(&["doctor"]);
    let words = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{words}");
    for name in ["libtorch  2.11.0 from /", "processor", "threads", "f32", "bf16", "gpus", "dtype"] {
        assert!(words.lines().any(|line| line.starts_with(name)), "{name} is missing in\n{words}");
    }
    let has_bf16 = words.lines().any(|line| line.starts_with("processor") && line.contains("bf16"));
    assert_eq!(words.contains("this processor has no bf16 instructions"), !has_bf16, "{words}");
    let without = Command::new(env!("CARGO_BIN_EXE_raisin"))
        .arg("doctor")
        .env("RAISIN_WORKER", "/nowhere/raisin-worker")
        .output()
        .unwrap();
    assert_eq!(without.status.code(), Some(1));
    assert!(text(&without.stdout).contains("to do     without raisin-worker no tensor stage can run"));
}

#[test]
fn a_device_is_named_by_kind_and_number() {
    let project = Project::new("[stage.pool]\nkind = \"generate\"\n");
    for device in ["cuda:x", "gpu", "cuda:-1"] {
        let (code, words) = project.refused(&["plan", "p.toml", "--device", device]);
        assert_eq!(code, Some(2));
        assert!(words.contains("auto, cpu, cuda or cuda:N"), "{words}");
    }
    if !Path::new("/dev/nvidia0").exists() {
        let (code, words) = project.refused(&["plan", "p.toml", "--device", "cuda:1"]);
        assert_eq!(code, Some(2));
        assert!(words.contains("no CUDA device can be used: there is no /dev/nvidia0"), "{words}");
    }
}

/// `RAISIN_BLESS=1 cargo test committed_schema_is_current` writes it anew.
#[test]
fn committed_schema_is_current() {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/pipeline.schema.json");
    let printed = text(&Project::new("").raisin(&["schema"]).stdout);
    if std::env::var_os("RAISIN_BLESS").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == printed, "run `RAISIN_BLESS=1 cargo test --test cli committed_schema_is_current`");
}
