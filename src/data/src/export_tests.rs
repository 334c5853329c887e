use std::path::PathBuf;

use serde_json::json;

use super::*;
use raisin_base::error::render;
use raisin_contract::Assignment;
use raisin_corpus::Message;
use raisin_corpus::artifact::{PoolRow, instructions_batch};
use raisin_corpus::message::conversation;

/// Round, step, slot and id of a selected row.
type ChosenRow = (Option<u32>, u32, u32, u32);

/// Runs an export of these choices (round, step, slot, id) of a pool of four conversations.
fn run(
    parameters: Value,
    choices: &[(Option<u32>, u32, u32, u32)],
    method: &str,
) -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let [pool, selection] = ["pool", "tuned"].map(|name| folder.path().join(name));
    std::fs::create_dir_all(&pool)?;
    std::fs::create_dir_all(&selection)?;
    let turns = |texts: &[(&str, &str)]| texts.iter().map(|(role, text)| Message::new(role, *text)).collect::<Vec<_>>();
    let call = json!({"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}});
    let called = vec![
        Message::new("user", "weather?"),
        Message { tool_calls: vec![call], ..Message::new("assistant", "") },
        Message::new("tool", "rain"),
        Message::new("assistant", "It rains."),
    ];
    let tools = vec![json!({"type": "function", "function": {"name": "look"}})];
    let rows = [
        PoolRow::new(conversation(None, "q0", Some("a0")), 0, 1),
        PoolRow::new(conversation(Some("be brief"), "q1", Some("a1")), 0, 2),
        PoolRow::new(turns(&[("user", "u"), ("assistant", "v"), ("user", "w"), ("assistant", "x")]), 0, 3),
        PoolRow::with_tools(called, tools, 0, 4),
    ];
    table::write(&pool.join("instructions.parquet"), &instructions_batch(&rows)?)?;
    let column = |of: &dyn Fn(&ChosenRow) -> Option<u32>| -> ArrayRef {
        Arc::new(choices.iter().map(of).collect::<UInt32Array>())
    };
    let columns = vec![
        ("round", column(&|it| it.0)),
        ("step", column(&|it| Some(it.1))),
        ("slot", column(&|it| Some(it.2))),
        ("id", column(&|it| Some(it.3))),
    ];
    table::write(&selection.join("selection.parquet"), &table::batch(columns)?)?;
    std::fs::write(selection.join("summary.json"), json!({ "method": method }).to_string())?;
    let inputs = [("/selection", selection), ("/instructions", pool)];
    let mut assignment = Assignment::for_test("export", folder.path().join("stage"), &inputs);
    let mut given = json!({"selection": "tuned", "instructions": "pool"});
    given.as_object_mut().expect("a table").extend(parameters.as_object().cloned().unwrap_or_default());
    assignment.parameters = given.clone();
    let context = raisin_kinds::context_for_test(assignment)?;
    super::run(serde_json::from_value(given)?, &context)?;
    context.check_outputs()?;
    Ok((folder, context.out()))
}

fn lines(out: &Path, name: &str) -> Result<Vec<Value>> {
    std::fs::read_to_string(out.join(name))?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Steps of two rows: 2 and 0, then 2 and 1. The file has them in another order.
const CHOICES: [(Option<u32>, u32, u32, u32); 4] = [(None, 2, 0, 2), (None, 1, 1, 0), (None, 1, 0, 2), (None, 2, 1, 1)];

#[test]
fn each_instruction_is_written_once_in_the_order_of_its_first_choice_with_its_weight() -> Result<()> {
    let (_folder, out) = run(json!({"forms": ["messages", "sharegpt", "alpaca"]}), &CHOICES, "raise")?;
    let alpaca = lines(&out, "alpaca.jsonl")?;
    assert_eq!(
        alpaca[0],
        json!({"instruction": "w", "input": "", "output": "x", "system": "", "history": [["u", "v"]], "id": 2, "weight": 2})
    );
    assert_eq!(
        alpaca[2],
        json!({"instruction": "q1", "input": "", "output": "a1", "system": "be brief", "history": [], "id": 1, "weight": 1})
    );
    let sharegpt = lines(&out, "sharegpt.jsonl")?;
    let turns = json!([{"from": "human", "value": "q1"}, {"from": "gpt", "value": "a1"}]);
    assert_eq!(sharegpt[2], json!({"conversations": turns, "system": "be brief", "tools": null, "id": 1, "weight": 1}));
    let messages = lines(&out, "messages.jsonl")?;
    let turns = json!([{"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"}]);
    assert_eq!(messages[1], json!({"messages": turns, "id": 0, "weight": 1}));
    let exported = table::read(&out.join("exported.parquet"))?;
    let numbers =
        |name: &str| -> Result<Vec<u32>> { Ok(table::column::<UInt32Array>(&exported, name)?.values().to_vec()) };
    assert_eq!((numbers("id")?, numbers("step")?, numbers("weight")?), (vec![2, 0, 1], vec![1, 1, 2], vec![2, 1, 1]));
    let info: Value = serde_json::from_slice(&std::fs::read(out.join("dataset_info.json"))?)?;
    let names: Vec<&String> = info.as_object().expect("a table").keys().collect();
    assert_eq!(names, ["selection_messages", "selection_sharegpt", "selection_alpaca"]);
    for (name, entry) in info.as_object().expect("a table") {
        // Every column that the entry names is in every record of its file.
        let file = entry["file_name"].as_str().expect("a file");
        for column in entry["columns"].as_object().expect("columns").values() {
            let has = |record: &Value| record.get(column.as_str().unwrap_or_default()).is_some();
            assert!(lines(&out, file)?.iter().all(has), "{name}: {column}");
        }
    }
    let axolotl = std::fs::read_to_string(out.join("axolotl.yaml"))?;
    assert!(axolotl.contains("path: messages.jsonl") && axolotl.contains("field_messages: messages"), "{axolotl}");
    Ok(())
}

#[test]
fn an_instruction_can_be_written_as_often_as_it_was_chosen() -> Result<()> {
    let (_folder, out) = run(json!({"repeat": true}), &CHOICES, "raise")?;
    let ids: Vec<Value> = lines(&out, "messages.jsonl")?.iter().map(|record| record["id"].clone()).collect();
    assert_eq!(ids, [2, 0, 2, 1]);
    assert!(!out.join("alpaca.jsonl").exists());
    Ok(())
}

#[test]
fn of_a_selector_the_last_round_is_exported() -> Result<()> {
    let choices = [(Some(0), 1, 0, 0), (Some(1), 1, 0, 1), (Some(1), 2, 0, 2)];
    let (_folder, out) = run(json!({}), &choices, "")?;
    let ids: Vec<Value> = lines(&out, "messages.jsonl")?.iter().map(|record| record["id"].clone()).collect();
    assert_eq!(ids, [1, 2]);
    Ok(())
}

#[test]
fn a_form_that_cannot_hold_a_conversation_is_an_error_and_calls_of_tools_are_kept_where_they_can_be() -> Result<()> {
    let choices = [(None, 1, 0, 0), (None, 1, 1, 3)];
    let error = render(&run(json!({"forms": ["alpaca"]}), &choices, "raise").expect_err("tools"));
    let expected =
        "the form `alpaca` does not hold 1 instruction of 2, the first with the id 3: the conversation has tools";
    assert!(error.contains(expected), "{error}");
    let (_folder, out) = run(json!({"forms": ["sharegpt", "messages"]}), &choices, "raise")?;
    let turns = &lines(&out, "sharegpt.jsonl")?[1]["conversations"];
    let from: Vec<&str> = turns.as_array().expect("turns").iter().filter_map(|turn| turn["from"].as_str()).collect();
    assert_eq!(from, ["human", "function_call", "observation", "gpt"]);
    assert_eq!(turns[1]["value"], "{\"name\":\"look\",\"arguments\":{\"at\":\"sky\"}}");
    assert_eq!(lines(&out, "messages.jsonl")?[1]["tools"][0]["function"]["name"], "look");
    Ok(())
}

#[test]
fn a_selection_that_is_not_of_the_pool_is_refused() {
    let said = |choices: &[(Option<u32>, u32, u32, u32)], method: &str| {
        render(&run(json!({}), choices, method).map(drop).expect_err("no rows of the pool"))
    };
    assert!(said(&CHOICES, "validation").contains("the method `validation` selects validation examples"));
    assert!(said(&[(None, 1, 0, 4)], "raise").contains("the selection names the instruction 4, and the pool has 4"));
    assert!(said(&[], "raise").contains("the selection has no row"));
}
