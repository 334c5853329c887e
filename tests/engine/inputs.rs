//! Raw files: folders and patterns, and what counts as a change of them.

use std::time::{Duration, SystemTime};

use raisin_base::error::render;
use raisin_engine::{self as engine, digest_of};
use raisin_pipeline::Pipeline;
use serde_json::json;

use crate::house::{House, wait_for};

fn several(house: &House, path: &str) -> Pipeline {
    house.one(&[("list", "several", json!({ "path": path }))])
}

fn write(house: &House, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = house.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn a_pattern_reads_the_files_that_match_and_each_change_of_them_is_told() {
    let house = House::new();
    write(&house, &[("data/a.txt", "1"), ("data/b.txt", "2"), ("data/b.md", "no"), ("data/.c.txt", "no")]);
    write(&house, &[("data/deep/d.txt", "4")]);
    let pipeline = several(&house, "data/*.txt");
    assert_eq!(house.build(&pipeline).ran, 1);
    assert_eq!(house.text("list"), "a.txt=1 b.txt=2 ");
    write(&house, &[("data/b.md", "still no"), ("data/e.md", "no")]);
    assert_eq!(house.build(&pipeline).ran, 0);
    write(&house, &[("data/a.txt", "9"), ("data/c.txt", "3")]);
    std::fs::remove_file(house.folder.join("data/b.txt")).unwrap();
    assert_eq!(house.why(&pipeline), ["list: files path: new: c.txt; gone: b.txt; other bytes: a.txt"]);
    assert_eq!(house.build(&pipeline).ran, 1);
    assert_eq!(house.text("list"), "a.txt=9 c.txt=3 ");
    assert_eq!(house.build(&several(&house, "data/**/*.txt")).ran, 1);
    assert_eq!(house.text("list"), "a.txt=9 c.txt=3 deep/d.txt=4 ");
}

#[test]
fn a_folder_reads_all_its_files_and_may_be_moved() {
    let house = House::new();
    write(&house, &[("data/b.txt", "2"), ("data/deep/a.txt", "1"), ("data/.hidden", "no")]);
    assert_eq!(house.build(&several(&house, "data")).ran, 1);
    assert_eq!(house.text("list"), "b.txt=2 deep/a.txt=1 ");
    std::fs::rename(house.folder.join("data"), house.folder.join("elsewhere")).unwrap();
    assert_eq!(house.build(&several(&house, "elsewhere/")).ran, 0);
    // A pattern that finds the same files by the same names is the same input.
    assert_eq!(house.build(&several(&house, "elsewhere/**/*")).ran, 0);
}

#[test]
fn a_pin_holds_for_all_files_of_a_folder_and_digest_prints_it() {
    let house = House::new();
    write(&house, &[("data/a.txt", "1"), ("data/b.txt", "2")]);
    let pattern = house.folder.join("data/*.txt");
    let pin = digest_of(&house.store(), pattern.to_str().unwrap()).unwrap().to_hex();
    let pinned = house.one(&[("list", "several", json!({"path": "data/*.txt", "blake3": pin}))]);
    assert_eq!(house.build(&pinned).ran, 1);
    write(&house, &[("data/c.txt", "3")]);
    let error = render(&engine::build(&pinned, &house.options()).unwrap_err());
    assert!(error.contains("is not the file that was pinned") && error.contains(&pin), "{error}");
}

#[test]
fn a_pattern_without_files_and_a_bad_one_are_refused() {
    let house = House::new();
    let refused = |path: &str| render(&engine::build(&several(&house, path), &house.options()).unwrap_err());
    let error = refused("data/*.txt");
    assert!(
        error.contains("stage `list`, path: no file matches") && error.contains("paths are relative to"),
        "{error}"
    );
    std::fs::create_dir(house.folder.join("data")).unwrap();
    assert!(refused("data").contains("stage `list`, path: no file is in"));
    assert!(refused("data/***").contains("data/*** is no pattern"));
}

#[test]
fn content_decides_whatever_the_times_say() {
    let house = House::new();
    let file = house.folder.join("data.txt");
    std::fs::write(&file, "one").unwrap();
    let pipeline = house.one(&[("copy", "copy", json!({"path": "data.txt"}))]);
    house.build(&pipeline);
    let modified = file.metadata().unwrap().modified().unwrap();
    let set = |to: SystemTime| std::fs::File::options().write(true).open(&file).unwrap().set_modified(to).unwrap();
    // A touch, into the past and into the future.
    for time in [modified - Duration::from_secs(5000), modified + Duration::from_secs(5000)] {
        set(time);
        assert_eq!(house.build(&pipeline).ran, 0);
    }
    // An edit of the same size that puts the time back.
    for text in ["two", "six"] {
        std::fs::write(&file, text).unwrap();
        set(modified);
        assert_eq!(house.build(&pipeline).ran, 1);
        assert_eq!(house.text("copy"), text);
    }
    // Another file under the same name, by a rename and by a link.
    std::fs::write(house.folder.join("new.txt"), "ten").unwrap();
    std::fs::rename(house.folder.join("new.txt"), &file).unwrap();
    set(modified);
    assert_eq!(house.build(&pipeline).ran, 1);
    for text in ["one", "ten"] {
        std::fs::write(house.folder.join(text), text).unwrap();
    }
    for (target, ran) in [("ten", 0), ("one", 0)] {
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(target, &file).unwrap();
        assert_eq!(house.build(&pipeline).ran, ran);
        assert_eq!(house.text("copy"), target);
    }
}

/// What happens to an input while its stage reads it.
fn meanwhile(change: impl FnOnce(&std::path::Path)) -> (House, engine::Summary, Pipeline) {
    let house = House::new();
    let input = house.folder.join("data.txt");
    std::fs::write(&input, "one").unwrap();
    let pipeline = house.one(&[("copy", "copy", json!({"path": "data.txt", "milliseconds": 700}))]);
    let summary = std::thread::scope(|scope| {
        let build = scope.spawn(|| house.build(&pipeline));
        wait_for("the file is read", || house.log().contains("has read"));
        change(&input);
        build.join().unwrap()
    });
    (house, summary, pipeline)
}

#[test]
fn an_input_that_is_edited_replaced_or_removed_during_its_stage_is_not_cached() {
    type Change = fn(&std::path::Path);
    let changes: [Change; 4] = [
        |file| std::fs::write(file, "two").unwrap(),
        |file| {
            // The same size, with the time put back.
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
        let (house, summary, pipeline) = meanwhile(change);
        assert_eq!(summary.exit_code(), 1);
        let reason = &summary.failures[0].reason;
        assert!(reason.contains("was changed while the stage was reading it"), "{reason}");
        assert!(house.store().actions().unwrap().is_empty());
        // Nor is there a checkpoint that was made of something else than the key says.
        assert_eq!(std::fs::read_dir(house.folder.join("cache/tmp")).unwrap().count(), 0);
        if let Ok(now) = std::fs::read_to_string(house.folder.join("data.txt")) {
            assert_eq!(house.build(&pipeline).ran, 1);
            assert_eq!(house.text("copy"), now);
        }
    }
}

#[test]
fn a_file_that_is_touched_during_its_stage_is_not_cached_either() {
    // Nobody knows whether it was another one between two looks.
    let touch = |file: &std::path::Path| {
        std::fs::File::options().write(true).open(file).unwrap().set_modified(SystemTime::now()).unwrap();
    };
    let (house, summary, pipeline) = meanwhile(touch);
    assert_eq!(summary.exit_code(), 1);
    assert_eq!(house.build(&pipeline).ran, 1);
}

#[test]
fn an_input_that_is_edited_before_its_stage_begins_is_not_read_under_the_key_of_the_old_one() {
    let house = House::new();
    let input = house.folder.join("data.txt");
    std::fs::write(&input, "one").unwrap();
    let pipeline = house.one(&[
        ("first", "write", json!({"milliseconds": 700})),
        ("copy", "copy", json!({"path": "data.txt", "after": "first"})),
    ]);
    let summary = std::thread::scope(|scope| {
        let build = scope.spawn(|| house.build(&pipeline));
        house.wait_until_started();
        std::fs::write(&input, "two").unwrap();
        build.join().unwrap()
    });
    let reason = &summary.failures[0].reason;
    assert!(reason.contains("was changed since the build looked at it"), "{reason}");
    assert!(!house.log().contains("has read"));
    assert_eq!(house.build(&pipeline).ran, 1);
    assert_eq!(house.text("copy"), "two");
}

#[test]
fn a_checkpoint_counts_only_while_the_inputs_are_as_they_were_when_the_stage_began() {
    let house = House::new();
    write(&house, &[("data.txt", "one"), ("die", "")]);
    let pipeline = house.one(&[("copy", "copy", json!({"path": "data.txt"}))]);
    let die = |yes: bool| {
        if yes { write(&house, &[("die", "")]) } else { std::fs::remove_file(house.folder.join("die")).unwrap() }
    };
    assert_eq!(house.build(&pipeline).exit_code(), 1);
    die(false);
    assert_eq!(house.build(&pipeline).ran, 1);
    assert_eq!(house.text("copy"), "one resumed");

    write(&house, &[("data.txt", "two")]);
    die(true);
    assert_eq!(house.build(&pipeline).exit_code(), 1);
    // Edited and put back while nobody looked: the same key, and who knows what the stage has read.
    write(&house, &[("data.txt", "six")]);
    write(&house, &[("data.txt", "two")]);
    die(false);
    assert_eq!(house.build(&pipeline).ran, 1);
    assert_eq!(house.text("copy"), "two");
}

#[test]
fn a_folder_that_a_stage_takes_whole_may_be_renamed() {
    let house = House::new();
    write(&house, &[("data/text", "1"), ("data/deep/other", "2")]);
    let copy = |path: &str| house.one(&[("copy", "copy", json!({ "path": path }))]);
    assert_eq!(house.build(&copy("data")).ran, 1);
    std::fs::rename(house.folder.join("data"), house.folder.join("elsewhere")).unwrap();
    assert_eq!(house.build(&copy("elsewhere")).ran, 0);
    write(&house, &[("elsewhere/deep/other", "3")]);
    assert_eq!(house.why(&copy("elsewhere")), ["copy: files path: other bytes: deep/other"]);
}

#[test]
fn a_pattern_is_only_what_the_person_wrote_and_not_the_name_of_the_project() {
    let house = House::new();
    write(&house, &[("odd [1]* ?/data/a.txt", "1"), ("odd [1]* ?/data/b.md", "no")]);
    let mut pipeline = several(&house, "data/*.txt");
    pipeline.folder.push("odd [1]* ?");
    assert_eq!(house.build(&pipeline).ran, 1);
    assert_eq!(house.text("list"), "a.txt=1 ");
}

#[test]
fn what_was_hashed_before_a_file_turned_out_to_be_missing_is_remembered() {
    let house = House::new();
    write(&house, &[("data.txt", "one")]);
    std::thread::sleep(Duration::from_millis(2100));
    let pipeline =
        house.one(&[("here", "copy", json!({"path": "data.txt"})), ("gone", "copy", json!({"path": "missing.txt"}))]);
    assert!(engine::build(&pipeline, &house.options()).is_err());
    let memory = std::fs::read(house.folder.join("cache/files")).unwrap();
    assert!(String::from_utf8_lossy(&memory).contains("data.txt"));
}
