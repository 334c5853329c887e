use super::*;
use crate::fixture::TensorFixture;
use arrow_array::Array as _;
use raisin_base::seed::Seed;
use raisin_corpus::artifact::{PoolRow, instructions_batch};
use raisin_corpus::left_out::digest_of;
use raisin_corpus::message::conversation;
use raisin_lm::Adaptation;
use raisin_table::column;
use serde_json::json;

#[test]
fn a_task_scored_by_match_gives_loss_and_matches_item_by_item() -> Result<()> {
    let store = TensorFixture::new()?;
    std::fs::write(store.artifact("model").join("summary.json"), "{\"method\": \"none\"}\n")?;
    let context = store.context("evaluate", "run", &[("/model", "model"), ("/task", "task")], &[])?;
    run(serde_json::from_value(json!({"model": "model", "task": "task"}))?, &context)?;
    context.check_outputs()?;
    let metrics = store.table("run", "metrics")?;
    let names: &StringArray = column(&metrics, "metric")?;
    assert_eq!(names.iter().flatten().collect::<Vec<_>>(), ["loss", "exact_match", "flexible_match"]);
    let items = store.table("run", "items")?;
    let (losses, tokens): (&Float64Array, &UInt32Array) = (column(&items, "loss")?, column(&items, "tokens")?);
    let total: f64 = losses.values().iter().zip(tokens.values()).map(|(loss, &tokens)| loss * f64::from(tokens)).sum();
    let mean = total / f64::from(tokens.values().iter().sum::<u32>());
    let values: &Float64Array = column(&metrics, "value")?;
    assert!((values.value(0) - mean).abs() < 1e-9);
    assert!((mean - 260f64.ln()).abs() < 0.3, "an untrained model is close to uniform: {mean}");
    assert!(store.written("run")?.contains_key("model_summary.json"));
    Ok(())
}

#[test]
#[expect(clippy::float_cmp, reason = "the mean of zeros is zero")]
fn choices_are_ranked_by_the_loss_of_their_own_tokens() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("evaluate", "run", &[("/model", "model"), ("/task", "task")], &[])?;
    let parameters =
        json!({"model": "model", "task": "task", "metrics": ["choice"], "split": "validation", "limit": 2});
    run(serde_json::from_value(parameters)?, &context)?;
    let metrics = store.table("run", "metrics")?;
    let values: &Float64Array = column(&metrics, "value")?;
    // A nearly uniform model prefers the shorter choice, which is wrong.
    assert_eq!(values.value(0), 0.0);
    assert_eq!(store.table("run", "items")?.num_rows(), 2);
    Ok(())
}

/// All metrics, with one or two rows in a batch.
fn in_parts() -> Result<Parameters> {
    let metrics = json!(["loss", "choice", "match"]);
    let value = json!({"model": "model", "task": "task", "metrics": metrics, "split": "validation",
        "generate_rows": 1, "batch_tokens": 20});
    Ok(serde_json::from_value(value)?)
}

#[test]
fn each_metric_has_columns_of_its_own_and_correct_belongs_to_the_metric_of_the_task() -> Result<()> {
    let store = TensorFixture::new()?;
    let written = |folder: &str, metrics: serde_json::Value| {
        let context = store.context("evaluate", folder, &[("/model", "model"), ("/task", "task")], &[])?;
        let parameters = json!({"model": "model", "task": "task", "metrics": metrics, "split": "validation"});
        run(serde_json::from_value(parameters)?, &context)?;
        store.table(folder, "items")
    };
    let truths = |items: &arrow_array::RecordBatch, name: &str| -> Result<Vec<Option<bool>>> {
        Ok(column::<BooleanArray>(items, name)?.iter().collect())
    };
    let texts = |items: &arrow_array::RecordBatch, name: &str| -> Result<Vec<Option<String>>> {
        Ok(column::<StringArray>(items, name)?.iter().map(|text| text.map(str::to_owned)).collect())
    };
    let (choice, matched) = (&written("choice", json!(["choice"]))?, &written("match", json!(["match"]))?);
    assert_eq!(texts(choice, "chosen")?, [Some("no".to_owned()), Some("no".to_owned()), Some("no".to_owned())]);
    assert_ne!(texts(choice, "chosen")?, texts(matched, "generated")?);
    assert_eq!((truths(choice, "exact_match")?, truths(matched, "acc")?), (vec![None; 3], vec![None; 3]));
    for (folder, order) in [("one", json!(["choice", "match"])), ("other", json!(["match", "loss", "choice"]))] {
        let both = written(folder, order)?;
        for (from, names) in [(choice, ["acc", "acc_norm"]), (matched, ["exact_match", "flexible_match"])] {
            for name in names {
                assert_eq!(truths(&both, name)?, truths(from, name)?, "{name}");
                assert_eq!(truths(&both, name)?.iter().flatten().count(), 3, "{name}");
            }
        }
        assert_eq!(texts(&both, "chosen")?, texts(choice, "chosen")?);
        assert_eq!(texts(&both, "generated")?, texts(matched, "generated")?);
        // The task is scored by `match`.
        assert_eq!(texts(&both, "prediction")?, texts(matched, "generated")?, "{folder}");
        assert_eq!(truths(&both, "correct")?, truths(matched, "exact_match")?);
        assert_eq!(truths(&both, "correct_norm")?, truths(matched, "flexible_match")?);
    }
    assert_eq!(texts(choice, "prediction")?, texts(choice, "chosen")?, "if `match` was not computed");
    Ok(())
}

