//! Tests of builds with real child processes, a real store and small stage kinds. The other files of this folder test
//! one subject each.
//!
//! The stage kinds are in this executable. The workers run this test executable again: scripts in the place of
//! `raisin-data` and `raisin-worker` start it.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]
#![allow(clippy::disallowed_macros, reason = "the standard error of these stages is the log of the stage")]

mod choices;
mod fuzz;
mod gc;
mod golden;
mod inputs;
mod keys;
mod kinds;
mod links;
mod project;
mod random;
mod repair;
mod workers;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kinds::run_assignment;
use project::{EngineProject, StageText, chain, wait_for};
use raisin_base::error::render;
use raisin_engine::{self as engine, Options};
use raisin_store::{self as store, BuildDescription};
use raisin_tests::{paths_below, processes};
use serde_json::{Value, json};

/// Not a test: the scripts start this function as a worker.
#[test]
fn worker_process() {
    if std::env::var("RAISIN_TEST_WORKER").is_ok_and(|word| word == "run-stages") {
        raisin_contract::serve::serve(run_assignment, |_| u64::MAX).unwrap();
    }
}

/// Not a test: a build in its own process, so that a test can interrupt and kill it.
#[test]
fn builder_process() {
    let Ok(folder) = std::env::var("RAISIN_TEST_BUILD") else { return };
    let project = EngineProject::at(PathBuf::from(folder));
    let parameters = serde_json::from_str(&std::env::var("RAISIN_TEST_PARAMETERS").unwrap()).unwrap();
    let options = Options { quiet: false, ..project.options() };
    let pipeline = project.one(&[("slow", "write", parameters)]);
    if std::env::var_os("RAISIN_TEST_ACCEPT").is_some() {
        engine::accept(&pipeline, &options, "slow", "only words").unwrap();
        return;
    }
    let summary = engine::build(&pipeline, &options).unwrap();
    std::process::exit(i32::from(summary.exit_code()));
}

#[test]
fn a_second_build_runs_nothing_and_a_change_runs_only_its_dependents() {
    let project = EngineProject::new();
    let first = project.one(&chain("ay", "-"));
    assert_eq!(project.why(&first), ["a: never built", "b: never built", "c: never built", "d: never built"]);
    let summary = project.build(&first);
    assert_eq!((summary.ran, summary.cached, summary.exit_code()), (4, 0, 0));
    assert_eq!(project.text("d"), "ay-beeay-bee");
    let again = project.build(&first);
    assert_eq!((again.ran, again.cached), (0, 4));

    let changed = project.one(&chain("ay", "+"));
    assert_eq!(project.why(&changed), ["c: between: \"-\" -> \"+\"", "d: input c will be made anew"]);
    assert_eq!(project.build(&changed).ran, 2);
    assert_eq!(project.text("d"), "ay+beeay+bee");
    assert_eq!(project.build(&first).ran, 0);
    assert_eq!(project.text("d"), "ay-beeay-bee");
}

#[test]
fn a_stage_that_makes_the_same_bytes_again_stops_the_rebuild() {
    let project = EngineProject::new();
    project.build(&project.one(&chain("ay", "-")));
    let blank = project.one(&chain("ay  ", "-"));
    let summary = project.build(&blank);
    assert_eq!((summary.ran, summary.cached), (1, 3));
}

#[test]
fn only_builds_a_stage_and_its_inputs() {
    let project = EngineProject::new();
    let pipeline = project.one(&chain("ay", "-"));
    let options = Options { only: vec!["c".into()], ..project.options() };
    assert_eq!(engine::build(&pipeline, &options).unwrap().ran, 3);
    assert!(!project.folder.join("out/story/d").exists());
    let options = Options { only: vec!["cc".into()], ..project.options() };
    let error = render(&engine::build(&pipeline, &options).unwrap_err());
    assert!(error.contains("no stage `cc`") && error.contains("did you mean `c`?"), "{error}");
}

