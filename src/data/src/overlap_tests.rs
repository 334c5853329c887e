use arrow_array::UInt64Array;
use serde_json::json;

use super::*;
use crate::fixture::DataFixture;
use raisin_base::error::render;
use raisin_corpus::artifact::{PoolRow, examples_batch, instructions_batch};
use raisin_corpus::left_out::leave_out;
use raisin_corpus::message::conversation;

const SEA: &str = "How many sailors did the seven ships carry over the sea in March?";
const HEN: &str = "A hen lays three eggs a day: how many eggs are that in a week of rain?";

/// A task with two test examples (the hen, the plural of ox) and one validation example (the sea), and a pool of these
/// prompts.
fn store(prompts: &[&str]) -> Result<DataFixture> {
    let store = DataFixture::new()?;
    let row = |(line, prompt): (u64, &&str)| PoolRow::new(conversation(None, prompt, Some("I do not know.")), 0, line);
    let rows: Vec<PoolRow> = (1..).zip(prompts).map(row).collect();
    table::write(&store.artifact("pool").join("instructions.parquet"), &instructions_batch(&rows)?)?;
    write_split(&store, "test", &[HEN, "Plural of ox?"])?;
    write_split(&store, "validation", &[SEA])?;
    Ok(store)
}

fn write_split(store: &DataFixture, split: &str, prompts: &[&str]) -> Result<()> {
    let example = |(id, prompt): (u32, &&str)| Example::open(id, conversation(None, prompt, None), "none");
    let examples: Vec<Example> = (0..).zip(prompts).map(example).collect();
    table::write(&store.artifact("task").join(format!("{split}.parquet")), &examples_batch(&examples)?)
}

fn run(store: &DataFixture, folder: &str, more: serde_json::Value) -> Result<()> {
    let mut parameters = json!({"instructions": "pool", "task": "task", "ngram": 5});
    parameters.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let context = store.context("overlap", folder, &[("/instructions", "pool"), ("/task", "task")])?;
    super::run(serde_json::from_value(parameters)?, &context)?;
    context.check_outputs()
}

const POOL: [&str; 5] = [
    "What is rain?",
    "Write on: a hen lays three eggs a day, always",
    "plural of OX",
    "Plural of ox and cow?",
    "Did the seven ships carry over the sea?",
];

#[test]
fn every_overlapping_pair_is_listed_with_its_shared_text() -> Result<()> {
    let store = store(&POOL)?;
    run(&store, "run", json!({}))?;
    let rows = store.table("run", "overlap")?;
    let numbers =
        |name: &str| Ok::<_, raisin_base::error::Error>(table::column::<UInt32Array>(&rows, name)?.values().to_vec());
    assert_eq!(numbers("pool_id")?, [1, 2, 4]);
    assert_eq!(numbers("example")?, [0, 1, 0]);
    assert_eq!(numbers("shared")?, [3, 1, 4]);
    let splits: &StringArray = table::column(&rows, "split")?;
    assert_eq!(splits.iter().flatten().collect::<Vec<_>>(), ["test", "test", "validation"]);
    let shares: &Float64Array = table::column(&rows, "share")?;
    assert_eq!(shares.values(), &[3.0 / 13.0, 1.0, 4.0 / 9.0]);
    let texts: &StringArray = table::column(&rows, "text")?;
    let expected = ["a hen lays three eggs a day", "plural of ox", "did the seven ships carry over the sea"];
    assert_eq!(texts.iter().flatten().collect::<Vec<_>>(), expected);

    let summary = store.table("run", "overlap_summary")?;
    let numbers = |name: &str| {
        Ok::<_, raisin_base::error::Error>(table::column::<UInt32Array>(&summary, name)?.values().to_vec())
    };
    assert_eq!(numbers("examples")?, [2, 1, 3], "test, validation, both");
    assert_eq!(numbers("overlapping")?, [2, 1, 3]);
    assert_eq!(numbers("pool_rows")?, [2, 1, 3]);
    Ok(())
}

#[test]
fn the_remaining_pool_has_new_ids_and_keeps_the_old_ids() -> Result<()> {
    let store = store(&POOL)?;
    for (drop, left) in [("none", &[0, 1, 2, 3, 4][..]), ("test", &[0, 3, 4]), ("both", &[0, 3])] {
        run(&store, drop, json!({"drop": drop}))?;
        let pool = read_instructions(&store.artifact(drop).join("out"))?;
        assert_eq!(pool.iter().map(|row| row.id).collect::<Vec<_>>(), (0..left.len() as u32).collect::<Vec<_>>());
        let prompts: Vec<&str> = left.iter().map(|&row: &u32| POOL[row as usize]).collect();
        assert_eq!(pool.iter().map(Instruction::prompt).collect::<Vec<_>>(), prompts, "{drop}");
        let rows = store.table(drop, "instructions")?;
        assert_eq!(table::column::<UInt32Array>(&rows, "pool_id")?.values(), left);
        // The column `line` stays, because scores from a file belong to an instruction by its line.
        let lines = left.iter().map(|&row| u64::from(row) + 1);
        assert!(table::column::<UInt64Array>(&rows, "line")?.values().iter().copied().eq(lines));
    }
    Ok(())
}

#[test]
fn a_pool_in_which_every_row_overlaps_is_an_error_unless_drop_is_none() -> Result<()> {
    let store = store(&["plural of ox", HEN])?;
    let said = render(&run(&store, "run", json!({})).expect_err("nothing is left"));
    assert!(said.contains("every instruction overlaps an example") && said.contains("drop = \"none\""), "{said}");
    run(&store, "run", json!({"drop": "none"}))?;
    assert_eq!(store.table("run", "instructions")?.num_rows(), 2);
    Ok(())
}

#[test]
fn examples_that_overlap_are_left_out_of_their_own_task_only() -> Result<()> {
    let store = store(&POOL[..2])?;
    run(&store, "run", json!({}))?;
    store.keep("run", "found")?;
    let (found, read) = (store.artifact("found"), || read_task(&store.artifact("task")));
    let mut task = read()?;
    assert_eq!(leave_out(&found, Split::Test, &mut task)?, 1);
    assert_eq!(task.test.iter().map(|example| example.id).collect::<Vec<_>>(), [1], "ids stay");
    assert_eq!((leave_out(&found, Split::Validation, &mut task)?, task.validation.len()), (0, 1));

    write_split(&store, "test", &[HEN, "Plural of cow?"])?;
    let said = render(&leave_out(&found, Split::Test, &mut read()?).expect_err("another task"));
    assert!(said.contains("found with other test examples than these"), "{said}");
    assert_eq!(leave_out(&found, Split::Validation, &mut read()?)?, 0);
    write_split(&store, "test", &[HEN])?;
    run(&store, "run", json!({}))?;
    let all = leave_out(&store.artifact("run").join("out"), Split::Test, &mut read()?);
    assert!(render(&all.expect_err("all of them")).contains("every test example overlaps the pool"));
    Ok(())
}
