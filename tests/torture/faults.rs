//! Tortures builds with a file system that fails, is full, or forgets what was not synced. Each build has one fault,
//! and over all builds every file call has a fault once.
//!
//! shim.c is a library that replaces the file calls of the C library. The standard library of Rust makes its file calls
//! through the C library. Locks (flock) and memory maps are not changed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::world::{PreloadLibrary, count, digests, expected_of_small, full, small, verify_clean};
use raisin_tests::{Project, processes};

/// The compiled library shim.c.
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PreloadLibrary> = OnceLock::new();
    &SHIM.get_or_init(|| PreloadLibrary::compile("shim.c")).path
}

/// A command of raisin with shim.c: the call `at` of this kind on a file below a folder of the project has a fault.
pub fn with_fault(project: &Project, arguments: &[&str], under: &str, call: &str, at: usize) -> Command {
    let shared = project.path("shared");
    std::fs::write(&shared, [0u8; 32]).expect("shared numbers");
    let mut command = project.raisin(arguments);
    command
        .env("LD_PRELOAD", shim())
        .env("TORTURE_UNDER", project.path(under))
        .env("TORTURE_SHARED", shared)
        .env("TORTURE_CALL", call)
        .env("TORTURE_AT", at.to_string());
    command
}

/// The four numbers that the processes of the last command with a fault shared. shim.c says what they are.
pub fn shared_numbers(project: &Project) -> [u64; 4] {
    let bytes = std::fs::read(project.path("shared")).expect("shared numbers");
    std::array::from_fn(|place| u64::from_ne_bytes(bytes[8 * place..8 * place + 8].try_into().expect("8 bytes")))
}

/// The fault of one build.
struct Trouble<'a> {
    call: &'a str,
    at: usize,
    errno: i32,
    space: Option<usize>,
}

/// The result of a build with a fault.
struct FaultOutcome {
    output: Output,
    /// The number of calls of this kind.
    calls: u64,
    /// Whether the build reached the fault.
    met: bool,
    trace: String,
}

fn build_with(project: &Project, trouble: &Trouble<'_>) -> FaultOutcome {
    let trace = project.path("trace");
    std::fs::write(&trace, "").expect("a trace");
    let mut command = with_fault(project, &["build", "small.toml"], "cache", trouble.call, trouble.at);
    command.env("TORTURE_TRACE", &trace).env("TORTURE_ERRNO", trouble.errno.to_string());
    if let Some(space) = trouble.space {
        command.env("TORTURE_SPACE", space.to_string());
    }
    let output = processes::output(&mut command);
    let [calls, _, _, faults] = shared_numbers(project);
    let trace = std::fs::read_to_string(trace).expect("a trace");
    FaultOutcome { output, calls, met: faults > 0, trace }
}

/// Restores the state that a loss of power may leave: everything that was not synced is lost.
///
/// A file keeps the content of its last fsync, or the content when it was opened if that was later. A rename stays if
/// the target folder was synced afterwards. Otherwise the rename is undone, and the file that it replaced is back.
fn lose_what_was_not_synced(trace: &str) -> usize {
    struct Rename {
        from: PathBuf,
        to: PathBuf,
        replaced: Option<PathBuf>,
    }
    let mut sizes: Vec<(PathBuf, u64)> = Vec::new();
    let mut pending: Vec<Rename> = Vec::new();
    for line in trace.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        match words[..] {
            ["O" | "S", path, size] => {
                let (path, size) = (PathBuf::from(path), size.parse().expect("a size"));
                sizes.retain(|(known, _)| *known != path);
                sizes.push((path, size));
            }
            ["D", folder] => pending.retain(|rename| rename.to.parent() != Some(Path::new(folder))),
            ["R", from, to, replaced] => {
                for (path, _) in &mut sizes {
                    if let Ok(rest) = path.strip_prefix(from) {
                        *path = if rest.as_os_str().is_empty() { to.into() } else { Path::new(to).join(rest) };
                    }
                }
                let replaced = (!replaced.is_empty()).then(|| PathBuf::from(replaced));
                pending.push(Rename { from: from.into(), to: to.into(), replaced });
            }
            _ => panic!("a line of the trace: {line}"),
        }
    }
    let mut lost = 0;
    for (path, size) in &sizes {
        // The file may have been opened for writing and made read-only later. Only its content matters here.
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        if metadata.is_file() && metadata.len() > *size {
            let mut permissions = metadata.permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
            std::fs::set_permissions(path, permissions).expect("chmod");
            std::fs::File::options().write(true).open(path).and_then(|file| file.set_len(*size)).expect("cut");
            lost += 1;
        }
    }
    for rename in pending.iter().rev() {
        if rename.to.exists() && rename.from.parent().is_some_and(Path::exists) {
            std::fs::rename(&rename.to, &rename.from).expect("undone");
            lost += 1;
        }
        // The staging folder of a stage that has ended is gone, with the files that replaced one another in it.
        if let Some(replaced) = rename.replaced.as_ref().filter(|_| rename.to.parent().is_some_and(Path::exists)) {
            std::fs::rename(replaced, &rename.to).expect("back");
        }
    }
    lost
}

