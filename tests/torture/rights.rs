//! Tortures caches with other owners and modes, and caches of another version: a build works, or the message says
//! exactly why not.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use raisin_base::digest::Digest;

use crate::world::{small, verify_clean};
use raisin_tests::{CommandOutput, Project, files_below, paths_below};

/// The user id of a user who owns no file here.
const STRANGER: u32 = 65_534;

fn built() -> Project {
    let project = small();
    project.done(&["build", "small.toml"]);
    // A temporary project lies in a private folder.
    mode(&project.path(""), 0o755);
    project
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// The folder of the cache and everything below it.
fn all_of_cache(project: &Project) -> Vec<PathBuf> {
    let cache = project.path("cache");
    let mut all = paths_below(&cache);
    all.push(cache);
    all
}

/// Every file of a cache, with its content and mode. A user who may only read must leave the cache unchanged.
fn content(project: &Project) -> BTreeMap<PathBuf, (u32, Digest)> {
    let files = files_below(&project.path("cache")).into_iter();
    files
        .map(|path| {
            let digest = Digest::of(&std::fs::read(&path).expect("a file"));
            let mode = std::fs::metadata(&path).expect("a file").mode();
            (path, (mode, digest))
        })
        .collect()
}

/// Whether a command can be run as another user. Only root can do that.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Copies the executables to a folder that every user can read. The build folder may be private.
pub fn reachable(project: &Project) -> PathBuf {
    let folder = project.path("for-all");
    if !folder.exists() {
        std::fs::create_dir_all(&folder).expect("a folder");
        mode(&folder, 0o755);
        for name in ["raisin-data", "raisin-sql", "raisin"] {
            let copy = folder.join(name);
            // Copy in another process. A file that this process had open for writing could not be executed while a test
            // beside this one forks.
            let status = Command::new("cp").arg(raisin_tests::executable(name)).arg(&copy).status().expect("cp");
            assert!(status.success());
            mode(&copy, 0o755);
        }
    }
    folder.join("raisin")
}

/// Runs raisin as a user who owns no file of the cache, with an out folder of this user.
fn as_stranger(project: &Project, arguments: &[&str]) -> CommandOutput {
    let mut command = Command::new(reachable(project));
    let out = project.path("out-of-the-stranger");
    std::fs::create_dir_all(&out).expect("a folder");
    mode(&out, 0o777);
    project.place(command.args(arguments)).env("RAISIN_OUT", &out).uid(STRANGER).gid(STRANGER);
    CommandOutput::of(&mut command)
}

#[test]
fn a_cache_of_another_version_is_refused_by_every_command_and_not_changed() {
    let project = built();
    let version = project.path("cache/VERSION");
    for other in ["0\n", "7\n", "seven\n\n", ""] {
        std::fs::write(&version, other).expect("written");
        let before = content(&project);
        let commands: [&[&str]; 8] = [
            &["build", "small.toml"],
            &["plan", "small.toml"],
            &["why", "small.toml", "pool"],
            &["verify"],
            &["gc", "--yes"],
            &["sql", "select count(*) from raisin.actions"],
            &["pin", "micro"],
            &["du"],
        ];
        for command in commands {
            let answer = project.run(command);
            assert_ne!(answer.code, 0, "{command:?} with layout {other:?}");
            assert!(answer.stderr.contains("has layout"), "{command:?}: {}", answer.stderr);
            assert!(answer.stderr.contains("--cache"), "{command:?}: {}", answer.stderr);
        }
        assert_eq!(content(&project), before, "layout {other:?}");
    }
    // Action records and memories of another version are ignored.
    std::fs::remove_file(&version).expect("removed");
    project.done(&["build", "small.toml"]);
    for folder in ["identity", "index", "checked", "tokens"] {
        for file in files_below(&project.path("cache").join(folder)) {
            std::fs::write(file, "raisin memory 99\n{}").expect("written");
        }
    }
    for file in files_below(&project.path("cache/actions")) {
        std::fs::write(file, "{\"version\":99}\n").expect("written");
    }
    let answer = project.run(&["build", "small.toml"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert!(answer.stderr.contains("2 ran"), "{}", answer.stderr);
    verify_clean(&project, "records of another version");
}

#[test]
fn a_read_only_cache_serves_its_artifacts_and_explains_why_it_accepts_no_new_ones() {
    let project = built();
    if !is_root() {
        all_of_cache(&project).iter().for_each(|path| {
            let bits = std::fs::metadata(path).expect("it").mode();
            mode(path, bits & 0o555);
        });
    }
    let before = content(&project);
    let run = |arguments: &[&str]| {
        if is_root() { as_stranger(&project, arguments) } else { project.run(arguments) }
    };
    let plan = run(&["plan", "small.toml"]);
    assert!(plan.code == 0 && plan.stdout.contains("0 would run, 2 cached"), "{}{}", plan.stdout, plan.stderr);
    let changed = run(&["plan", "small.toml", "--set", "stage.pool.size=61"]);
    assert!(changed.stdout.contains("2 would run"), "{}{}", changed.stdout, changed.stderr);
    for command in [["sql", "select count(*) from raisin.actions"], ["du", "--by=stage"]] {
        let answer = run(&command);
        assert_eq!(answer.code, 0, "{command:?}: {}", answer.stderr);
    }
    assert_eq!(run(&["verify"]).code, 0);
    let builds: [&[&str]; 2] = [&["build", "small.toml"], &["build", "small.toml", "--set", "stage.pool.size=61"]];
    for command in builds {
        let answer = run(command);
        // The command is correct, because it would work with another cache. Therefore the exit code is 1, not 2.
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        assert!(answer.stderr.contains("cannot be written: Permission denied"), "{}", answer.stderr);
        assert!(answer.stderr.contains("hint: ") && answer.stderr.contains("--cache"), "{}", answer.stderr);
    }
    let gc = run(&["gc", "--yes"]);
    assert!(gc.code != 0 && gc.stderr.contains("Permission denied"), "{}", gc.stderr);
    assert_eq!(content(&project), before);
    if !is_root() {
        all_of_cache(&project).iter().filter(|path| path.is_dir()).for_each(|path| mode(path, 0o755));
    }
    project.done(&["build", "small.toml"]);
}

#[test]
#[cfg_attr(not(can_mount), ignore = "`unshare` cannot mount here")]
fn a_build_names_the_read_only_file_system_of_its_cache() {
    let project = built();
    let raisin = raisin_tests::executable("raisin");
    let raisin = raisin.display();
    let script = format!(
        "mount --bind cache cache && mount -o remount,ro,bind cache || exit 99\n\
         '{raisin}' plan small.toml && '{raisin}' build small.toml"
    );
    let answer = project.in_a_mount_namespace(&script);
    assert!(answer.stdout.contains("0 would run, 2 cached"), "{}{}", answer.stdout, answer.stderr);
    assert_eq!(answer.code, 1, "{}", answer.stderr);
    assert!(answer.stderr.contains("cannot be written: Read-only file system"), "{}", answer.stderr);
}

/// Sets the modes that `umask 0` and a common group would give.
fn open_to_all(project: &Project) {
    for path in all_of_cache(project) {
        let inside = path.components().any(|part| part.as_os_str() == "artifacts") && !path.ends_with("artifacts");
        if !inside {
            let bits = std::fs::metadata(&path).expect("it").mode();
            mode(&path, bits | 0o666 | if path.is_dir() { 0o111 } else { 0 });
        }
    }
}

#[test]
#[cfg_attr(not(is_root), ignore = "only root can be two users")]
fn gc_keeps_artifacts_of_another_user_with_their_action_records_and_counts_them() {
    let project = built();
    let theirs = ["build", "small.toml", "--set", "stage.pool.size=63"];
    let own = ["build", "small.toml", "--set", "stage.pool.size=64"];
    project.done(&theirs);
    project.done(&["build", "small.toml"]);
    open_to_all(&project);
    let built = as_stranger(&project, &own);
    assert!(built.code == 0 && built.stderr.contains("2 ran"), "{}", built.stderr);
    let back = as_stranger(&project, &["build", "small.toml"]);
    assert!(back.code == 0, "{}", back.stderr);
    for sticky in [false, true] {
        if sticky {
            // In such a folder, a user can remove only own files, as in /tmp.
            ["actions", "artifacts"].iter().for_each(|name| mode(&project.path("cache").join(name), 0o1777));
        }
        let shown = as_stranger(&project, &["gc", "--older-than", "0"]);
        let gc = as_stranger(&project, &["gc", "--yes", "--older-than", "0"]);
        assert_eq!(gc.code, 0, "{}", gc.stderr);
        assert_eq!(gc.stdout.matches("artifact ").count(), if sticky { 0 } else { 2 }, "{}", gc.stdout);
        assert_eq!(gc.stdout, shown.stdout);
        assert!(gc.stderr.contains("of user root stay with their action records"), "{}", gc.stderr);
        project.finds_all(&theirs);
        project.done(&["build", "small.toml"]);
        verify_clean(&project, "gc of another user");
    }
    // An artifact stays if its action record cannot be removed.
    ["actions", "artifacts"].iter().for_each(|name| mode(&project.path("cache").join(name), 0o777));
    assert_eq!(as_stranger(&project, &own).code, 0);
    assert_eq!(as_stranger(&project, &["build", "small.toml"]).code, 0);
    mode(&project.path("cache/actions"), 0o755);
    let gc = as_stranger(&project, &["gc", "--yes", "--older-than", "0"]);
    assert!(gc.code == 0 && !gc.stdout.contains("artifact "), "{}{}", gc.stdout, gc.stderr);
    mode(&project.path("cache/actions"), 0o777);
    let again = as_stranger(&project, &own);
    assert!(again.code == 0 && again.stderr.contains("nothing to run"), "{}", again.stderr);
    project.finds_all(&theirs);
}

#[test]
#[cfg_attr(not(is_root), ignore = "only root can be two users")]
fn two_users_can_share_a_cache_that_both_may_write() {
    let project = built();
    open_to_all(&project);
    let hit = as_stranger(&project, &["build", "small.toml"]);
    assert!(hit.code == 0 && hit.stderr.contains("nothing to run, 2 cached"), "{}", hit.stderr);
    let more = as_stranger(&project, &["build", "small.toml", "--set", "stage.pool.size=61"]);
    assert!(more.code == 0 && more.stderr.contains("2 ran"), "{}", more.stderr);
    let answer = project.run(&["build", "small.toml", "--set", "stage.pool.size=61"]);
    assert!(answer.code == 0 && answer.stderr.contains("nothing to run, 2 cached"), "{}", answer.stderr);
    verify_clean(&project, "two users");
}

#[test]
fn under_umask_077_everything_works_and_others_are_told_that_they_may_not_read() {
    let project = small();
    mode(&project.path(""), 0o755);
    let strict = |arguments: &[&str]| {
        let mut command = project.raisin(arguments);
        let in_child = || {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
            Ok(())
        };
        // SAFETY: between fork and exec only umask is called.
        unsafe { command.pre_exec(in_child) };
        CommandOutput::of(&mut command)
    };
    let first = strict(&["build", "small.toml"]);
    assert!(first.code == 0 && first.stderr.contains("2 ran"), "{}", first.stderr);
    let again = strict(&["build", "small.toml"]);
    assert!(again.code == 0 && again.stderr.contains("nothing to run"), "{}", again.stderr);
    let changed = strict(&["build", "small.toml", "--set", "stage.pool.size=61"]);
    assert!(changed.code == 0 && changed.stderr.contains("2 ran"), "{}", changed.stderr);
    assert_eq!(strict(&["gc", "--yes"]).code, 0);
    assert_eq!(strict(&["verify"]).code, 0);
    for path in all_of_cache(&project).into_iter().filter(|path| path.is_dir()) {
        assert_eq!(std::fs::metadata(&path).expect("it").mode() & 0o077, 0, "{} is open to others", path.display());
    }
    if is_root() {
        let answer = as_stranger(&project, &["build", "small.toml"]);
        assert!(answer.code != 0 && answer.stderr.contains("Permission denied"), "{}", answer.stderr);
        verify_clean(&project, "a stranger's try");
    }
}
