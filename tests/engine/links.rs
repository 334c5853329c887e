//! Tests of the links under out/: which link a build sets, keeps and removes, and how long gc keeps what a link led to.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use raisin_base::digest::Digest;
use raisin_base::error::{exit_code, render};
use raisin_engine as engine;
use raisin_pipeline::Pipeline;
use raisin_store::{self as store, BuildDescription, Forget, Gc, GcOptions, Waiting};
use raisin_tests::{age, processes};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::project::{EngineProject, StageText, chain, wait_for};

/// Runs `gc --yes` with the default age.
fn free(project: &EngineProject) -> Gc {
    let yes = GcOptions { yes: true, ..GcOptions::default() };
    store::gc(&project.store(), &project.folder.join("out"), &yes).unwrap()
}

/// The artifact to which the link of a stage leads.
fn linked(project: &EngineProject, stage: &str) -> Digest {
    let target = std::fs::read_link(project.folder.join("out/story").join(stage)).unwrap();
    target.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn build_into(project: &EngineProject, pipeline: &Pipeline, out: &Path) -> raisin_base::error::Result<engine::Summary> {
    engine::build(pipeline, &engine::Options { out: out.to_owned(), ..project.options() })
}

#[test]
fn a_link_stays_until_its_stage_has_a_newer_artifact_or_is_gone_from_the_pipeline() {
    let project = EngineProject::new();
    let stages = |text: &str, fail: bool| -> Vec<StageText<'static>> {
        vec![
            ("first", "write", json!({"text": text})),
            ("middle", "write", json!({"text": format!("{text}er"), "fail": fail})),
            ("last", "join", json!({"left": "first", "right": "middle"})),
        ]
    };
    assert_eq!(project.build(&project.one(&stages("old", false))).earlier, [""; 0]);
    let described = |project: &EngineProject| {
        let description = BuildDescription::read(&project.folder.join("out/story")).unwrap().unwrap();
        description.stages.into_iter().map(|built| (built.stage, built.artifact)).collect::<Vec<_>>()
    };
    let before = described(&project);
    let summary = project.build_so(&project.one(&stages("new", true)), |options| options.keep_going = true);
    assert_eq!((summary.ran, summary.exit_code()), (1, 1), "{summary:?}");
    assert_eq!(summary.earlier, ["middle", "last"]);
    assert_eq!(["first", "middle", "last"].map(|stage| project.text(stage)), ["new", "older", "oldolder"]);
    let after = described(&project);
    assert!(after[0] != before[0] && after[1..] == before[1..], "{after:?}");
    // gc removes none of these artifacts.
    let (store, out) = (project.store(), project.folder.join("out"));
    let all = store::GcOptions { yes: true, older_than: Some(Duration::ZERO), ..Default::default() };
    assert_eq!(store::gc(&store, &out, &all).unwrap().artifacts.len(), 1);
    assert_eq!(project.text("last"), "oldolder");
    // A build that leaves these stages out does not remove their links.
    let summary = project.build_so(&project.one(&stages("new", false)), |options| options.only = vec!["first".into()]);
    assert_eq!((summary.exit_code(), summary.earlier.len()), (0, 2));
    assert_eq!(project.text("last"), "oldolder");
    let summary = project.build(&project.one(&stages("new", false)));
    assert_eq!((summary.ran, summary.earlier.len()), (2, 0));
    assert_eq!(project.text("last"), "newnewer");
    // A stage that is no longer in the pipeline has no link. A stage whose artifact is gone has no link either.
    project.build(&project.one(&stages("new", false)[..2]));
    assert!(project.folder.join("out/story/last").symlink_metadata().is_err());
    project.store().set_aside(&project.folder.join("out/story/middle").canonicalize().unwrap()).unwrap();
    assert_eq!(project.build(&project.one(&stages("new", true)[..2])).earlier, [""; 0]);
    assert!(project.folder.join("out/story/middle").symlink_metadata().is_err());
}

