//! Tests with small runs of the kind `finetune`: each method, continued runs, the files of the artifact.

use arrow_array::{Array, Float64Array, StringArray, UInt32Array};
use serde_json::{Value, json};

use super::*;
use crate::fixture::{ROWS, TensorFixture};
use raisin_base::error::{Error, anyhow};
use raisin_contract::Kind as _;
use raisin_kinds::finetune::step_counts;
use raisin_table::column;

const INPUTS: [(&str, &str); 4] =
    [("/instructions", "pool"), ("/model", "model"), ("/task", "task"), ("/features", "clusters")];

fn parameters(change: &Value) -> Result<Parameters> {
    let mut value = json!({
        "instructions": "pool", "model": "model", "task": "task", "features": "clusters",
        "select": {"method": "random"}, "steps": 6, "batch_size": 2, "learning_rate": 0.01,
        "adaptation": {"method": "full"},
    });
    for (key, change) in change.as_object().into_iter().flatten() {
        value[key] = change.clone();
    }
    value.as_object_mut().ok_or_else(|| anyhow!("an object"))?.retain(|_, value| !value.is_null());
    let parameters: Parameters = serde_json::from_value(value)?;
    raisin_kinds::finetune::FinetuneKind::check(&parameters)
        .map_err(|problem| anyhow!("{}: {}", problem.pointer, problem.message))?;
    Ok(parameters)
}

#[test]
fn every_baseline_trains_its_steps_and_writes_its_selection() -> Result<()> {
    let store = TensorFixture::new()?;
    for method in ["random", "full", "length", "ifd", "perplexity", "sspl", "oracle", "bandit", "greats"] {
        let steps = if method == "perplexity" { 1 } else { 4 };
        let context = store.context("finetune", method, &INPUTS, &[])?;
        run(parameters(&json!({"select": {"method": method}, "steps": steps}))?, &context)?;
        let selection = store.table(method, "selection")?;
        assert_eq!(selection.num_rows(), steps * 2, "{method}");
        let ids: &UInt32Array = column(&selection, "id")?;
        assert!(ids.values().iter().all(|&id| id < ROWS as u32 - 1), "{method} chose a row without a response token");
        if method == "length" {
            assert_eq!(ids.values()[..2], [10, 9]);
        }
        if method == "oracle" {
            let labels: &StringArray = column(&selection, "label")?;
            assert!(labels.iter().all(|label| label == Some("relevant")));
        }
        let steps_table = store.table(method, "steps")?;
        let performance: &Float64Array = column(&steps_table, "performance")?;
        assert_eq!(performance.null_count(), steps - 1, "{method} is measured at its end only");
        assert!(performance.value(steps - 1) < 0.0);
        let summary: Value = serde_json::from_slice(&store.written(method)?["summary.json"])?;
        assert_eq!(
            (&summary["method"], &summary["steps"], &summary["full_steps"]),
            (&json!(method), &json!(steps), &json!(18))
        );
        assert!(summary["flops"].as_f64() > Some(0.0));
    }
    Ok(())
}

#[test]
fn a_number_of_the_state_can_order_the_rows_and_a_missing_one_is_named() -> Result<()> {
    let store = TensorFixture::new()?;
    let chosen = |select: Value, folder: &str| -> Result<Vec<u32>> {
        let context = store.context("finetune", folder, &INPUTS, &[])?;
        run(parameters(&json!({"select": select, "steps": 2}))?, &context)?;
        Ok(column::<UInt32Array>(&store.table(folder, "selection")?, "id")?.values().to_vec())
    };
    // The first number of the state grows with the row.
    assert_eq!(chosen(json!({"method": "column", "column": "a"}), "by-a")?, [10, 9, 8, 7]);
    assert_eq!(chosen(json!({"method": "column", "column": "b"}), "by-b")?, [2, 5, 8, 1]);
    let said = |select: Value| raisin_base::error::render(&chosen(select, "wrong").expect_err("no such column"));
    assert!(said(json!({"method": "column", "column": "c"})).contains("hint: it has a, b"));
    assert!(said(json!({"method": "less"})).contains("no column `influence.alignment`"));
    assert!(said(json!({"method": "less"})).contains("alignment = true"));
    let constants = json!({"columns": ["influence.relative_drop", "influence.alignment"]});
    std::fs::write(store.artifact("clusters").join("constants.json"), constants.to_string())?;
    assert_eq!(chosen(json!({"method": "warm-loss"}), "warm")?, [10, 9, 8, 7]);
    assert_eq!(chosen(json!({"method": "less"}), "less")?, [2, 5, 8, 1]);
    Ok(())
}

