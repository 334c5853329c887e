//! Tests of input files: files, folders and patterns, and which edits count as a change.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use raisin_base::error::render;
use raisin_engine::{self as engine, digest_of};
use raisin_pipeline::Pipeline;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::project::{EngineProject, wait_for};

fn several(project: &EngineProject, path: &str) -> Pipeline {
    project.one(&[("list", "several", json!({ "path": path }))])
}

#[test]
fn a_pattern_reads_the_files_that_match_and_each_change_of_them_is_told() {
    let project = EngineProject::new();
    project.write(&[("data/a.txt", "1"), ("data/b.txt", "2"), ("data/b.md", "no"), ("data/.c.txt", "no")]);
    project.write(&[("data/deep/d.txt", "4")]);
    let pipeline = several(&project, "data/*.txt");
    assert_eq!(project.build(&pipeline).ran, 1);
    assert_eq!(project.text("list"), "a.txt=1 b.txt=2 ");
    project.write(&[("data/b.md", "still no"), ("data/e.md", "no")]);
    assert_eq!(project.build(&pipeline).ran, 0);
    project.write(&[("data/a.txt", "9"), ("data/c.txt", "3")]);
    std::fs::remove_file(project.folder.join("data/b.txt")).unwrap();
    assert_eq!(project.why(&pipeline), ["list: files path: new: c.txt; gone: b.txt; other bytes: a.txt"]);
    assert_eq!(project.build(&pipeline).ran, 1);
    assert_eq!(project.text("list"), "a.txt=9 c.txt=3 ");
    assert_eq!(project.build(&several(&project, "data/**/*.txt")).ran, 1);
    assert_eq!(project.text("list"), "a.txt=9 c.txt=3 deep/d.txt=4 ");
}

#[test]
fn a_folder_reads_all_its_files_and_may_be_moved() {
    let project = EngineProject::new();
    project.write(&[("data/b.txt", "2"), ("data/deep/a.txt", "1"), ("data/.hidden", "no")]);
    assert_eq!(project.build(&several(&project, "data")).ran, 1);
    assert_eq!(project.text("list"), "b.txt=2 deep/a.txt=1 ");
    std::fs::rename(project.folder.join("data"), project.folder.join("elsewhere")).unwrap();
    assert_eq!(project.build(&several(&project, "elsewhere/")).ran, 0);
    // A pattern that matches the same files with the same names gives the same input.
    assert_eq!(project.build(&several(&project, "elsewhere/**/*")).ran, 0);
}

#[test]
fn an_expected_digest_holds_for_all_files_of_a_folder_and_digest_prints_it() {
    let project = EngineProject::new();
    project.write(&[("data/a.txt", "1"), ("data/b.txt", "2")]);
    let pattern = project.folder.join("data/*.txt");
    let expected = digest_of(&project.store(), pattern.to_str().unwrap()).unwrap().to_hex();
    let pipeline = project.one(&[("list", "several", json!({"path": "data/*.txt", "blake3": expected}))]);
    assert_eq!(project.build(&pipeline).ran, 1);
    project.write(&[("data/c.txt", "3")]);
    let error = render(&engine::build(&pipeline, &project.options()).unwrap_err());
    assert!(error.contains("does not have the expected digest") && error.contains(&expected), "{error}");
}

#[test]
fn a_pattern_without_files_and_a_bad_one_are_refused() {
    let project = EngineProject::new();
    let refused = |path: &str| render(&engine::build(&several(&project, path), &project.options()).unwrap_err());
    let error = refused("data/*.txt");
    assert!(
        error.contains("stage `list`, path: no file matches") && error.contains("paths are relative to"),
        "{error}"
    );
    std::fs::create_dir(project.folder.join("data")).unwrap();
    assert!(refused("data").contains("stage `list`, path: no file is in"));
    assert!(refused("data/***").contains("data/*** is no pattern"));
}