#[test]
fn variants_share_equal_stages_and_a_gathering_stage_sees_all_variants() {
    let project = EngineProject::new();
    let stages = |between: &str| -> Vec<StageText<'static>> {
        let mut stages = chain("ay", between);
        stages.push(("list", "show", json!({"of": ["a", "c"]})));
        stages
    };
    let variants = [("-", 1), ("-", 2), ("+", 1), ("+", 2)].map(|(between, seed)| {
        let values = json!({"stage.c.between": between, "pipeline.seed": seed});
        EngineProject::variant(&format!("between={between},seed={seed}"), values, seed, &stages(between))
    });
    let pipeline = project.pipeline(variants.into());
    let summary = project.build(&pipeline);
    // `a`, `b` and the list run once; `c` and `d` run four times.
    assert_eq!((summary.ran, summary.failures.len()), (11, 0));
    let listed = std::fs::read_to_string(project.folder.join("out/story/list/text")).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines[0], "a {} ay");
    assert_eq!(lines[1], r#"c {"stage.c.between":"-","pipeline.seed":1} ay-bee"#);
    assert_eq!(lines.len(), 5);
    assert_eq!(project.text("between=+,seed=2/c"), "ay+bee");
    let description = BuildDescription::read(&summary.out).unwrap().unwrap();
    assert_eq!(description.stages.len(), 17);
    assert_eq!(project.build(&pipeline).ran, 0);

    let alone = project.one(&stages("-"));
    project.build(&alone);
    assert!(!project.folder.join("out/story/between=+,seed=2").exists(), "links of variants that are gone stay");
}

#[test]
fn a_build_looks_for_the_executables_of_its_stages_before_anything_runs() {
    let project = EngineProject::new();
    let stages = [("first", "write", json!({})), ("far", "tell", json!({"after": "first"}))];
    std::fs::rename(project.folder.join("raisin-worker"), project.folder.join("away")).unwrap();
    let error = engine::build(&project.one(&stages), &project.options()).unwrap_err();
    let words = render(&error);
    assert!(
        words.contains("there is no executable `raisin-worker`") && words.contains("hint: `cargo build"),
        "{words}"
    );
    assert!(words.contains("stage `far` cannot run"), "{words}");
    assert_eq!(raisin_base::error::exit_code(&error), 1);
    assert!(project.store().actions().unwrap().is_empty());
    // A build that runs no stage of an executable does not need this executable.
    assert_eq!(project.build(&project.one(&stages[..1])).ran, 1);
    std::fs::rename(project.folder.join("raisin-data"), project.folder.join("gone")).unwrap();
    assert_eq!(project.build(&project.one(&stages[..1])).exit_code(), 0);
}

#[test]
fn a_failed_stage_is_reported_with_its_log_and_finished_stages_are_kept() {
    let project = EngineProject::new();
    let stages = |fail: bool| {
        project.one(&[
            ("good", "write", json!({})),
            ("bad", "write", json!({"text": "x", "fail": fail, "milliseconds": 100})),
            ("after", "join", json!({"left": "good", "right": "bad"})),
        ])
    };
    let options = Options { keep_going: true, ..project.options() };
    let summary = engine::build(&stages(true), &options).unwrap();
    assert_eq!((summary.ran, summary.skipped, summary.exit_code()), (1, 1, 1));
    let reason = &summary.failures[0].reason;
    assert!(reason.contains("the reason lies here") && reason.contains("was told to fail"), "{reason}");
    let summary = project.build(&stages(false));
    assert_eq!((summary.ran, summary.cached), (2, 1));
}

#[test]
fn a_stage_that_died_goes_on_from_its_checkpoint() {
    let project = EngineProject::new();
    let pipeline = project.one(&[("long", "write", json!({"die_once": true}))]);
    assert_eq!(project.build(&pipeline).exit_code(), 1);
    assert_eq!(project.build(&pipeline).ran, 1);
    assert_eq!(project.text("long"), "hello resumed");
    assert_eq!(std::fs::read_dir(project.folder.join("cache/tmp")).unwrap().count(), 0);
}

