//! Tortures `raisin verify --repair`: it makes exactly what is lost again, changes nothing else, and says what it
//! cannot make again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use raisin_base::digest::Digest;
use rustix::process::Signal;

use crate::kills::kill;
use crate::world::{PIPELINE, build, count, digests, flip, tamper, undisturbed, verify_clean};
use raisin_tests::{Project, TestRng, files_below, paths_below, processes};

const ROWS: &str = "{\"instruction\": \"one\", \"input\": \"\", \"output\": \"1\"}\n\
    {\"instruction\": \"two\", \"input\": \"\", \"output\": \"2\"}\n\
    {\"instruction\": \"three\", \"input\": \"\", \"output\": \"3\"}\n";
const STAGES: &str = "[pipeline]\nname = \"rows\"\n\
    [stage.pool]\nkind = \"ingest\"\nsources = [{ path = \"data.jsonl\", format = \"alpaca\" }]\n\
    [stage.counted]\nkind = \"sql\"\nof = [\"pool\"]\nquery = \"select count(*) as n from pool.instructions\"\n";
/// The flags of the build. The defaults of the file give other artifacts.
const SWEPT: [&str; 4] = ["build", "p.toml", "--sweep", "stage.pool.sample=[1, 2]"];

fn swept() -> Project {
    let project = Project::with_text(STAGES);
    project.write("data.jsonl", ROWS);
    let (_, words) = project.done(&SWEPT);
    assert!(words.contains("3 ran"), "{words}");
    project
}

/// What a repair may not change: every link with its target, every other file in out/ with its time, and the indexes.
fn untouchable(project: &Project) -> BTreeMap<PathBuf, String> {
    let paths = paths_below(&project.path("out")).into_iter().chain(files_below(&project.path("cache/index")));
    let describe = |path: &Path| match std::fs::read_link(path) {
        Ok(target) => target.display().to_string(),
        Err(_) => {
            let metadata = std::fs::symlink_metadata(path).expect("it");
            let content = if path.is_file() { std::fs::read(path).expect("it") } else { Vec::new() };
            format!("{:?} {}", metadata.modified().expect("a time"), String::from_utf8_lossy(&content))
        }
    };
    paths.map(|path| (path.clone(), describe(&path))).collect()
}

/// One file of each artifact of the last build of a pipeline.
fn a_file_of_each_artifact(project: &Project, pipeline: &str) -> Vec<PathBuf> {
    let artifacts: BTreeSet<Digest> = project.built(pipeline).into_iter().map(|stage| stage.artifact).collect();
    let folders = artifacts.into_iter().map(|artifact| project.path("cache/artifacts").join(artifact.to_hex()));
    let files = folders.map(|folder| files_below(&folder).into_iter().find(|path| !path.ends_with("manifest.json")));
    files.map(|file| file.expect("a file")).collect()
}

#[test]
fn a_repair_of_a_swept_build_makes_the_artifacts_of_its_variants_again_and_changes_no_link() {
    let project = swept();
    let mut rng = TestRng::new("swept");
    for what in ["artifacts", "records", "both"] {
        let mut harmed = 0;
        let before = (project.digests("rows"), untouchable(&project));
        if what != "records" {
            let files = a_file_of_each_artifact(&project, "rows");
            harmed += files.len();
            files.iter().for_each(|file| flip(file, &mut rng));
        }
        if what != "artifacts" {
            let files = files_below(&project.path("cache/actions"));
            harmed += files.len();
            files.iter().for_each(|file| flip(file, &mut rng));
        }
        let answer = project.run(&["verify", "--repair"]);
        assert_eq!(answer.code, 0, "{what}: {}", answer.stderr);
        assert!(answer.stderr.contains(&format!("{harmed} of {harmed} made again")), "{what}: {}", answer.stderr);
        assert_eq!((project.digests("rows"), untouchable(&project)), before, "{what}");
        verify_clean(&project, what);
        project.finds_all(&SWEPT);
    }
}

#[test]
fn a_repair_in_another_folder_finds_the_pipeline_and_the_inputs() {
    let project = swept();
    let file = a_file_of_each_artifact(&project, "rows").remove(0);
    let record = files_below(&project.path("cache/actions")).remove(0);
    [file, record].iter().for_each(|path| flip(path, &mut TestRng::new("elsewhere")));
    std::fs::create_dir(project.path("elsewhere")).expect("a folder");
    let mut command = project.raisin(&["verify", "--repair", "--cache", "../cache"]);
    let output = processes::output(command.current_dir(project.path("elsewhere")));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("2 of 2 made again"), "{words}");
    project.finds_all(&SWEPT);
    assert!(!project.path("elsewhere/out").exists());
}

