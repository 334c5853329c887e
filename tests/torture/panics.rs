//! Lets `raisin` itself panic while a stage is at work: the build ends in order, leaves no process behind, and the next
//! build continues.
//!
//! The panic comes from the standard library of Rust: shim.c lets one reading of the clock fail. The main loop reads the
//! clock several times in each of its turns, and so do the other threads. Therefore the executable is the real one.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::faults::{shared_numbers, with_fault};
use crate::world::{count, verify_clean};
use raisin_store::{JournalEvent, Store};
use raisin_tests::{Project, processes};

/// A pool, and a query that takes minutes.
const LONG: &str = "[pipeline]\nname = \"long\"\n[stage.pool]\nkind = \"generate\"\nsize = 60\n\
    [stage.endless]\nkind = \"sql\"\nof = [\"pool\"]\nquery = \"select count(*) as n from pool.instructions a, \
    pool.instructions b, pool.instructions c, pool.instructions d, pool.instructions e where \
    concat(a.prompt, b.prompt, c.prompt, d.prompt, e.prompt) = 'x'\"\n";

/// The result of a build in which a reading of the clock failed.
struct Panicked {
    output: Output,
    /// Whether the build reached the fault.
    met: bool,
    /// The time from the fault to the end of the process.
    took: Duration,
}

fn build_with_panic(project: &Project, threads: &str, at: usize) -> Panicked {
    let mut command = with_fault(project, &["build", "long.toml"], "cache", "clock", at);
    let output = processes::output(command.env("TORTURE_THREADS", threads));
    let now = SystemTime::now();
    let [_, _, time, faults] = shared_numbers(project);
    let fault = SystemTime::UNIX_EPOCH + Duration::from_micros(time);
    Panicked { output, met: faults > 0, took: now.duration_since(fault).unwrap_or_default() }
}

/// The processes whose environment has the shared numbers of this project.
fn left_behind(project: &Project) -> Vec<String> {
    let mark = format!("TORTURE_SHARED={}", project.path("shared").display());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    });
    processes.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
}

/// The number of stages that all builds together have started.
fn starts(project: &Project) -> usize {
    let lines = Store::open(&project.path("cache")).and_then(|store| store.journal()).expect("the journal");
    lines.iter().filter(|line| matches!(line.event, JournalEvent::Started { .. })).count()
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler `cc`")]
fn a_panic_at_any_step_ends_the_build_and_its_workers_and_the_next_build_goes_on() {
    let project = Project::new();
    project.write("long.toml", LONG);
    project.done(&["build", "long.toml", "--only", "pool"]);
    let mut panics = 0;
    let mut longest = Duration::ZERO;
    // With these numbers, the last panics come about two seconds after the query has started.
    for (threads, last, step) in [("first", 160, count(23, 1)), ("other", 80, count(19, 1))] {
        for at in (1..=last).step_by(step) {
            let Panicked { output, met, took } = build_with_panic(&project, threads, at);
            let words = String::from_utf8_lossy(&output.stderr);
            let what = format!("reading {at} of the clock in {threads}: {words}");
            assert!(met, "the build ended before {what}");
            assert_eq!(output.status.code(), Some(1), "{what}");
            assert!(words.contains("raisin itself failed: ") && words.contains("(at "), "{what}");
            // The limit is two seconds on an idle machine; the test allows three.
            assert!(took < Duration::from_secs(3), "it took {took:?} to end after {what}");
            assert_eq!(left_behind(&project), [] as [String; 0], "{what}");
            longest = longest.max(took);
            panics += 1;
        }
    }
    verify_clean(&project, "panics");
    project.finds_all(&["build", "long.toml", "--only", "pool"]);
    // The next build runs the stage, and a signal ends it as always.
    let before = starts(&project);
    let mut next = project.raisin(&["build", "long.toml"]);
    let next = next.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("raisin starts");
    processes::wait_for("the stage starts again", || starts(&project) > before);
    processes::output(Command::new("kill").arg(next.id().to_string()));
    assert_eq!(processes::ended(next).status.code(), Some(130));
    println!("{panics} panics: each build ended within {longest:?}, with a message and without a process left behind");
}
