//! A folder as the shared cache.

use std::path::{Path, PathBuf};

use raisin_tests::{Project, files_below, processes};

use super::{BuildCounts, SHARED, ask, build, counts, machine, verified};

/// An empty shared cache.
struct SharedFolder {
    folder: tempfile::TempDir,
}

impl SharedFolder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn address(&self) -> String {
        format!("file://{}", self.folder.path().display())
    }

    fn below(&self, kind: &str) -> Vec<PathBuf> {
        files_below(&self.folder.path().join("v1").join(kind))
    }

    /// Builds with rights to write.
    fn writes(&self, machine: &Project) -> (BuildCounts, String) {
        build(machine, &[("RAISIN_REMOTE", &self.address()), ("RAISIN_REMOTE_MODE", "read-write")], &[])
    }

    fn reads(&self, machine: &Project) -> (BuildCounts, String) {
        build(machine, &[("RAISIN_REMOTE", &self.address())], &[])
    }
}

const ALL_RAN: BuildCounts = BuildCounts { ran: 5, fetched: 0, cached: 0 };
const ALL_FETCHED: BuildCounts = BuildCounts { ran: 0, fetched: 5, cached: 0 };
const ALL_CACHED: BuildCounts = BuildCounts { ran: 0, fetched: 0, cached: 5 };

#[test]
fn a_second_machine_fetches_everything_and_runs_nothing() {
    let shared = SharedFolder::new();
    let (one, two) = (machine(), machine());
    let (counts, told) = shared.writes(&one);
    assert_eq!(counts, ALL_RAN, "{told}");
    assert!(told.contains("shared cache: uploaded 5 artifacts, "), "{told}");
    assert_eq!((shared.below("action").len(), shared.below("artifact").len()), (5, 5));
    let (counts, told) = shared.reads(&two);
    assert_eq!(counts, ALL_FETCHED, "{told}");
    assert!(told.contains("shared cache: fetched 5 artifacts, "), "{told}");
    assert_eq!(one.digests("shared"), two.digests("shared"));
    verified(&two);
    assert_eq!(shared.reads(&two).0, ALL_CACHED);
    // SQL, the journal and the summary know where the artifacts came from.
    assert_eq!(two.sql("select count(*) as n from counted.rows").len(), 1);
    let journal: String = files_below(&two.path("cache/journal"))
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("the journal"))
        .collect();
    assert!(journal.contains("\"fetched\":5") && journal.contains("\"received_bytes\":"), "{journal}");
}

#[test]
fn a_build_only_reads_unless_the_mode_says_otherwise() {
    let shared = SharedFolder::new();
    let one = machine();
    assert_eq!(shared.reads(&one).0, ALL_RAN);
    assert!(files_below(shared.folder.path()).is_empty());
    // The table of the pipeline says the same as the environment, and is in no key.
    let table = format!("{SHARED}[cache]\nremote = \"{}\"\nmode = \"read-write\"\n", shared.address());
    one.write("p.toml", &table);
    assert_eq!(build(&one, &[], &[]).0, ALL_CACHED);
    let two = machine();
    two.write("p.toml", &table);
    assert_eq!(build(&two, &[("RAISIN_REMOTE_MODE", "read")], &[]).0, ALL_RAN);
    assert!(files_below(shared.folder.path()).is_empty());
    let three = machine();
    three.write("p.toml", &table);
    assert_eq!(build(&three, &[("RAISIN_REMOTE", "none")], &[]).0, ALL_RAN);
    assert!(files_below(shared.folder.path()).is_empty());
    let four = machine();
    four.write("p.toml", &table);
    assert_eq!(build(&four, &[], &["--no-remote"]).0, ALL_RAN);
    assert!(files_below(shared.folder.path()).is_empty());
    let (_, told) = build(&four, &[], &["--force"]);
    assert!(told.contains("uploaded 5 artifacts"), "{told}");
}

#[test]
fn a_build_with_nothing_to_do_starts_no_process_for_the_shared_cache() {
    let shared = SharedFolder::new();
    let one = machine();
    shared.writes(&one);
    let log = one.path("cache/logs/remote.log");
    std::fs::remove_file(&log).expect("the log of the first build");
    assert_eq!(shared.writes(&one).0, ALL_CACHED);
    assert_eq!(shared.reads(&one).0, ALL_CACHED);
    assert!(!log.exists(), "raisin-remote was started");
}