#[test]
fn content_decides_whatever_the_times_say() {
    let project = EngineProject::new();
    let file = project.folder.join("data.txt");
    std::fs::write(&file, "one").unwrap();
    let pipeline = project.one(&[("copy", "copy", json!({"path": "data.txt"}))]);
    project.build(&pipeline);
    let modified = file.metadata().unwrap().modified().unwrap();
    let set = |to: SystemTime| std::fs::File::options().write(true).open(&file).unwrap().set_modified(to).unwrap();
    // New modification times, in the past and in the future.
    for time in [modified - Duration::from_secs(5000), modified + Duration::from_secs(5000)] {
        set(time);
        assert_eq!(project.build(&pipeline).ran, 0);
    }
    // An edit that keeps the size and restores the modification time.
    for text in ["two", "six"] {
        std::fs::write(&file, text).unwrap();
        set(modified);
        assert_eq!(project.build(&pipeline).ran, 1);
        assert_eq!(project.text("copy"), text);
    }
    // Another file with the same name, by a rename and by a link.
    std::fs::write(project.folder.join("new.txt"), "ten").unwrap();
    std::fs::rename(project.folder.join("new.txt"), &file).unwrap();
    set(modified);
    assert_eq!(project.build(&pipeline).ran, 1);
    for text in ["one", "ten"] {
        std::fs::write(project.folder.join(text), text).unwrap();
    }
    for (target, ran) in [("ten", 0), ("one", 0)] {
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(target, &file).unwrap();
        assert_eq!(project.build(&pipeline).ran, ran);
        assert_eq!(project.text("copy"), target);
    }
}

/// Changes an input file when its stage has read it.
fn meanwhile(change: impl FnOnce(&Path)) -> (EngineProject, engine::Summary, Pipeline) {
    let prepare = |project: &EngineProject| project.write(&[("data.txt", "one")]);
    switched("data.txt", prepare, |_| (), |folder| change(&folder.join("data.txt")))
}

#[test]
fn an_input_that_is_edited_replaced_or_removed_during_its_stage_is_not_cached() {
    type InputChange = fn(&Path);
    let changes: [InputChange; 4] = [
        |file| std::fs::write(file, "two").unwrap(),
        |file| {
            // The edit keeps the size and restores the modification time.
            let modified = file.metadata().unwrap().modified().unwrap();
            std::fs::write(file, "six").unwrap();
            std::fs::File::options().write(true).open(file).unwrap().set_modified(modified).unwrap();
        },
        |file| {
            std::fs::write(file.with_file_name("new"), "ten").unwrap();
            std::fs::rename(file.with_file_name("new"), file).unwrap();
        },
        |file| std::fs::remove_file(file).unwrap(),
    ];
    for change in changes {
        let (project, summary, pipeline) = meanwhile(change);
        assert_eq!(summary.exit_code(), 1);
        let reason = &summary.failures[0].reason;
        assert!(reason.contains("was changed while the stage was reading it"), "{reason}");
        assert!(project.store().actions().unwrap().is_empty());
        // No checkpoint remains that was made from other bytes than the key says.
        assert_eq!(std::fs::read_dir(project.folder.join("cache/tmp")).unwrap().count(), 0);
        if let Ok(now) = std::fs::read_to_string(project.folder.join("data.txt")) {
            assert_eq!(project.build(&pipeline).ran, 1);
            assert_eq!(project.text("copy"), now);
        }
    }
}

#[test]
fn a_file_that_is_touched_during_its_stage_is_not_cached_either() {
    // raisin cannot know whether the file had other content between the two checks.
    let touch = |file: &Path| {
        std::fs::File::options().write(true).open(file).unwrap().set_modified(SystemTime::now()).unwrap();
    };
    let (project, summary, pipeline) = meanwhile(touch);
    assert_eq!(summary.exit_code(), 1);
    assert_eq!(project.build(&pipeline).ran, 1);
}

#[test]
fn an_input_that_is_edited_before_its_stage_begins_is_not_read_under_the_key_of_the_old_one() {
    let project = EngineProject::new();
    let input = project.folder.join("data.txt");
    std::fs::write(&input, "one").unwrap();
    let pipeline = project.one(&[
        ("first", "write", json!({"milliseconds": 700})),
        ("copy", "copy", json!({"path": "data.txt", "after": "first", "milliseconds": 1})),
    ]);
    let summary = std::thread::scope(|scope| {
        let build = scope.spawn(|| project.build(&pipeline));
        project.wait_until_started();
        std::fs::write(&input, "two").unwrap();
        build.join().unwrap()
    });
    let reason = &summary.failures[0].reason;
    assert!(reason.contains("was changed since the build looked at it"), "{reason}");
    assert!(!project.log().contains("has read"));
    assert_eq!(project.build(&pipeline).ran, 1);
    assert_eq!(project.text("copy"), "two");
}

