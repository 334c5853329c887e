use arrow_array::Array as _;
use serde_json::{Value, json};

use super::*;
use crate::fixture::DataFixture;
use raisin_base::error::render;
use raisin_corpus::artifact::{PoolRow, instructions_batch};
use raisin_corpus::byte_tokenizer;
use raisin_corpus::intake::{SourceSummary, sources_batch};
use raisin_corpus::message::conversation;
use raisin_corpus::read_instructions;

/// An artifact with this number of instructions, whose responses are a letter, and whose rows alternate between two files.
fn pool(store: &DataFixture, name: &str, rows: usize) -> Result<()> {
    std::fs::create_dir(store.artifact(name))?;
    let row = |row: usize| {
        PoolRow::new(conversation(None, &format!("{name} {row:03}"), Some("x")), (row % 2) as u32, row as u64 + 1)
    };
    let rows: Vec<PoolRow> = (0..rows).map(row).collect();
    table::write(&store.artifact(name).join("instructions.parquet"), &instructions_batch(&rows)?)?;
    let files = [SourceSummary::made("train.jsonl", 1), SourceSummary::made("more.jsonl", 1)];
    table::write(&store.artifact(name).join("sources.parquet"), &sources_batch(&files)?)
}

fn store() -> Result<DataFixture> {
    let store = DataFixture::new()?;
    pool(&store, "a", 60)?;
    pool(&store, "b", 20)?;
    Ok(store)
}

const INPUTS: [(&str, &str); 3] = [("/pools/a/instructions", "a"), ("/pools/b/instructions", "b"), ("/model", "model")];

fn run(store: &DataFixture, folder: &str, a: &Value, b: &Value, more: &Value) -> Result<()> {
    let pool = |name: &str, part: &Value| {
        let mut pool = json!({"instructions": name});
        pool.as_object_mut().unwrap().extend(part.as_object().cloned().unwrap_or_default());
        pool
    };
    let mut parameters = json!({"pools": {"a": pool("a", a), "b": pool("b", b)}});
    parameters.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let context = store.context("mix", folder, &INPUTS)?;
    super::run(serde_json::from_value(parameters)?, &context)?;
    context.check_outputs()
}

fn texts(rows: &RecordBatch, name: &str) -> Vec<String> {
    table::column::<StringArray>(rows, name).unwrap().iter().map(|text| text.unwrap().to_owned()).collect()
}

fn numbers(rows: &RecordBatch, name: &str) -> Vec<u64> {
    table::column::<UInt64Array>(rows, name).unwrap().values().to_vec()
}

#[test]
fn a_mix_has_the_declared_part_of_each_pool_and_every_row_is_traced() -> Result<()> {
    let store = store()?;
    run(&store, "stage", &json!({"share": 3}), &json!({"share": 1}), &json!({"size": 40}))?;
    let rows = store.table("stage", "instructions")?;
    assert_eq!(table::column::<UInt32Array>(&rows, "id")?.values(), &(0..40).collect::<Vec<u32>>()[..]);
    let pools = texts(&rows, "pool");
    assert_eq!(pools.iter().filter(|pool| *pool == "a").count(), 30);
    assert!(pools.is_sorted(), "the pools follow each other");
    let ids: &UInt32Array = table::column(&rows, "pool_id")?;
    for ((pool, id), prompt) in pools.iter().zip(ids.values()).zip(texts(&rows, "prompt")) {
        assert_eq!(prompt, format!("{pool} {id:03}"));
    }
    // The number of a file leads to the file of the row's own pool.
    let files = texts(&store.table("stage", "sources")?, "file");
    assert_eq!(files, ["a/train.jsonl", "a/more.jsonl", "b/train.jsonl", "b/more.jsonl"]);
    let sources: &UInt32Array = table::column(&rows, "source")?;
    for ((pool, id), source) in pools.iter().zip(ids.values()).zip(sources.values()) {
        let file = if id % 2 == 0 { "train.jsonl" } else { "more.jsonl" };
        assert_eq!(files[*source as usize], format!("{pool}/{file}"));
    }
    let mix = store.table("stage", "mix")?;
    assert_eq!((numbers(&mix, "amount"), numbers(&mix, "distinct_rows")), (vec![30, 10], vec![30, 10]));
    assert_eq!(table::column::<Float64Array>(&mix, "share")?.values(), &[0.75, 0.25]);
    assert_eq!(read_instructions(&store.artifact("stage").join("out"))?.len(), 40);
    Ok(())
}

