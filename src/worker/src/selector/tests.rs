use arrow_array::{BooleanArray, StringArray, UInt32Array};
use serde_json::{Value, json};

use super::*;
use crate::fixture::TensorFixture;
use raisin_base::error::Result;
use raisin_base::sealed::{Record, Records};
use raisin_contract::Kind as _;
use raisin_kinds::declaration;
use raisin_kinds::selector::Parameters;
use raisin_selector::{Chooser as _, Policy, Raise, StepContext};
use raisin_table as table;

const INPUTS: [(&str, &str); 4] =
    [("/instructions", "pool"), ("/features", "clusters"), ("/model", "model"), ("/task", "task")];

fn parameters(more: Value) -> Parameters {
    let mut all = json!({
        "instructions": "pool", "features": "clusters", "model": "model", "task": "task",
        "rounds": 3, "steps": 3, "batch_size": 4, "adaptation": {"method": "full"}, "learning_rate": 1e-3,
    });
    if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    serde_json::from_value(all).expect("sound parameters")
}

#[test]
fn a_selector_writes_its_policy_and_a_row_for_each_round_step_and_selected_instruction() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("selector", "a", &INPUTS, &[])?;
    run(parameters(json!({})), &context)?;
    context.check_outputs()?;
    let rounds = store.table("a", "rounds")?;
    assert_eq!(rounds.num_rows(), 3);
    assert!(table::column::<BooleanArray>(&rounds, "kept")?.value(0), "the first episode is the best so far");
    assert_eq!(store.table("a", "steps")?.num_rows(), 9);
    let selection = store.table("a", "selection")?;
    assert_eq!(selection.num_rows(), 36);
    assert!(table::column::<StringArray>(&selection, "instruction")?.value(0).starts_with("question"));
    let policy = Policy::load(&store.artifact("a").join("out"))?;
    assert_eq!(policy.constants.columns, ["a", "b"]);
    let conditions = policy.constants.conditions.expect("the stage records how it played");
    assert_eq!((conditions.max_tokens, conditions.steps, conditions.batch_size), (1024, 3, 4));
    assert_eq!(conditions.model, raisin_selector::ModelRole::Whole);
    let [low, high] = policy.constants.improvement_range.expect("a range");
    assert!(low <= 0.0 && high >= 0.0, "P(M_0) is in the range: {low} to {high}");
    Ok(())
}

#[test]
fn features_of_a_larger_pool_are_an_error() -> Result<()> {
    let store = TensorFixture::new()?;
    let path = store.artifact("pool").join("instructions.parquet");
    let rows = table::read(&path)?;
    table::write(&path, &rows.slice(0, 9))?;
    let context = store.context("selector", "run", &INPUTS, &[])?;
    let error = run(parameters(json!({})), &context).expect_err("features of 11 rows for a pool of 9");
    let said = raisin_base::error::render(&error);
    assert!(said.contains("the features have a row for instruction 9, but the pool has 9 rows"), "{said}");
    Ok(())
}

#[test]
fn a_killed_selector_ends_with_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    run(parameters(json!({})), &store.context("selector", "undisturbed", &INPUTS, &[])?)?;
    for rounds in 1..3 {
        super::run::run_until(&parameters(json!({})), &store.context("selector", "killed", &INPUTS, &[])?, rounds)?;
        assert!(store.written("killed")?.is_empty());
    }
    run(parameters(json!({})), &store.context("selector", "killed", &INPUTS, &[])?)?;
    assert_eq!(store.written("killed")?, store.written("undisturbed")?);
    Ok(())
}

#[test]
fn a_selector_continues_after_an_input_stage_was_renamed() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("selector", "run", &INPUTS, &[])?;
    super::run::run_until(&parameters(json!({})), &context, 1)?;
    // A second record would be there if the round were played again.
    let rounds = std::fs::read(context.work()?.join("rounds"))?;
    super::run::run_until(&parameters(json!({"model": "base", "features": "groups"})), &context, 1)?;
    assert_eq!(std::fs::read(context.work()?.join("rounds"))?, rounds);
    Ok(())
}

#[test]
fn damaged_rounds_are_played_again_and_give_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    for episodes in [1, 2] {
        let more = json!({"rounds": 2, "steps": 2, "episodes_per_round": episodes});
        let undisturbed = store.context("selector", "undisturbed", &INPUTS, &[])?;
        run(parameters(more.clone()), &undisturbed)?;
        store.run_on_damaged_work("selector", "undisturbed", &INPUTS, 12, |context| {
            run(parameters(more.clone()), context)
        })?;
        std::fs::remove_dir_all(store.artifact("undisturbed"))?;
    }
    Ok(())
}

#[test]
fn a_continued_selector_keeps_the_batch_sizes_that_fitted_in_memory() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("selector", "run", &INPUTS, &[])?;
    super::run::run_until(&parameters(json!({})), &context, 1)?;
    let path = context.work()?.join("rounds");
    let rooms = || -> Result<Vec<Value>> {
        let room = |record: &Record| serde_json::from_slice(&record.read(0).ok()?).ok();
        Ok(Records::open(&path, &|text| panic!("{text}"), room)?.1)
    };
    assert_eq!(rooms()?, [json!([[4096, usize::MAX]])]);
    // The record of a round in which less memory was free.
    let parts = |record: &Record| (0..record.parts()).map(|part| record.read(part).ok()).collect::<Option<Vec<_>>>();
    let (_, mut records) = Records::open(&path, &|text| panic!("{text}"), parts)?;
    records[0][0] = json!([[30, 60]]).to_string().into_bytes();
    std::fs::remove_file(&path)?;
    let parts: Vec<&[u8]> = records[0].iter().map(Vec::as_slice).collect();
    Records::open(&path, &|text| panic!("{text}"), |_| Some(()))?.0.append(&parts)?;
    super::run::run_until(&parameters(json!({})), &context, 2)?;
    assert_eq!(rooms()?, [json!([[30, 60]]), json!([[30, 60]])]);
    Ok(())
}

