use super::*;
use raisin_base::error::{anyhow, render};
use raisin_contract::Assignment;
use raisin_corpus::read_task;
use raisin_kinds::declaration;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn run_on(parameters: &Value, file: PathBuf) -> Result<raisin_corpus::Task> {
    let folder = tempfile::tempdir()?;
    let resolved = declaration("task").expect("the kind").resolve(parameters.clone());
    let resolved = resolved.map_err(|problem| anyhow!("{}: {}", problem.pointer, problem.message))?;
    let mut assignment = Assignment::for_test("task", folder.path().join("stage"), &[]);
    assignment.files.insert("/source/path".to_owned(), file);
    let context = Context::silent(assignment)?;
    super::run(serde_json::from_value(resolved.parameters)?, &context)?;
    read_task(&context.out())
}

fn run(parameters: &Value, lines: &str) -> Result<raisin_corpus::Task> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, lines)?;
    run_on(parameters, path)
}

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{{\"question\":\"q{n:03}\",\"answer\":\"a\"}}\n")).collect()
}

#[test]
fn the_test_set_is_the_rest_and_shares_no_question_with_validation() -> Result<()> {
    let parameters = json!({"source": {"path": "a.jsonl"}, "validation": 30, "test": 0});
    let task = run(&parameters, &(lines(100) + &lines(20)))?;
    assert_eq!((task.validation.len(), task.test.len()), (30, 70));
    let validation: BTreeSet<&str> = task.validation.iter().map(Example::prompt).collect();
    assert!(task.test.iter().all(|example| !validation.contains(example.prompt())));
    assert!(task.validation.iter().map(Example::prompt).is_sorted());
    let again = run(&parameters, &(lines(100) + &lines(20)))?;
    assert_eq!(task, again);
    let mut other = parameters;
    other["draw_seed"] = json!(1);
    assert_ne!(task.validation, run(&other, &lines(100))?.validation);
    Ok(())
}

#[test]
fn a_draw_of_more_examples_than_the_file_has_is_an_error_with_both_counts() {
    let asked = |validation: usize, test: usize| {
        let parameters = json!({"source": {"path": "a.jsonl"}, "validation": validation, "test": test});
        render(&run(&parameters, &lines(50)).expect_err("too many"))
    };
    assert!(asked(51, 1).contains("51 validation examples were asked for, and a.jsonl has 50"));
    assert!(
        asked(40, 11).contains("11 test examples were asked for, and a.jsonl has 10 beside the validation examples")
    );
    assert!(asked(50, 0).contains("and a.jsonl has 0"));
}

/// The text of a file with one record on each line.
fn jsonl(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

#[test]
fn a_conversation_of_several_turns_is_unchanged_in_the_task() -> Result<()> {
    let turns = |first: &str| {
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": first},
            {"role": "assistant", "content": "noted"}, {"role": "user", "content": "and so?"}])
    };
    let with_response = |first: &str| {
        let mut turns = turns(first);
        turns.as_array_mut().expect("a list").push(json!({"role": "assistant", "content": "so"}));
        json!({"messages": turns})
    };
    // The last turns are equal. Only the histories differ.
    let records: Vec<Value> = (0..6).map(|n| with_response(&format!("cat {n}"))).collect();
    let parameters = json!({"source": {"path": "a.jsonl", "format": "messages"}, "validation": 3, "test": 0});
    let task = run(&parameters, &jsonl(&records))?;
    assert_eq!((task.validation.len(), task.test.len()), (3, 3));
    let mut read = BTreeSet::new();
    for example in task.validation.iter().chain(&task.test) {
        let messages = serde_json::to_value(&example.messages)?;
        assert_eq!((&messages, example.response.as_str()), (&turns(&example.messages[1].content), "so"));
        read.insert(example.messages[1].content.clone());
    }
    assert_eq!(read.len(), 6);

    let sharegpt = json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
        {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]});
    let alpaca = json!({"instruction": "c", "output": "d", "history": [["a", "b"]]});
    for (format, record) in [("sharegpt", sharegpt), ("alpaca", alpaca)] {
        let other = json!({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
            "instruction": "x", "output": "y"});
        let parameters = json!({"source": {"path": "a.jsonl", "format": format}, "validation": 1, "test": 1});
        let task = run(&parameters, &jsonl(&[record, other]))?;
        let mut lengths = [task.validation[0].messages.len(), task.test[0].messages.len()];
        lengths.sort_unstable();
        assert_eq!(lengths, [1, 3], "{format}");
    }
    Ok(())
}

