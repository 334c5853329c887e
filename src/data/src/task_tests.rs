use super::*;
use raisin_base::error::{anyhow, render};
use raisin_contract::Assignment;
use raisin_corpus::read_task;
use raisin_kinds::declaration;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn run_on(parameters: &Value, file: PathBuf) -> Result<raisin_corpus::Task> {
    let folder = tempfile::tempdir()?;
    let resolved = declaration("task").expect("the kind").resolve(parameters.clone());
    let resolved = resolved.map_err(|problem| anyhow!("{}: {}", problem.pointer, problem.message))?;
    let mut assignment = Assignment::for_test("task", folder.path().join("stage"), &[]);
    assignment.files.insert("/source/path".to_owned(), file);
    let context = raisin_kinds::context_for_test(assignment)?;
    super::run(serde_json::from_value(resolved.parameters)?, &context)?;
    context.check_outputs()?;
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
        assert_eq!((&messages, example.response.content.as_str()), (&turns(&example.messages[1].content), "so"));
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

#[test]
fn only_exact_copies_are_folded_and_every_record_is_counted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let record =
        |question: &str, choices: [&str; 2], gold: u64| json!({"query": question, "choices": choices, "gold": gold});
    let source = [
        record("which?", ["a", "b"], 0),
        record("which?", ["a", "b"], 0),
        record("which?", ["a", "c"], 0),
        record("which?", ["a", "b"], 1),
        record("asked by both", ["a", "b"], 0),
    ];
    let test = [
        record("asked by both", ["a", "b"], 1),
        record("x", ["a", "b"], 1),
        record("x", ["a", "b"], 1),
        record("y", ["a", "b"], 5),
    ];
    let parameters = json!({"source": {"path": "a", "format": "choices"}, "validation": 2, "test": 0,
        "test_source": {"path": "b", "format": "choices"}});
    let parameters: Parameters = serde_json::from_value(parameters)?;
    let mut intake = Intake::new(1000);
    let mut read = |name: &str, records: &[Value]| {
        let path = folder.path().join(name);
        std::fs::write(&path, jsonl(records))?;
        super::read(&parameters.source, &[(name.to_owned(), &path)], &mut intake)
    };
    let (source, test) = (read("a", &source)?, read("b", &test)?);
    let splits = split(&parameters, source, Some(test))?;
    assert_eq!((splits.validation.len(), splits.test.len(), splits.in_test_file, splits.not_drawn), (2, 2, 1, 1));
    let told = "2 validation and 2 test examples of 9 records, 1 rejected (see mmlu.rejects), 2 exact duplicates folded, \
        1 of `source` left out: `test_source` asks the same, 1 not drawn";
    assert_eq!(note(&splits, &intake, "mmlu"), told);
    let counts: Vec<_> = intake.sources.iter().map(|it| (it.records, it.accepted, it.rejected, it.folded)).collect();
    assert_eq!(counts, [(5, 4, 0, 1), (4, 2, 1, 1)]);
    Ok(())
}

#[test]
fn a_benchmark_with_too_many_wrong_records_is_refused_with_their_reason() {
    let lines: String =
        (0..20).map(|n| format!("{{\"query\":\"q{n}\",\"choices\":[\"a\",\"b\"],\"gold\":{}}}\n", n / 4)).collect();
    let parameters = json!({"source": {"path": "a", "format": "choices"}, "validation": 1, "scoring": "choice"});
    let error = render(&run(&parameters, &lines).expect_err("answers beyond the choices"));
    assert!(error.contains("12 of 20 records of a.jsonl are rejected, and 3 may be"), "{error}");
    assert!(error.contains("the answer `2` is none of the 2 choices"), "{error}");
    assert!(error.contains("max_rejected = 0.6 in stage `task`"), "{error}");
    let mut accepted = parameters;
    accepted["max_rejected"] = json!(0.6);
    accepted["test"] = json!(0);
    assert_eq!(run(&accepted, &lines).expect("a task").test.len(), 7);
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
            assert!(task.test.iter().all(|it| it.answer.map(|index| &it.choices[index]) == Some(&it.response.content)));
        }
    }
    Ok(())
}

#[test]
fn all_answers_of_a_source_say_from_where_they_count() -> Result<()> {
    let line = |n: u64, answer: u64| {
        format!("{{\"question\":\"q{n:03}\",\"choices\":[\"a\",\"b\",\"c\"],\"answer\":{answer}}}\n")
    };
    let parameters = |base: Option<u8>| {
        let source = json!({"path": "a", "format": "choices", "answer_base": base});
        json!({"source": source, "validation": 1, "test": 0, "scoring": "choice"})
    };
    let text = |task: &raisin_corpus::Task, n: u64| {
        let of = |example: &&Example| example.prompt() == format!("q{n:03}");
        task.validation.iter().chain(&task.test).find(of).map(|example| example.response.content.clone())
    };
    // The first answers fit both bases; the last one says it.
    let same: String = (0..300).map(|n| line(n, 1)).collect();
    let zero = run(&parameters(None), &(same.clone() + &line(300, 0)))?;
    assert_eq!((text(&zero, 0), text(&zero, 300)), (Some("b".into()), Some("a".into())));
    let one = run(&parameters(None), &(same.clone() + &line(300, 3)))?;
    assert_eq!((text(&one, 0), text(&one, 300)), (Some("a".into()), Some("c".into())));
    // Both bases fit all answers: numbers count from 0, and the note says so.
    assert_eq!(text(&run(&parameters(None), &same)?, 0), Some("b".into()));
    assert_eq!(text(&run(&parameters(Some(1)), &same)?, 0), Some("a".into()));
    Ok(())
}

#[test]
fn a_file_of_another_layout_is_refused_with_the_names_of_a_choice_question() {
    let parameters = json!({"source": {"path": "a", "format": "choices"}, "validation": 1});
    let error = render(&run(&parameters, "{\"stem\":\"q\",\"right\":1}\n").expect_err("no choices"));
    assert!(error.contains("name the fields with `prompt`, `choices` and `answer`"), "{error}");
}
