//! What the torture tests share: the pipelines, their expected digests, and the counts.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use raisin_base::digest::Digest;
use raisin_tests::Project;

/// Every stage kind.
pub const PIPELINE: &str = "micro.toml";

/// Two stages without tensors, so that a test can try every call of their commits.
pub const SMALL: &str = r#"
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

pub fn full() -> bool {
    std::env::var("RAISIN_TORTURE").is_ok_and(|word| word == "full")
}

/// The number of repetitions, in the short form or in the full form.
pub fn count(short: usize, full_form: usize) -> usize {
    if full() { full_form } else { short }
}

/// Artifact digests by stage and variant.
pub type Digests = BTreeMap<(String, String), Digest>;

pub fn digests(project: &Project) -> Digests {
    project.built("micro").into_iter().map(|stage| ((stage.stage, stage.variant), stage.artifact)).collect()
}

/// The digests of a build without any disturbance. The build runs once for all tests.
pub fn undisturbed() -> &'static Digests {
    static DIGESTS: OnceLock<Digests> = OnceLock::new();
    DIGESTS.get_or_init(|| {
        let project = Project::with_pipeline(PIPELINE);
        build(&project);
        digests(&project)
    })
}

/// Runs a build that must succeed. Returns its messages.
pub fn build(project: &Project) -> String {
    let answer = project.run(&["build", PIPELINE]);
    assert_eq!(answer.code, 0, "a plain build failed\n{}", answer.stderr);
    answer.stderr
}

/// Checks that no artifact and no action record of the cache is damaged.
pub fn verify_clean(project: &Project, after: &str) {
    let answer = project.run(&["verify"]);
    assert_eq!(answer.code, 0, "verify after {after}\n{}{}", answer.stdout, answer.stderr);
}

pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
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
