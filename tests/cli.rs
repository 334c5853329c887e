//! Tests of the commands through the real executable `raisin`, each in a temporary project. tests/main_job.rs has the
//! tests with tensor stages.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use raisin_tests::{Project, processes};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_wrong_pipeline_is_refused_with_its_place_before_anything_is_made() {
    let project = Project::with_text("[pipeline]\nsed = 3\n");
    for command in ["build", "plan"] {
        let (code, words) = project.refused(&[command, "p.toml"]);
        assert_eq!(words, "error: p.toml:2:1: [pipeline] has no key `sed`\nhint: did you mean `seed`?\n");
        assert_eq!(code, 2);
    }
    assert!(!project.path("cache").exists());
}

#[test]
fn a_missing_pipeline_and_a_wrong_flag_exit_with_two() {
    let project = Project::with_text("");
    let (code, words) = project.refused(&["build", "q.toml"]);
    assert_eq!(code, 2);
    assert!(words.starts_with("error: cannot read the pipeline q.toml"), "{words}");
    assert!(words.contains("did you mean `p.toml`?"), "{words}");
    assert_eq!(project.refused(&["build", "p.toml", "--deivce", "cpu"]).0, 2);
    let (code, words) = project.refused(&["build", "p.toml", "--set", "seed"]);
    assert_eq!(code, 2);
    assert!(words.starts_with("error: from --set seed: there is no `=`"), "{words}");
}

#[test]
fn without_arguments_a_short_page_shows_how_to_begin() {
    let (code, words) = Project::with_text("").refused(&[]);
    assert_eq!(code, 2);
    assert!(words.contains("raisin build pipelines/quickstart.toml"), "{words}");
    assert!(!words.contains("run-stage"), "{words}");
}

#[test]
fn an_unknown_kind_to_describe_is_refused() {
    let (code, words) = Project::with_text("").refused(&["kinds", "nothing-like-it"]);
    assert_eq!(code, 2);
    assert!(words.contains("there is no kind `nothing-like-it`"), "{words}");
}

/// The ways in which standard error cannot be written: the disk is full, and the reader of the pipe has ended.
fn unwritable() -> [Stdio; 2] {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    [Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap()), Stdio::from(writer)]
}

#[test]
fn a_message_that_cannot_be_written_ends_no_command() {
    let project = counted();
    project.done(&["build", "p.toml"]);
    for (arguments, code) in [
        (&["build", "p.toml"][..], 0),
        (&["build", "p.toml", "--force"], 0),
        (&["build", "missing.toml"], 2),
        (&["gc"], 0),
        (&["verify"], 0),
        (&["pin", "q"], 2),
        (&["sql", "select 1"], 0),
        (&["sql", "selec 1"], 2),
        (&["plan", "p.toml", "--out", "plan.json"], 0),
    ] {
        assert_eq!(project.run(arguments).code, code, "{arguments:?}");
        for stderr in unwritable() {
            let mut child = project.raisin(arguments).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
            assert_eq!(processes::status(&mut child).code(), Some(code), "{arguments:?}");
        }
    }
}

