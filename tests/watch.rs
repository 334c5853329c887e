//! Tests of `raisin build --watch` and `raisin build --dry-run` through the real executable.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::fs::File;
use std::process::Stdio;

use raisin_tests::{Project, processes};
use rustix::process::{Pid, Signal, kill_process};

const PIPELINE: &str = "include = \"more.toml\"\n[stage.pool]\nkind = \"ingest\"\n\
                        sources = [{ path = \"data/*.jsonl\", format = \"qa\" }]\n";

fn project() -> Project {
    let project = Project::with_text(PIPELINE);
    project.write("more.toml", "[pipeline]\nseed = 1\n");
    project.write("data/a.jsonl", "{\"question\":\"q\",\"answer\":\"a\"}\n");
    project
}

#[test]
fn a_dry_run_is_a_plan_and_runs_nothing() {
    let project = project();
    let (plan, _) = project.done(&["plan", "p.toml", "--set", "pipeline.seed=2"]);
    let (dry, _) = project.done(&["build", "--dry-run", "p.toml", "--set", "pipeline.seed=2"]);
    assert!(plan == dry && plan.contains("1 would run"), "{plan}{dry}");
    assert!(!project.path("out").exists());
    project.done(&["plan", "p.toml", "--out", "plan.json"]);
    for flag in ["--dry-run", "--watch"] {
        let (code, words) = project.refused(&["build", flag, "plan.json"]);
        assert!(code == 2 && words.contains(&format!("plan.json is a plan, and {flag} needs a pipeline")), "{words}");
    }
}

#[test]
fn a_watch_builds_again_after_each_edit_that_matters_and_waits_after_a_broken_one() {
    let project = project();
    let log = project.path("log");
    let mut command = project.raisin(&["build", "p.toml", "--watch"]);
    let mut child = command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    let waits = |times: usize| {
        processes::wait_for(&format!("it waits for the {times}. time:\n{}", said()), || {
            said().matches("watching p.toml").count() == times
        });
    };
    let built = || said().matches("1 ran, 0 cached").count();
    waits(1);
    assert_eq!(built(), 1);
    // A new file of the pattern.
    project.write("data/b.jsonl", "{\"question\":\"r\",\"answer\":\"b\"}\n");
    waits(2);
    assert_eq!(built(), 2);
    // A broken pipeline file, and its repair with another value.
    project.write("p.toml", &PIPELINE.replace("qa", "qb"));
    waits(3);
    assert!(said().contains("error: p.toml:4:") && built() == 2, "{}", said());
    project.write("p.toml", &(PIPELINE.to_owned() + "max_length = 500 # characters\n"));
    waits(4);
    assert_eq!(built(), 3);
    // An included file. The seed is in no key of `ingest`, so nothing runs.
    project.write("more.toml", "[pipeline]\nseed = 2\n");
    waits(5);
    assert!(built() == 3 && said().contains("nothing to run"), "{}", said());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(processes::status(&mut child).code(), Some(130), "{}", said());
}