#[test]
fn an_edit_fetches_what_is_shared_and_uploads_only_what_is_new() {
    let shared = SharedFolder::new();
    let (one, two, three) = (machine(), machine(), machine());
    shared.writes(&one);
    let blobs = shared.below("blob").len();
    let edited = SHARED.replace("size = 40", "size = 41");
    two.write("p.toml", &edited);
    let (counts, told) = shared.writes(&two);
    assert_eq!((counts.fetched, counts.ran), (1, 4), "{told}");
    assert!(shared.below("blob").len() > blobs);
    three.write("p.toml", &edited);
    assert_eq!(shared.reads(&three).0, ALL_FETCHED);
}

/// What a plan says of each stage, and its last line.
fn planned(machine: &Project, shared: &SharedFolder) -> (usize, usize, String) {
    let output = ask(machine, &[("RAISIN_REMOTE", &shared.address())], &["plan", "p.toml"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let count = |words: &str| output.stdout.lines().filter(|line| line.contains(words)).count();
    (count("  would fetch  "), count("  would run  "), output.stdout.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn a_plan_says_what_would_be_fetched_and_how_large_it_is() {
    let shared = SharedFolder::new();
    let (one, two) = (machine(), machine());
    shared.writes(&one);
    let (fetch, run, last) = planned(&two, &shared);
    assert_eq!((fetch, run), (5, 0), "{last}");
    assert!(last.contains("0 would run, 5 would be fetched (") && last.contains("MB"), "{last}");
    assert!(!two.path("cache/artifacts").read_dir().expect("a folder").any(|_| true), "the plan fetched");
    assert_eq!(shared.reads(&two).0, ALL_FETCHED);
    assert_eq!(planned(&two, &shared).0, 0);
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).expect("a file");
    change(&mut bytes);
    std::fs::write(file, bytes).expect("written");
}

/// Damages the shared cache, and returns what a new machine with rights to write says. The build must succeed with the
/// right artifacts, and must repair the shared cache.
fn after(damage: impl FnOnce(&SharedFolder)) -> (BuildCounts, String) {
    let shared = SharedFolder::new();
    let (one, two, three) = (machine(), machine(), machine());
    shared.writes(&one);
    damage(&shared);
    let (counts, told) = shared.writes(&two);
    assert_eq!(one.digests("shared"), two.digests("shared"));
    verified(&two);
    assert_eq!(counts.ran + counts.fetched, 5, "{told}");
    let (again, told_again) = shared.reads(&three);
    assert_eq!(again, ALL_FETCHED, "not repaired:\n{told}\n{told_again}");
    (counts, told)
}

#[test]
fn a_record_whose_files_are_gone_is_a_miss_and_is_replaced() {
    let (counts, told) = after(|shared| {
        for blob in shared.below("blob") {
            std::fs::remove_file(blob).expect("removed");
        }
    });
    assert_eq!(counts.ran, 5);
    assert!(told.contains("is gone; the stage runs"), "{told}");
    let (counts, told) = after(|shared| std::fs::remove_file(&shared.below("artifact")[0]).expect("removed"));
    assert_eq!(counts.ran, 1, "{told}");
    assert!(told.contains("the manifest of the artifact"), "{told}");
}

#[test]
fn a_wrong_byte_in_a_file_is_found_and_the_file_is_replaced() {
    let (counts, told) = after(|shared| {
        let largest = shared.below("blob").into_iter().max_by_key(|file| file.metadata().expect("a file").len());
        change(&largest.expect("a blob"), |bytes| {
            let half = bytes.len() / 2;
            bytes[half] ^= 1;
        });
    });
    assert!(counts.ran >= 1, "{told}");
    assert!(told.contains("is not what was written; the stage runs"), "{told}");
}

#[test]
fn a_poisoned_record_or_manifest_is_never_used() {
    type Poison = fn(&mut Vec<u8>);
    let poisons: [(&str, Poison); 4] = [
        ("action", |bytes| bytes.truncate(bytes.len() / 2)),
        ("action", |bytes| *bytes = b"{}".to_vec()),
        ("artifact", |bytes| *bytes = b"{\"files\":[],\"format\":1}".to_vec()),
        ("artifact", |bytes| {
            let path = br#"{"files":[{"blake3":"0000000000000000000000000000000000000000000000000000000000000000","path":"../../escaped","size":1}],"format":1}"#;
            *bytes = path.to_vec();
        }),
    ];
    for (kind, poison) in poisons {
        let (counts, told) = after(|shared| change(&shared.below(kind)[0], poison));
        assert_eq!(counts.ran, 1, "{kind}: {told}");
        assert!(told.contains("the shared cache has no usable artifact: the "), "{told}");
    }
    // The record of another action in the place of this one.
    let (counts, told) = after(|shared| {
        let records = shared.below("action");
        std::fs::copy(&records[1], &records[0]).expect("copied");
    });
    assert_eq!(counts.ran, 1, "{told}");
    assert!(told.contains("belongs to another key"), "{told}");
}

#[test]
fn a_shared_cache_that_cannot_be_used_gives_one_warning_and_the_build_goes_on() {
    let one = machine();
    let missing = one.path("missing");
    let (counts, told) = build(&one, &[("RAISIN_REMOTE", &missing.display().to_string())], &[]);
    assert_eq!(counts, ALL_RAN);
    assert_eq!(told.matches("warning").count(), 1, "{told}");
    assert!(told.contains("cannot be used: the folder") && told.contains("the build goes on without it"), "{told}");
    assert!(!missing.exists());
}

#[test]
fn a_wrong_address_mode_or_key_is_refused_before_anything_runs() {
    let one = machine();
    let refused = |variables: &[(&str, &str)]| {
        let output = ask(&one, variables, &["build", "p.toml"]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        output.stderr
    };
    assert!(refused(&[("RAISIN_REMOTE", "s4://bucket")]).contains("from RAISIN_REMOTE: "));
    let told = refused(&[("RAISIN_REMOTE", "s3://KEY:hidden@bucket")]);
    assert!(told.contains("contains credentials") && !told.contains("hidden"), "{told}");
    let told = refused(&[("RAISIN_REMOTE", "s3://bucket"), ("RAISIN_REMOTE_MODE", "write")]);
    assert!(told.contains("`read` or `read-write`"), "{told}");
    for (table, expected) in [
        ("remot = \"s3://b\"", "did you mean `remote`?"),
        ("remote = \"ftp://b\"", "p.toml:24:10"),
        ("mode = \"rw\"", "must be \"read\" or \"read-write\""),
        ("max_upload = \"much\"", "a size such as"),
    ] {
        one.write("p.toml", &format!("{SHARED}[cache]\n{table}\n"));
        let told = refused(&[]);
        assert!(told.contains(expected), "{table}: {told}");
    }
}

#[test]
fn an_artifact_above_the_limit_is_left_out_and_counted() {
    let shared = SharedFolder::new();
    let one = machine();
    let (address, limit) = (shared.address(), "4kB");
    let table = format!("[cache]\nremote = \"{address}\"\nmode = \"read-write\"\nmax_upload = \"{limit}\"\n");
    one.write("p.toml", &format!("{SHARED}{table}"));
    let (counts, told) = build(&one, &[], &[]);
    assert_eq!(counts, ALL_RAN);
    assert!(told.contains("not uploaded: pool: ") && told.contains("left out"), "{told}");
    let records = shared.below("action").len();
    assert!((1..5).contains(&records), "{records} records");
}

#[test]
fn builds_at_the_same_time_share_one_cache_and_one_shared_cache() {
    let shared = SharedFolder::new();
    let machines: Vec<Project> = (0..3).map(|_| machine()).collect();
    let start = |machine: &Project, out: &str| {
        let mut command = machine.raisin(&["build", "p.toml", "--out", out]);
        command.env("RAISIN_REMOTE", shared.address()).env("RAISIN_REMOTE_MODE", "read-write");
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().expect("raisin")
    };
    let builds: Vec<_> = machines.iter().flat_map(|machine| [start(machine, "out"), start(machine, "other")]).collect();
    for build in builds {
        let output = processes::ended(build);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    machines.iter().for_each(verified);
    assert!(machines.iter().all(|machine| machine.digests("shared") == machines[0].digests("shared")));
    assert_eq!(shared.below("action").len(), 5);
    assert_eq!(shared.reads(&machine()).0, ALL_FETCHED);
}

#[test]
fn push_and_pull_move_what_a_build_did_not() {
    let shared = SharedFolder::new();
    let (one, two) = (machine(), machine());
    let address = shared.address();
    let remote = |machine: &Project, arguments: &[&str]| {
        ask(machine, &[("RAISIN_REMOTE", &address)], &[&["remote"], arguments].concat())
    };
    assert_eq!(build(&one, &[], &[]).0, ALL_RAN);
    let pushed = remote(&one, &["push", "p.toml"]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert!(pushed.stderr.contains("uploaded 5 artifacts"), "{}", pushed.stderr);
    let again = remote(&one, &["push", "--all"]);
    assert!(again.stderr.contains("uploaded 0 artifacts") && again.stderr.contains("5 were there already"));
    let pulled = remote(&two, &["pull", "p.toml"]);
    assert!(pulled.stderr.contains("fetched 5 artifacts"), "{}", pulled.stderr);
    assert!(!two.path("out").exists());
    assert_eq!(build(&two, &[], &[]).0, ALL_CACHED);
    let three = machine();
    let pulled = remote(&three, &["pull", "--all"]);
    assert!(pulled.stderr.contains("fetched 5 of 5 artifacts"), "{}", pulled.stderr);
    assert_eq!(build(&three, &[], &[]).0, ALL_CACHED);
    let used = remote(&three, &["du"]).stdout;
    assert!(used.contains("action ") && used.contains("5 objects"), "{used}");
    assert_eq!(remote(&three, &["push"]).code, 2);
    assert_eq!(ask(&three, &[], &["remote", "du"]).code, 2);
}

#[test]
fn a_repair_fetches_what_the_shared_cache_has_and_makes_only_the_rest() {
    let shared = SharedFolder::new();
    let one = machine();
    shared.writes(&one);
    // Damages a file of each artifact, and removes one record.
    let harm = || {
        for file in files_below(&one.path("cache/artifacts")) {
            if file.extension().is_some_and(|ending| ending == "parquet") {
                let mut rights = std::fs::metadata(&file).expect("a file").permissions();
                std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o644);
                std::fs::set_permissions(&file, rights).expect("rights");
                change(&file, |bytes| bytes[40] ^= 1);
            }
        }
        std::fs::remove_file(&files_below(&one.path("cache/actions"))[0]).expect("removed");
    };
    let before = one.digests("shared");
    harm();
    let repaired = ask(&one, &[("RAISIN_REMOTE", &shared.address())], &["verify", "--repair"]);
    assert_eq!(repaired.code, 0, "{}", repaired.stderr);
    assert!(repaired.stderr.contains("0 of 5 made again, 5 fetched from the shared cache"), "{}", repaired.stderr);
    verified(&one);
    assert_eq!((build(&one, &[], &[]).0, one.digests("shared")), (ALL_CACHED, before.clone()));
    // Of two artifacts that the shared cache has lost, one is made from the other.
    harm();
    let records = shared.below("action");
    records.iter().take(2).for_each(|record| std::fs::remove_file(record).expect("removed"));
    let address = shared.address();
    let repaired = one.run(&["verify", "--repair", "--remote", &address]);
    assert_eq!(repaired.code, 0, "{}", repaired.stderr);
    assert!(repaired.stderr.contains("2 of 5 made again, 3 fetched from the shared cache"), "{}", repaired.stderr);
    assert_eq!((build(&one, &[], &[]).0, one.digests("shared")), (ALL_CACHED, before));
    // Without a shared cache, everything is made again.
    harm();
    let repaired = one.run(&["verify", "--repair"]);
    assert!(repaired.code == 0 && repaired.stderr.contains("5 of 5 made again\n"), "{}", repaired.stderr);
}

#[test]
fn gc_removes_old_records_and_only_what_no_other_record_needs() {
    let shared = SharedFolder::new();
    let (one, two) = (machine(), machine());
    shared.writes(&one);
    raisin_tests::age(shared.folder.path(), std::time::Duration::from_hours(24 * 40));
    two.write("p.toml", &SHARED.replace("size = 40", "size = 41"));
    shared.writes(&two);
    let address = shared.address();
    let gc = |arguments: &[&str]| {
        let output = ask(&one, &[], &[&["remote", "gc", "--remote", &address], arguments].concat());
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stderr
    };
    let before = files_below(shared.folder.path());
    let told = gc(&[]);
    assert!(told.contains("would free") && told.contains("5 records"), "{told}");
    assert_eq!(files_below(shared.folder.path()), before);
    gc(&["--yes"]);
    assert_eq!(shared.below("action").len(), 4);
    // `pool` was fetched, not made, so that its record was old; everything else of the second build is still there.
    assert_eq!((shared.reads(&two).0, shared.below("artifact").len()), (ALL_CACHED, 4));
    let three = machine();
    three.write("p.toml", &SHARED.replace("size = 40", "size = 41"));
    let (counts, told) = shared.reads(&three);
    assert_eq!((counts.ran, counts.fetched), (1, 4), "{told}");
    gc(&["--yes", "--older-than", "0"]);
    assert!(files_below(shared.folder.path()).is_empty());
}

#[test]
fn check_says_what_a_folder_can_do() {
    let shared = SharedFolder::new();
    let one = machine();
    let told = ask(&one, &[], &["remote", "check", "--remote", &shared.address()]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    for expected in ["reading      works", "writing      works", "create once  honoured", "deleting     works"] {
        assert!(told.stdout.contains(expected), "{expected}:\n{}", told.stdout);
    }
    assert!(files_below(shared.folder.path()).is_empty(), "the probe stays");
}

/// Kills a build with everything that it started, at an instant in the middle of its uploads or fetches.
#[test]
fn a_build_that_is_killed_leaves_no_wrong_state_and_the_next_build_goes_on() {
    let shared = SharedFolder::new();
    let one = machine();
    for moment in [20, 60, 120, 200, 300] {
        let mut command = one.raisin(&["build", "p.toml", "--quiet"]);
        command.env("RAISIN_REMOTE", shared.address()).env("RAISIN_REMOTE_MODE", "read-write");
        let mut child = command.spawn().expect("raisin");
        std::thread::sleep(std::time::Duration::from_millis(moment));
        child.kill().expect("killed");
        processes::status(&mut child);
    }
    shared.writes(&one);
    verified(&one);
    // What was made and not uploaded before the kills is uploaded by hand.
    let pushed = ask(&one, &[("RAISIN_REMOTE", &shared.address())], &["remote", "push", "p.toml"]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let two = machine();
    for moment in [10, 30, 60, 100] {
        let mut child =
            two.raisin(&["build", "p.toml", "-q"]).env("RAISIN_REMOTE", shared.address()).spawn().expect("raisin");
        std::thread::sleep(std::time::Duration::from_millis(moment));
        child.kill().expect("killed");
        processes::status(&mut child);
    }
    let output = ask(&two, &[("RAISIN_REMOTE", &shared.address())], &["build", "p.toml"]);
    let counts = counts(&output.stderr);
    assert_eq!((counts.ran, counts.fetched + counts.cached), (0, 5), "{}", output.stderr);
    verified(&two);
    assert_eq!(one.digests("shared"), two.digests("shared"));
}

#[test]
fn every_kind_of_stage_comes_from_a_shared_cache() {
    let shared = SharedFolder::new();
    let (one, two) = (Project::with_pipeline("micro.toml"), Project::with_pipeline("micro.toml"));
    let address = shared.address();
    let built = |machine: &Project, mode| {
        let output =
            ask(machine, &[("RAISIN_REMOTE", &address), ("RAISIN_REMOTE_MODE", mode)], &["build", "micro.toml"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stderr
    };
    let first = counts(&built(&one, "read-write"));
    let told = built(&two, "read");
    assert_eq!(counts(&told), BuildCounts { ran: 0, fetched: first.ran, cached: 0 }, "{told}");
    verified(&two);
    assert_eq!(one.digests("micro"), two.digests("micro"));
    assert!(two.path("cache/artifacts").read_dir().expect("artifacts").count() >= 10);
}
