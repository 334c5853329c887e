//! Tests of the worker pool: tensor stages share workers, and a stage in a worker does not affect the next stage.

use raisin_pipeline::Pipeline;
use raisin_tests::processes;
use serde_json::{Value, json};

use crate::project::EngineProject;

/// What a `tell` stage wrote: the process id, the number of the stage in this process, and the number of threads.
fn told(project: &EngineProject, stage: &str) -> (u32, usize, usize) {
    let text = project.text(stage);
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap();
    (next().parse().unwrap(), next().parse().unwrap(), next().parse().unwrap())
}

fn chain(project: &EngineProject) -> Pipeline {
    project.one(&[
        ("one", "tell", json!({"name": "one"})),
        ("two", "tell", json!({"after": "one"})),
        ("three", "tell", json!({"after": "two"})),
    ])
}

#[test]
fn one_worker_makes_stage_after_stage_and_each_has_its_own_log() {
    let project = EngineProject::new();
    assert_eq!(project.build(&chain(&project)).ran, 3);
    let (one, two, three) = (told(&project, "one"), told(&project, "two"), told(&project, "three"));
    assert_eq!([(two.0, two.1), (three.0, three.1)], [(one.0, one.1 + 1), (one.0, one.1 + 2)]);
    for record in project.store().actions().unwrap() {
        let log = std::fs::read_to_string(project.store().log_file(record.key)).unwrap();
        let words: Vec<&str> = log.lines().filter(|line| line.starts_with("the words of")).collect();
        assert_eq!(words, [format!("the words of {}", record.stage)]);
        // The standard output of the stage is also in its log.
        assert!(log.contains(&format!("printed by {}", record.stage)), "{log}");
    }
}

#[test]
fn a_line_without_a_line_break_does_not_hide_the_end_of_a_stage() {
    let project = EngineProject::new();
    let stages = project
        .one(&[("one", "tell", json!({"mumbles": true})), ("two", "tell", json!({"mumbles": true, "after": "one"}))]);
    let summary = project.build(&stages);
    assert_eq!(summary.ran, 2, "{summary:?}");
    assert!(project.log().contains("half a line of one\n"), "{}", project.log());
    assert_eq!(told(&project, "one").0, told(&project, "two").0);
}

#[test]
fn with_fresh_workers_each_stage_has_its_own_process() {
    let project = EngineProject::new();
    assert_eq!(project.build_so(&chain(&project), |options| options.fresh_workers = true).ran, 3);
    let workers = ["one", "two", "three"].map(|stage| told(&project, stage));
    assert!(workers[0].0 != workers[1].0 && workers[1].0 != workers[2].0, "{workers:?}");
}

#[test]
fn if_a_worker_dies_only_its_stage_fails_and_the_worker_is_replaced() {
    let project = EngineProject::new();
    let stages = project.one(&[
        ("a-first", "tell", json!({"name": "first"})),
        ("b-bad", "tell", json!({"crash": true})),
        ("c-last", "tell", json!({"name": "last"})),
        ("d-after", "tell", json!({"after": "b-bad"})),
    ]);
    let summary = project.build_so(&stages, |options| options.keep_going = true);
    assert_eq!((summary.ran, summary.skipped, summary.failures.len()), (2, 1, 1));
    let failure = &summary.failures[0];
    assert!(failure.stage == "b-bad" && failure.reason.contains("signal 6"), "{failure:?}");
    assert!(failure.reason.contains("the words of b-bad"), "{failure:?}");
    assert_ne!(told(&project, "a-first").0, told(&project, "c-last").0);

    // A stage that fails without a crash leaves its worker alive.
    let project = EngineProject::new();
    let stages: Vec<(&str, &str, Value)> = vec![
        ("a-first", "tell", json!({"name": "first"})),
        ("b-bad", "tell", json!({"fail": true})),
        ("c-last", "tell", json!({"name": "last"})),
    ];
    let summary = project.build_so(&project.one(&stages), |options| options.keep_going = true);
    assert!(summary.failures[0].reason.contains("was told to fail"), "{summary:?}");
    assert_eq!(told(&project, "a-first").0, told(&project, "c-last").0);
}

#[test]
fn stages_that_take_one_thread_each_run_side_by_side_and_resources_are_in_no_key() {
    let project = EngineProject::new();
    let meet = project.folder.join("meet");
    std::fs::create_dir(&meet).unwrap();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meeting = cores.min(2);
    let place = meet.to_str().unwrap();
    let with = |threads: Option<usize>| {
        let stages =
            ["one", "two"].map(|name| (name, "tell", json!({"name": name, "meet": place, "meeting": meeting})));
        let mut pipeline = project.one(&stages);
        pipeline.variants[0].stages.iter_mut().for_each(|stage| stage.resources.threads = threads);
        pipeline
    };
    let summary = project.build(&with(Some(1)));
    assert_eq!(summary.ran, 2, "{summary:?}");
    assert_eq!((told(&project, "one").2, told(&project, "two").2), (1, 1));
    // Without `threads`, each stage takes all cores. The number of threads does not change any key.
    assert_eq!(project.build(&with(None)).ran, 0);
    assert_eq!(project.build(&with(Some(7))).ran, 0);
}

#[test]
fn a_worker_without_any_sign_of_life_is_ended_with_the_reason() {
    let project = EngineProject::new();
    let began = std::time::Instant::now();
    let mut build = project.builder(&json!({"milliseconds": 60_000}));
    let output = processes::output(build.env("RAISIN_SILENT_SECONDS", "1"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("it gave no sign of life for too long"), "{words}");
    assert!(began.elapsed().as_secs() < 20);
    // The same stage may take longer than the limit of another build.
    let mut build = project.builder(&json!({"milliseconds": 1500}));
    let output = processes::output(build.env("RAISIN_SILENT_SECONDS", "60"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