#[test]
fn a_checkpoint_counts_only_while_the_inputs_are_as_they_were_when_the_stage_began() {
    let project = EngineProject::new();
    project.write(&[("data.txt", "one"), ("die", "")]);
    let pipeline = project.one(&[("copy", "copy", json!({"path": "data.txt"}))]);
    let die = |yes: bool| {
        if yes { project.write(&[("die", "")]) } else { std::fs::remove_file(project.folder.join("die")).unwrap() }
    };
    assert_eq!(project.build(&pipeline).exit_code(), 1);
    die(false);
    assert_eq!(project.build(&pipeline).ran, 1);
    assert_eq!(project.text("copy"), "one resumed");

    project.write(&[("data.txt", "two")]);
    die(true);
    assert_eq!(project.build(&pipeline).exit_code(), 1);
    // The file was edited and restored between two builds. The key is the same, but the stage may have read other
    // bytes.
    project.write(&[("data.txt", "six")]);
    project.write(&[("data.txt", "two")]);
    die(false);
    assert_eq!(project.build(&pipeline).ran, 1);
    assert_eq!(project.text("copy"), "two");
}

#[test]
fn a_folder_that_a_stage_takes_whole_may_be_renamed() {
    let project = EngineProject::new();
    project.write(&[("data/text", "1"), ("data/deep/other", "2")]);
    let copy = |path: &str| project.one(&[("copy", "copy", json!({ "path": path }))]);
    assert_eq!(project.build(&copy("data")).ran, 1);
    std::fs::rename(project.folder.join("data"), project.folder.join("elsewhere")).unwrap();
    assert_eq!(project.build(&copy("elsewhere")).ran, 0);
    project.write(&[("elsewhere/deep/other", "3")]);
    assert_eq!(project.why(&copy("elsewhere")), ["copy: files path: other bytes: deep/other"]);
}

#[test]
fn the_folder_of_the_project_is_not_read_as_a_pattern() {
    let project = EngineProject::new();
    project.write(&[("odd [1]* ?/data/a.txt", "1"), ("odd [1]* ?/data/b.md", "no")]);
    let mut pipeline = several(&project, "data/*.txt");
    pipeline.folder.push("odd [1]* ?");
    assert_eq!(project.build(&pipeline).ran, 1);
    assert_eq!(project.text("list"), "a.txt=1 ");
}

#[test]
fn digests_are_saved_even_if_a_later_file_is_missing() {
    let project = EngineProject::new();
    project.write(&[("data.txt", "one")]);
    std::thread::sleep(Duration::from_millis(2100));
    let pipeline =
        project.one(&[("here", "copy", json!({"path": "data.txt"})), ("gone", "copy", json!({"path": "missing.txt"}))]);
    assert!(engine::build(&pipeline, &project.options()).is_err());
    let memory = std::fs::read(project.folder.join("cache/files")).unwrap();
    assert!(String::from_utf8_lossy(&memory).contains("data.txt"));
}

/// Switches an input to other files when the stage has begun and has not read yet, and back when the stage has read.
fn switched(
    path: &str,
    prepare: impl FnOnce(&EngineProject),
    away: impl FnOnce(&Path),
    back: impl FnOnce(&Path),
) -> (EngineProject, engine::Summary, Pipeline) {
    let project = EngineProject::new();
    prepare(&project);
    let pipeline = project.one(&[("copy", "copy", json!({"path": path, "first": 400, "milliseconds": 700}))]);
    let summary = std::thread::scope(|scope| {
        let build = scope.spawn(|| project.build(&pipeline));
        wait_for("the stage begins", || project.log().contains("begins"));
        away(&project.folder);
        wait_for("the file is read", || project.log().contains("has read"));
        back(&project.folder);
        build.join().unwrap()
    });
    (project, summary, pipeline)
}

