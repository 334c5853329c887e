//! Tests of the main job through the real executables: every stage kind, in a pipeline that is small enough for a test.
//! tests/cli.rs tests the commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use raisin_tests::python::{run_python, setting};
use raisin_tests::{Project, processes};
use serde_json::Value;

const PIPELINE: &str = "micro.toml";

/// The stages that the last run executed, according to raisin's own history.
fn ran(project: &Project) -> Vec<String> {
    let rows =
        project.sql("select stage from raisin.actions where run = (select max(run) from raisin.runs) order by stage");
    rows.iter().map(|row| row["stage"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn raisin_itself_does_not_load_libtorch() {
    let dependencies = |executable: std::path::PathBuf| {
        let output = processes::output(Command::new("ldd").arg(executable));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!dependencies(raisin_tests::executable("raisin")).contains("libtorch"));
    // The same search finds libtorch in `raisin-worker`. This proves that the check above can fail.
    assert!(dependencies(raisin_tests::executable("raisin-worker")).contains("libtorch"));
}

#[test]
fn a_pipeline_of_all_kinds_builds_once_and_then_costs_nothing() {
    let project = Project::with_pipeline(PIPELINE);
    project.done(&["build", PIPELINE]);
    let (built, before) = (project.built("micro"), project.digests("micro"));
    let page = std::fs::read_to_string(project.path("out/micro/report/report.html")).expect("the report");
    assert!(page.contains("What the selector learned"), "no effects of columns on the page");
    let (explained, _) = project.done(&["explain", PIPELINE, "selector", "--id", "0"]);
    for part in
        ["effects of rows were measured in 3 rounds", "Columns: ", "Clusters: ", "Instruction 0: ", "The run tuned"]
    {
        assert!(explained.contains(part), "there is no “{part}”: {explained}");
    }

    let started = Instant::now();
    project.finds_all(&["build", PIPELINE]);
    let elapsed = started.elapsed();
    // The limit allows for a loaded machine. docs/results.md has the measured time.
    assert!(elapsed < Duration::from_secs(2), "a build that runs nothing took {elapsed:?}");
    assert_eq!(project.built("micro"), built);

    // A comment and another order of keys do not change any action.
    let text = std::fs::read_to_string(project.path(PIPELINE)).expect("the pipeline");
    let shuffled = text.replace("dimensions = 4\nclusters = 3", "clusters = 3 # as before\ndimensions = 4");
    assert_ne!(text, shuffled);
    project.write(PIPELINE, &shuffled);
    project.finds_all(&["build", PIPELINE]);

    // Another number of clusters does not change pool, model and features.
    project.done(&["build", PIPELINE, "--set", "stage.clusters.clusters=2"]);
    let after = project.digests("micro");
    for (key, digest) in &before {
        let same = after.get(key) == Some(digest);
        match key.0.as_str() {
            "pool" | "init" | "base" | "proxy" | "features" => assert!(same, "{key:?} was made anew"),
            "clusters" | "selector" => assert!(!same, "{key:?} did not change"),
            _ => {}
        }
    }

    // The number of threads and the number of stages at the same time are in no key. The dtype is only in the keys of
    // tensor stages.
    project.finds_all(&["build", PIPELINE, "--threads", "2", "-j", "2", "--set", "stage.clusters.clusters=2"]);
    let plan = project.run(&["plan", PIPELINE, "--set", "pipeline.dtype=bf16"]).stdout;
    let would_run = |stage: &str| {
        let line = plan.lines().find(|line| line.trim_start().starts_with(stage)).unwrap_or_else(|| panic!("{plan}"));
        !line.contains("cached")
    };
    assert!(!would_run("pool") && would_run("init"), "{plan}");

    // With the first settings again, all stages are still cached.
    project.finds_all(&["build", PIPELINE]);
    assert_eq!(project.built("micro"), built);
}

#[test]
fn stages_share_the_tokens_of_a_pool_and_encode_it_again_if_they_are_damaged() {
    let project = Project::with_pipeline(PIPELINE);
    let tokens = || -> BTreeMap<std::path::PathBuf, Vec<u8>> {
        let files = std::fs::read_dir(project.path("cache/tokens")).expect("the folder").flatten();
        files.map(|file| (file.path(), std::fs::read(file.path()).expect("the tokens"))).collect()
    };
    project.done(&["build", PIPELINE]);
    let before = project.digests("micro");
    let whole = tokens();
    // One pool, one tokenizer and one default of max_tokens for four kinds of stages.
    assert_eq!(whole.len(), 1);
    for (path, bytes) in &whole {
        std::fs::write(path, &bytes[..bytes.len() - 1]).expect("damaged");
    }
    project.done(&["build", PIPELINE, "--force"]);
    assert_eq!(project.digests("micro"), before);
    assert!(tokens() == whole, "the tokens were not encoded again");
}

#[test]
fn a_check_encodes_the_pool_itself() {
    let project = Project::with_pipeline(PIPELINE);
    project.done(&["build", PIPELINE, "--only", "features"]);
    let tokens = std::fs::read_dir(project.path("cache/tokens")).expect("the folder").flatten();
    for file in tokens {
        // A whole file with other marks, as a faulty encoder would have left it.
        let mut bytes = std::fs::read(file.path()).expect("the tokens").split_off(32);
        assert!(bytes.ends_with(b"{}"), "the pool has no findings");
        let marks = bytes.len() - 2;
        let last = bytes[..marks].iter().rposition(|byte| *byte != 0).expect("a supervised token");
        bytes[last] = 0;
        raisin_base::cache_only::remember(&file.path(), &bytes);
    }
    let build = ["build", PIPELINE, "--only", "features", "--force", "features"];
    let (code, told) = project.refused(&[&build[..], &["--check"]].concat());
    assert!(code == 1 && told.contains("with different content"), "{told}");
}

#[test]
fn a_build_killed_in_the_selector_goes_on_to_the_same_schedule() {
    // There are so many rounds that some remain after the first round, also on a fast machine.
    let build = ["build", PIPELINE, "--only", "selector", "--set", "stage.selector.rounds=20"];
    let undisturbed = Project::with_pipeline(PIPELINE);
    undisturbed.done(&build);

    let project = Project::with_pipeline(PIPELINE);
    let mut child = project.start(&build);
    let checkpoint = wait_for_selector_checkpoint(&project);
    child.kill().expect("SIGKILL");
    processes::status(&mut child);
    assert!(checkpoint, "the selector never wrote a checkpoint to be killed after");
    assert!(!project.path("out/micro").join("selector").exists(), "the build was over before it could be killed");

    project.done(&build);
    let selector = |project: &Project| {
        project.built("micro").into_iter().find(|stage| stage.stage == "selector").map(|stage| stage.artifact)
    };
    assert_eq!(selector(&project), selector(&undisturbed));
}

/// Waits until a running selector has saved its first round.
fn wait_for_selector_checkpoint(project: &Project) -> bool {
    let deadline = Instant::now() + Duration::from_mins(2);
    while Instant::now() < deadline {
        let folders = std::fs::read_dir(project.path("cache/tmp")).into_iter().flatten().flatten();
        for folder in folders {
            let assignment = std::fs::read_to_string(folder.path().join("assignment.json")).unwrap_or_default();
            let has_work = std::fs::metadata(folder.path().join("work/rounds")).is_ok_and(|file| file.len() > 0);
            let is_selector =
                assignment.contains("\"kind\":\"selector\"") || assignment.contains("\"kind\": \"selector\"");
            if is_selector && has_work {
                return true;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn every_table_answers_and_the_history_has_the_stages_that_ran() {
    let project = Project::with_pipeline(PIPELINE);
    project.done(&["build", PIPELINE]);
    assert!(ran(&project).contains(&"selector".to_owned()));
    let rows = project.sql("select step, instruction, score from tuned.selection order by step, slot limit 3");
    assert_eq!(rows.len(), 3);
    let methods = project
        .sql("select method, avg(loss) as loss, count(*) as n from scores.metrics group by method order by method");
    assert_eq!(methods.len(), 3, "{methods:?}");
    let parts =
        project.sql("select value from raisin.key_parts where stage = 'clusters' and part = 'parameters.clusters'");
    assert_eq!(parts, [serde_json::json!({"value": "3"})]);
    let why = project.run(&["why", PIPELINE, "clusters", "--set", "stage.clusters.clusters=2"]).stdout;
    assert!(why.contains("clusters: 3 -> 2") && why.contains("made from  features"), "{why}");
    let why = project.run(&["why", PIPELINE, "clusters"]).stdout;
    assert!(why.contains("cached") && why.contains(", by run "), "{why}");
    let why = project.run(&["why", PIPELINE, "clsuters"]);
    assert!(why.code == 2 && why.stderr.contains("did you mean `clusters`?"), "{}", why.stderr);
    let drawn = project.run(&["plan", PIPELINE, "--graph", "mermaid"]).stdout;
    assert!(drawn.starts_with("flowchart LR") && drawn.contains(" --> "), "{drawn}");
    for query in [
        "select count(*) as n from pool.instructions",
        "select count(*) as n from selector.rounds",
        "select count(*) as n from selector.steps",
        "select count(*) as n from features.features",
        "select count(*) as n from history.selection",
        "select count(*) as n from raisin.artifacts",
        "select count(*) as n from raisin.costs",
        "select count(*) as n from report.comparison",
        "select count(*) as n from picked.rows",
    ] {
        let rows = project.sql(query);
        assert!(rows[0]["n"].as_u64().is_some_and(|count| count > 0), "{query}: {rows:?}");
    }
    assert_phases_are_accounted_for(&project);
}

/// Checks that every phase of a training stage has time, memory and FLOPs, and that the report contains all costs of
/// the selection.
fn assert_phases_are_accounted_for(project: &Project) {
    for kind in ["selector", "finetune"] {
        let rows = project.sql(&format!(
            "select phase, sum(tokens) as tokens, sum(supervised_tokens) as supervised, sum(flops) as flops, \
             min(peak_bytes) as memory, min(seconds) as seconds from raisin.costs where kind = '{kind}' group by phase"
        ));
        let of = |phase: &str, column: &str| {
            let row =
                rows.iter().find(|row| row["phase"] == phase).unwrap_or_else(|| panic!("{kind} {phase}: {rows:?}"));
            row[column].as_f64().unwrap_or_else(|| panic!("{kind} {phase} {column}: {row}"))
        };
        for phase in ["load", "forward", "backward", "optimizer", "reward evaluation"] {
            assert!(of(phase, "memory") > 1e6 && of(phase, "seconds") > 0.0, "{kind} {phase}: {rows:?}");
        }
        assert!(of("selection", "seconds") >= 0.0);
        assert!(of("forward", "tokens") > of("forward", "supervised") && of("forward", "supervised") > 0.0);
        assert!(of("backward", "flops") > of("forward", "flops") && of("backward", "tokens") == 0.0, "{rows:?}");
        // The costs must agree with the tables of the artifacts.
        let stage = if kind == "selector" { "selector" } else { "tuned" };
        let done = project.sql(&format!(
            "select sum(tokens) as tokens, sum(flops) as flops from history.steps where stage = '{stage}'"
        ));
        let near = |one: f64, other: f64| (one / other - 1.0).abs() < 1e-9;
        assert!(near(of("forward", "tokens"), done[0]["tokens"].as_f64().expect("tokens")), "{kind}: {done:?}");
        let flops = of("forward", "flops") + of("backward", "flops");
        assert!(near(flops, done[0]["flops"].as_f64().expect("flops")), "{kind}: {done:?} {flops}");
    }
    let page = std::fs::read_to_string(project.path("out/micro/report/report.html")).expect("the report");
    assert!(
        page.contains("training of the selector")
            && page.contains("features before it")
            && page.contains("prefix before it"),
        "no costs on the page"
    );
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn duckdb_reads_the_same_from_the_files() {
    let duckdb = setting("RAISIN_PYTHON");
    let project = Project::with_pipeline(PIPELINE);
    project.done(&["build", PIPELINE]);
    let out = project.path("out/micro");
    // The same question goes to raisin, and to DuckDB over the Parquet files under out/.
    for (question, of_files) in [
        (
            "select method, count(*) as n, avg(loss) as loss, count(distinct id) as ids from scores.items \
             group by method order by method",
            "select method, count(*) as n, avg(loss) as loss, count(distinct id) as ids from read_parquet(\
             'method=*/scores/items.parquet', hive_partitioning = true) group by method order by method",
        ),
        (
            "select round, step, slot, id, cluster, round(score, 4) as score, label from selector.selection \
             where round = 1 order by step, slot",
            "select round, step, slot, id, cluster, round(score, 4) as score, label from \
             'method=raise/selector/selection.parquet' where round = 1 order by step, slot",
        ),
        (
            "select f.id, f.response_tokens as tokens, floor(f.logp_conditional) as logp, i.prompt, i.label \
             from features.features f join pool.instructions i on f.id = i.id order by f.id",
            "select f.id, f.response_tokens as tokens, floor(f.logp_conditional) as logp, i.prompt, i.label \
             from 'method=raise/features/features.parquet' f \
             join 'method=raise/pool/instructions.parquet' i on f.id = i.id order by f.id",
        ),
        (
            "select id, embedding[1] as first, array_length(embedding) as width from features.features order by id",
            "select id, embedding[1] as first, len(embedding) as width from \
             'method=raise/features/features.parquet' order by id",
        ),
    ] {
        let rows = project.sql(question);
        let printed = run_python(&duckdb, "duckdb_query.py", &[&out, Path::new(of_files)]).expect("DuckDB answers");
        let expected: Vec<Value> =
            printed.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
        assert!(!rows.is_empty() && rows.len() == expected.len(), "{question}: {} of {}", rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(&expected) {
            assert!(same(row, expected), "{question}\n  raisin {row}\n  DuckDB {expected}");
        }
    }
}

const OVERLAPPING: &str = "\
[stage.pool]
kind = \"ingest\"
sources = [{ path = \"pool.jsonl\", format = \"qa\" }]

[stage.task]
kind = \"task\"
source = { path = \"train.jsonl\", format = \"qa\" }
test_source = { path = \"test.jsonl\", format = \"qa\" }
validation = 4
test = 0

[stage.overlap]
kind = \"overlap\"
instructions = \"pool\"
task = \"task\"

[stage.base]
kind = \"model\"
source = { init = { hidden_size = 16, layers = 2, heads = 2, kv_heads = 1, intermediate_size = 32 } }

[stage.tuned]
kind = \"finetune\"
instructions = \"overlap\"
model = \"base\"
task = \"task\"
select = { method = \"random\" }
steps = 5
batch_size = 4

[stage.scores]
kind = \"evaluate\"
model = \"tuned\"
task = \"task\"
overlap = \"overlap\"
";

#[test]
fn overlapping_examples_are_reported_and_neither_trained_on_nor_scored() {
    let project = Project::new();
    let question = |of: &str, n: usize| {
        let words: Vec<String> = (0..16).map(|word| format!("{of}{}", (n + 7 * word) % 31)).collect();
        words.join(" ")
    };
    let lines = |prompts: &[String]| -> String {
        prompts.iter().map(|prompt| serde_json::json!({"question": prompt, "answer": "4"}).to_string() + "\n").collect()
    };
    let of = |of: &str, count: usize| (0..count).map(|n| question(of, n)).collect::<Vec<_>>();
    let mut pool = of("pool", 20);
    pool.insert(3, format!("Quoted: {}, is it not?", question("Test", 5)));
    pool.insert(9, format!("And this: {}", question("train", 2)));
    project.write("pool.jsonl", &lines(&pool));
    project.write("train.jsonl", &lines(&of("train", 4)));
    project.write("test.jsonl", &lines(&of("test", 12)));
    project.write("p.toml", OVERLAPPING);
    let answer = project.run(&["build", "p.toml"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    for note in [
        "1 of 12 test and 1 of 4 validation examples overlap 2 of 22 instructions, 1 left out",
        "1 of the test examples overlap the pool and are left out",
    ] {
        assert!(answer.stderr.contains(note), "{}", answer.stderr);
    }
    let found = project.sql("select pool_id, split, example, shared, share from overlap.overlap order by pool_id");
    let expected = [(3, "test", 5), (9, "validation", 2)].map(|(row, split, example)| {
        serde_json::json!({"pool_id": row, "split": split, "example": example, "shared": 4, "share": 1.0})
    });
    assert_eq!(found, expected);
    let summary = "select overlapping, examples, pool_rows from overlap.overlap_summary where split = 'both'";
    assert_eq!(project.sql(summary), [serde_json::json!({"overlapping": 2, "examples": 16, "pool_rows": 2})]);
    let count = |query: &str| project.sql(query)[0]["n"].as_u64();
    // The training uses rows of the remaining instructions, with the ids that they have in the table of the overlap
    // stage.
    assert_eq!(count("select count(distinct id) as n from tuned.selection"), Some(20));
    let joined = "select count(*) as n from tuned.selection s join overlap.instructions i on s.id = i.id \
                  join pool.instructions p on i.pool_id = p.id where starts_with(p.prompt, s.instruction) and p.id <> 3";
    assert_eq!(count(joined), Some(20));
    assert_eq!(count("select count(*) as n from scores.items where id <> 5"), Some(11));
    assert_eq!(count("select count(*) as n from scores.items"), Some(11));
    let wrong = project.run(&["build", "p.toml", "--set", "stage.scores.overlap=pool"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("stages that provide this: `overlap`"), "{}", wrong.stderr);
}

/// Whether two rows have the same values. Floating-point sums may differ by rounding, because they may have been
/// computed in another order.
fn same(row: &Value, other: &Value) -> bool {
    match (row, other) {
        (Value::Object(row), Value::Object(other)) => {
            row.len() == other.len()
                && row
                    .iter()
                    .zip(other)
                    .all(|((name, value), (other_name, other))| name == other_name && same(value, other))
        }
        (Value::Number(number), Value::Number(other)) => {
            let (number, other) = (number.as_f64().unwrap_or(f64::NAN), other.as_f64().unwrap_or(f64::NAN));
            (number - other).abs() <= 1e-6 * other.abs().max(1.0)
        }
        _ => row == other,
    }
}