#[test]
fn an_evaluation_killed_after_any_part_ends_with_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = |folder: &str| store.context("evaluate", folder, &[("/model", "model"), ("/task", "task")], &[]);
    let undisturbed = context("undisturbed")?;
    run(in_parts()?, &undisturbed)?;
    for phase in ["loss", "choices", "generation"] {
        let name = format!("{phase}.parts");
        let parts = std::fs::read(undisturbed.work()?.join(&name))?;
        let begins = |place: usize| parts[place..].starts_with(b"rsn1");
        let mut ends: Vec<usize> = (1..parts.len()).filter(|&place| begins(place)).collect();
        ends.push(parts.len());
        assert!(ends.len() > 1, "{phase} has {} parts", ends.len());
        for end in ends {
            // The process was killed while it wrote the next batch.
            let killed = context("killed")?;
            std::fs::write(killed.work()?.join(&name), &parts[..(end + 9).min(parts.len())])?;
            run(in_parts()?, &killed)?;
            assert_eq!(store.written("undisturbed")?, store.written("killed")?, "{phase}");
            std::fs::remove_dir_all(killed.work()?)?;
        }
    }
    Ok(())
}

#[test]
fn damaged_parts_are_computed_again_and_give_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    let inputs = [("/model", "model"), ("/task", "task")];
    run(in_parts()?, &store.context("evaluate", "run", &inputs, &[])?)?;
    store.run_on_damaged_work("evaluate", "run", &inputs, 12, |context| run(in_parts()?, context))
}

#[test]
fn a_continued_evaluation_keeps_the_batch_sizes_that_fitted_in_memory() -> Result<()> {
    let store = TensorFixture::new()?;
    let inputs = [("/model", "model"), ("/task", "task")];
    let context = |folder: &str| store.context("evaluate", folder, &inputs, &[]);
    let first = context("first")?;
    run(in_parts()?, &first)?;
    // The first part of each phase, as written by a process with less memory.
    let killed = context("killed")?;
    let losses: (usize, Vec<u64>) = FinishedParts::open(&first, "loss")?.next(|| panic!("it is there"))?;
    FinishedParts::open(&killed, "loss")?.next(|| Ok((33, losses.1)))?;
    let answers: (usize, Vec<Vec<u32>>) = FinishedParts::open(&first, "generation")?.next(|| panic!("it is there"))?;
    FinishedParts::open(&killed, "generation")?.next(|| Ok((7, answers.1)))?;
    run(in_parts()?, &killed)?;
    let mut losses = FinishedParts::<(usize, Vec<u64>)>::open(&killed, "loss")?;
    let mut answers = FinishedParts::<(usize, Vec<Vec<u32>>)>::open(&killed, "generation")?;
    for _ in 0..2 {
        assert_eq!(losses.next(|| panic!("it is there"))?.0, 33);
        assert_eq!(answers.next(|| panic!("it is there"))?.0, 7);
    }
    Ok(())
}

#[test]
fn an_impossible_number_is_an_error_at_its_parameter() -> Result<()> {
    use raisin_contract::Kind as _;
    for (key, value) in [("batch_tokens", 0), ("generate_rows", 0), ("max_tokens", 1), ("limit", 0)] {
        let parameters: Parameters = serde_json::from_value(json!({"model": "model", "task": "task", key: value}))?;
        let problem = raisin_kinds::evaluate::EvaluateKind::check(&parameters).expect_err("impossible");
        assert_eq!(problem.pointer, format!("/{key}"));
    }
    Ok(())
}

