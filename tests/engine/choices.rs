//! Tests of the options of a build: force, check, plan files, and accepted changes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use raisin_base::error::render;
use raisin_engine::{self as engine, Force, Options, PlanFile, Status};
use raisin_pipeline::Pipeline;
use serde_json::{Value, json};

use raisin_tests::processes;

use crate::kinds::KINDS;
use crate::project::{EngineProject, chain, wait_for};

fn forced(names: &[&str]) -> Force {
    Force::Stages(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn force_runs_a_cached_stage_and_equal_bytes_stop_the_rebuild() {
    let project = EngineProject::new();
    let pipeline = project.one(&chain("ay", "-"));
    project.build(&pipeline);
    let summary = project.build_so(&pipeline, |options| options.force = forced(&["a"]));
    assert_eq!((summary.ran, summary.cached), (1, 3));
    let summary = project.build_so(&pipeline, |options| options.force = Force::Everything);
    assert_eq!((summary.ran, summary.cached), (4, 0));
    assert_eq!(project.build(&pipeline).ran, 0);

    for (force, only, hint) in
        [(&["dd"], &[][..], "did you mean `d`?"), (&["elsewhere"], &["c"][..], "the stages are a, b, c")]
    {
        let only = only.iter().map(|name: &&str| (*name).to_owned()).collect();
        let options = Options { force: forced(force), only, ..project.options() };
        let error = render(&engine::build(&pipeline, &options).unwrap_err());
        assert!(error.contains(&format!("there is no stage `{}`", force[0])) && error.contains(hint), "{error}");
    }
}

#[test]
fn a_forced_stage_begins_anew_whatever_checkpoints_there_are() {
    let project = EngineProject::new();
    let pipeline = project.one(&[("long", "write", json!({"die_once": true}))]);
    assert_eq!(project.build(&pipeline).exit_code(), 1);
    // With the checkpoint, the stage would have continued. Without a checkpoint, it dies again.
    assert_eq!(project.build_so(&pipeline, |options| options.force = forced(&["long"])).exit_code(), 1);
    assert_eq!(project.build(&pipeline).exit_code(), 0);
}

#[test]
fn a_check_names_the_file_that_a_second_run_makes_otherwise() {
    let project = EngineProject::new();
    let stages = |drift: bool| {
        project.one(&[
            ("same", "write", json!({"text": "same"})),
            ("drifts", "write", json!({"text": "x", "drift": drift})),
            ("after", "join", json!({"left": "same", "right": "drifts"})),
        ])
    };
    let checked =
        |pipeline: &Pipeline| project.build_so(pipeline, |options| (options.check, options.keep_going) = (true, true));
    let summary = checked(&stages(true));
    assert_eq!((summary.exit_code(), summary.failures.len()), (1, 1));
    let failure = &summary.failures[0];
    assert!(failure.stage == "drifts" && failure.reason.contains("drift: "), "{failure:?}");
    assert!(!failure.reason.contains("text"), "{failure:?}");
    // The artifact of the first run is kept.
    assert_eq!(project.build(&stages(true)).ran, 0);
    let summary = checked(&stages(false));
    assert_eq!((summary.exit_code(), summary.ran), (0, 2));
    assert_eq!(std::fs::read_dir(project.folder.join("cache/tmp")).unwrap().count(), 0);
}

#[test]
fn a_second_run_that_fails_takes_neither_the_artifact_nor_the_log_of_the_first_away() {
    let project = EngineProject::new();
    let once = project.folder.join("once");
    let pipeline = project.one(&[("once", "write", json!({"text": "made", "once": once.to_str().unwrap()}))]);
    let summary = project.build_so(&pipeline, |options| options.check = true);
    assert_eq!((summary.exit_code(), summary.ran), (1, 1), "{summary:?}");
    let reason = &summary.failures[0].reason;
    assert!(reason.contains("the second run failed") && reason.contains("this is the second time"), "{reason}");
    assert_eq!(project.text("once"), "made");
    assert_eq!(project.build(&pipeline).exit_code(), 0);
    let record = project.store().actions().unwrap().remove(0);
    let log = std::fs::read_to_string(project.store().log_file(record.key)).unwrap();
    assert!(log.contains("at work") && !log.contains("the second time"), "{log}");
    assert_eq!(std::fs::read_dir(project.folder.join("cache/logs")).unwrap().count(), 2);
}

#[test]
fn a_stage_that_fails_with_checkpoints_says_how_to_begin_without_them() {
    let project = EngineProject::new();
    let stages = [("long", "copy", json!({"path": "data.txt"}))];
    std::fs::write(project.folder.join("data.txt"), "one").unwrap();
    std::fs::write(project.folder.join("die"), "").unwrap();
    let reason = |summary: engine::Summary| summary.failures[0].reason.clone();
    let first = reason(project.build(&project.one(&stages)));
    assert!(!first.contains("--force"), "{first}");
    let second = reason(project.build(&project.one(&stages)));
    assert!(second.contains("checkpoints of an earlier attempt") && second.contains("--force long"), "{second}");
}

/// Writes a plan file. Returns its path.
fn planned(project: &EngineProject, pipeline: &Pipeline) -> PathBuf {
    let (_, plan) = PlanFile::make(pipeline, &project.options()).unwrap();
    let path = project.folder.join("plan.json");
    std::fs::write(&path, plan.text().unwrap()).unwrap();
    path
}

fn build_plan(project: &EngineProject, path: &Path) -> raisin_base::error::Result<engine::Summary> {
    let plan = PlanFile::read(path)?.expect("a plan");
    let mut pipeline = plan.pipeline(&KINDS)?;
    pipeline.folder.clone_from(&project.folder);
    engine::build_planned(&plan, &pipeline, &project.options())
}

#[test]
fn a_plan_is_built_as_it_was_planned() {
    let project = EngineProject::new();
    let pipeline = project.one(&chain("ay", "-"));
    let path = planned(&project, &pipeline);
    // The build needs only the plan file, and uses artifacts that were made after the plan.
    project.build_so(&pipeline, |options| options.only = vec!["a".into()]);
    let summary = build_plan(&project, &path).unwrap();
    assert_eq!((summary.ran, summary.cached), (3, 1));
    assert_eq!(project.text("d"), "ay-beeay-bee");
    assert_eq!(project.build(&pipeline).ran, 0);
    // A stage that was cached when the plan was made, and whose artifact is gone, runs again.
    let path = planned(&project, &pipeline);
    project.store().set_aside(&project.folder.join("out/story/a").canonicalize().unwrap()).unwrap();
    assert_eq!(build_plan(&project, &path).unwrap().ran, 1);
}

#[test]
fn a_plan_is_refused_when_an_input_changed_meanwhile() {
    let project = EngineProject::new();
    std::fs::write(project.folder.join("data.txt"), "one").unwrap();
    let pipeline = project.one(&[
        ("first", "write", json!({})),
        ("copy", "copy", json!({"path": "data.txt"})),
        ("both", "join", json!({"left": "first", "right": "copy"})),
    ]);
    let path = planned(&project, &pipeline);
    std::fs::write(project.folder.join("data.txt"), "two").unwrap();
    let error = render(&build_plan(&project, &path).unwrap_err());
    assert!(error.contains("copy: file data.txt (path): other bytes") && error.contains("plan again"), "{error}");
    assert!(project.store().actions().unwrap().is_empty());
    std::fs::write(project.folder.join("data.txt"), "one").unwrap();
    assert_eq!(build_plan(&project, &path).unwrap().ran, 3);
}

#[test]
fn another_version_a_torn_plan_and_other_files_are_told_apart() {
    let project = EngineProject::new();
    let path = planned(&project, &project.one(&[("a", "write", json!({}))]));
    let text = std::fs::read_to_string(&path).unwrap();
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        render(&build_plan(&project, &path).unwrap_err())
    };
    let error = refused(&text.replace("\"raisin_plan\": 1", "\"raisin_plan\": 99"));
    assert!(error.contains("has format 99, this raisin reads format 1") && error.contains("plan again"), "{error}");
    let error = refused(&text.replace("\"kind_version\": 1", "\"kind_version\": 7"));
    assert!(error.contains("stage `a` was planned with version 7 of the kind `write`"), "{error}");
    let error = refused(&text.replace("\"kind\": \"write\"", "\"kind\": \"wrote\""));
    assert!(error.contains("the kind `wrote`, which is not there"), "{error}");
    let error = refused(&text[..text.len() / 2]);
    assert!(error.contains("is neither a pipeline nor a plan"), "{error}");
    let error = refused("{\"artifact\": 3}");
    assert!(error.contains("is neither a pipeline nor a plan"), "{error}");
    std::fs::write(&path, "[stage.a]\nkind = \"write\"\n").unwrap();
    assert!(PlanFile::read(&path).unwrap().is_none());
}

#[test]
fn a_plan_for_one_gpu_of_several_is_built_on_that_one() {
    let project = EngineProject::new();
    let path = planned(&project, &project.one(&[("a", "write", json!({}))]));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"device\": \"cpu\""), "{text}");
    std::fs::write(&path, text.replace("\"device\": \"cpu\"", "\"device\": \"cuda:1\"")).unwrap();
    let plan = PlanFile::read(&path).unwrap().unwrap();
    assert_eq!(plan.options(project.options()).device, engine::DeviceChoice::CudaAt(1));
}