#[test]
fn a_build_reports_links_to_artifacts_of_an_earlier_build() {
    let project = EngineProject::new();
    let build = |parameters: Value| {
        let output = processes::output(&mut project.builder(&parameters));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(!build(json!({})).contains("earlier build"));
    let words = build(json!({"fail": true}));
    let last: Vec<&str> = words.lines().rev().take(2).collect();
    assert!(
        last[1].starts_with("1 link is of an earlier build")
            && last[1].ends_with(": slow")
            && last[0].starts_with("failed story"),
        "{words}"
    );
}

#[test]
fn an_artifact_that_a_link_released_stays_for_a_day_after_the_release() {
    let project = EngineProject::new();
    let [first, second] = ["-", "+"].map(|between| project.one(&chain("ay", between)));
    project.build(&first);
    let released = linked(&project, "d");
    age(&project.folder.join("cache"), Duration::from_hours(72));
    project.build(&second);
    assert_eq!(free(&project).artifacts, [], "the link led to the artifact until a moment ago");
    age(&project.folder.join("cache"), Duration::from_hours(23));
    assert_eq!(free(&project).artifacts, []);
    // A build that finds the artifact again is a use, although another build releases it at once.
    assert_eq!(project.build(&first).ran, 0);
    assert_eq!(project.build(&second).ran, 0);
    age(&project.folder.join("cache"), Duration::from_hours(23));
    assert_eq!(free(&project).artifacts, []);
    age(&project.folder.join("cache"), Duration::from_hours(2));
    assert!(free(&project).artifacts.contains(&released));
}

#[test]
fn the_artifacts_of_a_build_stay_for_a_day_after_it_whatever_happens_to_its_links() {
    let project = EngineProject::new();
    let pipeline = project.one(&chain("ay", "-"));
    project.build(&pipeline);
    age(&project.folder.join("cache"), Duration::from_hours(72));
    // The build has nothing to do. It is a use of its artifacts nevertheless.
    assert_eq!(project.build(&pipeline).ran, 0);
    std::fs::remove_dir_all(project.folder.join("out/story")).unwrap();
    let options = GcOptions { yes: true, forget: Forget::Missing, ..GcOptions::default() };
    let collect = || store::gc(&project.store(), &project.folder.join("out"), &options).unwrap();
    assert_eq!(collect().artifacts, []);
    age(&project.folder.join("cache"), Duration::from_hours(25));
    assert_eq!(collect().artifacts.len(), 4);
}

#[test]
fn an_artifact_that_a_pin_released_stays_for_a_day_after_the_release() {
    let project = EngineProject::new();
    project.build(&project.one(&chain("ay", "-")));
    let pinned = linked(&project, "d");
    project.store().pin(pinned, "story.d").unwrap();
    project.build(&project.one(&chain("ay", "+")));
    age(&project.folder.join("cache"), Duration::from_hours(72));
    free(&project);
    assert!(project.store().unpin(pinned).unwrap());
    assert_eq!(free(&project).artifacts, []);
    age(&project.folder.join("cache"), Duration::from_hours(25));
    assert_eq!(free(&project).artifacts, [pinned]);
}

#[test]
fn a_link_into_another_cache_releases_the_artifact_of_that_cache() {
    let project = EngineProject::new();
    project.build(&project.one(&chain("ay", "-")));
    age(&project.folder.join("cache"), Duration::from_hours(72));
    project.build_so(&project.one(&chain("oh", "+")), |options| options.cache = project.folder.join("other"));
    assert_eq!(free(&project).artifacts, []);
    age(&project.folder.join("cache"), Duration::from_hours(25));
    // The stage `b` has the same artifact in both caches, so that a link still names its digest.
    assert_eq!(free(&project).artifacts.len(), 3);
}

#[test]
fn an_out_folder_behind_a_link_that_is_pointed_elsewhere_gets_links_and_the_former_keeps_its_artifacts() {
    let project = EngineProject::new();
    let [one, other, out] = ["one", "other", "out"].map(|name| project.folder.join(name));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&other).unwrap();
    symlink("one", &out).unwrap();
    project.build(&project.one(&chain("ay", "-")));
    std::fs::remove_file(&out).unwrap();
    symlink("other", &out).unwrap();
    let pipeline = project.one(&chain("ay", "-"));
    assert_eq!(project.build(&pipeline).ran, 0);
    assert!(other.join("story/d").is_dir(), "the new folder has no links");
    project.build(&project.one(&chain("ay", "+")));
    age(&project.folder.join("cache"), Duration::from_hours(72));
    let freed = free(&project);
    assert_eq!((freed.artifacts.len(), freed.missing.len()), (0, 0));
    assert_eq!(std::fs::read_to_string(one.join("story/d/text")).unwrap(), "ay-beeay-bee");
    assert_eq!(std::fs::read_to_string(out.join("story/d/text")).unwrap(), "ay+beeay+bee");

    // The folder of a pipeline may be a link, too.
    let far = project.folder.join("far");
    std::fs::rename(other.join("story"), &far).unwrap();
    symlink(&far, other.join("story")).unwrap();
    project.build(&project.one(&chain("ay", "*")));
    let kept = linked(&project, "d");
    std::fs::remove_file(other.join("story")).unwrap();
    project.build(&pipeline);
    age(&project.folder.join("cache"), Duration::from_hours(72));
    assert!(!free(&project).artifacts.contains(&kept));
}

