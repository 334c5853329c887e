//! The kind `track`, with the real trackers: TensorBoard and Weights & Biases read its files, and an MLflow server gets its
//! runs.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

mod faults;
mod mlflow;
mod wandb;

use serde_json::{Value, json};

use raisin_tests::Project;
use raisin_tests::python::{run_python, setting};

/// A pipeline with four variants, whose `track` stage has these further parameters.
fn pipeline(track: &str) -> String {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/quickstart-base");
    format!(
        "[stage.pool]\nkind = \"generate\"\nsize = 100\nvalidation = 8\ntest = 16\n\n\
         [stage.base]\nkind = \"model\"\nsource = {{ huggingface = \"{base}\" }}\n\n\
         [stage.tuned]\nkind = \"finetune\"\ninstructions = \"pool\"\nmodel = \"base\"\ntask = \"pool\"\n\
         select = {{ method = \"random\" }}\nsteps = 4\nbatch_size = 4\nevaluate_every = 2\n\n\
         [stage.scores]\nkind = \"evaluate\"\nmodel = \"tuned\"\ntask = \"pool\"\nmetrics = [\"loss\"]\n\n\
         [stage.board]\nkind = \"track\"\nof = [\"tuned\", \"scores\"]\n{track}\n\
         [sweep]\n\"stage.tuned.learning_rate\" = [1e-3, 1e-4]\n\"stage.tuned.select.method\" = [\"random\", \"full\"]\n"
    )
}

/// The losses of the steps of a variant, as SQL gives them.
fn losses(project: &Project, variant: &str) -> Vec<(Value, f64)> {
    let query = format!("select step, loss from tuned.steps where variant = '{variant}' order by step");
    let rows = project.sql(&query);
    rows.into_iter().map(|row| (row["step"].clone(), row["loss"].as_f64().unwrap())).collect()
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn tensorboard_reads_the_numbers_that_sql_gives() {
    let project = Project::with_text(&pipeline(""));
    project.done(&["build", "p.toml"]);
    let folder = project.path("out/p/board/tensorboard");
    let printed = run_python(&setting("RAISIN_PYTHON"), "tensorboard_events.py", &[&folder]).unwrap();
    let runs: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(runs.len(), 4);
    assert_eq!(
        runs[0]["hyperparameters"],
        json!({"tuned.learning_rate": 0.0001, "tuned.select.method": "full"}),
        "{}",
        runs[0]["run"]
    );
    let single = |value: &Value| value.as_f64().unwrap() as f32;
    for run in &runs {
        let variant = run["run"].as_str().unwrap();
        let query =
            format!("select step, loss, performance from tuned.steps where variant = '{variant}' order by step");
        let steps = project.sql(&query);
        assert_eq!(steps.len(), 4, "{variant}");
        let losses = run["scalars"]["tuned.steps/loss"].as_array().unwrap();
        let performances = run["scalars"]["tuned.steps/performance"].as_array().unwrap();
        for (row, point) in steps.iter().zip(losses) {
            assert_eq!((&row["step"], single(&row["loss"])), (&point[0], single(&point[1])));
        }
        let measured: Vec<&Value> = steps.iter().filter(|row| !row["performance"].is_null()).collect();
        assert_eq!(measured.len(), performances.len());
        let query = format!("select loss from scores.metrics where variant = '{variant}'");
        let loss = &run["scalars"]["scores/test/loss"][0];
        assert_eq!((&loss[0], single(&loss[1])), (&json!(0), single(&project.sql(&query)[0]["loss"])));
    }
    project.done(&["build", "p.toml", "--force", "board", "--check"]);
}