#[test]
fn parts_that_were_finished_before_a_kill_are_not_computed_again() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("evaluate", "run", &[("/model", "model"), ("/task", "task")], &[])?;
    // This model would not give this answer.
    let mut finished = FinishedParts::<(usize, Vec<Vec<u32>>)>::open(&context, "generation")?;
    finished.next(|| Ok((32, vec![vec![u32::from(b'y'); 3]])))?;
    run(in_parts()?, &context)?;
    let items = store.table("run", "items")?;
    let predictions: &StringArray = column(&items, "prediction")?;
    assert!(predictions.iter().flatten().any(|prediction| prediction == "yyy"), "{predictions:?}");
    Ok(())
}

#[test]
fn a_number_counts_strictly_after_the_marker_and_flexibly_anywhere() {
    assert_eq!(numbers_agree("so it is\n#### 1,200", "#### 1200"), (true, true));
    assert_eq!(numbers_agree("it is 12", "#### 12"), (false, true));
    assert_eq!(numbers_agree("#### 13", "#### 12"), (false, false));
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_that_names_example_and_model() -> Result<()> {
    let store = TensorFixture::new()?;
    let mut model = Model::load(&store.artifact("model"), tch::Device::Cpu, tch::Kind::Float)?;
    model.prepare(&Adaptation::Full, &Seed::new(1))?;
    let _ = tch::no_grad(|| model.trainable().flat.shallow_clone().f_fill_(f64::NAN))?;
    std::fs::create_dir(store.artifact("broken"))?;
    model.save(&store.artifact("broken"))?;
    for metric in ["loss", "choice"] {
        let context = store.context("evaluate", metric, &[("/model", "broken"), ("/task", "task")], &[])?;
        let parameters = json!({"model": "tuned", "task": "task", "metrics": [metric], "split": "validation"});
        let error = run(serde_json::from_value(parameters)?, &context).expect_err("no number");
        let said = raisin_base::error::render(&error);
        assert!(said.contains("the loss of example 0 under the model `tuned` is NaN"), "{said}");
        assert!(store.written(metric)?.is_empty());
    }
    Ok(())
}

#[test]
fn the_standard_error_of_one_example_is_null() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("evaluate", "run", &[("/model", "model"), ("/task", "task")], &[])?;
    let parameters = json!({"model": "model", "task": "task", "metrics": ["loss", "choice"], "limit": 1});
    run(serde_json::from_value(parameters)?, &context)?;
    let metrics = store.table("run", "metrics")?;
    let errors: &Float64Array = column(&metrics, "standard_error")?;
    assert_eq!((errors.len(), errors.null_count()), (3, 3));
    Ok(())
}