/// Starts a build in its own process, and returns when its stage runs.
fn at_work(project: &EngineProject, parameters: &Value) -> Child {
    let child = project.builder(parameters).spawn().unwrap();
    let staging = project.folder.join("cache/tmp");
    wait_for("the stage is being made", || std::fs::read_dir(&staging).unwrap().count() > 0);
    child
}

#[test]
fn accept_names_the_process_for_which_it_waits() {
    let project = EngineProject::new();
    project.build(&project.one(&[("slow", "write", json!({}))]));
    // Another process makes the artifact of the action that is to be accepted.
    let first = at_work(&project, &json!({"milliseconds": 2500}));
    let second = processes::output(&mut project.accepter(&json!({"milliseconds": 2500})));
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains(&format!("waiting for pid {} building slow", first.id())), "{words}");
    assert_eq!(second.status.code(), Some(0), "{words}");
    assert_eq!(processes::ended(first).status.code(), Some(0));
    // An artifact that was really made is better than an accepted artifact.
    assert!(project.store().actions().unwrap().iter().all(|record| record.accepted.is_none()));
}

#[test]
fn accept_that_waits_can_be_interrupted() {
    let project = EngineProject::new();
    project.build(&project.one(&[("slow", "write", json!({}))]));
    let first = at_work(&project, &json!({"milliseconds": 4000}));
    let mut second = project.accepter(&json!({"milliseconds": 4000})).stderr(Stdio::piped()).spawn().unwrap();
    let mut words = String::new();
    let mut lines = BufReader::new(second.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("waiting for pid")), "it does not wait");
    let pid = rustix::process::Pid::from_child(&second);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    lines.for_each(|line| words += &line);
    assert_eq!(processes::status(&mut second).code(), Some(130), "{words}");
    assert!(words.contains("interrupted"), "{words}");
    processes::ended(first);
}

