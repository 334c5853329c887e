//! Lets a build fail at what is not the work of a stage: at each write of the journal while two stages are at work, and
//! at the links at the end. No stage may be lost by that.

use std::process::Output;

use crate::faults::{shared_numbers, with_fault};
use crate::world::verify_clean;
use raisin_store::Store;
use raisin_tests::{Project, processes};

/// Two stages that run at the same time, on a machine with two cores.
const TWO: &str = "[pipeline]\nname = \"two\"\n[stage.one]\nkind = \"generate\"\nsize = 60\n\
    [stage.two]\nkind = \"generate\"\nsize = 61\n";

/// A build in which the n-th call on a file below `under` fails, or all calls from the n-th on. Returns the number of
/// calls.
fn build_with(project: &Project, (under, call): (&str, &str), errno: i32, at: usize, more: bool) -> (Output, u64) {
    let mut command = with_fault(project, &["build", "two.toml", "--keep-going"], under, call, at);
    command.env("TORTURE_ERRNO", errno.to_string());
    if more {
        command.env("TORTURE_MORE", "1");
    }
    let output = processes::output(&mut command);
    (output, shared_numbers(project)[0])
}

const WRITES: (&str, &str) = ("cache/journal", "write");

fn two() -> Project {
    let project = Project::new();
    project.write("two.toml", TWO);
    project
}

fn lines(project: &Project) -> usize {
    Store::open(&project.path("cache")).and_then(|store| store.journal()).expect("the journal").len()
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler `cc`")]
fn a_line_that_cannot_be_written_into_the_journal_ends_no_stage_and_is_counted() {
    let whole = two();
    let (output, writes) = build_with(&whole, WRITES, 0, 0, false);
    assert!(output.status.success() && writes >= 5, "{writes} writes");
    let expected = whole.digests("two");
    let mut builds = 0;
    for (errno, reason) in [(5, "os error 5"), (28, "No space left")] {
        for (at, more) in (1..=writes as usize).flat_map(|at| [(at, false), (at, true)]) {
            let project = two();
            let (output, _) = build_with(&project, WRITES, errno, at, more);
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            let what = format!("write {at} of the journal, {reason}, {more}: {words}");
            assert_eq!(output.status.code(), Some(0), "{what}");
            assert_eq!(project.digests("two"), expected, "{what}");
            // The failure is told once, and what is lost is counted at the end.
            assert_eq!(words.matches("warning: cannot write").count(), 1, "{what}");
            assert!(words.contains(reason), "{what}");
            let is_last = at == writes as usize;
            let lost = if more || is_last { "not in the journal" } else { "no line of it is lost" };
            assert!(words.contains(lost), "{what}");
            assert!(more || is_last || lines(&project) == lines(&whole), "{what}");
            verify_clean(&project, &what);
            project.finds_all(&["build", "two.toml"]);
            builds += 1;
        }
    }
    println!("{builds} builds with a journal that fails at each of its {writes} writes: both stages kept each time");
}

#[test]
#[cfg_attr(not(has_cc), ignore = "there is no C compiler `cc`")]
fn links_that_cannot_be_updated_hide_neither_the_results_nor_the_summary() {
    let (_, renames) = build_with(&two(), ("out", "rename"), 0, 0, false);
    // Two links and build.json.
    assert!(renames >= 3, "{renames} renames");
    for at in 1..=renames as usize {
        let project = two();
        let (output, _) = build_with(&project, ("out", "rename"), 28, at, false);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains("failed two: 0 failed, 0 not run, 2 ran, 0 cached"), "{words}");
        assert!(words.contains("the links cannot be updated\nerror: cannot "), "{words}");
        project.finds_all(&["build", "two.toml"]);
        assert_eq!(project.digests("two").len(), 2);
    }
}