fn goes_on(project: &Project, after: &str) {
    verify_clean(project, after);
    let answer = project.run(&["build", "small.toml"]);
    assert_eq!(answer.code, 0, "after {after}: {}", answer.stderr);
    assert_eq!(&digests(project), expected_of_small(), "after {after}");
    verify_clean(project, &format!("the build after {after}"));
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler `cc`")]
fn a_loss_of_power_between_any_two_calls_leaves_the_state_before_or_after() {
    let whole = build_with(&small(), &Trouble { call: "any", at: 0, errno: 0, space: None });
    assert!(whole.output.status.success() && whole.calls > 40, "{} calls", whole.calls);
    let step = count(6, 1);
    let (mut cuts, mut lost) = (0, 0);
    for at in (1..=whole.calls as usize).step_by(step) {
        let project = small();
        let outcome = build_with(&project, &Trouble { call: "any", at, errno: 0, space: None });
        if !outcome.met {
            // What a running stage tells is written by the clock, so that another build may have a few calls less.
            assert!(at + 20 > whole.calls as usize && outcome.output.status.success(), "call {at} was not met");
            continue;
        }
        assert!(!outcome.output.status.success(), "the build goes on after a loss of power before call {at}");
        lost += lose_what_was_not_synced(&outcome.trace);
        goes_on(&project, &format!("a loss of power before call {at}"));
        cuts += 1;
    }
    assert!(lost > 0, "nothing was ever lost: the check checks nothing");
    println!(
        "{cuts} cuts in a build of {} calls ({lost} writes and renames lost): each went on to the same artifacts",
        whole.calls
    );
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler `cc`")]
fn any_call_may_fail_and_the_next_build_succeeds() {
    let (mut faults, mut survived) = (0, 0);
    for call in ["open", "write", "fsync", "rename"] {
        let whole = build_with(&small(), &Trouble { call, at: 0, errno: 0, space: None });
        for (name, errno) in [("EIO", 5), ("ENOSPC", 28), ("EINTR", 4)] {
            for at in (1..=whole.calls as usize).step_by(count(7, 1)) {
                let project = small();
                let source = std::fs::read(project.path("small.toml")).expect("the source");
                let outcome = build_with(&project, &Trouble { call, at, errno, space: None });
                let what = format!("{name} at {call} {at}");
                if !outcome.met {
                    continue;
                }
                let words = String::from_utf8_lossy(&outcome.output.stderr);
                match outcome.output.status.code() {
                    Some(0) => survived += 1,
                    Some(1 | 2) => assert!(words.contains("error") || words.contains("failed"), "{what}: {words}"),
                    other => panic!("{what}: ended with {other:?}\n{words}"),
                }
                assert!(!words.contains("panicked"), "{what}: {words}");
                assert_eq!(std::fs::read(project.path("small.toml")).expect("the source"), source);
                goes_on(&project, &what);
                faults += 1;
            }
        }
    }
    assert!(faults > survived, "no fault was ever felt");
    println!(
        "{faults} failed calls ({survived} of them overcome at once): a clear error, a valid store, the next build succeeds"
    );
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler `cc`")]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let step = if full() { 512 } else { 16_384 };
    let (mut tried, mut space) = (0, 0);
    loop {
        let project = small();
        let outcome = build_with(&project, &Trouble { call: "none", at: 0, errno: 0, space: Some(space) });
        if !outcome.met {
            assert!(outcome.output.status.success());
            break;
        }
        let words = String::from_utf8_lossy(&outcome.output.stderr);
        match outcome.output.status.code() {
            // The bytes that did not fit were not necessary, such as a line of a log.
            Some(0) => {}
            Some(1 | 2) => assert!(words.contains("No space left"), "{space} bytes: {words}"),
            other => panic!("{space} bytes: ended with {other:?}\n{words}"),
        }
        goes_on(&project, &format!("a disk full after {space} bytes"));
        tried += 1;
        space += step;
    }
    assert!(tried > 1);
    println!("{tried} disks full after 0, {step}, ... bytes: a clear error, a valid store, the next build succeeds");
}
