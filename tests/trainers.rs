//! Programs of others, with real ones: TRL under torchrun trains on the batches that raisin selected,
//! lm-evaluation-harness scores a checkpoint of raisin, and TRL, LLaMA-Factory and Axolotl read the files of an export.
//! `just test-all` installs these programs.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use raisin_tests::python::setting;
use raisin_tests::{CommandOutput, Project, package};

/// A project with these files of pipelines/.
fn project(files: &[&str]) -> Project {
    let project = Project::new();
    std::fs::create_dir_all(project.path("pipelines")).unwrap();
    for name in files.iter().chain(&["quickstart-base"]) {
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(package().join("pipelines").join(name)).arg(project.path("pipelines"));
        assert_eq!(CommandOutput::of(&mut copy).code, 0);
    }
    project
}

/// Builds a pipeline of which `python3` is the Python of the tests.
fn build(project: &Project, pipeline: &str) {
    let path = std::env::var("PATH").unwrap();
    let python = setting("RAISIN_PYTHON").parent().unwrap().to_owned();
    let mut command = project.raisin(&["build", pipeline]);
    let built = CommandOutput::of(command.env("PATH", format!("{}:{path}", python.display())));
    assert_eq!(built.code, 0, "{}", built.stderr);
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap()
}

#[test]
#[cfg_attr(not(all(has_python, has_trainers)), ignore = "RAISIN_TRAINERS is not set: `just test-all` sets it")]
fn trl_under_torchrun_has_the_losses_of_raisin_on_the_same_batches() {
    let project = project(&["trl.toml", "trl"]);
    build(&project, "pipelines/trl.toml");
    let query = std::fs::read_to_string(package().join("pipelines/trl/losses.sql")).unwrap();
    let rows = project.sql(&query);
    assert_eq!(rows.len(), 40);
    // Before the first update, only rounding differs. Later, the few numbers whose gradient is near zero have another
    // sign in the first update of Adam, so the losses differ in the third decimal.
    assert!(number(&rows[0], "difference") < 1e-4, "{}", rows[0]);
    for row in &rows {
        assert!(number(row, "difference") < 0.02, "{row}");
    }
    let query = "select abs(a.loss - b.loss) as difference from scores.metrics a join replayed_scores.metrics b on a.split = \
                 b.split where a.split = 'test'";
    let rows = project.sql(query);
    assert!(rows.len() == 1 && number(&rows[0], "difference") < 0.01, "{rows:?}");
}

#[test]
#[cfg_attr(not(all(has_python, has_trainers)), ignore = "RAISIN_TRAINERS is not set: `just test-all` sets it")]
fn lm_evaluation_harness_gives_the_answers_of_raisin_for_every_question() {
    let project = project(&["lm-eval.toml", "lm-eval"]);
    build(&project, "pipelines/lm-eval.toml");
    let query = std::fs::read_to_string(package().join("pipelines/lm-eval/compare.sql")).unwrap();
    let rows = project.sql(&query);
    let row = &rows[0];
    assert_eq!((&row["questions"], &row["same_answers"]), (&json!(128), &json!(128)), "{row}");
    assert_eq!(row["raisin_acc"], row["harness_acc"]);
    assert_eq!(row["raisin_acc_norm"], row["harness_acc_norm"]);
    assert!(number(row, "raisin_acc") > 0.3, "a model that guesses would show nothing: {row}");
}

/// A project with an export of 20 selected rows in all forms: the project, and the folder of the export.
fn exported() -> (Project, PathBuf) {
    let project = project(&[]);
    project.write(
        "p.toml",
        "[stage.pool]\nkind = \"generate\"\nsize = 200\n\n\
         [stage.base]\nkind = \"model\"\nsource = { huggingface = \"pipelines/quickstart-base\" }\n\n\
         [stage.tuned]\nkind = \"finetune\"\ninstructions = \"pool\"\nmodel = \"base\"\ntask = \"pool\"\n\
         select = { method = \"random\" }\nsteps = 5\nbatch_size = 4\n\n\
         [stage.chosen]\nkind = \"export\"\nselection = \"tuned\"\ninstructions = \"pool\"\n\
         forms = [\"messages\", \"sharegpt\", \"alpaca\"]\n",
    );
    project.done(&["build", "p.toml"]);
    let folder = project.path("out/p/chosen").canonicalize().unwrap();
    (project, folder)
}

/// The responses of the exported rows, in their order.
fn responses(project: &Project) -> Vec<Value> {
    let query = "select p.response from chosen.exported e join pool.instructions p on p.id = e.id order by e.place";
    project.sql(query).into_iter().map(|mut row| row["response"].take()).collect()
}

#[test]
#[cfg_attr(not(all(has_python, has_trainers)), ignore = "RAISIN_TRAINERS is not set: `just test-all` sets it")]
fn the_script_of_an_export_trains_with_trl_on_every_row() {
    let (project, folder) = exported();
    let mut command = Command::new(setting("RAISIN_PYTHON"));
    command.arg(folder.join("train_trl.py")).arg(package().join("pipelines/quickstart-base"));
    let run = CommandOutput::of(project.place(command.arg(project.path("trained"))));
    assert_eq!(run.code, 0, "{}", run.stderr);
    // 20 rows in batches of 8, once.
    let state = std::fs::read(project.path("trained/checkpoint-3/trainer_state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!((&state["global_step"], &state["epoch"]), (&json!(3), &json!(1.0)));
}

#[test]
#[cfg_attr(not(has_llama_factory), ignore = "RAISIN_LLAMA_FACTORY is not set: `just test-all` sets it")]
fn llama_factory_reads_every_form_of_an_export_in_its_order() {
    let (project, folder) = exported();
    let mut command = Command::new(setting("RAISIN_LLAMA_FACTORY"));
    command.arg(package().join("tests/python/llama_factory.py")).arg(&folder);
    let run = CommandOutput::of(project.place(command.arg(package().join("pipelines/quickstart-base"))));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let found: Vec<Value> =
        run.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect();
    let names: Vec<&Value> = found.iter().map(|entry| &entry["name"]).collect();
    assert_eq!(names, ["selection_messages", "selection_sharegpt", "selection_alpaca"]);
    for entry in &found {
        assert_eq!(entry["targets"], json!(responses(&project)), "{}", entry["name"]);
    }
}

#[test]
#[cfg_attr(not(has_axolotl), ignore = "RAISIN_AXOLOTL is not set: `just test-all` sets it")]
fn axolotl_reads_every_form_of_an_export_in_its_order() {
    let (project, _) = exported();
    // The file for Axolotl reads the first form.
    for form in ["messages", "sharegpt", "alpaca"] {
        project.done(&["build", "p.toml", "--set", &format!("stage.chosen.forms=[\"{form}\"]")]);
        let mut command = Command::new(setting("RAISIN_AXOLOTL"));
        command.arg(package().join("tests/python/axolotl_rows.py")).arg(project.path("out/p/chosen"));
        let run = CommandOutput::of(project.place(command.arg(package().join("pipelines/quickstart-base"))));
        assert_eq!(run.code, 0, "{form}: {}", run.stderr);
        let mut answers = run.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let answer = answers.rfind(Value::is_object).unwrap();
        assert_eq!(answer, json!({ "targets": responses(&project), "in_order": true }), "{form}");
    }
}
