//! Tests of the kind `influence`: its numbers, interrupted stages, rows that belong to the task.

use arrow_array::Array as _;
use serde_json::Value;

use super::*;
use crate::fixture::{ROWS, TensorFixture};
use raisin_contract::Kind as _;
use raisin_corpus::Example;
use raisin_corpus::artifact::PoolRow;
use raisin_corpus::message::conversation;
use raisin_table::column;

const INPUTS: [(&str, &str); 3] = [("/instructions", "pool"), ("/model", "model"), ("/task", "task")];
const PROXY_INPUTS: [(&str, &str); 3] = [("/instructions", "pool"), ("/model", "proxy"), ("/task", "task")];

fn parameters(more: &Value) -> Result<Parameters> {
    let mut value = json!({
        "instructions": "pool", "model": "model", "task": "task", "steps": 4, "batch_size": 2, "learning_rate": 0.003,
        "adaptation": {"method": "lora", "rank": 2}, "micro_batch_tokens": 60,
    });
    for (key, more) in more.as_object().into_iter().flatten() {
        value[key] = more.clone();
    }
    let parameters: Parameters = serde_json::from_value(value)?;
    raisin_kinds::influence::InfluenceKind::check(&parameters)
        .map_err(|problem| anyhow!("{}: {}", problem.pointer, problem.message))?;
    Ok(parameters)
}

/// The artifact `proxy`: the model with one trained layer.
fn make_proxy(store: &TensorFixture) -> Result<()> {
    let inputs = [("/source/prefix", "model"), ("/source/instructions", "pool"), ("/source/task", "task")];
    let context = store.context("model", "making", &inputs, &[])?;
    let source = json!({"prefix": "model", "train_layers": 1, "instructions": "pool", "task": "task"});
    crate::model::run(serde_json::from_value(json!({"source": source}))?, &context)?;
    store.keep("making", "proxy")
}

fn floats(store: &TensorFixture, folder: &str, name: &str) -> Result<Vec<Option<f32>>> {
    let rows = store.table(folder, "columns")?;
    Ok(column::<Float32Array>(&rows, name)?.iter().collect())
}

#[test]
fn the_losses_are_those_of_the_features_for_a_whole_model_and_for_a_proxy() -> Result<()> {
    let store = TensorFixture::new()?;
    make_proxy(&store)?;
    let context = store.context("features", "features", &INPUTS, &[])?;
    let of_features = json!({"instructions": "pool", "model": "model", "task": "task"});
    crate::features::run(serde_json::from_value(of_features)?, &context)?;
    let features = store.table("features", "features")?;
    let (sums, tokens): (&Float32Array, &UInt32Array) =
        (column(&features, "logp_conditional")?, column(&features, "response_tokens")?);
    for (folder, inputs, adaptation) in
        [("whole", INPUTS, "lora"), ("of_proxy", PROXY_INPUTS, "top_layers_lora"), ("layers", PROXY_INPUTS, "lora")]
    {
        let context = store.context("influence", folder, &inputs, &[])?;
        let more = json!({"adaptation": {"method": adaptation, "rank": 2}, "alignment": true});
        run(parameters(&more)?, &context)?;
        context.check_outputs()?;
        let (losses, warm) = (floats(&store, folder, "loss")?, floats(&store, folder, "warm_loss")?);
        let (drops, shares) = (floats(&store, folder, "drop")?, floats(&store, folder, "relative_drop")?);
        assert_eq!(losses.len(), ROWS);
        for row in 0..ROWS - 1 {
            let (loss, warm) = (losses[row].expect("a loss"), warm[row].expect("a loss"));
            let expected = -sums.value(row) / tokens.value(row) as f32;
            assert!((loss - expected).abs() < 1e-4, "{folder}, row {row}: {loss} for {expected}");
            assert!((drops[row].expect("a drop") - (loss - warm)).abs() < 1e-5);
            assert!((shares[row].expect("a share") - (loss - warm) / loss).abs() < 1e-5);
            assert!((loss - warm).abs() > 1e-5, "{folder}, row {row}: the training changed nothing");
        }
        assert!(losses[ROWS - 1].is_none() && shares[ROWS - 1].is_none());
        let rows = store.table(folder, "columns")?;
        let missing: &StringArray = column(&rows, "missing")?;
        assert_eq!(missing.null_count(), ROWS - 1);
        assert!(missing.value(ROWS - 1).starts_with("rows.jsonl, line 12: no response token is left"));
        let alignments = floats(&store, folder, "alignment")?;
        assert!(alignments[..ROWS - 1].iter().all(|value| value.is_some_and(|value| value.abs() <= 1.0 + 1e-5)));
        let summary: Value = serde_json::from_slice(&store.written(folder)?["summary.json"])?;
        assert_eq!(summary["pass"], json!("influence"));
        assert!(summary["performance"].as_f64() > summary["base_performance"].as_f64(), "{summary}");
        assert!(summary["flops"].as_f64() > Some(0.0));
    }
    Ok(())
}

