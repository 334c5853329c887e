//! Tests of gc beside builds: what gc removes and keeps.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use raisin_store as store;
use raisin_tests::files_below;

use crate::project::{EngineProject, chain};

#[test]
fn gc_removes_unreached_artifacts_only_with_yes() {
    let project = EngineProject::new();
    project.build(&project.one(&chain("ay", "-")));
    let pipeline = project.one(&chain("ay", "+"));
    project.build(&pipeline);
    let (store, out) = (project.store(), project.folder.join("out"));
    // A killed build may have made these artifacts, and the next build may continue from them.
    let young = store::gc(&store, &out, &store::GcOptions::default()).unwrap();
    assert_eq!((young.kept, young.young, young.artifacts.len()), (6, 2, 0));
    let all = store::GcOptions { older_than: Some(Duration::ZERO), ..Default::default() };
    let yes = store::GcOptions { yes: true, ..all.clone() };
    let found = store::gc(&store, &out, &all).unwrap();
    assert_eq!((found.kept, found.artifacts.len(), found.freed), (4, 2, false));
    let sharing = store.share().unwrap();
    assert!(store::gc(&store, &out, &yes).is_err());
    assert_eq!(store::gc(&store, &out, &all).unwrap().artifacts, found.artifacts);
    drop(sharing);
    let freed = store::gc(&store, &out, &yes).unwrap();
    assert_eq!(freed.artifacts, found.artifacts);
    assert_eq!(store.artifact_digests().unwrap().len(), 4);
    assert_eq!(project.build(&pipeline).ran, 0);
}

#[test]
fn gc_frees_nothing_of_another_project_on_the_same_cache_until_its_out_folder_is_forgotten() {
    let project = EngineProject::new();
    project.build(&project.one(&chain("ay", "-")));
    let theirs = project.folder.join("theirs");
    project.build_so(&project.one(&chain("ay", "+")), |options| options.out.clone_from(&theirs));
    let all = store::GcOptions { yes: true, older_than: Some(Duration::ZERO), ..Default::default() };
    let (store, out) = (project.store(), project.folder.join("out"));
    for folder in [&out, &theirs, &project.folder.join("wrong")] {
        let found = store::gc(&store, folder, &all).unwrap();
        assert_eq!((found.kept, found.artifacts.len(), found.looked_at.len()), (6, 0, 2));
    }
    std::fs::remove_dir_all(&theirs).unwrap();
    assert!(store::gc(&store, &out, &all).is_err());
    let forget = store::GcOptions { forget: store::Forget::Missing, ..all.clone() };
    let found = store::gc(&store, &out, &forget).unwrap();
    assert_eq!((found.kept, found.artifacts.len(), found.forgotten), (4, 2, vec![theirs]));
    assert_eq!(store::gc(&store, &out, &all).unwrap().missing, [] as [PathBuf; 0]);
}

#[test]
fn a_build_that_waited_for_gc_looks_up_all_artifacts_after_it() {
    let project = EngineProject::new();
    let pipeline = project.one(&chain("ay", "-"));
    project.build(&pipeline);
    let (store, artifact) = (project.store(), project.folder.join("out/story/a").canonicalize().unwrap());
    let alone = store.try_alone().unwrap().unwrap();
    let summary = std::thread::scope(|scope| {
        let build = scope.spawn(|| project.build(&pipeline));
        std::thread::sleep(Duration::from_millis(500));
        store.set_aside(&artifact).unwrap();
        drop(alone);
        build.join().unwrap()
    });
    assert_eq!((summary.ran, summary.cached), (1, 3), "{summary:?}");
}

#[test]
fn gc_keeps_what_is_pinned_young_or_fits_the_budget() {
    let project = EngineProject::new();
    for between in ["1", "2", "3"] {
        project.build(&project.one(&chain("ay", between)));
    }
    let (store, out) = (project.store(), project.folder.join("out"));
    let told = |options: &store::GcOptions| store::gc(&store, &out, options).unwrap();
    let none = store::GcOptions { older_than: Some(Duration::ZERO), ..Default::default() };
    let all = told(&none);
    assert_eq!((all.kept, all.artifacts.len()), (4, 4));
    let hour = Some(Duration::from_hours(1));
    assert_eq!(told(&store::GcOptions { older_than: hour, ..Default::default() }).artifacts, []);
    assert_eq!(told(&store::GcOptions { budget: Some(0), ..Default::default() }).artifacts, []);
    // gc removes the oldest artifacts first, and not more than necessary.
    let files = files_below(&project.folder.join("cache/artifacts")).into_iter();
    let total: u64 = files.map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(told(&store::GcOptions { budget: Some(total), ..none.clone() }).artifacts, []);
    let some = told(&store::GcOptions { budget: Some(total * 3 / 4), ..none.clone() });
    assert!(!some.artifacts.is_empty() && some.artifacts.len() < 4);
    assert_eq!(some.artifacts[..], all.artifacts[..some.artifacts.len()]);

    store.pin(all.artifacts[0], "story.c").unwrap();
    let pinned = told(&store::GcOptions { yes: true, ..none.clone() });
    assert_eq!(pinned.artifacts, all.artifacts[1..]);
    assert_eq!(store.pins().unwrap().len(), 1);
    assert!(store.inspect(all.artifacts[0]).unwrap().is_some());
    assert!(store.unpin(all.artifacts[0]).unwrap() && !store.unpin(all.artifacts[0]).unwrap());
    assert_eq!(told(&none).artifacts, all.artifacts[..1]);
}

#[test]
fn gc_keeps_the_checkpoints_of_a_killed_stage_for_a_day() {
    let project = EngineProject::new();
    let mut build = project.start_slow();
    build.kill().unwrap();
    raisin_tests::processes::status(&mut build);
    let staging = project.folder.join("cache/tmp");
    let left = || std::fs::read_dir(&staging).unwrap().count();
    assert_eq!(left(), 1);
    let collect = |older_than| {
        let options = store::GcOptions { yes: true, older_than, ..Default::default() };
        let began = Instant::now();
        // If a build dies while it starts a child process, the child holds the lock of the build for a moment.
        while let Err(error) = store::gc(&project.store(), &project.folder.join("out"), &options) {
            assert!(began.elapsed() < Duration::from_secs(5), "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    collect(None);
    assert_eq!(left(), 1);
    collect(Some(Duration::ZERO));
    assert_eq!(left(), 0);
}
