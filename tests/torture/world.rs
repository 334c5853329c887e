//! What the torture tests share: the pipelines, their expected digests, the counts, and the libraries in C.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use raisin_tests::{ArtifactDigests, Project, TestRng, processes};

/// Every stage kind.
pub const PIPELINE: &str = "micro.toml";

/// Two stages without tensors, so that a test can try every call of their commits.
const SMALL: &str = r#"
[pipeline]
name = "micro"
seed = 3
[stage.pool]
kind = "generate"
size = 60
[stage.counted]
kind = "sql"
of = ["pool"]
query = "select label, count(*) as n from pool.instructions group by label order by label"
"#;

/// A library for LD_PRELOAD, compiled from a C file of this folder, in its own temporary folder.
pub struct PreloadLibrary {
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

impl PreloadLibrary {
    pub fn compile(source: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(source).with_extension("so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path);
        compiler.arg(raisin_tests::package().join("tests/torture").join(source)).arg("-ldl");
        let output = processes::output(&mut compiler);
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        Self { path, _folder: folder }
    }
}

pub fn full() -> bool {
    std::env::var("RAISIN_TORTURE").is_ok_and(|word| word == "full")
}

/// The number of repetitions, in the short form or in the full form.
pub fn count(short: usize, full_form: usize) -> usize {
    if full() { full_form } else { short }
}

/// A project with the pipeline [`SMALL`] in `small.toml`.
pub fn small() -> Project {
    let project = Project::new();
    project.write("small.toml", SMALL);
    project
}

/// The digests of the pipeline of [`small`], of a build without any disturbance. The build runs once for all tests.
pub fn expected_of_small() -> &'static ArtifactDigests {
    static DIGESTS: OnceLock<ArtifactDigests> = OnceLock::new();
    DIGESTS.get_or_init(|| {
        let project = small();
        project.done(&["build", "small.toml"]);
        digests(&project)
    })
}

pub fn digests(project: &Project) -> ArtifactDigests {
    project.digests("micro")
}

/// The digests of a build without any disturbance. The build runs once for all tests.
pub fn undisturbed() -> &'static ArtifactDigests {
    static DIGESTS: OnceLock<ArtifactDigests> = OnceLock::new();
    DIGESTS.get_or_init(|| {
        let project = Project::with_pipeline(PIPELINE);
        build(&project);
        digests(&project)
    })
}

/// Runs a build that must succeed. Returns its messages.
pub fn build(project: &Project) -> String {
    project.done(&["build", PIPELINE]).1
}

/// Checks that no artifact and no action record of the cache is damaged.
pub fn verify_clean(project: &Project, after: &str) {
    let answer = project.run(&["verify"]);
    assert_eq!(answer.code, 0, "verify after {after}\n{}{}", answer.stdout, answer.stderr);
}

/// Changes the bytes of a file, and restores its mode and its time, so that the change is not visible from outside.
pub fn tamper(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let before = std::fs::metadata(path).expect("the file");
    let folder = path.parent().expect("a folder");
    let folder_mode = std::fs::metadata(folder).expect("the folder").mode();
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    set(folder, folder_mode | 0o200);
    set(path, before.mode() | 0o200);
    let mut bytes = std::fs::read(path).expect("its bytes");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("written");
    let times = std::fs::FileTimes::new()
        .set_modified(before.modified().expect("a time"))
        .set_accessed(before.accessed().expect("a time"));
    std::fs::File::options().write(true).open(path).and_then(|file| file.set_times(times)).expect("its time");
    set(path, before.mode());
    set(folder, folder_mode);
}

/// Flips one random bit of a file with [`tamper`].
pub fn flip(path: &Path, rng: &mut TestRng) {
    tamper(path, |bytes| {
        let place = rng.below(bytes.len());
        bytes[place] ^= 1 << rng.below(8);
    });
}
