//! Tests of the benchmark suite in pipelines/bench: what make.py writes (tests/python/bench_pools.py), and that raisin
//! plans every pipeline and reads every record of the pools.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::fmt::Write as _;
use std::path::Path;

use raisin_tests::python::{run_python, setting};
use raisin_tests::{Project, package};
use serde_json::json;

const POOLS: [&str; 8] = [
    "mixed-gsm8k",
    "mixed-gsm8k-noisy",
    "mixed-gsm8k-formats",
    "mixed-csqa",
    "mixed-csqa-noisy",
    "mixed-csqa-formats",
    "mixed-code",
    "alpaca-gsm8k",
];

/// A project with pools of 200 rows for the seeds 7 and 8 in data/bench, made from small files.
fn project() -> Project {
    let project = Project::new();
    run_python(&setting("RAISIN_PYTHON"), "bench_pools.py", &[&project.path("")]).unwrap();
    project
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn the_pools_are_deterministic_disjoint_and_have_the_promised_rows() {
    project();
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn every_pipeline_of_the_suite_can_be_planned() {
    let project = project();
    let pipelines = package().join("pipelines");
    // A plan hashes the files of models, and does not read them.
    project.write("models/SmolLM2-135M-Instruct.Q4_1.gguf", "a model");
    project.write("pipelines/quickstart-base/config.json", "a model");
    let synthetic = ["quickstart", "quickstart-repeats", "transfer", "ablations", "credit"];
    for pool in POOLS.into_iter().chain(synthetic) {
        let file = pipelines.join("bench").join(pool).with_extension("toml");
        let file = file.to_str().unwrap();
        // Each seed has its own files: `raisin plan` refuses a pipeline with a missing file.
        let (words, _) = project.done(&["plan", file, "--sweep", "pipeline.seed=[7, 8]"]);
        assert!(words.contains("seed=7") && words.contains("seed=8"), "{words}");
        let refused = project.run(&["plan", file, "--set", "pipeline.seed=9"]);
        assert_eq!(refused.code, if synthetic.contains(&pool) { 0 } else { 2 }, "{}", refused.stderr);
    }
}

/// The stages of a pipeline file that read files of data, with this seed.
fn reading_stages(pool: &str) -> String {
    let file = package().join("pipelines/bench").join(Path::new(pool).with_extension("toml"));
    let text = std::fs::read_to_string(file).unwrap();
    let mut stages = format!("[pipeline]\nname = \"{pool}\"\nseed = 7\n");
    for block in text.split("\n\n").filter(|block| {
        ["[stage.pool]", "[stage.kinds]", "[stage.task]"].iter().any(|header| block.starts_with(header))
    }) {
        write!(stages, "\n{block}\n").unwrap();
    }
    stages
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn every_record_of_the_pools_is_read() {
    let project = project();
    for pool in POOLS {
        let file = format!("{pool}.toml");
        project.write(&file, &reading_stages(pool));
        // The small files have fewer examples than the pipelines ask for.
        project.done(&["build", &file, "--set", "stage.task.validation=4", "--set", "stage.task.test=4"]);
        let sources = "select records, accepted, rejected, folded from pool.sources";
        let rows = project.sql(sources);
        assert_eq!(rows, [json!({"records": 200, "accepted": 200, "rejected": 0, "folded": 0})], "{pool}");
        let kinds = "select count(*) as n from pool.instructions i join kinds.instructions k on k.line = i.line \
                     where k.prompt = cast(i.line - 1 as varchar)";
        assert_eq!(project.sql(kinds), [json!({"n": 200})], "{pool}");
        assert_eq!(project.sql("select count(*) as n from task.rejects"), [json!({"n": 0})], "{pool}");
    }
}