#[test]
fn gc_removes_nothing_while_an_out_folder_is_missing_until_it_is_forgotten() {
    let project = EngineProject::new();
    std::fs::create_dir(project.folder.join("sub")).unwrap();
    let pipeline = project.one(&chain("ay", "-"));
    // A path through a folder that disappears names an out folder that stays.
    build_into(&project, &pipeline, &project.folder.join("sub/../out")).unwrap();
    std::fs::remove_dir(project.folder.join("sub")).unwrap();
    let theirs = project.folder.join("theirs");
    build_into(&project, &project.one(&chain("ay", "+")), &theirs).unwrap();
    age(&project.folder.join("cache"), Duration::from_hours(72));
    assert_eq!(free(&project).artifacts, []);
    // A disk is not mounted.
    let away = project.folder.join("away");
    std::fs::rename(&theirs, &away).unwrap();
    let collect = |yes, forget| {
        store::gc(&project.store(), &project.folder.join("out"), &GcOptions { yes, forget, ..GcOptions::default() })
    };
    let error = render(&collect(true, Forget::Nothing).unwrap_err());
    assert!(error.contains(theirs.to_str().unwrap()) && error.contains("`--forget FOLDER`"), "{error}");
    let told = collect(false, Forget::Nothing).unwrap();
    assert_eq!((told.missing, told.artifacts.len()), (vec![theirs.clone()], 2));
    // The empty mount point is no out folder.
    std::fs::create_dir(&theirs).unwrap();
    assert!(collect(true, Forget::Nothing).is_err());
    std::fs::remove_dir(&theirs).unwrap();
    std::fs::rename(&away, &theirs).unwrap();
    assert_eq!(collect(true, Forget::Nothing).unwrap().artifacts, []);
    let wrong = collect(true, Forget::These(vec![theirs.clone()])).unwrap_err();
    assert_eq!((exit_code(&wrong), render(&wrong).contains("is not a missing out folder")), (2, true));
    std::fs::remove_dir_all(&theirs).unwrap();
    let freed = collect(true, Forget::These(vec![theirs.clone()])).unwrap();
    assert_eq!((freed.artifacts.len(), freed.forgotten), (2, vec![theirs]));
    assert_eq!(free(&project).missing, [] as [PathBuf; 0]);
}

#[test]
fn two_pipeline_files_of_one_name_do_not_remove_each_others_links() {
    let project = EngineProject::new();
    let of = |folder: &str, between: &str| {
        let folder = project.folder.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("run.toml"), "").unwrap();
        Pipeline { file: folder.join("run.toml"), folder, ..project.one(&chain("ay", between)) }
    };
    project.build(&of("exp1", "-"));
    let before = linked(&project, "d");
    for between in ["+", "-"] {
        // The second form has nothing to run, and finds the folder in use when it updates the links.
        let mut second = of("exp2", between);
        second.variants[0].stages.truncate(if between == "-" { 2 } else { 4 });
        let error = engine::build(&second, &project.options()).unwrap_err();
        let words = render(&error);
        assert!(words.contains("exp1/run.toml") && words.contains("exp2/run.toml"), "{words}");
        assert_eq!(exit_code(&error), 2);
        assert_eq!(linked(&project, "d"), before);
    }
    assert_eq!(project.store().actions().unwrap().len(), 4, "a stage ran before the build was refused");
    // A file that was moved is not in the way.
    std::fs::rename(project.folder.join("exp1/run.toml"), project.folder.join("exp1/moved.toml")).unwrap();
    project.build(&of("exp2", "+"));
    assert_ne!(linked(&project, "d"), before);
}