#[test]
fn a_repair_says_why_an_artifact_cannot_be_made_again_and_a_later_repair_makes_it() {
    let project = swept();
    let pool = project.built("rows").into_iter().find(|stage| stage.stage == "pool").expect("it").artifact;
    let folder = project.path("cache/artifacts").join(pool.to_hex());
    let file = files_below(&folder).into_iter().find(|path| !path.ends_with("manifest.json")).expect("a file");
    let repair = |reason: &str| {
        let answer = project.run(&["verify", "--repair"]);
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        assert!(answer.stderr.contains(reason), "{reason}: {}", answer.stderr);
        assert!(answer.stderr.contains("not made again: artifact"), "{}", answer.stderr);
        assert!(answer.stderr.contains("0 of 1 made again"), "{}", answer.stderr);
    };
    flip(&file, &mut TestRng::new("why"));
    project.write("data.jsonl", "{\"instruction\": \"four\", \"input\": \"\", \"output\": \"4\"}\n");
    repair("data.jsonl has another content than it had then");
    // The artifact was set aside. It is missing now, and the next repair tries again.
    std::fs::remove_file(project.path("data.jsonl")).expect("removed");
    repair("there is no file");
    project.write("data.jsonl", ROWS);
    std::fs::rename(project.path("p.toml"), project.path("q.toml")).expect("renamed");
    repair("cannot read the pipeline");
    std::fs::rename(project.path("q.toml"), project.path("p.toml")).expect("renamed");
    let (_, words) = project.done(&["verify"]);
    assert!(words.contains("1 artifacts and records are missing"), "{words}");
    let (_, words) = project.done(&["verify", "--repair"]);
    assert!(words.contains("1 of 1 made again"), "{words}");
    project.finds_all(&SWEPT);
}

#[test]
fn a_repair_finds_an_input_file_that_a_flag_named_and_one_that_only_the_store_remembers() {
    let project = Project::with_text(STAGES);
    project.write("other/data.jsonl", ROWS);
    // The store remembers the digest of an input file only after the file was unchanged for two seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let flags = ["build", "p.toml", "--set", "stage.pool.sources.0.path=other/data.jsonl"];
    project.done(&flags);
    for pipeline_is_there in [true, false] {
        if !pipeline_is_there {
            std::fs::rename(project.path("p.toml"), project.path("away.toml")).expect("renamed");
        }
        let files = a_file_of_each_artifact(&project, "rows");
        files.iter().for_each(|file| flip(file, &mut TestRng::new("named")));
        let (_, words) = project.done(&["verify", "--repair"]);
        assert!(words.contains("2 of 2 made again"), "{words}");
    }
    std::fs::rename(project.path("away.toml"), project.path("p.toml")).expect("renamed");
    project.finds_all(&flags);
}

#[test]
fn an_interrupted_repair_ends_in_order_and_the_next_one_goes_on() {
    let rounds = count(1, 10);
    let mut rng = TestRng::new("interrupted repairs");
    let (mut interrupted, mut tries) = (0, 0);
    while interrupted < rounds {
        tries += 1;
        assert!(tries < rounds * 10, "no repair was interrupted");
        let project = Project::with_pipeline(PIPELINE);
        build(&project);
        for file in files_below(&project.path("cache/actions")) {
            tamper(&file, |bytes| bytes.truncate(bytes.len() / 2));
        }
        for file in a_file_of_each_artifact(&project, "micro") {
            if rng.below(2) == 0 {
                flip(&file, &mut rng);
            }
        }
        let before = untouchable(&project);
        let mut command = project.raisin(&["verify", "--repair"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("raisin starts");
        std::thread::sleep(Duration::from_millis(300 + rng.below(1500) as u64));
        let asked = Instant::now();
        kill(child.id(), Signal::INT);
        let output = processes::ended(child);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(asked.elapsed() < Duration::from_secs(3), "{words}");
        if output.status.code() == Some(130) {
            interrupted += 1;
            assert!(words.contains("goes on from here"), "{words}");
        }
        let answer = project.run(&["verify", "--repair"]);
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        assert_eq!(untouchable(&project), before);
        verify_clean(&project, "an interrupted repair");
        assert!(build(&project).contains("nothing to run"));
        assert_eq!(&digests(&project), undisturbed());
    }
    println!("{interrupted} repairs interrupted: each ended within 3 s, and the next repair made the rest again");
}

#[test]
fn an_answer_over_stages_that_the_query_does_not_name_is_made_again() {
    let project = Project::with_text(
        "[stage.one]\nkind = \"generate\"\nsize = 20\n[stage.two]\nkind = \"generate\"\nsize = 30\n\
         [stage.answer]\nkind = \"sql\"\nof = [\"one\", \"two\"]\nquery = \"select 1 as x\"\n",
    );
    project.done(&["build", "p.toml"]);
    let mut rng = TestRng::new("unnamed");
    a_file_of_each_artifact(&project, "p").iter().for_each(|path| flip(path, &mut rng));
    let (_, words) = project.done(&["verify", "--repair"]);
    assert!(words.contains("3 of 3 made again"), "{words}");
    project.finds_all(&["build", "p.toml"]);
}

#[test]
fn a_linked_artifact_that_was_set_aside_is_made_again_after_gc() {
    let project = swept();
    let file = a_file_of_each_artifact(&project, "rows").remove(0);
    flip(&file, &mut TestRng::new("gc between"));
    assert_eq!(project.run(&["verify"]).code, 1);
    project.done(&["gc", "--yes", "--older-than", "0"]);
    let (_, words) = project.done(&["verify", "--repair"]);
    assert!(words.contains("1 of 1 made again"), "{words}");
    project.finds_all(&SWEPT);
}