#[test]
fn the_best_rows_of_a_score_are_trained_on_again_and_again() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("finetune", "run", &INPUTS, &[])?;
    run(parameters(&json!({"select": {"method": "length", "top": 3}}))?, &context)?;
    let selection = store.table("run", "selection")?;
    let ids: &UInt32Array = column(&selection, "id")?;
    for best in [8, 9, 10] {
        assert_eq!(ids.values().iter().filter(|&&id| id == best).count(), 4, "{ids:?}");
    }
    Ok(())
}

#[test]
fn the_method_validation_trains_on_the_validation_examples_only() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("finetune", "run", &INPUTS, &[])?;
    run(parameters(&json!({"select": {"method": "validation"}, "steps": 3}))?, &context)?;
    let selection = store.table("run", "selection")?;
    let texts: &StringArray = column(&selection, "instruction")?;
    // 6 draws of 3 examples.
    for example in ["0 + 1?", "1 + 1?", "2 + 1?"] {
        assert_eq!(texts.iter().flatten().filter(|text| *text == example).count(), 2, "{example}");
    }
    let performance: Vec<f64> =
        column::<Float64Array>(&store.table("run", "steps")?, "performance")?.iter().flatten().collect();
    assert_eq!(performance.len(), 1);
    Ok(())
}

#[test]
fn full_without_a_budget_takes_three_epochs() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("finetune", "run", &INPUTS, &[])?;
    let change = json!({"select": {"method": "full"}, "steps": null, "batch_size": 4});
    run(parameters(&change)?, &context)?;
    let selection = store.table("run", "selection")?;
    let times: &UInt32Array = column(&selection, "times_selected")?;
    assert_eq!(store.table("run", "steps")?.num_rows(), 9);
    // 36 draws of 11 rows: three times each, and three of them once more.
    assert_eq!(times.values().iter().filter(|&&times| times == 3).count(), 3);
    Ok(())
}

#[test]
fn a_run_killed_after_three_steps_ends_with_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    for (adaptation, method) in [("full", "random"), ("lora", "random"), ("lora", "bandit"), ("lora", "greats")] {
        let adapted = json!({"method": adaptation, "rank": 2});
        let change = json!({"adaptation": adapted, "evaluate_every": 2, "select": {"method": method}});
        let undisturbed = format!("undisturbed-{adaptation}-{method}");
        let context = store.context("finetune", &undisturbed, &INPUTS, &[])?;
        run(parameters(&change)?, &context)?;

        let killed = format!("killed-{adaptation}-{method}");
        let context = store.context("finetune", &killed, &INPUTS, &[])?;
        let mut first = run::Finetuning::start(parameters(&change)?, &context)?;
        for _ in 0..3 {
            assert!(first.advance()?);
        }
        first.checkpoint()?;
        // The checkpoint does not have this step.
        assert!(first.advance()?);
        drop(first);
        let context = store.context("finetune", &killed, &INPUTS, &[])?;
        let mut second = run::Finetuning::start(parameters(&change)?, &context)?;
        let mut steps = 0;
        while second.advance()? {
            steps += 1;
        }
        assert_eq!(steps, 3, "the run starts again instead of continuing");
        second.finish()?;
        assert_eq!(store.written(&undisturbed)?, store.written(&killed)?);
    }
    Ok(())
}

#[test]
fn a_damaged_checkpoint_is_not_used_and_the_run_ends_with_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    let change = json!({"adaptation": {"method": "lora", "rank": 2}, "steps": 3, "evaluate_every": 1});
    let context = store.context("finetune", "run", &INPUTS, &[])?;
    let mut undisturbed = run::Finetuning::start(parameters(&change)?, &context)?;
    undisturbed.advance()?;
    undisturbed.advance()?;
    undisturbed.checkpoint()?;
    undisturbed.advance()?;
    undisturbed.finish()?;
    store.run_on_damaged_work("finetune", "run", &INPUTS, 25, |context| run(parameters(&change)?, context))
}

#[test]
fn a_checkpoint_can_hold_more_than_100_mb_of_selections() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("finetune", "run", &INPUTS, &[])?;
    let mut first = run::Finetuning::start(parameters(&json!({}))?, &context)?;
    first.advance()?;
    first.select_again(1_400_000);
    first.checkpoint()?;
    assert!(std::fs::metadata(context.work()?.join("checkpoint"))?.len() > 100_000_000);
    drop(first);
    let second = run::Finetuning::start(parameters(&json!({}))?, &context)?;
    assert_eq!(second.selections(), 1_400_000 + 2);
    Ok(())
}