#[test]
fn builds_at_once_on_one_cache_run_each_action_once() {
    let project = EngineProject::new();
    let stages: Vec<(String, Value)> =
        (0..4).map(|n| (format!("s{n}"), json!({"text": n.to_string(), "milliseconds": 100}))).collect();
    let stages: Vec<StageText<'_>> =
        stages.iter().map(|(name, value)| (name.as_str(), "write", value.clone())).collect();
    let pipeline = project.one(&stages);
    let summaries: Vec<engine::Summary> = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..4).map(|_| scope.spawn(|| project.build(&pipeline))).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert_eq!(summaries.iter().map(|summary| summary.ran).sum::<u64>(), 4);
    assert!(summaries.iter().all(|summary| summary.ran + summary.cached == 4));
}

#[test]
fn a_damaged_artifact_is_named_set_aside_and_made_again() {
    let project = EngineProject::new();
    let pipeline = project.one(&chain("ay", "-"));
    project.build(&pipeline);
    let file = project.folder.join("out/story/a/text").canonicalize().unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&file, "a").unwrap();
    let why = project.why(&pipeline);
    assert!(why[0].contains("text has 1 bytes where 2 were written"), "{why:?}");
    let summary = project.build(&pipeline);
    assert_eq!((summary.ran, summary.cached), (1, 3));

    // A flipped byte does not change the size. Only `verify` can find such damage.
    let file = project.folder.join("out/story/b/text").canonicalize().unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&file, "bed").unwrap();
    let verified = store::verify(&project.store(), None).unwrap();
    assert_eq!(verified.damages.len(), 1);
    assert_eq!(verified.damages[0].stages, ["story.b"]);
    assert_eq!(project.build(&pipeline).ran, 1);
    assert!(store::verify(&project.store(), None).unwrap().damages.is_empty());
}

#[test]
fn an_edit_of_the_same_size_in_the_same_second_is_seen_and_a_touch_is_not() {
    let project = EngineProject::new();
    let input = project.folder.join("data.txt");
    let pipeline = project.one(&[("copy", "copy", json!({"path": "data.txt"}))]);
    for text in ["one", "two", "six"] {
        std::fs::write(&input, text).unwrap();
        assert_eq!(project.build(&pipeline).ran, 1);
        assert_eq!(project.text("copy"), text);
    }
    std::fs::write(&input, "six").unwrap();
    assert_eq!(project.build(&pipeline).ran, 0);
}

#[test]
fn a_missing_file_and_a_wrong_digest_stop_the_build_before_anything_runs() {
    let project = EngineProject::new();
    let stages = |expected: Option<&str>| {
        project.one(&[("first", "write", json!({})), ("copy", "copy", json!({"path": "data.txt", "blake3": expected}))])
    };
    let error = render(&engine::build(&stages(None), &project.options()).unwrap_err());
    assert!(error.contains("story.toml:4:1: stage `copy`, path: there is no file"), "{error}");
    assert!(!project.folder.join("out/story/first").exists());
    std::fs::write(project.folder.join("data.txt"), "one").unwrap();
    let wrong = "0".repeat(64);
    let error = render(&engine::build(&stages(Some(&wrong)), &project.options()).unwrap_err());
    let found = raisin_base::digest::Digest::of(b"one").to_hex();
    assert!(error.contains(&wrong) && error.contains(found.as_str()) && error.contains("data.txt"), "{error}");
    assert_eq!(project.build(&stages(Some(found.as_str()))).ran, 2);
    // The expected digest is not part of the key.
    assert_eq!(project.build(&stages(None)).ran, 0);
}