#[test]
fn a_build_that_waits_for_the_links_of_another_build_says_so_and_can_be_interrupted() {
    let project = EngineProject::new();
    let out = project.folder.join("out/story");
    std::fs::create_dir_all(&out).unwrap();
    let key = Digest::of(format!("links {}", out.canonicalize().unwrap().display()).as_bytes());
    let held = project.store().lock(key, |_| Waiting::GoOn).unwrap();
    let words = project.folder.join("words");
    let mut build =
        project.builder(&json!({})).stderr(Stdio::from(std::fs::File::create(&words).unwrap())).spawn().unwrap();
    let told = || std::fs::read_to_string(&words).unwrap();
    let expected = format!("waiting for pid {} updating the links in ", std::process::id());
    wait_for("the build says for whom it waits", || told().contains(&expected));
    let asked = Instant::now();
    kill_process(Pid::from_child(&build), Signal::INT).unwrap();
    let status = processes::status(&mut build);
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?} to end", asked.elapsed());
    assert_eq!(status.code(), Some(130), "{}", told());
    assert!(told().contains("the next build updates them"), "{}", told());
    drop(held);
    assert_eq!(processes::output(&mut project.builder(&json!({}))).status.code(), Some(0));
    assert!(out.join("slow").is_dir());
}

#[test]
fn what_a_build_did_not_write_in_the_out_folder_stays() {
    let project = EngineProject::new();
    let (out, pipeline) = (project.folder.join("out/story"), project.one(&chain("ay", "-")));
    project.build(&pipeline);
    // A link of the user looks exactly like a link of a build.
    symlink(std::fs::read_link(out.join("d")).unwrap(), out.join("best")).unwrap();
    let (released, former) = (linked(&project, "c"), std::fs::read_link(out.join("c")).unwrap());
    std::fs::create_dir(out.join("notes")).unwrap();
    symlink(std::fs::read_link(out.join("d")).unwrap(), out.join("notes/best")).unwrap();
    std::fs::create_dir(out.join("empty")).unwrap();
    project.build(&project.one(&chain("ay", "+")));
    assert!(out.join("best").is_dir() && out.join("notes/best").is_symlink() && out.join("empty").is_dir());
    // A killed build may leave a temporary link. It would be a root of gc.
    let temporary = out.join(".d.17.4");
    symlink(former, &temporary).unwrap();
    age(&project.folder.join("cache"), Duration::from_hours(72));
    project.build(&project.one(&chain("ay", "*")));
    assert!(!temporary.is_symlink());
    assert!(!free(&project).artifacts.contains(&released));
    // A build does not overwrite a file that lies in the place of a link.
    for foreign in ["a file", "a link"] {
        let place = out.join("c");
        std::fs::remove_file(&place).unwrap();
        match foreign {
            "a file" => std::fs::write(&place, "mine").unwrap(),
            _ => symlink("/somewhere/else", &place).unwrap(),
        }
        let error = render(&engine::build(&pipeline, &project.options()).unwrap_err());
        assert!(error.contains("is not a link that a build wrote"), "{error}");
        // If a stage must run, the build is refused before it.
        let actions = project.store().actions().unwrap().len();
        let new = project.one(&chain(foreign, "new"));
        assert!(engine::build(&new, &project.options()).is_err());
        assert_eq!(project.store().actions().unwrap().len(), actions);
        assert!(place.symlink_metadata().is_ok_and(|now| now.is_file() || now.is_symlink()));
        std::fs::remove_file(&place).unwrap();
        project.build(&pipeline);
    }
}

#[test]
fn a_damaged_description_removes_no_link_and_the_build_says_so() {
    let project = EngineProject::new();
    let out = project.folder.join("out/story");
    let build = |parameters: &Value| {
        let output = processes::output(&mut project.builder(parameters));
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    build(&json!({}));
    symlink(std::fs::read_link(out.join("slow")).unwrap(), out.join("former")).unwrap();
    std::fs::write(out.join("build.json"), "{").unwrap();
    let words = build(&json!({"text": "new"}));
    assert!(words.contains("build.json is unreadable") && words.contains("stay"), "{words}");
    assert!(out.join("former").is_symlink());
    assert!(BuildDescription::read(&out).unwrap().is_some());
}

#[test]
fn artifacts_of_a_moved_out_folder_stay_for_a_day_after_its_place_is_used_again() {
    let project = EngineProject::new();
    let out = project.folder.join("out");
    project.build(&project.one(&chain("ay", "-")));
    let moved = linked(&project, "d");
    age(&project.folder.join("cache"), Duration::from_hours(72));
    std::fs::rename(&out, project.folder.join("away")).unwrap();
    project.build(&Pipeline { name: "tale".into(), ..project.one(&chain("oh", "+")) });
    assert!(!free(&project).artifacts.contains(&moved));
    age(&project.folder.join("cache"), Duration::from_hours(25));
    assert!(free(&project).artifacts.contains(&moved));
}
