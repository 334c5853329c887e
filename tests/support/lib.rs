//! Support for tests with the real executables: a project in a temporary folder, in which `raisin` runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use raisin_base::digest::Digest;
use raisin_base::random::Rng;
use raisin_base::seed::Seed;
use raisin_store::{BuildDescription, BuiltStage};
use serde_json::Value;

pub mod fuzz;
pub mod processes;
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

/// Artifacts by stage and variant.
pub type ArtifactDigests = BTreeMap<(String, String), Digest>;

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

    /// A project with a pipeline file `p.toml` of this text.
    pub fn with_text(pipeline: &str) -> Self {
        let project = Self::new();
        project.write("p.toml", pipeline);
        project
    }

    pub fn raisin(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(executable("raisin"));
        self.place(command.args(arguments));
        command
    }

    /// Gives a command the folder of the project, and the environment of the tests.
    pub fn place<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for name in ["URI", "TOKEN", "USERNAME", "PASSWORD"] {
            command.env_remove(format!("MLFLOW_TRACKING_{name}"));
        }
        command
            .current_dir(self.folder.path())
            .env_remove("RAISIN_CACHE")
            .env_remove("RAISIN_OUT")
            .env_remove("RAISIN_REMOTE")
            .env_remove("RAISIN_REMOTE_MODE")
            .env("RAISIN_WORKER", executable("raisin-worker"))
            .env("NO_COLOR", "1")
    }

    pub fn run(&self, arguments: &[&str]) -> CommandOutput {
        CommandOutput::of(&mut self.raisin(arguments))
    }

    /// Runs a command that must succeed. Returns its standard output and its standard error.
    pub fn done(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}\n{}", output.stderr);
        (output.stdout, output.stderr)
    }

    /// Runs a build that must find all its artifacts in the cache.
    pub fn finds_all(&self, arguments: &[&str]) {
        let (_, told) = self.done(arguments);
        assert!(told.contains("nothing to run"), "{arguments:?}\n{told}");
    }

    /// Runs a command that must print nothing to the standard output. Returns its exit code and its standard error.
    pub fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert_eq!(output.stdout, "", "standard output is for data");
        (output.code, output.stderr)
    }

    /// Starts a command, and does not wait for its end.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.raisin(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("raisin starts")
    }

    /// Runs a shell script in a mount namespace: the script may mount, and no other process sees these mounts. Tests
    /// that need this function are ignored if the machine did not allow it when the tests were compiled.
    pub fn in_a_mount_namespace(&self, script: &str) -> CommandOutput {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--map-root-user", "--user"]);
        }
        let answer = CommandOutput::of(self.place(command.args(["sh", "-c", script])));
        let is_refused =
            answer.code == 99 || answer.stderr.contains("unshare failed") || answer.stderr.contains("unshare:");
        assert!(
            !is_refused,
            "no mounts here, other than when tests/build.rs ran (`touch` it): {}",
            answer.stderr.trim()
        );
        answer
    }

    /// The stages of a pipeline's last build, from `out/<pipeline>/build.json`.
    pub fn built(&self, pipeline: &str) -> Vec<BuiltStage> {
        let build = BuildDescription::read(&self.path(&format!("out/{pipeline}"))).expect("build.json");
        build.expect("a build").stages
    }

    /// The artifacts of a pipeline's last build, by stage and variant.
    pub fn digests(&self, pipeline: &str) -> ArtifactDigests {
        self.built(pipeline).into_iter().map(|stage| ((stage.stage, stage.variant), stage.artifact)).collect()
    }

    /// The rows of a query, as JSON.
    pub fn sql(&self, query: &str) -> Vec<Value> {
        let answer = self.run(&["sql", query, "--format", "jsonl"]);
        assert_eq!(answer.code, 0, "{query}\n{}", answer.stderr);
        answer.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

/// All files and folders below a folder, sorted. Links are not followed.
pub fn paths_below(folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            paths.extend(paths_below(&entry.path()));
        }
        paths.push(entry.path());
    }
    paths.sort();
    paths
}

/// All files below a folder, sorted.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    paths_below(folder).into_iter().filter(|path| !path.is_dir()).collect()
}

/// Makes everything in a folder older by this duration, as if no process had touched it meanwhile. Links are left out.
pub fn age(folder: &Path, by: Duration) {
    for path in paths_below(folder) {
        let Ok(file) = std::fs::File::open(&path) else { continue };
        if path.is_symlink() {
            continue;
        }
        let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        file.set_modified(modified - by).expect("an earlier time");
    }
}

/// The output and the exit code of a command.
pub struct CommandOutput {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Runs a command, and waits for its end.
    pub fn of(command: &mut Command) -> Self {
        Self::from(processes::output(command))
    }
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A seeded generator of random numbers for one test. `RAISIN_TORTURE_SEED` gives other numbers.
pub struct TestRng(Rng);

impl TestRng {
    pub fn new(test: &str) -> Self {
        let seed = std::env::var("RAISIN_TORTURE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        Self(Seed::new(seed).at(test).rng())
    }

    /// A number from 0 to n - 1.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    pub fn one_of<'t, T: ?Sized>(&mut self, all: &[&'t T]) -> &'t T {
        all[self.below(all.len())]
    }
}