#[test]
fn an_interrupt_ends_the_build_in_order() {
    let project = EngineProject::new();
    let mut build = project.start_slow();
    let began = Instant::now();
    let pid = rustix::process::Pid::from_child(&build);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = processes::status(&mut build);
    assert_eq!(status.code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(project.store().actions().unwrap().is_empty());
}

#[test]
fn a_stage_that_ignores_the_stop_signal_is_killed_and_the_build_says_how_to_go_on() {
    let project = EngineProject::new();
    let stubborn = json!({"milliseconds": 60_000, "stubborn": true});
    let build = project.builder(&stubborn).stderr(Stdio::piped()).spawn().unwrap();
    project.wait_until_started();
    // After the stage has written this word, it ignores the stop signal.
    wait_for("the stage is stubborn", || project.log().contains("stubborn"));
    let (began, pid) = (Instant::now(), rustix::process::Pid::from_child(&build));
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = processes::ended(build);
    // The limit of a build is two seconds on an idle machine; the test allows three.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(130));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("interrupted") && words.contains("the same command goes on from here"), "{words}");
    wait_for("the stage's process is gone", || project.nobody_is_at_work());
}

#[test]
fn a_waiting_build_names_the_other_process_and_then_uses_its_artifact() {
    let project = EngineProject::new();
    let slow = json!({"milliseconds": 4000});
    let first = project.start_with(slow.clone());
    let second = processes::output(&mut project.builder(&slow));
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains(&format!("waiting for pid {} building slow", first.id())), "{words}");
    assert!(words.contains("cached: another build made it"), "{words}");
    assert_eq!(processes::ended(first).status.code(), Some(0));
}

#[test]
fn a_killed_build_takes_its_children_with_it_and_leaves_no_lock() {
    let project = EngineProject::new();
    let mut build = project.start_slow();
    build.kill().unwrap();
    processes::status(&mut build);
    // The process of the stage holds a lock in the staging folder. Therefore the next build can use the folder only
    // after this process has ended.
    wait_for("the stage's process is gone", || project.nobody_is_at_work());
    let summary = project.build(&project.one(&[("slow", "write", json!({"milliseconds": 3000}))]));
    assert_eq!((summary.ran, summary.exit_code()), (1, 0));
}

#[test]
fn a_build_with_nothing_to_do_adds_two_lines_to_the_journal_and_touches_its_index() {
    let project = EngineProject::new();
    std::fs::write(project.folder.join("data.txt"), "data").unwrap();
    // The store remembers the digest of an input file only after the file was unchanged for two seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let variants = [1, 2].map(|seed| {
        let mut stages = chain("ay", "-");
        stages.push(("e", "copy", json!({"path": "data.txt"})));
        EngineProject::variant(&format!("seed={seed}"), json!({"pipeline.seed": seed}), seed, &stages)
    });
    let pipeline = project.pipeline(variants.into());
    assert_eq!(project.build(&pipeline).ran, 7);
    let look = || {
        // The lock files of the two builds may appear and disappear.
        let is_lock = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "locks");
        let paths = paths_below(&project.folder).into_iter().filter(|path| !is_lock(path));
        paths.map(|path| (store::Fingerprint::of(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    let (before, lines) = (look(), project.store().journal().unwrap().len());
    let index = paths_below(&project.folder.join("cache/index")).remove(0);
    let indexed = std::fs::read(index).unwrap();
    let again = project.build(&pipeline);
    assert_eq!((again.ran, again.cached), (0, 7));
    assert_eq!(project.store().journal().unwrap().len(), lines + 2);
    let changed: Vec<PathBuf> =
        before.into_iter().zip(look()).filter(|(before, after)| before != after).map(|(before, _)| before.1).collect();
    let [index, journal] = &changed[..] else { panic!("{changed:?}") };
    assert!(journal.starts_with(project.folder.join("cache/journal")), "{changed:?}");
    // The time of the index says when its artifacts were last used. Its content stays.
    assert!(index.starts_with(project.folder.join("cache/index")), "{changed:?}");
    assert_eq!(std::fs::read(index).unwrap(), indexed);
    // A link that was changed from outside is set again.
    let link = project.folder.join("out/story/seed=1/d");
    std::fs::remove_file(&link).unwrap();
    project.build(&pipeline);
    assert_eq!(std::fs::read_to_string(link.join("text")).unwrap(), "ay-beeay-bee");
}