#[test]
fn a_continued_run_keeps_the_size_of_the_validation_batches_that_fit_in_memory() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("finetune", "run", &INPUTS, &[])?;
    let mut first = run::Finetuning::start(parameters(&json!({}))?, &context)?;
    first.advance()?;
    first.validation.set_too_many(60);
    first.checkpoint()?;
    drop(first);
    let second = run::Finetuning::start(parameters(&json!({}))?, &context)?;
    assert_eq!(second.validation.too_many(), 60);
    Ok(())
}

#[test]
fn a_run_continues_after_an_input_stage_was_renamed() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("finetune", "run", &INPUTS, &[])?;
    let mut first = run::Finetuning::start(parameters(&json!({}))?, &context)?;
    first.advance()?;
    first.checkpoint()?;
    drop(first);
    // The key, which names the work folder, has the digests of the inputs and not their names.
    let mut second = run::Finetuning::start(parameters(&json!({"model": "base", "instructions": "rows"}))?, &context)?;
    let mut steps = 0;
    while second.advance()? {
        steps += 1;
    }
    assert_eq!(steps, 5);
    Ok(())
}

#[test]
fn rows_longer_than_the_context_are_an_error_before_the_first_step() -> Result<()> {
    let store = TensorFixture::new()?;
    store.shorten_context(20)?;
    let context = store.context("finetune", "run", &INPUTS, &[])?;
    let error = run::Finetuning::start(parameters(&json!({"max_tokens": 300}))?, &context).err().expect("too long");
    let said = raisin_base::error::render(&error);
    assert!(said.contains("max_tokens is 300") && said.contains("the model's context of 20"), "{said}");
    let inputs = [("/source/prefix", "model"), ("/source/instructions", "pool"), ("/source/task", "task")];
    let context = store.context("model", "proxy", &inputs, &[])?;
    let source = json!({"prefix": "model", "train_layers": 1, "instructions": "pool", "task": "task"});
    let proxy = crate::model::run(serde_json::from_value(json!({"source": source}))?, &context);
    let said = raisin_base::error::render(&proxy.expect_err("too long"));
    assert!(said.contains("max_tokens is 1024") && said.contains("the model's context of 20"), "{said}");
    assert!(store.written("proxy")?.is_empty());
    Ok(())
}

#[test]
fn a_validation_loss_that_is_not_finite_ends_the_run() -> Result<()> {
    let store = TensorFixture::new()?;
    let mut model = raisin_lm::Model::load(&store.artifact("model"), tch::Device::Cpu, tch::Kind::Float)?;
    model.prepare(&raisin_lm::Adaptation::Full, &raisin_base::seed::Seed::new(1))?;
    let _ = tch::no_grad(|| model.trainable().flat.shallow_clone().f_fill_(f64::NAN))?;
    std::fs::create_dir(store.artifact("broken"))?;
    model.save(&store.artifact("broken"))?;
    let mut inputs = INPUTS;
    inputs[1] = ("/model", "broken");
    let context = store.context("finetune", "run", &inputs, &[])?;
    let error = run(parameters(&json!({"evaluate_every": 1}))?, &context).expect_err("no number");
    assert!(error.to_string().contains("the validation loss became NaN after 0 steps"), "{error}");
    Ok(())
}

#[test]
fn an_adapter_refers_to_its_base_and_a_merged_model_stands_alone() -> Result<()> {
    let store = TensorFixture::new()?;
    let lora = json!({"method": "lora", "rank": 2, "targets": ["q_proj", "v_proj"]});
    for (name, merge) in [("adapter", false), ("merged", true)] {
        let context = store.context("finetune", name, &INPUTS, &[])?;
        run(parameters(&json!({"adaptation": lora, "merge": merge}))?, &context)?;
        context.check_outputs()?;
    }
    let adapter = store.written("adapter")?;
    assert!(adapter.contains_key("adapter_model.safetensors") && adapter.contains_key("tokenizer.json"));
    assert_eq!(serde_json::from_slice::<Value>(&adapter["references.json"])?, json!({"base": "model"}));
    let merged = store.written("merged")?;
    assert!(merged.contains_key("model.safetensors") && !merged.contains_key("references.json"));

    // The two are the same model.
    store.keep("adapter", "tuned-adapter")?;
    store.keep("merged", "tuned-merged")?;
    let loss = |model: &str| -> Result<f64> {
        let device = tch::Device::Cpu;
        let model = raisin_lm::Model::load(&store.artifact(model), device, tch::Kind::Float)?;
        let tokens: Vec<u32> = (0..30).collect();
        let sequence = raisin_corpus::Sequence { supervised: tokens.iter().map(|&token| token > 0).collect(), tokens };
        raisin_training::ValidationSet::new(&[&sequence], None, 100, device)?.loss(&model)
    };
    assert!((loss("tuned-adapter")? - loss("tuned-merged")?).abs() < 1e-5);
    assert!((loss("tuned-adapter")? - loss("model")?).abs() > 1e-4);
    Ok(())
}

