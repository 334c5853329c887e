//! Tests of the kind `clusters`: columns of other stages in the state.

use arrow_array::{Float32Array, StringArray};

use super::*;
use crate::fixture::{ROWS, TensorFixture};
use crate::tables::vectors;

const INPUTS: [(&str, &str); 2] = [("/features", "features"), ("/columns/0", "influence")];

/// The artifacts `features` and `influence`, of which the row 4 has no `loss`.
fn fixture() -> Result<TensorFixture> {
    let store = TensorFixture::new()?;
    let inputs = [("/instructions", "pool"), ("/model", "model")];
    let context = store.context("features", "made", &inputs, &[])?;
    crate::features::run(serde_json::from_value(json!({"instructions": "pool", "model": "model"}))?, &context)?;
    store.keep("made", "features")?;
    write_columns(&store, ROWS as u32)?;
    Ok(store)
}

fn write_columns(store: &TensorFixture, rows: u32) -> Result<()> {
    let folder = store.artifact("influence");
    std::fs::create_dir_all(&folder)?;
    let loss = (0..rows).map(|row| (row != 4).then_some(row as f32)).collect::<Float32Array>();
    // The rows of the table may have any order.
    let columns = table::batch(vec![
        ("id", Arc::new(UInt32Array::from_iter_values((0..rows).rev())) as ArrayRef),
        ("loss", Arc::new(loss.iter().rev().collect::<Float32Array>())),
        ("drop", Arc::new(Float32Array::from(vec![0.5; rows as usize]))),
        ("missing", Arc::new((0..rows).map(|_| None::<&str>).collect::<StringArray>())),
    ])?;
    table::write(&folder.join("columns.parquet"), &columns)?;
    Ok(std::fs::write(folder.join("summary.json"), json!({"pass": "influence"}).to_string())?)
}

fn parameters(more: &Value) -> Result<Parameters> {
    let mut value = json!({"features": "features", "dimensions": 2, "clusters": 2});
    for (key, more) in more.as_object().into_iter().flatten() {
        value[key] = more.clone();
    }
    Ok(serde_json::from_value(value)?)
}

#[test]
fn columns_of_another_stage_join_the_state_standardised_and_rows_without_them_are_no_candidates() -> Result<()> {
    let store = fixture()?;
    let mut states = Vec::new();
    for whiten in [true, false] {
        let folder = format!("run-{whiten}");
        let context = store.context("clusters", &folder, &INPUTS, &[])?;
        run(parameters(&json!({"columns": ["influence"], "whiten": whiten}))?, &context)?;
        context.check_outputs()?;
        let constants: Value = serde_json::from_slice(&store.written(&folder)?["constants.json"])?;
        let columns: Vec<String> = serde_json::from_value(constants["columns"].clone())?;
        assert_eq!(columns[8..], ["influence.loss", "influence.drop"]);
        assert_eq!(constants["excluded"], json!(2), "the row without features and the row without a loss");
        let rows = store.table(&folder, "clusters")?;
        let ids: &UInt32Array = table::column(&rows, "id")?;
        assert!(!ids.values().contains(&4) && ids.len() == ROWS - 2);
        let (state, width) = vectors(&rows, "state")?;
        let loss: Vec<f32> = (0..ids.len()).map(|row| state[row * width + 8]).collect();
        let square = loss.iter().map(|value| value * value).sum::<f32>() / loss.len() as f32;
        assert!(loss.iter().sum::<f32>().abs() < 1e-4 && (square - 1.0).abs() < 1e-4, "{loss:?}");
        assert!(loss.is_sorted(), "the numbers are those of their rows: {loss:?}");
        assert!((0..ids.len()).all(|row| state[row * width + 9].abs() < 1e-6), "a constant column is 0");
        let references: Value = serde_json::from_slice(&store.written(&folder)?["references.json"])?;
        assert_eq!(references, json!({"features": "features", "influence": "influence"}));
        states.push(state.to_vec());
    }
    assert_ne!(states[0], states[1]);
    Ok(())
}

