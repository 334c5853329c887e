//! Tests of the table in docs/design.md that says what is in an action key: one test for each row.
//!
//! After a change, a build either runs the stage (`ran` counts it) or finds its artifact. Device and dtype need tensor
//! stages; tests/main_job.rs tests these rows.

use std::time::{Duration, SystemTime};

use raisin_contract::{Context, Declaration, Kind, Needs, Process};
use raisin_pipeline::Pipeline;
use serde_json::json;

use crate::kinds::{Runs, Write, WriteParameters};
use crate::project::EngineProject;

/// Builds `before`, then `after`. Returns the number of stages that ran in the second build.
fn ran(project: &EngineProject, before: &Pipeline, after: &Pipeline) -> u64 {
    project.build(before);
    project.build(after).ran
}

/// A pipeline that copies a file.
fn copies(project: &EngineProject, path: &str) -> Pipeline {
    project.one(&[("copy", "copy", json!({"path": path}))])
}

/// A later version of the kind `write`: the same name, another version number.
struct NewerWrite;

impl Kind for NewerWrite {
    const NAME: &'static str = "write";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Writes a text.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = WriteParameters;

    fn needs(_: &Self::Parameters, _: &mut Needs) {}
}

impl Runs for NewerWrite {
    fn run(parameters: Self::Parameters, context: &Context) -> raisin_base::error::Result<()> {
        Write::run(parameters, context)
    }
}

static NEWER: Declaration = Declaration::of::<NewerWrite>();

#[test]
fn the_kind_is_in_the_key() {
    let project = EngineProject::new();
    project.build(&project.one(&[("a", "write", json!({}))]));
    std::fs::write(project.folder.join("data.txt"), "hello").unwrap();
    // Another kind writes the same bytes.
    assert_eq!(project.build(&project.one(&[("a", "copy", json!({"path": "data.txt"}))])).ran, 1);
}

#[test]
fn the_kinds_version_is_in_the_key() {
    let project = EngineProject::new();
    let before = project.one(&[("a", "write", json!({}))]);
    let mut after = project.one(&[("a", "write", json!({}))]);
    after.variants[0].stages[0].declaration = &NEWER;
    assert_eq!(ran(&project, &before, &after), 1);
    assert_eq!(project.build(&before).ran, 0);
}

#[test]
fn every_parameter_is_in_the_key() {
    let project = EngineProject::new();
    let text = |value: serde_json::Value| project.one(&[("a", "write", value)]);
    project.build(&text(json!({})));
    for change in [json!({"text": "other"}), json!({"milliseconds": 1}), json!({"text": "other", "milliseconds": 1})] {
        assert_eq!(project.build(&text(change.clone())).ran, 1, "{change}");
        assert_eq!(project.build(&text(change.clone())).ran, 0, "{change}");
    }
}

#[test]
fn a_default_that_is_written_out_and_the_order_of_keys_are_not() {
    let project = EngineProject::new();
    let (bare, written) = (json!({"text": "x"}), json!({"fail": false, "milliseconds": 0, "text": "x"}));
    let text = |value| project.one(&[("a", "write", value)]);
    assert_eq!(ran(&project, &text(bare), &text(written)), 0);
    let swapped = json!({"text": "x", "milliseconds": 0, "fail": false});
    assert_eq!(project.build(&text(swapped)).ran, 0);
}

#[test]
fn an_inputs_artifact_is_in_the_key_and_how_it_was_made_is_not() {
    let project = EngineProject::new();
    let joined = |left: serde_json::Value| {
        project.one(&[
            ("left", "write", left),
            ("right", "write", json!({"text": "right"})),
            ("both", "join", json!({"left": "left", "right": "right"})),
        ])
    };
    project.build(&joined(json!({"text": "one"})));
    assert_eq!(project.build(&joined(json!({"text": "two"}))).ran, 2);
    // `write` trims blanks, so the action differs but the artifact is the same.
    assert_eq!(project.build(&joined(json!({"text": " two "}))).ran, 1);
}

#[test]
fn the_parameter_that_names_an_artifact_is_in_the_key() {
    let project = EngineProject::new();
    let joined = |left: &str, right: &str| {
        project.one(&[
            ("a", "write", json!({"text": "a"})),
            ("b", "write", json!({"text": "b"})),
            ("both", "join", json!({"left": left, "right": right})),
        ])
    };
    assert_eq!(ran(&project, &joined("a", "b"), &joined("b", "a")), 1);
    assert_eq!(project.text("both"), "ba");
}

#[test]
fn a_files_content_is_in_the_key_and_its_time_is_not() {
    let project = EngineProject::new();
    let file = project.folder.join("data.txt");
    std::fs::write(&file, "one").unwrap();
    let pipeline = copies(&project, "data.txt");
    project.build(&pipeline);
    let later = SystemTime::now() + Duration::from_hours(1);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    assert_eq!(project.build(&pipeline).ran, 0);
    std::fs::write(&file, "two").unwrap();
    assert_eq!(project.build(&pipeline).ran, 1);
}

#[test]
fn a_files_name_is_in_the_key_and_its_folder_is_not() {
    let project = EngineProject::new();
    for folder in ["here", "there"] {
        std::fs::create_dir(project.folder.join(folder)).unwrap();
        std::fs::write(project.folder.join(folder).join("data.txt"), "one").unwrap();
    }
    std::fs::write(project.folder.join("here/other.txt"), "one").unwrap();
    assert_eq!(ran(&project, &copies(&project, "here/data.txt"), &copies(&project, "there/data.txt")), 0);
    assert_eq!(project.build(&copies(&project, "here/other.txt")).ran, 1);
}

#[test]
fn the_seed_is_in_the_key_of_kinds_that_draw_and_of_no_other() {
    let project = EngineProject::new();
    let stages = [("a", "write", json!({})), ("both", "join", json!({"left": "a", "right": "a"}))];
    let seeded = |seed| project.pipeline(vec![EngineProject::variant("", json!({}), seed, &stages)]);
    // `join` draws random numbers; `write` does not.
    assert_eq!(ran(&project, &seeded(1), &seeded(2)), 1);
}

#[test]
fn the_names_of_stage_pipeline_and_variant_are_not_in_the_key() {
    let project = EngineProject::new();
    let mut before = project.one(&[("a", "write", json!({})), ("b", "join", json!({"left": "a", "right": "a"}))]);
    project.build(&before);
    let renamed = [("first", "write", json!({})), ("second", "join", json!({"left": "first", "right": "first"}))];
    assert_eq!(project.build(&project.one(&renamed)).ran, 0);
    before.name = "another".into();
    assert_eq!(project.build(&before).ran, 0);
    let variant = EngineProject::variant("x=1", json!({"stage.a.x": 1}), 17, &renamed);
    assert_eq!(project.build(&project.pipeline(vec![variant])).ran, 0);
}

#[test]
fn the_place_of_cache_and_project_is_not_in_the_key() {
    let (here, there) = (EngineProject::new(), EngineProject::new());
    let stages = [("a", "write", json!({"text": "x"})), ("both", "join", json!({"left": "a", "right": "a"}))];
    here.build(&here.one(&stages));
    there.build(&there.one(&stages));
    let keys = |project: &EngineProject| {
        project.store().record_keys().map(|mut keys| {
            keys.sort_unstable();
            keys
        })
    };
    assert_eq!(keys(&here).unwrap(), keys(&there).unwrap());
    assert_eq!(keys(&here).unwrap().len(), 2);
}
