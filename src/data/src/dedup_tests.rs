use serde_json::{Value, json};

use super::*;
use crate::fixture::DataFixture;
use arrow_array::types::Float32Type;
use raisin_base::error::render;
use raisin_corpus::artifact::{PoolRow, instructions_batch};
use raisin_corpus::message::conversation;
use raisin_corpus::read_instructions;

/// A store whose pool has these prompts and responses.
fn store(rows: &[(&str, &str)]) -> Result<DataFixture> {
    let store = DataFixture::new()?;
    let row = |(line, (prompt, response)): (u64, &(&str, &str))| {
        PoolRow::new(conversation(None, prompt, Some(response)), 0, line)
    };
    let rows: Vec<PoolRow> = (1..).zip(rows).map(row).collect();
    table::write(&store.artifact("pool").join("instructions.parquet"), &instructions_batch(&rows)?)?;
    Ok(store)
}

fn run(store: &DataFixture, folder: &str, more: &Value) -> Result<()> {
    let mut parameters = json!({"instructions": "pool"});
    parameters.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let context = store.context("dedup", folder, &[("/instructions", "pool")])?;
    super::run(serde_json::from_value(parameters)?, &context)?;
    context.check_outputs()
}

fn ids(store: &DataFixture, folder: &str, name: &str, column: &str) -> Vec<u32> {
    let rows = store.table(folder, name).unwrap();
    table::column::<UInt32Array>(&rows, column).unwrap().values().to_vec()
}

/// Features of the pool with these embeddings.
fn write_features(store: &DataFixture, embeddings: Vec<Option<Vec<Option<f32>>>>) -> Result<()> {
    let ids: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..embeddings.len() as u32));
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(embeddings, 3);
    std::fs::create_dir_all(store.artifact("features"))?;
    let path = store.artifact("features").join("features.parquet");
    table::write(&path, &table::batch(vec![("id", ids), ("embedding", Arc::new(vectors))])?)
}