fn choices(question: &str, choices: [&str; 2], answer: u64) -> Example {
    Example {
        id: 0,
        messages: raisin_corpus::message::conversation(None, question, None),
        response: choices[answer as usize].to_owned(),
        choices: choices.map(str::to_owned).to_vec(),
        answer: Some(answer as usize),
    }
}

#[test]
fn only_exact_copies_are_folded_and_the_note_has_their_number() -> Result<()> {
    let parameters = json!({"source": {"path": "a.jsonl"}, "test_source": {"path": "b"}, "validation": 3, "test": 0});
    let parameters: Parameters = serde_json::from_value(parameters)?;
    let source = vec![
        choices("which?", ["a", "b"], 0),
        choices("which?", ["a", "b"], 0),
        choices("which?", ["a", "c"], 0),
        choices("which?", ["a", "b"], 1),
        choices("asked by both", ["a", "b"], 0),
    ];
    let test = vec![choices("asked by both", ["a", "b"], 1), choices("x", ["a", "b"], 1), choices("x", ["a", "b"], 1)];
    let splits = split(&parameters, source, Some(test))?;
    assert_eq!((splits.validation.len(), splits.test.len(), splits.copies, splits.in_test_file), (3, 2, 2, 1));
    let told = "3 validation and 2 test examples, 4 rejected (see mmlu.rejects), 2 exact duplicates folded, \
        1 of `source` left out: `test_source` asks the same";
    assert_eq!(note(&splits, 4, "mmlu"), told);
    Ok(())
}

#[test]
fn examples_with_the_same_question_lie_in_one_set_even_if_their_answers_differ() -> Result<()> {
    let record = |n: usize, answer: &str| json!({"question": format!("q{n}"), "answer": answer});
    let records: Vec<Value> = (0..40).flat_map(|n| [record(n, "yes"), record(n, "no")]).collect();
    for draw_seed in 0..4 {
        let parameters = json!({"source": {"path": "a.jsonl"}, "validation": 20, "test": 0, "draw_seed": draw_seed});
        let task = run(&parameters, &jsonl(&records))?;
        let asked: BTreeSet<&str> = task.validation.iter().map(Example::prompt).collect();
        assert!(task.test.iter().all(|example| !asked.contains(example.prompt())));
        assert_eq!(task.test.len(), 2 * (40 - asked.len()), "both answers of the other questions");
    }
    Ok(())
}

/// Every published benchmark of the test data, with the counts of its publisher.
#[test]
#[ignore = "needs RAISIN_DATA, a folder of published files: RAISIN_DATA=... cargo test -- --ignored"]
fn published_benchmarks_are_read_whole() -> Result<()> {
    let folder = std::env::var("RAISIN_DATA").map(PathBuf::from)?;
    let letters = json!(["A", "B", "C", "D"]);
    for (file, source, scoring, total) in [
        ("eval/gsm8k_test.jsonl", json!({"format": "qa", "prompt": "question", "response": "answer"}), "match", 1319),
        ("eval/csqa_dev_rand_split.jsonl", json!({"format": "csqa"}), "choice", 1221),
        ("eval/csqa_dev_rand_split.jsonl", json!({"format": "csqa", "style": "letters"}), "choice", 1221),
        ("eval/foundry_arc_challenge.jsonl", json!({"format": "choices"}), "choice", 1172),
        ("eval/llmadapters_arc_challenge_test.json", json!({"format": "adapters"}), "choice", 1172),
        ("eval/llmadapters_arc_challenge_test.json", json!({"format": "alpaca"}), "loss", 1172),
        ("eval/svamp.json", json!({"format": "qa", "prompt": "Body+Question", "response": "Answer"}), "match", 1000),
        (
            "eval/zero_shot_mmlu_val.json",
            json!({"format": "qa", "prompt": "input", "response": "output", "fixed_choices": letters}),
            "choice",
            1531,
        ),
    ] {
        let mut source = source;
        source["path"] = json!(file);
        let parameters = json!({"source": source, "scoring": scoring, "validation": 64, "test": 0});
        let task = run_on(&parameters, folder.join(file))?;
        let kept = task.validation.len() + task.test.len();
        println!("{file}: {kept} of {total}; {:?}", task.test[0]);
        // A few questions are published twice.
        assert!(kept <= total && kept + 10 >= total, "{file}: {kept} of {total}");
        if scoring == "choice" {
            assert!(task.test.iter().all(|it| it.answer.map(|index| &it.choices[index]) == Some(&it.response)));
        }
    }
    Ok(())
}