#[test]
fn limits_of_the_shell_are_errors_with_words() {
    let project = counted();
    let limited = |limit: &str, arguments: &str| {
        let raisin = raisin_tests::executable("raisin");
        let script = format!("ulimit {limit}; exec '{}' {arguments}", raisin.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(project.path(""));
        let output = processes::output(&mut command);
        (output.status.code(), text(&output.stderr))
    };
    let (code, words) = limited("-f 0", "build p.toml");
    assert!(code == Some(1) && words.contains("VERSION") && words.contains("File too large"), "{code:?} {words}");
    project.done(&["build", "p.toml"]);
    let (code, words) = limited("-f 0", "build p.toml --force");
    assert!(code == Some(1) && words.contains("File too large"), "{code:?} {words}");
    for arguments in ["verify", "gc", "plan p.toml"] {
        let (code, words) = limited("-f 0", arguments);
        assert!(code.is_some(), "{arguments} ended without words: {words}");
    }
    // With so little memory, either the loader or an allocation fails, and says so. With less than the size of the
    // executable (20 MB), the kernel ends it without a word.
    for limit in [22_000, 25_000, 30_000, 40_000] {
        let (code, words) = limited(&format!("-v {limit}"), "build p.toml --force");
        assert!(code == Some(0) || !words.trim().is_empty(), "{limit}: {code:?}");
    }
}

#[test]
fn what_cannot_be_linked_at_the_end_is_refused_before_the_first_stage() {
    let project = counted();
    let refused = |arguments: &[&str], reason: &str| {
        let (code, words) = project.refused(&[&["build", "p.toml"], arguments].concat());
        assert!(code == 1 && words.contains(reason), "{words}");
        assert!(!words.contains(" ran in "), "a stage ran before\n{words}");
    };
    project.write("file", "");
    refused(&["--out", "file"], "cannot create file/");
    project.write("full/p/counted/x", "");
    project.write("full/p/pool/x", "");
    refused(&["--out", "full"], "is a folder, where a link must lie");
    let name = "n".repeat(256);
    project.write("long.toml", &format!("[stage.{name}]\nkind = \"generate\"\nsize = 60\n"));
    let (code, words) = project.refused(&["build", "long.toml"]);
    assert!(code == 1 && words.contains("File name too long") && words.contains("hint: rename the stage"), "{words}");
    // All names that a file system allows work, also with the name of the temporary link.
    project.write("long.toml", &format!("[stage.{}]\nkind = \"generate\"\nsize = 60\n", &name[..255]));
    project.done(&["build", "long.toml"]);
    project.finds_all(&["build", "long.toml"]);
}

#[test]
fn a_key_with_too_many_parts_is_refused() {
    let project = Project::with_text("[stage.pool]\nkind = \"generate\"\n");
    for (parts, reason) in [(80, "has no parameter"), (81, "at most 80 are allowed"), (20_000, "at most 80")] {
        for flag in ["--set", "--sweep"] {
            let key = ["stage", "pool"].into_iter().chain(std::iter::repeat_n("a", parts - 2)).collect::<Vec<_>>();
            let (code, words) = project.refused(&["build", "p.toml", flag, &format!("{}=[1]", key.join("."))]);
            assert!(code == 2 && words.contains(reason) && words.len() < 2000, "{flag} {parts}: {words}");
        }
    }
}

#[test]
fn doctor_shows_the_given_folders() {
    let output = Project::with_text("").run(&["doctor", "--cache", "elsewhere"]);
    assert!(output.stdout.contains("cache     elsewhere does not exist yet"), "{}", output.stdout);
}

/// A pipeline with a pool of two files of a folder, and a query that counts the pool.
const COUNTED: &str = "\
[stage.pool]
kind = \"ingest\"
sources = [{ path = \"data/*.jsonl\", format = \"qa\" }]

[stage.counted]
kind = \"sql\"
of = [\"pool\"]
query = \"select count(*) as n from pool.instructions\"
";

fn questions(first: usize, count: usize) -> String {
    (first..first + count).map(|n| format!("{{\"question\":\"q{n}\",\"answer\":\"a{n}\"}}\n")).collect()
}

fn counted() -> Project {
    let project = Project::with_text(COUNTED);
    project.write("data/a.jsonl", &questions(0, 10));
    project.write("data/b.jsonl", &(questions(10, 5) + "{torn\n"));
    project
}

#[test]
fn a_pattern_of_files_becomes_one_pool_and_rejects_keep_their_file() {
    let project = counted();
    project.done(&["build", "p.toml"]);
    let (rows, _) = project.done(&["sql", "select file, records, rejected from pool.sources", "--format", "csv"]);
    assert_eq!(rows, "file,records,rejected\na.jsonl,10,0\nb.jsonl,6,1\n");
    let (rows, _) = project.done(&["sql", "select file, line from pool.rejects", "--format", "csv"]);
    assert_eq!(rows, "file,line\nb.jsonl,6\n");
}

#[test]
fn why_counts_the_rows_of_an_input_as_text_and_as_json() {
    let project = counted();
    project.done(&["build", "p.toml"]);
    project.write("data/c.jsonl", &questions(50, 3));
    let (plan, _) = project.done(&["plan", "p.toml"]);
    assert!(plan.contains("files sources.0.path: new: c.jsonl"), "{plan}");
    assert!(plan.contains("input pool will be made anew"), "{plan}");
    project.done(&["build", "p.toml", "--only", "pool"]);
    let (why, _) = project.done(&["why", "p.toml", "counted"]);
    assert!(why.contains("input pool: 3 rows more in instructions, 1 row more in sources"), "{why}");
    let (json, _) = project.done(&["why", "p.toml", "counted", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let difference = &json[0]["why"][0];
    assert!(difference["difference"] == "input" && difference["name"] == "pool", "{json}");
    assert_eq!(
        difference["changes"][0],
        serde_json::json!({"file": "instructions.parquet", "change": "rows", "from": 15, "to": 18})
    );
}

#[test]
fn a_plan_in_a_file_is_built_without_the_pipeline_and_refused_once_an_input_changed() {
    let project = counted();
    let (_, words) = project.done(&["plan", "p.toml", "--out", "plan.json", "--set", "stage.pool.sample=5"]);
    assert!(words.contains("raisin build plan.json"), "{words}");
    std::fs::rename(project.path("p.toml"), project.path("q.toml")).unwrap();
    let (code, words) = project.refused(&["build", "plan.json", "--set", "pipeline.seed=3"]);
    assert_eq!(code, 2);
    assert!(words.contains("plan.json is a plan, which --set would change"), "{words}");
    project.done(&["build", "plan.json"]);
    let (rows, _) = project.done(&["sql", "select n from counted.rows", "--format", "csv"]);
    assert_eq!(rows, "n\n5\n");
    project.write("data/a.jsonl", &questions(0, 11));
    let (code, words) = project.refused(&["build", "plan.json"]);
    assert_eq!(code, 2);
    assert!(words.contains("since plan.json was planned, something changed"), "{words}");
    assert!(words.contains("pool: files sources.0.path: other bytes: a.jsonl"), "{words}");
    project.write("plan.json", "{\"raisin_plan\": 2}");
    let (code, words) = project.refused(&["build", "plan.json"]);
    assert!(code == 2 && words.contains("has format 2, this raisin reads format 1"), "{words}");
}

#[test]
fn an_accepted_change_is_visible_in_why_and_in_sql() {
    let project = counted();
    project.done(&["build", "p.toml"]);
    let new = "stage.counted.query=select count(id) as n from pool.instructions";
    let (words, _) = project.done(&["accept", "p.toml", "counted", "--set", new, "--reason", "the same count"]);
    assert!(words.starts_with("counted: artifact ") && words.contains("query: "), "{words}");
    project.finds_all(&["build", "p.toml", "--set", new]);
    let (why, _) = project.done(&["why", "p.toml", "counted", "--set", new]);
    assert!(why.contains("accepted   by ") && why.contains("(the same count)"), "{why}");
    let query = "select count(*) as n from raisin.actions where accepted like '%the same count%'";
    assert_eq!(project.done(&["sql", query, "--format", "csv"]).0, "n\n1\n");
    let (_, words) = project.done(&["build", "p.toml", "--set", new, "--force", "counted"]);
    assert!(words.contains("1 ran, 1 cached"), "{words}");
    let (why, _) = project.done(&["why", "p.toml", "counted", "--set", new]);
    assert!(!why.contains("accepted"), "{why}");
}

#[test]
fn a_misspelt_stage_is_refused_with_the_nearest_name() {
    let project = counted();
    project.done(&["build", "p.toml"]);
    for arguments in [
        &["build", "p.toml", "--only", "cuonted"][..],
        &["build", "p.toml", "--force", "cuonted"],
        &["build", "p.toml", "--force=cuonted"],
        &["accept", "p.toml", "cuonted"],
        &["why", "p.toml", "cuonted"],
        &["explain", "p.toml", "cuonted"],
    ] {
        let (code, words) = project.refused(arguments);
        assert_eq!(code, 2, "{arguments:?}");
        assert!(words.contains("there is no stage `cuonted`"), "{words}");
        assert!(words.contains("hint: did you mean `counted`?"), "{words}");
    }
}

#[test]
fn only_a_selector_that_is_built_is_explained() {
    let (code, words) = counted().refused(&["explain", "p.toml", "counted"]);
    assert_eq!(code, 2);
    assert_eq!(
        words,
        "error: the stage `counted` is of kind sql; only a stage of kind selector is explained\n\
         hint: the pipeline has no stage of kind selector\n"
    );
    let project = Project::with_pipeline("micro.toml");
    let (code, words) = project.refused(&["explain", "micro.toml", "tuned"]);
    assert!(code == 2 && words.contains("hint: of kind selector: selector\n"), "{words}");
    let (code, words) = project.refused(&["explain", "micro.toml", "selector"]);
    assert_eq!(code, 2);
    assert!(
        words.contains("error: there is nothing to explain yet; not built: selector\nhint: `raisin build"),
        "{words}"
    );
}

#[test]
fn resources_are_checked_and_change_nothing_that_is_cached() {
    let project = counted();
    project.done(&["build", "p.toml"]);
    project.write("p.toml", &COUNTED.replace("[stage.counted]", "resources = { memory = \"2GB\" }\n\n[stage.counted]"));
    project.finds_all(&["build", "p.toml"]);
    for (resources, problem) in [
        ("{ memory = \"lots\" }", "stage `pool`, resources.memory: a size looks like 500MB or 20GB, not `lots`"),
        ("{ threads = 0 }", "stage `pool`, resources.threads: nothing runs with 0 threads"),
        ("{ gpus = 2.0 }", "stage `pool`, resources.gpus: a stage takes more than 0 and at most 1 of a GPU"),
        ("{ thread = 1 }", "hint: did you mean `threads`?"),
    ] {
        project.write(
            "p.toml",
            &COUNTED.replace("[stage.counted]", &format!("resources = {resources}\n\n[stage.counted]")),
        );
        let (code, words) = project.refused(&["plan", "p.toml"]);
        assert_eq!(code, 2);
        assert!(words.contains(problem), "{words}");
    }
}

#[test]
fn an_interrupt_before_anything_runs_ends_at_once_and_says_so() {
    let project = Project::with_text("[stage.pool]\nkind = \"ingest\"\nsources = [{ path = \"large.jsonl\" }]\n");
    // A file without content on the disk, which takes many seconds to hash.
    std::fs::File::create(project.path("large.jsonl")).and_then(|file| file.set_len(64 << 30)).unwrap();
    let mut build = project.raisin(&["build", "p.toml"]);
    let build = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !project.path("cache/VERSION").exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "the build does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(200));
    rustix::process::kill_process(rustix::process::Pid::from_child(&build), rustix::process::Signal::INT).unwrap();
    let output = processes::ended(build);
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(text(&output.stderr), "interrupted: nothing was running; the same command goes on from here\n");
}

#[test]
fn doctor_shows_the_findings_of_the_worker_and_what_to_do() {
    let output = Project::with_text("").run(&["doctor"]);
    let words = output.stdout;
    assert_eq!(output.code, 0, "{words}");
    for name in ["libtorch  ", "          2.11.0 from /", "processor", "threads", "f32", "bf16", "gpus", "dtype"] {
        assert!(words.lines().any(|line| line.starts_with(name)), "{name} is missing in\n{words}");
    }
    let has_bf16 = words.lines().any(|line| line.starts_with("processor") && line.contains("bf16"));
    assert_eq!(words.contains("this processor has no bf16 instructions"), !has_bf16, "{words}");
    let mut without = Command::new(raisin_tests::executable("raisin"));
    let without = processes::output(without.arg("doctor").env("RAISIN_WORKER", "/nowhere/raisin-worker"));
    assert_eq!(without.status.code(), Some(1));
    assert!(text(&without.stdout).contains("to do     without raisin-worker no tensor stage can run"));
}

#[test]
fn a_device_is_named_by_kind_and_number() {
    let project = Project::with_text("[stage.pool]\nkind = \"generate\"\n");
    for device in ["cuda:x", "gpu", "cuda:-1"] {
        let (code, words) = project.refused(&["plan", "p.toml", "--device", device]);
        assert_eq!(code, 2);
        assert!(words.contains("auto, cpu, cuda or cuda:N"), "{words}");
    }
    if !Path::new("/dev/nvidia0").exists() {
        let (code, words) = project.refused(&["plan", "p.toml", "--device", "cuda:1"]);
        assert_eq!(code, 2);
        assert!(words.contains("no CUDA device can be used: there is no /dev/nvidia0"), "{words}");
    }
}

#[test]
fn the_exit_code_says_whose_error_it_is() {
    let project = counted();
    project.done(&["build", "p.toml"]);
    // A wrong query is an error of the user: exit code 2.
    for query in ["selec 1", "select nothing from pool.instructions", "select avgg(id) from pool.instructions", ""] {
        let (code, words) = project.refused(&["sql", query]);
        assert_eq!(code, 2, "{query}: {words}");
    }
    let (code, words) = project.refused(&["sql", "select 1", "--pipeline", "q"]);
    assert_eq!(code, 2, "{words}");
    // A cache that is not a folder, and a missing executable, are errors of the machine (exit code 1), with or without
    // a hint.
    let (code, words) = project.refused(&["build", "p.toml", "--cache", "p.toml"]);
    assert_eq!(code, 1, "{words}");
    project.write("cache/VERSION", "7\n");
    let (code, words) = project.refused(&["build", "p.toml"]);
    assert!(code == 1 && words.contains("has layout 7") && words.contains("hint: "), "{words}");
    let tensors = Project::with_text("[stage.model]\nkind = \"model\"\nsource = { huggingface = \"p.toml\" }\n");
    let mut build = tensors.raisin(&["build", "p.toml"]);
    let output = processes::output(build.env("RAISIN_WORKER", "/nowhere/raisin-worker"));
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("stage `model` cannot run") && words.contains("RAISIN_WORKER names /nowhere"), "{words}");
}

/// `RAISIN_BLESS=1 cargo test --workspace --test cli committed_schema_is_current` writes the schema file again.
#[test]
fn committed_schema_is_current() {
    let path: PathBuf = raisin_tests::package().join("schemas/pipeline.schema.json");
    let printed = Project::new().run(&["schema"]).stdout;
    if std::env::var_os("RAISIN_BLESS").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == printed, "run `RAISIN_BLESS=1 cargo test --workspace --test cli committed_schema_is_current`");
}

#[test]
fn space_is_counted_by_stage_pipeline_and_variant_and_pinned_artifacts_survive_gc() {
    let stages = "[stage.pool]\nkind = \"generate\"\nsize = 20\n[stage.counted]\nkind = \"sql\"\nof = [\"pool\"]\n\
         query = \"select count(*) as n from pool.instructions\"\n";
    let project =
        Project::with_text(&format!("[pipeline]\nname = \"swept\"\n{stages}[sweep]\n\"stage.pool.size\" = [20, 30]\n"));
    project.done(&["build", "p.toml"]);
    let rows = |by: &str| {
        let (table, _) = project.done(&["du", "--by", by]);
        let row = |line: &str| line.split(['|', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
        table.lines().map(row).collect::<Vec<Vec<String>>>()
    };
    let count = |table: &[Vec<String>], name: &str| {
        let row = table.iter().find(|row| row.iter().any(|word| word == name)).unwrap_or_else(|| panic!("{table:?}"));
        row.iter().find_map(|word| word.parse::<u64>().ok()).unwrap_or_else(|| panic!("{row:?}"))
    };
    // The query sees both variants at the same time.
    assert_eq!(count(&rows("pipeline"), "swept"), 3);
    assert_eq!((count(&rows("stage"), "pool"), count(&rows("stage"), "counted")), (2, 1));
    assert_eq!((count(&rows("variant"), "size=20"), count(&rows("variant"), "size=30")), (1, 1));

    project.done(&["pin", "swept", "pool"]);
    std::fs::remove_dir_all(project.path("out")).unwrap();
    let (would, told) = project.done(&["gc"]);
    assert!(would.is_empty() && told.contains("used within a day") && told.contains("gc removes nothing"), "{told}");
    let (code, words) = project.refused(&["gc", "--yes", "--older-than", "0"]);
    assert!(code == 1 && words.contains("out folder") && words.contains("`--forget FOLDER`"), "{words}");
    let (would, told) = project.done(&["gc", "--older-than", "0"]);
    assert!(would.matches("artifact ").count() == 1 && told.contains("would free"), "{would}{told}");
    let (freed, told) = project.done(&["gc", "--yes", "--older-than", "0", "--forget"]);
    assert!(freed == would && told.contains("2 artifacts stay") && told.contains("forgotten: "), "{freed}{told}");
    let (_, again) = project.done(&["build", "p.toml"]);
    assert!(again.contains("1 ran, 2 cached"), "{again}");
    let pins = project.done(&["pin"]).0;
    let label = pins.lines().next().and_then(|line| line.split_once("  ")).expect("a pin").1;
    assert!(project.refused(&["unpin", label, "pool"]).1.contains("is the label of a pin, which has no stages"));
    let (_, told) = project.done(&["unpin", "swept", "pool"]);
    assert!(told.contains("2 unpinned"), "{told}");
}

#[test]
fn a_plan_replaces_nothing_but_a_plan() {
    let project = counted();
    project.write("stages.toml", &std::fs::read_to_string(project.path("p.toml")).unwrap());
    project.write("p.toml", "include = \"stages.toml\"\n");
    std::os::unix::fs::symlink("p.toml", project.path("link.json")).unwrap();
    std::fs::hard_link(project.path("stages.toml"), project.path("hard.json")).unwrap();
    project.write("object.json", "{\"instruction\": \"say\"}\n");
    let before = |name: &str| std::fs::read(project.path(name)).unwrap();
    for name in ["p.toml", "./p.toml", "stages.toml", "link.json", "hard.json", "object.json", "data/a.jsonl"] {
        let kept = before(name);
        let (code, words) = project.refused(&["plan", "p.toml", "--out", name]);
        assert!(code == 2 && words.contains("is no plan file"), "{name}: {words}");
        assert_eq!(before(name), kept, "{name}");
    }
    assert_eq!(project.refused(&["plan", "p.toml", "--out", "data"]).0, 2);
    assert!(project.path("link.json").symlink_metadata().unwrap().is_symlink());
    for _ in 0..2 {
        project.done(&["plan", "p.toml", "--out", "plan.json"]);
    }
    // A plan that was cut is still a plan.
    let plan = before("plan.json");
    std::fs::write(project.path("plan.json"), &plan[..plan.len() / 2]).unwrap();
    project.done(&["plan", "p.toml", "--out", "plan.json"]);
    project.done(&["build", "plan.json"]);
}

#[test]
fn a_changed_plan_with_names_that_no_pipeline_can_have_writes_nothing() {
    let project = counted();
    project.done(&["plan", "p.toml", "--out", "plan.json", "--sweep", "stage.pool.sample=[3, 4]"]);
    let plan: serde_json::Value = serde_json::from_slice(&std::fs::read(project.path("plan.json")).unwrap()).unwrap();
    let name = format!("raisin-esc-{}", std::process::id());
    let away = format!("../../{name}");
    let places = [
        ("/pipeline/name", serde_json::json!(away)),
        ("/pipeline/name", serde_json::json!("")),
        ("/pipeline/variants/0/name", serde_json::json!(away)),
        ("/pipeline/variants/0/name", serde_json::json!("")),
        ("/pipeline/variants/0/stages/0/name", serde_json::json!(away)),
        ("/pipeline/variants/0/stages/0/name", serde_json::json!(project.path("esc"))),
        ("/pipeline/variants/0/stages/0/name", serde_json::json!("raisin")),
        ("/pipeline/variants/0/stages/1/name", serde_json::json!("pool")),
        ("/pipeline/variants/0/stages/0/resources", serde_json::json!({"threads": 0})),
        ("/pipeline/variants", serde_json::json!([])),
    ];
    for (place, value) in places {
        let mut changed = plan.clone();
        *changed.pointer_mut(place).unwrap() = value.clone();
        project.write("changed.json", &changed.to_string());
        let (code, words) = project.refused(&["build", "changed.json"]);
        assert!(code == 2 && words.contains("the plan changed.json is damaged"), "{place} {value}: {words}");
        let outside = [project.path("out"), project.path("..").join(&name), project.path(&name), project.path("esc")];
        assert!(outside.iter().all(|path| path.symlink_metadata().is_err()), "{place} {value}");
    }
    project.done(&["build", "plan.json"]);
}

#[test]
fn pinning_an_artifact_that_is_missing_says_so() {
    let project = counted();
    project.done(&["build", "p.toml"]);
    let artifact = project.path("out/p/pool").canonicalize().unwrap();
    raisin_store::remove_tree(&artifact).unwrap();
    let answer = project.run(&["pin", "p"]);
    assert_eq!(answer.code, 1, "{}", answer.stderr);
    assert!(answer.stderr.contains("1 of them are missing in this cache"), "{}", answer.stderr);
    assert!(answer.stderr.contains("p.pool") && answer.stderr.contains("verify --repair"), "{}", answer.stderr);
    let (pins, _) = project.done(&["pin"]);
    assert!(pins.lines().any(|line| line.contains("p.pool") && line.contains("(missing)")), "{pins}");
    project.done(&["verify", "--repair"]);
    assert!(!project.done(&["pin"]).0.contains("missing"));
}

#[test]
fn doctor_names_the_file_system_of_the_cache() {
    let project = Project::with_text("");
    let output = project.run(&["doctor"]);
    let line = output.stdout.lines().find(|line| line.starts_with("file sys. "));
    assert!(line.is_some_and(|line| line.len() > "file sys. , at /".len()), "{}", output.stdout);
    let output = project.run(&["doctor", "--cache", "/dev/shm/no-cache-here"]);
    assert!(output.stdout.contains("file sys. tmpfs, at /dev/shm"), "{}", output.stdout);
    assert!(output.stdout.contains("In memory: the cache vanishes"), "{}", output.stdout);
}