fn accept(
    project: &EngineProject,
    pipeline: &Pipeline,
    stage: &str,
) -> raisin_base::error::Result<Vec<engine::Acceptance>> {
    engine::accept(pipeline, &project.options(), stage, "only words")
}

#[test]
fn an_accepted_change_keeps_the_artifact_and_the_record_says_who_accepted_what() {
    let project = EngineProject::new();
    project.build(&project.one(&chain("ay", "-")));
    let changed = project.one(&chain("ay", "+"));
    assert_eq!(accept(&project, &changed, "a").unwrap().len(), 0);
    let accepted = accept(&project, &changed, "c").unwrap();
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].accepted.differences, ["between: \"-\" -> \"+\""]);
    // All stages are cached now, with the old text.
    assert_eq!(project.build(&changed).ran, 0);
    assert_eq!(project.text("d"), "ay-beeay-bee");
    let plan = engine::plan(&changed, &project.options()).unwrap();
    let of = |label: &str| plan.stages.iter().find(|stage| stage.label == label).unwrap().status.clone();
    let Status::Cached { accepted: Some(word), .. } = of("c") else { panic!("{plan}") };
    assert!(word.to_string().contains("between: \"-\" -> \"+\" (only words)"), "{word}");
    assert!(matches!(of("d"), Status::Cached { accepted: None, .. }));
    // With `force`, the stage runs after all.
    assert_eq!(project.build_so(&changed, |options| options.force = forced(&["c"])).ran, 2);
    assert_eq!(project.text("d"), "ay+beeay+bee");
}

#[test]
fn a_stage_without_an_earlier_artifact_or_with_a_pending_input_cannot_be_accepted() {
    let project = EngineProject::new();
    let error = render(&accept(&project, &project.one(&chain("ay", "-")), "a").unwrap_err());
    assert!(error.contains("there is no earlier artifact of `a`") && error.contains("raisin build"), "{error}");
    project.build(&project.one(&chain("ay", "-")));
    let changed = project.one(&chain("oh", "+"));
    let error = render(&accept(&project, &changed, "c").unwrap_err());
    assert!(error.contains("made from `a`, which would run") && error.contains("accept `a` first"), "{error}");
    let error = render(&accept(&project, &changed, "cc").unwrap_err());
    assert!(error.contains("no stage `cc`") && error.contains("did you mean `c`?"), "{error}");
    // The artifact of another variant cannot be accepted for this variant.
    let seeded = |seed: u64| {
        let stages = [("a", "write", json!({})), ("both", "join", json!({"left": "a", "right": "a"}))];
        let name = format!("seed={seed}");
        project.pipeline(vec![EngineProject::variant(&name, json!({"pipeline.seed": seed}), seed, &stages)])
    };
    project.build(&seeded(1));
    assert!(accept(&project, &seeded(2), "both").is_err());
}