#[test]
fn a_state_that_this_version_cannot_read_is_set_aside() -> Result<()> {
    let store = TensorFixture::new()?;
    let more = json!({"rounds": 1, "steps": 2});
    run(parameters(more.clone()), &store.context("selector", "undisturbed", &INPUTS, &[])?)?;
    let context = store.context("selector", "run", &INPUTS, &[])?;
    let path = context.work()?.join("rounds");
    std::fs::create_dir_all(context.work()?)?;
    let table = table::to_bytes(&store.table("undisturbed", "rounds")?)?;
    let mut records = Records::open(&path, &|text| panic!("{text}"), |_| Some(()))?.0;
    records.append(&[b"[[4096, 5]]", b"another state", &table, &table, &table])?;
    run(parameters(more), &context)?;
    assert_eq!(store.written("run")?, store.written("undisturbed")?);
    assert!(context.work()?.join("rounds.damaged").exists());
    Ok(())
}

#[test]
fn a_round_of_several_episodes_is_written_episode_by_episode_and_survives_a_kill() -> Result<()> {
    for method in ["lora", "full", "top_layers_lora"] {
        let store = TensorFixture::new()?;
        let more = json!({"episodes_per_round": 3, "adaptation": {"method": method, "rank": 2, "layers": 1}});
        let context = store.context("selector", "undisturbed", &INPUTS, &[])?;
        run(parameters(more.clone()), &context)?;
        assert_eq!(store.table("undisturbed", "rounds")?.num_rows(), 3);
        let steps = store.table("undisturbed", "steps")?;
        let episodes: &UInt32Array = table::column(&steps, "episode")?;
        assert_eq!(episodes.values()[..9], [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!(store.table("undisturbed", "selection")?.num_rows(), 3 * 36);
        let context = store.context("selector", "killed", &INPUTS, &[])?;
        super::run::run_until(&parameters(more.clone()), &context, 1)?;
        run(parameters(more), &store.context("selector", "killed", &INPUTS, &[])?)?;
        assert_eq!(store.written("killed")?, store.written("undisturbed")?);
    }
    Ok(())
}

#[test]
fn a_preset_fills_missing_parameters_and_a_written_default_changes_nothing() {
    let paper = parameters(json!({"preset": "paper"}));
    assert_eq!((paper.config.actor_learning_rate, paper.config.gamma, paper.config.explore), (0.1, 0.99, false));
    assert_eq!(parameters(json!({"gamma": 0.0, "epochs": 6})), parameters(json!({})));
    let kind = declaration("selector").expect("registered");
    let written = serde_json::to_value(parameters(json!({}))).expect("JSON");
    assert_eq!(kind.resolve(written.clone()).expect("sound").parameters, written);
}

#[test]
fn an_impossible_value_is_an_error_at_its_parameter() {
    for (more, pointer) in [
        (json!({"gamma": 1.5}), "/gamma"),
        (json!({"rounds": 0, "prior": "none"}), "/rounds"),
        (json!({"credit": "shared"}), "/credit"),
        (json!({"episodes_per_round": 0}), "/episodes_per_round"),
        (json!({"state": ["stage"]}), "/state"),
        (json!({"preset": "ppo", "ratio": "mean"}), "/credit"),
        (json!({"adaptation": {"method": "lora", "rank": 0}}), "/adaptation/rank"),
        (json!({"micro_batch_tokens": 0}), "/micro_batch_tokens"),
        (json!({"learning_rate": -1.0}), "/learning_rate"),
    ] {
        let problem = raisin_kinds::selector::SelectorKind::check(&parameters(more)).expect_err("impossible");
        assert_eq!(problem.pointer, pointer);
    }
}

#[test]
fn a_chooser_with_the_policy_can_be_restored() -> Result<()> {
    let store = TensorFixture::new()?;
    run(parameters(json!({})), &store.context("selector", "a", &INPUTS, &[])?)?;
    let open = || -> Result<Raise> {
        let rows = table::read(&store.artifact("clusters").join("clusters.parquet"))?;
        let ids: &UInt32Array = table::column(&rows, "id")?;
        let clusters: &UInt32Array = table::column(&rows, "cluster")?;
        let state: Vec<f32> =
            (0..ids.len()).flat_map(|row| [row as f32 / 10.0 - 0.5, (row % 3) as f32 - 1.0]).collect();
        let candidates = raisin_selector::Candidates::new(
            ids.values(),
            clusters.values(),
            &state,
            vec!["a".to_owned(), "b".to_owned()],
        )?;
        Raise::new(Policy::load(&store.artifact("a").join("out"))?, candidates, 4, raisin_base::seed::Seed::new(1))
    };
    let context = |step: usize| StepContext {
        step,
        total_steps: 6,
        performance: Some(-2.0 + step as f64 * 0.1),
        last_loss: None,
    };
    let (mut whole, mut resumed) = (open()?, open()?);
    for step in 0..3 {
        whole.choose(&context(step))?;
    }
    resumed.restore(&serde_json::from_str(&whole.state().to_string())?)?;
    for step in 3..6 {
        assert_eq!(whole.choose(&context(step))?, resumed.choose(&context(step))?);
    }
    Ok(())
}