#[test]
fn columns_of_another_pool_and_equal_columns_of_two_stages_are_refused() -> Result<()> {
    let store = fixture()?;
    let inputs = [("/features", "features"), ("/columns/0", "influence"), ("/columns/1", "influence")];
    let context = store.context("clusters", "twice", &inputs, &[])?;
    let error = run(parameters(&json!({"columns": ["one", "two"]}))?, &context).expect_err("equal names");
    assert!(error.to_string().contains("two stages of `columns` give the column `influence.loss`"), "{error}");
    write_columns(&store, 9)?;
    let context = store.context("clusters", "other", &INPUTS, &[])?;
    let error = run(parameters(&json!({"columns": ["influence"]}))?, &context).expect_err("another pool");
    assert!(error.to_string().contains("`influence` has columns of 9 instructions"), "{error}");
    Ok(())
}

#[test]
fn the_summary_of_a_program_that_makes_features_may_say_anything() -> Result<()> {
    let store = fixture()?;
    for (number, summary) in ["no JSON", "{\"embedding\": \"a model of its own\"}", "[1]"].into_iter().enumerate() {
        std::fs::write(store.artifact("features").join("summary.json"), summary)?;
        let folder = format!("run-{number}");
        let context = store.context("clusters", &folder, &[("/features", "features")], &[])?;
        run(parameters(&json!({}))?, &context)?;
        assert!(constants(&store, &folder)?.get("embedding").is_none());
    }
    Ok(())
}

#[test]
fn embeddings_of_other_tokens_are_refused_beside_the_stage_like() -> Result<()> {
    let store = fixture()?;
    let inputs = [("/instructions", "pool"), ("/model", "model")];
    let context = store.context("features", "made-of-responses", &inputs, &[])?;
    let responses = json!({"instructions": "pool", "model": "model", "embedding": "responses"});
    crate::features::run(serde_json::from_value(responses)?, &context)?;
    store.keep("made-of-responses", "responses")?;
    for features in ["features", "responses"] {
        let context = store.context("clusters", &format!("of-{features}"), &[("/features", features)], &[])?;
        run(parameters(&json!({}))?, &context)?;
        store.keep(&format!("of-{features}"), &format!("clusters-of-{features}"))?;
    }
    for (features, like, refused) in [
        ("features", "features", false),
        ("responses", "responses", false),
        ("features", "responses", true),
        ("responses", "features", true),
    ] {
        let like = format!("clusters-of-{like}");
        let folder = format!("{features}-{like}");
        let context = store.context("clusters", &folder, &[("/features", features), ("/like", &like)], &[])?;
        let done = run(serde_json::from_value(json!({"features": features, "like": like}))?, &context);
        assert_eq!(done.is_err(), refused, "{folder}");
        if let Err(error) = done {
            assert!(error.to_string().contains("`embedding = \""), "{error}");
        }
    }
    Ok(())
}

/// The artifact `fewer`: the features of every second row.
fn write_fewer(store: &TensorFixture) -> Result<()> {
    let (from, to) = (store.artifact("features"), store.artifact("fewer"));
    std::fs::create_dir_all(&to)?;
    std::fs::copy(from.join("summary.json"), to.join("summary.json"))?;
    let rows = table::read(&from.join("features.parquet"))?;
    let kept = UInt32Array::from_iter_values((0..rows.num_rows() as u32).step_by(2));
    table::write(&to.join("features.parquet"), &take_record_batch(&rows, &kept)?)
}

fn constants(store: &TensorFixture, folder: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&store.written(folder)?["constants.json"])?)
}