#[test]
fn why_names_input_stages_and_the_changes_in_their_artifacts() {
    let project = EngineProject::new();
    let stages = |text: &str| -> Vec<(&'static str, &'static str, Value)> {
        vec![("pool", "write", json!({"text": text})), ("both", "join", json!({"left": "pool", "right": "pool"}))]
    };
    project.build(&project.one(&stages("one")));
    assert_eq!(
        project.why(&project.one(&stages("two"))),
        ["pool: text: \"one\" -> \"two\"", "both: input pool will be made anew"]
    );
    project.build_so(&project.one(&stages("two")), |options| options.only = vec!["pool".into()]);
    assert_eq!(project.why(&project.one(&stages("two"))), ["both: input pool: other bytes in text"]);
}

/// A sweep over two texts and two seeds. The two variants of a text share `a`, but not `both`.
fn swept(project: &EngineProject, texts: [&str; 2], milliseconds: u64) -> Pipeline {
    let mut variants = Vec::new();
    for text in texts {
        for seed in [1, 2] {
            let stages = [
                ("a", "write", json!({"text": text, "milliseconds": milliseconds})),
                ("both", "join", json!({"left": "a", "right": "a"})),
            ];
            let values = json!({"stage.a.text": text, "pipeline.seed": seed});
            variants.push(EngineProject::variant(&format!("text={text},seed={seed}"), values, seed, &stages));
        }
    }
    project.pipeline(variants)
}

#[test]
fn a_shared_artifact_is_not_accepted_for_other_variants() {
    let project = EngineProject::new();
    assert_eq!(project.build(&swept(&project, ["x", "z"], 0)).ran, 6);
    let error = render(&accept(&project, &swept(&project, ["x", "new"], 0), "a").unwrap_err());
    assert!(error.contains("there is no earlier artifact of `a [text=\"new\"]`"), "{error}");
    let accepted = accept(&project, &swept(&project, ["x", "z"], 1), "a").unwrap();
    assert_eq!(accepted.len(), 2);
    assert!(accepted.iter().all(|word| word.accepted.differences == ["milliseconds: 0 -> 1"]), "{accepted:?}");
    assert_eq!(project.build(&swept(&project, ["x", "z"], 1)).ran, 0);
}

#[test]
fn forced_stages_that_turn_out_to_be_the_same_action_run_once_and_all_have_the_artifact() {
    let project = EngineProject::new();
    // The two texts are equal without their blanks. The second `a` ends only after `c` of the first variant was made.
    let variants = [("x", 0), ("x ", 700)].map(|(text, milliseconds)| {
        let stages = [
            ("a", "write", json!({"text": text, "milliseconds": milliseconds})),
            ("c", "join", json!({"left": "a", "right": "a"})),
        ];
        EngineProject::variant(&format!("ms={milliseconds}"), json!({"stage.a.text": text}), 17, &stages)
    });
    let pipeline = project.pipeline(variants.into());
    for _ in 0..2 {
        let summary = project.build_so(&pipeline, |options| options.force = Force::Everything);
        assert_eq!((summary.ran, summary.cached, summary.skipped), (3, 1, 0), "{summary:?}");
        assert_eq!([project.text("ms=0/c"), project.text("ms=700/c")], ["xx", "xx"]);
    }
}

#[test]
fn a_record_that_cannot_be_read_fails_its_stage_and_not_the_build() {
    let project = EngineProject::new();
    let pipeline = project.one(&[
        ("bad", "write", json!({"text": "bad"})),
        ("after", "join", json!({"left": "bad", "right": "bad"})),
        ("good", "write", json!({"text": "good"})),
    ]);
    project.build(&pipeline);
    let store = project.store();
    let bad = store.actions().unwrap().into_iter().find(|record| record.stage == "bad").unwrap();
    // A link to itself cannot be read, not even by root, and it does not count as damage.
    let record = project.folder.join(format!("cache/actions/{}.json", bad.key));
    std::fs::remove_file(&record).unwrap();
    std::os::unix::fs::symlink(&record, &record).unwrap();
    let changed = |text: &str| {
        project.one(&[
            ("bad", "write", json!({"text": "bad"})),
            ("after", "join", json!({"left": "bad", "right": "bad"})),
            ("good", "write", json!({"text": text})),
        ])
    };
    let summary = project.build_so(&changed("better"), |options| options.keep_going = true);
    assert_eq!((summary.ran, summary.skipped, summary.failures.len()), (1, 1, 1), "{summary:?}");
    assert_eq!(summary.failures[0].stage, "bad");
    assert_eq!(project.text("good"), "better");
    // raisin cannot know whether the artifacts are gone. Therefore they stay linked, and gc removes none of them.
    assert_eq!([project.text("bad"), project.text("after")], ["bad", "badbad"]);
}