#[test]
fn external_scores_belong_to_instructions_by_the_position_of_the_record() -> Result<()> {
    let store = TensorFixture::new()?;
    let file = store.artifact("scores.csv");
    std::fs::write(&file, "row,quality\n3,0.5\n7,0.9\n8,\n1,0.7\n0,0.1\n")?;
    let context = store.context("finetune", "run", &INPUTS, &[("/select/path", &file)])?;
    let select = json!({"method": "scores", "path": "scores.csv", "column": "quality"});
    run(parameters(&json!({"select": select, "steps": 2}))?, &context)?;
    let selection = store.table("run", "selection")?;
    let ids: &UInt32Array = column(&selection, "id")?;
    assert_eq!(ids.values()[..], [7, 1, 3, 0]);
    Ok(())
}

/// A value of each step, if the step has one.
type OfSteps = Vec<Option<f64>>;

/// Runs 5 steps with a new policy of these parts of the state. Returns the performances and the rewards of the steps,
/// and the number of measurements.
fn selected_by_a_policy(parts: &[&str], select: &Value) -> Result<(OfSteps, OfSteps, u64)> {
    let store = TensorFixture::new()?;
    let folder = store.artifact("selector");
    std::fs::create_dir(&folder)?;
    let columns = vec!["a".to_owned(), "b".to_owned()];
    let candidates = raisin_selector::Candidates::new(&[0, 1], &[0, 1], &[0.0; 4], columns)?;
    let state = serde_json::from_value(json!(parts))?;
    let config = raisin_selector::PpoSettings { state, ..raisin_selector::PpoSettings::ppo() };
    raisin_selector::Policy::new(&config, &candidates, &raisin_base::seed::Seed::new(3)).save(&folder)?;
    std::fs::write(folder.join("summary.json"), json!({"passes": [], "flops": 7.0, "effect_flops": 2.0}).to_string())?;
    let mut inputs = INPUTS.to_vec();
    inputs.push(("/select/policy", "selector"));
    let context = store.context("finetune", "run", &inputs, &[])?;
    run(parameters(&json!({"select": select, "steps": 5}))?, &context)?;
    let steps = store.table("run", "steps")?;
    let numbers = |name: &str| Ok::<_, Error>(column::<Float64Array>(&steps, name)?.iter().collect::<Vec<_>>());
    let summary: Value = serde_json::from_slice(&store.written("run")?["summary.json"])?;
    let trained = &summary["passes"][0];
    assert_eq!(
        (&trained["pass"], &trained["flops"], &trained["evaluation_flops"]),
        (&json!("selector"), &json!(7.0), &json!(2.0))
    );
    let evaluations = summary["evaluations"].as_u64().ok_or_else(|| anyhow!("no count"))?;
    Ok((numbers("performance")?, numbers("reward")?, evaluations))
}

#[test]
fn a_trained_policy_selects_and_p_is_measured_as_often_as_asked_for() -> Result<()> {
    let all = ["stage", "difficulty", "semantic", "availability"];
    let measured = |numbers: &[Option<f64>]| numbers.iter().map(Option::is_some).collect::<Vec<_>>();
    let select = json!({"method": "raise", "policy": "selector", "performance_every": 1});
    let (performance, reward, evaluations) = selected_by_a_policy(&all, &select)?;
    assert_eq!((measured(&performance), measured(&reward), evaluations), (vec![true; 5], vec![true; 5], 6));
    let change = performance[2].zip(performance[1]).map(|(after, before)| after - before);
    assert!(reward[2].zip(change).is_some_and(|(reward, change)| (reward - change).abs() < 1e-12));

    let select = json!({"method": "raise", "policy": "selector", "performance_every": 2});
    let (performance, reward, evaluations) = selected_by_a_policy(&all, &select)?;
    assert_eq!(measured(&performance), [false, true, false, true, true]);
    assert_eq!(measured(&reward), [false, false, false, false, true]);
    assert_eq!(evaluations, 4, "the base and three measurements");

    // By default, every ten steps.
    let select = json!({"method": "raise", "policy": "selector"});
    assert_eq!(measured(&selected_by_a_policy(&all, &select)?.0), [false, false, false, false, true]);
    // A policy that does not read the performance: only at the end.
    assert_eq!(selected_by_a_policy(&all[1..], &select)?.2, 1);
    Ok(())
}