#[test]
fn a_row_that_is_a_validation_example_gains_most_and_is_aligned_with_itself() -> Result<()> {
    let store = TensorFixture::new()?;
    let example = Example::open(0, conversation(None, "0 + 1?", None), "#### 1");
    store.write_examples("validation", &[example])?;
    let texts = [("0 + 1?", "#### 1"), ("name a tree", "oak and maple"), ("say it", "zzzz qqqq vvvv")];
    let rows = texts.iter().zip(1..);
    let rows: Vec<PoolRow> =
        rows.map(|((ask, answer), line)| PoolRow::new(conversation(None, ask, Some(answer)), 0, line)).collect();
    store.write_pool(&rows)?;
    make_proxy(&store)?;
    for (folder, inputs, adaptation) in [("whole", INPUTS, "lora"), ("of_proxy", PROXY_INPUTS, "top_layers_lora")] {
        let context = store.context("influence", folder, &inputs, &[])?;
        run(parameters(&json!({"alignment": true, "adaptation": {"method": adaptation, "rank": 2}}))?, &context)?;
        let gains: Vec<f32> = floats(&store, folder, "relative_drop")?.into_iter().flatten().collect();
        let alignments: Vec<f32> = floats(&store, folder, "alignment")?.into_iter().flatten().collect();
        assert!(gains[0] > gains[1] && gains[0] > gains[2] && gains[0] > 0.0, "{folder}: {gains:?}");
        assert!((alignments[0] - 1.0).abs() < 1e-4, "{folder}: {alignments:?}");
        assert!(alignments[1] < 0.99 && alignments[2] < 0.99, "{folder}: {alignments:?}");
    }
    Ok(())
}

#[test]
fn a_row_counts_for_the_group_of_examples_with_which_it_agrees_best() -> Result<()> {
    let store = TensorFixture::new()?;
    let mut found = Vec::new();
    for groups in [Value::Null, json!(3), json!(1)] {
        let folder = format!("groups-{groups}");
        let context = store.context("influence", &folder, &INPUTS, &[])?;
        run(parameters(&json!({"alignment": true, "groups": groups}))?, &context)?;
        found.push(floats(&store, &folder, "alignment")?);
    }
    assert_eq!(found[0], found[1], "three examples are three groups");
    assert_ne!(found[0], found[2]);
    Ok(())
}

#[test]
fn a_stage_that_is_killed_at_any_phase_ends_with_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    make_proxy(&store)?;
    let more = json!({"alignment": true, "adaptation": {"method": "top_layers_lora", "rank": 2}});
    let context = store.context("influence", "undisturbed", &PROXY_INPUTS, &[])?;
    run(parameters(&more)?, &context)?;
    for phases in 1..=5 {
        let folder = format!("killed-{phases}");
        let context = store.context("influence", &folder, &PROXY_INPUTS, &[])?;
        let mut first = Measuring::start(parameters(&more)?, &context)?;
        first.performance(0)?;
        let mut last = "loss.parts";
        first.losses("loss")?;
        if phases > 1 {
            first.warm_up()?;
            first.performance(1)?;
        }
        if phases > 2 {
            first.losses("warm_loss")?;
            last = "warm_loss.parts";
        }
        if phases > 3 {
            first.alignments()?;
            last = "alignment.parts";
        }
        drop(first);
        let path = context.work()?.join(last);
        let file = std::fs::OpenOptions::new().write(true).open(&path)?;
        let length = file.metadata()?.len();
        file.set_len(if phases == 5 { length } else { length / 2 })?;
        let context = store.context("influence", &folder, &PROXY_INPUTS, &[])?;
        run(parameters(&more)?, &context)?;
        assert_eq!(store.written("undisturbed")?, store.written(&folder)?, "{folder}");
    }
    Ok(())
}

#[test]
fn damaged_files_of_the_work_folder_are_not_used() -> Result<()> {
    let store = TensorFixture::new()?;
    let more = json!({"alignment": true});
    let context = store.context("influence", "run", &INPUTS, &[])?;
    run(parameters(&more)?, &context)?;
    store.run_on_damaged_work("influence", "run", &INPUTS, 5, |context| run(parameters(&more)?, context))
}

#[test]
fn gradients_that_do_not_fit_into_memory_are_an_error_before_they_are_computed() -> Result<()> {
    let store = TensorFixture::new()?;
    let mut assignment = raisin_contract::Assignment::for_test(
        "influence",
        store.artifact("run"),
        &INPUTS.map(|(pointer, name)| (pointer, store.artifact(name))),
    );
    assignment.memory = Some(10_000);
    let context = raisin_kinds::context_for_test(assignment)?;
    let error = run(parameters(&json!({"alignment": true}))?, &context).expect_err("too little memory");
    let said = raisin_base::error::render(&error);
    assert!(said.contains("3 groups of validation examples") && said.contains("set fewer `groups`"), "{said}");
    Ok(())
}

#[test]
fn an_impossible_value_is_an_error_at_its_parameter() {
    let refused = |more: Value, pointer: &str| {
        let error = parameters(&more).expect_err("impossible").to_string();
        assert!(error.starts_with(&format!("{pointer}:")), "{error}");
    };
    refused(json!({"steps": 0}), "/steps");
    refused(json!({"batch_size": 0}), "/batch_size");
    refused(json!({"groups": 2}), "/groups");
    refused(json!({"groups": 0, "alignment": true}), "/groups");
    refused(json!({"learning_rate": 0.0}), "/learning_rate");
    refused(json!({"max_tokens": 1}), "/max_tokens");
    refused(json!({"adaptation": {"method": "lora", "rank": 0}}), "/adaptation/rank");
}