type Change<'a> = &'a dyn Fn(&Path);

#[test]
fn a_stage_reads_the_hashed_file_although_a_link_or_a_folder_leads_elsewhere_meanwhile() {
    fn link(folder: &Path, target: &str, name: &str) {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            std::fs::remove_file(&path).unwrap();
        }
        symlink(folder.join(target), path).unwrap();
    }
    fn rename(folder: &Path, from: &str, to: &str) {
        std::fs::rename(folder.join(from), folder.join(to)).unwrap();
    }
    let write = |project: &EngineProject| project.write(&[("a/text", "right"), ("b/text", "WRONG")]);
    let cases: [(&str, &str, Change<'_>, Change<'_>, Change<'_>); 6] = [
        (
            "a link to a file",
            "link",
            &|folder| link(folder, "a/text", "link"),
            &|folder| link(folder, "b/text", "link"),
            &|folder| link(folder, "a/text", "link"),
        ),
        (
            "a link to the folder of a file",
            "link/text",
            &|folder| link(folder, "a", "link"),
            &|folder| link(folder, "b", "link"),
            &|folder| link(folder, "a", "link"),
        ),
        (
            "a link to a whole folder",
            "link",
            &|folder| link(folder, "a", "link"),
            &|folder| link(folder, "b", "link"),
            &|folder| link(folder, "a", "link"),
        ),
        (
            "a link in a whole folder",
            "whole",
            &|folder| {
                std::fs::create_dir(folder.join("whole")).unwrap();
                link(folder, "a/text", "whole/text");
            },
            &|folder| link(folder, "b/text", "whole/text"),
            &|folder| link(folder, "a/text", "whole/text"),
        ),
        (
            "a folder that is renamed away and back",
            "a/text",
            &|_| (),
            &|folder| {
                rename(folder, "a", "aside");
                rename(folder, "b", "a");
            },
            &|folder| {
                rename(folder, "a", "b");
                rename(folder, "aside", "a");
            },
        ),
        (
            "a whole folder that is renamed away and not back",
            "a",
            &|_| (),
            &|folder| {
                rename(folder, "a", "aside");
                rename(folder, "b", "a");
            },
            &|_| (),
        ),
    ];
    for (case, path, prepare, away, back) in cases {
        let prepare = |project: &EngineProject| {
            write(project);
            prepare(&project.folder);
        };
        let (project, summary, _) = switched(path, prepare, away, back);
        assert_eq!(summary.exit_code(), 0, "{case}: {:?}", summary.failures.first().map(|failure| &failure.reason));
        assert_eq!(project.text("copy"), "right", "{case}");
    }
}

#[test]
fn a_file_that_is_replaced_in_its_folder_and_put_back_is_not_cached() {
    let prepare = |project: &EngineProject| project.write(&[("data.txt", "right"), ("other.txt", "WRONG")]);
    let rename = |folder: &Path, from: &str, to: &str| std::fs::rename(folder.join(from), folder.join(to)).unwrap();
    let away = |folder: &Path| {
        rename(folder, "data.txt", "aside.txt");
        rename(folder, "other.txt", "data.txt");
    };
    let back = |folder: &Path| {
        rename(folder, "data.txt", "other.txt");
        rename(folder, "aside.txt", "data.txt");
    };
    let (project, summary, _) = switched("data.txt", prepare, away, back);
    let reason = &summary.failures[0].reason;
    assert!(reason.contains("data.txt was changed while the stage was reading it"), "{reason}");
    assert!(project.store().actions().unwrap().is_empty());
}

#[test]
fn a_stage_gets_the_files_of_a_folder_that_were_hashed_and_no_hidden_ones() {
    let project = EngineProject::new();
    project.write(&[("data/text", "1"), ("data/deep/other", "2")]);
    let copy = project.one(&[("copy", "copy", json!({"path": "data"}))]);
    assert_eq!(project.build(&copy).ran, 1);
    project.write(&[("data/.git/HEAD", "1"), ("data/.DS_Store", "2"), ("data/deep/.cache/one", "3")]);
    assert_eq!(project.build(&copy).ran, 0);
    // Only a hidden file has the name that the stage wants.
    project.write(&[("hidden/.text", "1"), ("hidden/other", "2")]);
    let copy = project.one(&[("copy", "copy", json!({"path": "hidden"}))]);
    assert_eq!(project.build(&copy).exit_code(), 1);
    symlink(project.folder.join("data/text"), project.folder.join("hidden/text")).unwrap();
    assert_eq!(project.build(&copy).ran, 1);
    assert_eq!(project.text("copy"), "1");
}