#[test]
fn a_proxy_trains_its_top_layers_on_cached_states_as_the_whole_model_would() -> Result<()> {
    let store = TensorFixture::new()?;
    let inputs = [("/source/prefix", "model"), ("/source/instructions", "pool"), ("/source/task", "task")];
    let context = store.context("model", "making", &inputs, &[])?;
    let source =
        json!({"prefix": "model", "train_layers": 1, "instructions": "pool", "task": "task", "max_tokens": 64});
    crate::model::run(serde_json::from_value(json!({"source": source}))?, &context)?;
    store.keep("making", "proxy")?;

    let adaptation = json!({"method": "top_layers", "layers": 1});
    for method in ["random", "validation"] {
        let change =
            json!({"adaptation": adaptation, "evaluate_every": 1, "max_tokens": 64, "select": {"method": method}});
        let mut losses = Vec::new();
        for model in ["model", "proxy"] {
            let mut inputs = INPUTS;
            inputs[1] = ("/model", model);
            let folder = format!("run-{model}-{method}");
            let context = store.context("finetune", &folder, &inputs, &[])?;
            run(parameters(&change)?, &context)?;
            context.check_outputs()?;
            let steps = store.table(&folder, "steps")?;
            let performance: &Float64Array = column(&steps, "performance")?;
            losses.push(performance.values().to_vec());
        }
        for (whole, proxy) in losses[0].iter().zip(&losses[1]) {
            assert!((whole - proxy).abs() < 1e-4, "{method}: {losses:?}");
        }
    }
    Ok(())
}

#[test]
fn an_impossible_value_is_an_error_at_its_parameter() {
    let refused = |change: Value, pointer: &str| {
        let error = parameters(&change).expect_err("impossible").to_string();
        assert!(error.starts_with(&format!("{pointer}:")), "{error}");
    };
    refused(json!({"budget": "1%"}), "/steps");
    refused(json!({"steps": null}), "");
    refused(json!({"steps": null, "budget": "120%"}), "/budget");
    refused(json!({"select": {"method": "raise"}}), "/select");
    refused(json!({"select": {"method": "scores"}}), "/select");
    refused(json!({"select": {"method": "ifd"}, "features": null}), "/select/method");
    refused(json!({"adaptation": {"method": "lora", "rank": 0}}), "/adaptation/rank");
    refused(json!({"batch_size": 0}), "/batch_size");
    let select = json!({"method": "raise", "policy": "selector", "performance_every": 0});
    refused(json!({"select": select}), "/select/performance_every");
    refused(json!({"select": {"method": "random", "top": 4}}), "/select/top");
    refused(json!({"select": {"method": "length", "top": 0}}), "/select/top");
    refused(json!({"select": {"method": "length", "top": 1}}), "/select");
    refused(json!({"select": {"method": "column"}}), "/select/column");
    refused(json!({"select": {"method": "less"}, "features": null}), "/select/method");
    refused(json!({"micro_batch_tokens": 0}), "/micro_batch_tokens");
    refused(json!({"learning_rate": -1e-3}), "/learning_rate");
    refused(json!({"learning_rate": 0.0}), "/learning_rate");
    refused(json!({"weight_decay": -0.1}), "/weight_decay");
    // A pipeline file can say `nan`; JSON cannot.
    for spoil in
        [|it: &mut Parameters| it.learning_rate = f64::NAN, |it: &mut Parameters| it.weight_decay = f64::INFINITY]
    {
        let mut impossible = parameters(&json!({})).expect("sound");
        spoil(&mut impossible);
        assert!(raisin_kinds::finetune::FinetuneKind::check(&impossible).is_err());
    }
}

#[test]
fn a_budget_is_a_share_of_three_epochs() -> Result<()> {
    let steps = |budget: &str, rows| -> Result<usize> {
        Ok(step_counts(&parameters(&json!({"steps": null, "budget": budget, "batch_size": 10}))?, rows).1)
    };
    assert_eq!(steps("1%", 1000)?, 3);
    assert_eq!(steps("1%", 1001)?, 4);
    assert_eq!(steps("0.5%", 100)?, 1);
    assert_eq!(steps("100%", 95)?, 30);
    Ok(())
}