#[test]
fn rows_of_another_pool_get_the_states_that_they_have_in_the_stage_like() -> Result<()> {
    for whiten in [true, false] {
        let store = fixture()?;
        write_fewer(&store)?;
        let context = store.context("clusters", "whole", &[INPUTS[0]], &[])?;
        run(parameters(&json!({"whiten": whiten}))?, &context)?;
        let (whole, basis) = (store.table("whole", "clusters")?, constants(&store, "whole")?["basis"].clone());
        store.keep("whole", "clusters-of-whole")?;

        let context =
            store.context("clusters", "placed", &[("/features", "fewer"), ("/like", "clusters-of-whole")], &[])?;
        run(serde_json::from_value(json!({"features": "fewer", "like": "whole"}))?, &context)?;
        context.check_outputs()?;
        let placed = store.table("placed", "clusters")?;
        let rows = UInt32Array::from_iter_values((0..placed.num_rows() as u32).map(|row| 2 * row));
        assert_eq!(placed, take_record_batch(&whole, &rows)?);
        assert!(placed.num_rows() > 3);
        assert_eq!(constants(&store, "placed")?["basis"], basis);

        // Without `like`, the same names have other numbers.
        let context = store.context("clusters", "fitted", &[("/features", "fewer")], &[])?;
        run(parameters(&json!({"whiten": whiten}))?, &context)?;
        let fitted = constants(&store, "fitted")?;
        assert_eq!(fitted["columns"], constants(&store, "placed")?["columns"]);
        assert_ne!(fitted["basis"], basis);

        // What another stage read from the file is what the stage wrote.
        store.keep("placed", "clusters-of-fewer")?;
        let context =
            store.context("clusters", "again", &[("/features", "features"), ("/like", "clusters-of-fewer")], &[])?;
        run(serde_json::from_value(json!({"features": "features", "like": "fewer"}))?, &context)?;
        assert_eq!(store.table("again", "clusters")?, whole);
    }
    Ok(())
}

#[test]
fn a_column_that_like_lacks_is_left_out_and_a_column_that_only_like_has_is_an_error() -> Result<()> {
    let store = fixture()?;
    let like = [INPUTS[0], INPUTS[1], ("/like", "like")];
    let context = store.context("clusters", "plain", &[INPUTS[0]], &[])?;
    run(parameters(&json!({}))?, &context)?;
    store.keep("plain", "like")?;
    let context = store.context("clusters", "more", &like, &[])?;
    let with_columns = json!({"features": "features", "columns": ["influence"], "like": "plain"});
    run(serde_json::from_value(with_columns)?, &context)?;
    assert_eq!(constants(&store, "more")?["columns"].as_array().map(Vec::len), Some(8));

    let context = store.context("clusters", "joined", &INPUTS, &[])?;
    run(parameters(&json!({"columns": ["influence"]}))?, &context)?;
    std::fs::remove_dir_all(store.artifact("like"))?;
    store.keep("joined", "like")?;
    let context = store.context("clusters", "less", &[INPUTS[0], ("/like", "like")], &[])?;
    let error = run(serde_json::from_value(json!({"features": "features", "like": "joined"}))?, &context)
        .expect_err("no columns of influence");
    let said = raisin_base::error::render(&error);
    assert!(said.contains("the states of the stage `like` have `influence.loss`, and these rows do not"), "{said}");
    assert!(said.contains("hint: give this stage the same `columns` as the stage `like`"), "{said}");
    Ok(())
}

/// Says that every third row of the pool comes from the file `b.jsonl`, and the others from `a.jsonl`.
fn write_two_files(store: &TensorFixture) -> Result<()> {
    let pool = store.artifact("pool");
    let rows = table::read(&pool.join("instructions.parquet"))?;
    let of = UInt32Array::from_iter_values((0..ROWS as u32).map(|row| u32::from(row % 3 == 0)));
    let columns: Vec<(String, ArrayRef)> = rows
        .schema()
        .fields()
        .iter()
        .zip(rows.columns())
        .map(|(field, values)| {
            let values = if field.name() == "source" { Arc::new(of.clone()) } else { values.clone() };
            (field.name().clone(), values)
        })
        .collect();
    let columns = columns.iter().map(|(name, values)| (name.as_str(), values.clone())).collect();
    table::write(&pool.join("instructions.parquet"), &table::batch(columns)?)?;
    let sources = table::batch(vec![
        ("source", Arc::new(UInt32Array::from(vec![0, 1])) as ArrayRef),
        ("file", Arc::new(StringArray::from(vec!["a.jsonl", "b.jsonl"]))),
    ])?;
    table::write(&pool.join("sources.parquet"), &sources)
}