#[test]
fn a_part_takes_the_rows_of_a_source_and_prefers_rows_of_a_larger_weight() -> Result<()> {
    let store = store()?;
    // Of `a`, every third row has the source `x`, and every sixth a weight.
    let path = store.artifact("a").join("instructions.parquet");
    let names = (0..60).map(|row| (row % 3 == 0).then_some("x")).collect::<StringArray>();
    let weights = (0..60).map(|row| (row % 6 == 0).then_some(1e9)).collect::<Float64Array>();
    let named = table::with_column(&table::read(&path)?, "source_name", &(Arc::new(names) as ArrayRef))?;
    table::write(&path, &table::with_column(&named, "weight", &(Arc::new(weights) as ArrayRef))?)?;
    run(&store, "stage", &json!({"source": "x", "take": 10}), &json!({"take": 5}), &json!({}))?;
    let rows = store.table("stage", "instructions")?;
    let ids: &UInt32Array = table::column(&rows, "pool_id")?;
    assert_eq!(ids.values()[..10], [0, 6, 12, 18, 24, 30, 36, 42, 48, 54]);
    // The rows of the other pool have neither.
    let (names, weights): (&StringArray, &Float64Array) =
        (table::column(&rows, "source_name")?, table::column(&rows, "weight")?);
    assert!(names.iter().take(10).all(|name| name == Some("x")) && names.null_count() == 5);
    assert!(weights.iter().take(10).all(|weight| weight == Some(1e9)) && weights.null_count() == 5);
    assert_eq!(numbers(&store.table("stage", "mix")?, "pool_rows"), [20, 20]);
    let said = render(&run(&store, "none", &json!({"source": "nothing of it"}), &json!({}), &json!({})).unwrap_err());
    assert!(
        said.contains("no row of the pool `a` has the source `nothing of it`") && said.contains("there are x"),
        "{said}"
    );
    let said = render(&run(&store, "no_names", &json!({}), &json!({"source": "x"}), &json!({})).unwrap_err());
    assert!(said.contains("a `filter` names sources"), "{said}");
    Ok(())
}

#[test]
fn rows_are_repeated_only_if_the_passes_allow_it() -> Result<()> {
    let store = store()?;
    let equal = (json!({"share": 1}), json!({"share": 1}));
    let error = render(&run(&store, "once", &equal.0, &equal.1, &json!({"size": 100})).unwrap_err());
    assert!(
        error.contains("the mix needs 50 of the pool `b`, which has 20") && error.contains("passes = 3"),
        "{error}"
    );
    run(&store, "thrice", &equal.0, &equal.1, &json!({"size": 100, "passes": 3}))?;
    let mix = store.table("thrice", "mix")?;
    assert_eq!(numbers(&mix, "rows"), [50, 50]);
    assert_eq!((numbers(&mix, "distinct_rows"), numbers(&mix, "most_copies")), (vec![50, 20], vec![1, 3]));
    Ok(())
}

#[test]
fn the_rows_of_a_pool_do_not_depend_on_the_other_pools() -> Result<()> {
    let store = store()?;
    let of_a = |folder: &str| -> Result<Vec<String>> {
        let prompts = texts(&store.table(folder, "instructions")?, "prompt");
        Ok(prompts.into_iter().filter(|prompt| prompt.starts_with('a')).collect())
    };
    run(&store, "one", &json!({"take": 12}), &json!({"take": 3}), &json!({}))?;
    run(&store, "two", &json!({"take": 12}), &json!({"take": 9}), &json!({}))?;
    assert_eq!(of_a("one")?, of_a("two")?);
    assert_eq!(of_a("one")?.len(), 12);
    Ok(())
}

#[test]
fn amounts_are_counted_in_characters_and_in_tokens() -> Result<()> {
    let store = store()?;
    // A row has a prompt of five characters and a response of one.
    run(&store, "characters", &json!({}), &json!({}), &json!({"unit": "characters", "size": 120}))?;
    let mix = store.table("characters", "mix")?;
    assert_eq!((numbers(&mix, "available"), numbers(&mix, "amount")), (vec![360, 120], vec![90, 30]));
    assert_eq!(numbers(&mix, "rows"), [15, 5]);
    // The byte tokenizer makes a token of each byte, and the plain template adds a line break and an end.
    std::fs::create_dir(store.artifact("model"))?;
    byte_tokenizer::write(&store.artifact("model"), 512)?;
    run(&store, "tokens", &json!({"take": 80}), &json!({"take": 16}), &json!({"unit": "tokens", "model": "model"}))?;
    let mix = store.table("tokens", "mix")?;
    let (available, rows) = (numbers(&mix, "available"), numbers(&mix, "pool_rows"));
    let of_row = available[0] / rows[0];
    assert!(of_row >= 7, "{of_row} tokens a row");
    assert_eq!(available, [60 * of_row, 20 * of_row]);
    let amounts = numbers(&mix, "amount");
    assert!(amounts[0].abs_diff(80) * 2 <= of_row && amounts[1].abs_diff(16) * 2 <= of_row, "{amounts:?}");
    Ok(())
}

#[test]
fn a_mix_of_nothing_is_refused() -> Result<()> {
    let store = store()?;
    let error = run(&store, "stage", &json!({"take": 1}), &json!({"take": 2}), &json!({"unit": "characters"}));
    let error = render(&error.unwrap_err());
    assert!(error.contains("the mix has no row"), "{error}");
    Ok(())
}