#[test]
fn rows_with_near_embeddings_are_semantic_duplicates() -> Result<()> {
    let store = store(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")])?;
    let vector = |values: [f32; 3]| Some(values.map(Some).to_vec());
    let embeddings =
        vec![vector([9.0, 1.0, 5.0]), vector([1.0, 9.0, 5.0]), vector([9.1, 1.0, 5.1]), None, vector([1.0, 1.0, 5.0])];
    write_features(&store, embeddings)?;
    let run = |folder: &str| {
        let parameters = json!({"instructions": "pool", "by": "semantic", "features": "features", "threshold": 0.9});
        let inputs = [("/instructions", "pool"), ("/features", "features")];
        let context = store.context("dedup", folder, &inputs)?;
        super::run(serde_json::from_value(parameters)?, &context)?;
        context.check_outputs()
    };
    run("out")?;
    assert_eq!(ids(&store, "out", "instructions", "pool_id"), [0, 1, 3, 4]);
    assert_eq!(ids(&store, "out", "duplicates", "pool_id"), [2]);
    let summary = store.table("out", "dedup_summary")?;
    assert_eq!(table::column::<UInt64Array>(&summary, "without_text")?.value(0), 1, "the row without an embedding");
    write_features(&store, vec![vector([1.0, 2.0, 3.0]); 4])?;
    let said = render(&run("other").expect_err("features of another pool"));
    assert!(said.contains("the features are of 4 instructions, and the pool has 5"), "{said}");
    Ok(())
}

#[test]
fn a_chain_of_embeddings_leaves_out_no_row_that_is_unlike_the_row_that_stays() -> Result<()> {
    let store = store(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")])?;
    // Rows 0, 1 and 2 lie 20 degrees apart, row 3 opposite, so that the mean is near the origin.
    let at = |degrees: f32| Some(vec![Some(degrees.to_radians().cos()), Some(degrees.to_radians().sin()), Some(0.0)]);
    let opposite = Some(vec![Some(-2.8), Some(-0.96), Some(0.0)]);
    write_features(&store, vec![at(0.0), at(20.0), at(40.0), opposite])?;
    let parameters = json!({"instructions": "pool", "by": "semantic", "features": "features", "threshold": 0.9});
    let context = store.context("dedup", "out", &[("/instructions", "pool"), ("/features", "features")])?;
    super::run(serde_json::from_value(parameters)?, &context)?;
    assert_eq!(ids(&store, "out", "instructions", "pool_id"), [0, 2, 3], "row 2 is alike to row 1 alone");
    assert_eq!(ids(&store, "out", "duplicates", "kept_pool_id"), [0]);
    Ok(())
}

const LONG: &str = "Describe in a few sentences how the water of a river comes from the mountains to the sea and why it \
                    carries so much sand and clay with it on the way";

fn rows() -> Vec<(&'static str, &'static str)> {
    vec![
        ("Name a colour.", "blue"),
        (LONG, "Rain falls."),
        ("name a COLOUR", "Blue!"),
        ("Name a colour.", "red"),
        (
            "Describe in a few sentences how the water of a river comes from the mountains to the sea and why it carries so \
          much sand and clay with it on the long way",
            "Rain falls.",
        ),
        ("?", "!"),
        ("Name a colour.", "blue"),
        ("?", "!"),
    ]
}

#[test]
fn each_kind_of_duplicate_is_found() -> Result<()> {
    let store = store(&rows())?;
    run(&store, "exact", &json!({"by": "exact"}))?;
    assert_eq!(ids(&store, "exact", "instructions", "pool_id"), [0, 1, 2, 3, 4, 5]);
    run(&store, "normalised", &json!({"by": "normalised"}))?;
    assert_eq!(ids(&store, "normalised", "instructions", "pool_id"), [0, 1, 3, 4, 5, 7], "rows without words stay");
    run(&store, "prompts", &json!({"by": "normalised", "of": "prompt"}))?;
    assert_eq!(ids(&store, "prompts", "instructions", "pool_id"), [0, 1, 4, 5, 7]);
    run(&store, "responses", &json!({"by": "exact", "of": "response"}))?;
    assert_eq!(ids(&store, "responses", "instructions", "pool_id"), [0, 1, 2, 3, 5]);
    run(&store, "near", &json!({}))?;
    assert_eq!(ids(&store, "near", "instructions", "pool_id"), [0, 1, 3, 5, 7]);
    assert_eq!(ids(&store, "near", "instructions", "id"), [0, 1, 2, 3, 4]);
    assert_eq!(read_instructions(&store.artifact("near").join("out"))?[1].prompt(), LONG);
    Ok(())
}

#[test]
#[expect(clippy::float_cmp, reason = "quotients of small whole numbers are exact")]
fn every_row_that_is_left_out_names_the_row_that_stays() -> Result<()> {
    let store = store(&rows())?;
    run(&store, "near", &json!({}))?;
    assert_eq!(ids(&store, "near", "duplicates", "pool_id"), [2, 4, 6]);
    assert_eq!(ids(&store, "near", "duplicates", "kept_pool_id"), [0, 1, 0]);
    assert_eq!(ids(&store, "near", "duplicates", "kept_id"), [0, 1, 0]);
    let rows = store.table("near", "duplicates")?;
    let similarity = table::column::<Float64Array>(&rows, "similarity")?.values().to_vec();
    assert!(similarity[0] == 1.0 && similarity[2] == 1.0 && (0.8..1.0).contains(&similarity[1]), "{similarity:?}");
    let summary = store.table("near", "dedup_summary")?;
    let number = |name: &str| table::column::<UInt64Array>(&summary, name).unwrap().value(0);
    assert_eq!(
        [number("rows"), number("kept"), number("left_out"), number("groups"), number("largest")],
        [8, 5, 3, 2, 3]
    );
    assert_eq!((number("without_text"), number("checked")), (2, 8));
    // Pairs: three of the colour, one of the river.
    assert_eq!((number("true_pairs"), number("found_pairs"), number("joined_pairs")), (4, 4, 4));
    assert_eq!(table::column::<Float64Array>(&summary, "recall")?.value(0), 1.0);
    Ok(())
}

#[test]
fn the_longest_row_of_a_group_can_stay() -> Result<()> {
    let store = store(&rows())?;
    run(&store, "near", &json!({"keep": "longest"}))?;
    assert_eq!(ids(&store, "near", "instructions", "pool_id"), [0, 3, 4, 5, 7]);
    Ok(())
}

#[test]
fn a_preferred_pool_keeps_its_rows() -> Result<()> {
    let store = store(&rows())?;
    let path = store.artifact("pool").join("instructions.parquet");
    let error = render(&run(&store, "none", &json!({"prefer": ["good"]})).unwrap_err());
    assert!(error.contains("the instructions do not come from a `mix`"), "{error}");
    let of_pool = table::read(&path)?;
    let schema = of_pool.schema();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let mut columns: Vec<(&str, ArrayRef)> = names.zip(of_pool.columns().iter().cloned()).collect();
    let pools = ["bad", "bad", "good", "good", "good", "bad", "good", "bad"];
    columns.push(("pool", Arc::new(StringArray::from_iter_values(pools))));
    table::write(&path, &table::batch(columns)?)?;
    run(&store, "stage", &json!({"prefer": ["good"]}))?;
    assert_eq!(ids(&store, "stage", "instructions", "pool_id"), [2, 3, 4, 5, 7]);
    let error = render(&run(&store, "wrong", &json!({"prefer": ["goad"]})).unwrap_err());
    assert!(error.contains("no row comes from it") && error.contains("did you mean `good`?"), "{error}");
    Ok(())
}