#[test]
fn each_file_of_the_pool_is_a_column_of_the_state() -> Result<()> {
    let store = fixture()?;
    let inputs = [INPUTS[0], ("/instructions", "pool")];
    let placed = |folder: &str, inputs: &[(&str, &str)], more: &Value| -> Result<Vec<String>> {
        let context = store.context("clusters", folder, inputs, &[])?;
        run(serde_json::from_value(more.clone())?, &context)?;
        Ok(serde_json::from_value(constants(&store, folder)?["columns"].clone())?)
    };
    let given = json!({"features": "features", "dimensions": 2, "clusters": 2, "instructions": "pool"});
    assert_eq!(placed("one", &inputs, &given)?.len(), 8, "all rows come from one file");
    write_two_files(&store)?;
    let columns = placed("two", &inputs, &given)?;
    assert_eq!(columns[8..], ["source.a.jsonl", "source.b.jsonl"]);
    let rows = store.table("two", "clusters")?;
    let ids: &UInt32Array = table::column(&rows, "id")?;
    let (state, width) = vectors(&rows, "state")?;
    for (row, id) in ids.values().iter().enumerate() {
        let [a, b] = [8, 9].map(|place| state[row * width + place] > 0.0);
        assert_eq!((a, b), (id % 3 != 0, id % 3 == 0), "row {id}");
    }

    // The names that a filter gave to some rows come before their files.
    let (path, plain) = (store.artifact("pool").join("instructions.parquet"), store.artifact("pool").join("plain"));
    std::fs::copy(&path, &plain)?;
    let names = (0..ROWS).map(|row| (row % 2 == 0).then_some("even")).collect::<StringArray>();
    let named = table::with_column(&table::read(&path)?, "source_name", &(Arc::new(names) as ArrayRef))?;
    table::write(&path, &named)?;
    assert_eq!(placed("named", &inputs, &given)?[8..], ["source.a.jsonl", "source.b.jsonl", "source.even"]);
    let named = store.table("named", "clusters")?;
    let of_named: &UInt32Array = table::column(&named, "id")?;
    let (state, width) = vectors(&named, "state")?;
    for (row, id) in of_named.values().iter().enumerate() {
        let expected = [id % 2 == 1 && id % 3 != 0, id % 2 == 1 && id % 3 == 0, id % 2 == 0];
        assert_eq!([8, 9, 10].map(|place| state[row * width + place] > 0.0), expected, "row {id}");
    }
    std::fs::rename(&plain, &path)?;

    // A pool without the file `b.jsonl`: all rows lie on one side.
    let (state, _) = vectors(&rows, "state")?;
    let (with_b, of_two) = (state.to_vec(), ids.values().to_vec());
    store.keep("two", "like")?;
    let pool = store.artifact("pool");
    let sources = table::batch(vec![
        ("source", Arc::new(UInt32Array::from(vec![0, 1])) as ArrayRef),
        ("file", Arc::new(StringArray::from(vec!["a.jsonl", "c.jsonl"]))),
    ])?;
    table::write(&pool.join("sources.parquet"), &sources)?;
    let like = [inputs[0], inputs[1], ("/like", "like")];
    let given = json!({"features": "features", "instructions": "pool", "like": "like"});
    assert_eq!(placed("other", &like, &given)?, columns);
    let other = store.table("other", "clusters")?;
    let (state, width) = vectors(&other, "state")?;
    for (row, id) in of_two.iter().enumerate() {
        let expected = with_b[row * width + 8];
        assert!((state[row * width + 8] - expected).abs() < 1e-6, "row {id}");
        assert!(state[row * width + 9] < 0.0, "no row comes from b.jsonl");
    }

    // All rows come from one file that the other stage knows.
    let sources = table::batch(vec![
        ("source", Arc::new(UInt32Array::from(vec![0, 1])) as ArrayRef),
        ("file", Arc::new(StringArray::from(vec!["b.jsonl", "b.jsonl"]))),
    ])?;
    table::write(&pool.join("sources.parquet"), &sources)?;
    placed("one_file", &like, &given)?;
    let one_file = store.table("one_file", "clusters")?;
    let (state, width) = vectors(&one_file, "state")?;
    assert!((0..one_file.num_rows()).all(|row| state[row * width + 8] < 0.0 && state[row * width + 9] > 0.0));

    let without = placed("unknown", &[inputs[0], like[2]], &json!({"features": "features", "like": "like"}));
    let said = raisin_base::error::render(&without.expect_err("the files are not known"));
    assert!(said.ends_with("hint: give this stage the `instructions`"), "{said}");
    Ok(())
}