#[test]
fn an_adapter_is_merged_into_its_base_before_the_evaluation() -> Result<()> {
    let store = TensorFixture::new()?;
    let mut model = Model::load(&store.artifact("model"), tch::Device::Cpu, tch::Kind::Float)?;
    model.prepare(
        &Adaptation::Lora { rank: 2, alpha: 8.0, targets: vec!["q_proj".to_owned(), "up_proj".to_owned()] },
        &Seed::new(1),
    )?;
    let _ = tch::no_grad(|| model.trainable().flat.shallow_clone().f_add_scalar_(0.3))?;
    std::fs::create_dir(store.artifact("adapter"))?;
    std::fs::create_dir(store.artifact("merged"))?;
    model.save_adapter(&store.artifact("adapter"), None)?;
    std::fs::write(store.artifact("adapter").join("references.json"), r#"{"base": "model"}"#)?;
    model.save_merged(&store.artifact("merged"))?;
    for model in ["adapter", "merged"] {
        let context =
            store.context("evaluate", &format!("of-{model}"), &[("/model", model), ("/task", "task")], &[])?;
        run(in_parts()?, &context)?;
    }
    assert_eq!(store.written("of-adapter")?, store.written("of-merged")?);
    Ok(())
}

#[test]
fn examples_that_overlap_the_pool_are_left_out_and_the_others_keep_their_ids() -> Result<()> {
    let store = TensorFixture::new()?;
    let row = PoolRow::new(conversation(None, "3 + 1 = ?", Some("4")), 0, 1);
    let other = PoolRow::new(conversation(None, "8 + 1?", Some("9")), 0, 2);
    table::write(&store.artifact("pool").join("instructions.parquet"), &instructions_batch(&[row, other])?)?;
    // The tables of an `overlap` stage that found one of the two test examples in the pool.
    let task = read_task(&store.artifact("task"))?;
    let (texts, ids) = (vec!["test", "validation"], vec![3u32]);
    let digests = [&task.test, &task.validation].map(|examples| digest_of(examples).to_hex());
    let summary = table::batch(vec![
        ("split", Arc::new(StringArray::from(texts)) as ArrayRef),
        ("examples_digest", Arc::new(StringArray::from(digests.to_vec()))),
    ])?;
    let found = table::batch(vec![
        ("split", Arc::new(StringArray::from(vec!["test"])) as ArrayRef),
        ("example", Arc::new(UInt32Array::from(ids))),
    ])?;
    std::fs::create_dir(store.artifact("overlap"))?;
    table::write(&store.artifact("overlap").join("overlap_summary.parquet"), &summary)?;
    table::write(&store.artifact("overlap").join("overlap.parquet"), &found)?;
    let inputs = [("/model", "model"), ("/task", "task"), ("/overlap", "overlap")];
    let context = store.context("evaluate", "run", &inputs, &[])?;
    let parameters = json!({"model": "model", "task": "task", "metrics": ["loss"], "overlap": "overlap"});
    run(serde_json::from_value(parameters)?, &context)?;
    let items = store.table("run", "items")?;
    assert_eq!(column::<UInt32Array>(&items, "id")?.values(), &[4]);
    assert_eq!(column::<UInt32Array>(&store.table("run", "metrics")?, "n")?.values(), &[1]);
    Ok(())
}

/// Makes a proxy with or without states of the test examples, and an adapter that was trained on it.
fn tuned_on_a_proxy(store: &TensorFixture, test: bool) -> Result<()> {
    let inputs = [("/source/prefix", "model"), ("/source/instructions", "pool"), ("/source/task", "task")];
    let context = store.context("model", "making", &inputs, &[])?;
    let source = json!({"prefix": "model", "train_layers": 1, "instructions": "pool", "task": "task", "test": test});
    crate::model::run(serde_json::from_value(json!({"source": source}))?, &context)?;
    context.check_outputs()?;
    store.keep("making", "proxy")?;
    let context = store.context(
        "finetune",
        "tuning",
        &[("/instructions", "pool"), ("/model", "proxy"), ("/task", "task")],
        &[],
    )?;
    let parameters = json!({
        "instructions": "pool", "model": "proxy", "task": "task", "select": {"method": "random"}, "steps": 3,
        "batch_size": 2, "learning_rate": 0.05, "adaptation": {"method": "top_layers_lora", "rank": 2, "layers": 1},
    });
    crate::finetune::run(serde_json::from_value(parameters)?, &context)?;
    store.keep("tuning", "tuned")
}

#[test]
fn the_loss_of_an_adapter_on_a_proxy_starts_from_the_states_of_the_test_examples() -> Result<()> {
    let mut losses = Vec::new();
    for test in [false, true] {
        let store = TensorFixture::new()?;
        tuned_on_a_proxy(&store, test)?;
        let loss = |folder: &str, more: serde_json::Value| -> Result<Vec<f64>> {
            let context = store.context("evaluate", folder, &[("/model", "tuned"), ("/task", "task")], &[])?;
            let mut parameters = json!({"model": "tuned", "task": "task", "metrics": ["loss"]});
            parameters.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            run(serde_json::from_value(parameters)?, &context)?;
            Ok(column::<Float64Array>(&store.table(folder, "items")?, "loss")?.values().to_vec())
        };
        assert_eq!(proxy_with_test(&store.artifact("tuned"))?.is_some(), test);
        let found = loss("run", json!({}))?;
        // Other states give another loss, where the states are used.
        let path = store.artifact("proxy").join("states.safetensors");
        let mut bytes = std::fs::read(&path)?;
        let end = bytes.len();
        bytes[end - 4 * 16 * 8..].fill(0);
        std::fs::write(&path, bytes)?;
        assert_eq!(loss("changed", json!({}))? != found, test);
        // A cut example has other tokens, and then all layers run.
        let cut = loss("cut", json!({"max_tokens": 40}))?;
        assert!(cut.iter().all(|loss| loss.is_finite()));
        losses.push(found);
    }
    for (all, cached) in losses[0].iter().zip(&losses[1]) {
        assert!((all - cached).abs() < 1e-4, "{losses:?}");
    }
    Ok(())
}