#[test]
fn an_input_that_is_no_regular_file_is_refused_at_once_by_name() {
    let project = EngineProject::new();
    project.write(&[("data/one.txt", "1"), ("whole/text", "1")]);
    let fifo = |name: &str| {
        let made = std::process::Command::new("mkfifo").arg(project.folder.join(name)).status().unwrap();
        assert!(made.success());
    };
    ["fifo", "data/fifo.txt", "whole/fifo", "odd\u{1b}[2J\nerror: name"].into_iter().for_each(fifo);
    let refused = |kind: &str, path: &str| {
        let began = std::time::Instant::now();
        let pipeline = project.one(&[("stage", kind, json!({ "path": path }))]);
        let error = engine::build(&pipeline, &project.options()).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(2), "{path}");
        assert_eq!(raisin_base::error::exit_code(&error), 2, "{path}");
        render(&error)
    };
    for (kind, path, found) in [
        ("copy", "fifo", "fifo is a FIFO"),
        ("several", "data/*.txt", "data/fifo.txt is a FIFO"),
        ("several", "data", "data/fifo.txt is a FIFO"),
        ("copy", "whole", "whole/fifo is a FIFO"),
        ("copy", "/dev/zero", "/dev/zero is a device"),
        ("copy", "odd\u{1b}[2J\nerror: name", "odd\\u{1b}[2J\\nerror: name is a FIFO"),
    ] {
        let error = refused(kind, path);
        assert!(error.contains("stage `stage`, path: ") && error.contains(found), "{error}");
    }
    // A FIFO that no pattern matches is no input.
    assert_eq!(project.build(&several(&project, "data/o*.txt")).ran, 1);
}

#[test]
fn links_that_lead_in_a_circle_are_refused_and_links_to_other_folders_are_followed() {
    let project = EngineProject::new();
    project.write(&[("data/a.txt", "1"), ("other/b.txt", "2")]);
    symlink(project.folder.join("other"), project.folder.join("data/link")).unwrap();
    for path in ["data", "data/**/*.txt"] {
        project.build(&several(&project, path));
        assert_eq!(project.text("list"), "a.txt=1 link/b.txt=2 ", "{path}");
    }
    symlink(project.folder.join("data"), project.folder.join("other/back")).unwrap();
    for path in ["data", "data/**/*.txt"] {
        let error = render(&engine::build(&several(&project, path), &project.options()).unwrap_err());
        assert!(error.contains("data/link/back leads back to the folder"), "{error}");
    }
    assert_eq!(project.build(&several(&project, "data/*.txt")).ran, 1);
}

#[test]
fn files_in_more_folders_than_a_process_may_usually_open_are_read() {
    let project = EngineProject::new();
    for number in 0..1500 {
        project.write(&[(&format!("data/{number}/text"), "1")]);
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), ..limit }).unwrap();
    assert_eq!(project.build(&several(&project, "data/*/text")).exit_code(), 0);
    assert_eq!(project.text("list").split_whitespace().count(), 1500);
}

#[test]
fn a_name_that_is_no_text_does_not_disturb_a_pattern() {
    use std::os::unix::ffi::OsStrExt as _;
    let project = EngineProject::new();
    project.write(&[("data/a.txt", "1")]);
    std::fs::write(project.folder.join("data").join(std::ffi::OsStr::from_bytes(b"\xff.txt")), "2").unwrap();
    assert_eq!(project.build(&several(&project, "data/*.txt")).ran, 1);
    assert_eq!(project.text("list"), "a.txt=1 ");
    let error = render(&engine::build(&several(&project, "data"), &project.options()).unwrap_err());
    assert!(error.contains("has a name that is not UTF-8"), "{error}");
}
