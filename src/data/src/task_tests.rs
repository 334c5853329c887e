use super::*;
use raisin_base::error::render;
use raisin_contract::Kind as _;
use raisin_contract::{Assignment, DType, DeviceKind, Environment};
use raisin_corpus::read_task;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn run_on(parameters: &Value, files: BTreeMap<String, PathBuf>) -> Result<raisin_corpus::Task> {
    let folder = tempfile::tempdir()?;
    let typed: Parameters = serde_json::from_value(parameters.clone())?;
    raisin_kinds::task::Task::check(&typed)
        .map_err(|problem| raisin_base::error::anyhow!("{}: {}", problem.pointer, problem.message))?;
    let context = Context::silent(Assignment {
        kind: "task".into(),
        stage: "task".into(),
        parameters: parameters.clone(),
        stages: BTreeMap::new(),
        files,
        seed: 17,
        environment: Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 },
        threads: 1,
        folder: folder.path().join("stage"),
    })?;
    super::run(typed, &context)?;
    read_task(&context.out())
}

fn run(parameters: &Value, lines: &str) -> Result<raisin_corpus::Task> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, lines)?;
    run_on(parameters, BTreeMap::from([("/source/path".to_owned(), path)]))
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
fn more_examples_than_there_are_is_refused_with_the_count() {
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

#[test]
fn impossible_combinations_are_refused_before_anything_runs() {
    let pointer = |parameters: Value| {
        raisin_kinds::task::Task::check(&serde_json::from_value(parameters).expect("parameters"))
            .expect_err("refused")
            .pointer
    };
    assert_eq!(pointer(json!({"source": {"path": "a"}, "scoring": "choice"})), "/source/format");
    assert_eq!(pointer(json!({"source": {"path": "a"}, "extract": "gsm8k"})), "/extract");
    assert_eq!(pointer(json!({"source": {"path": "a", "format": "qa", "answer": "x"}})), "/source/answer");
    assert_eq!(pointer(json!({"source": {"path": "a", "format": "csqa", "prompt": "x"}})), "/source/prompt");
    assert_eq!(pointer(json!({"source": {"path": "a"}, "validation": 0})), "/validation");
}

/// Every published benchmark of the test data, with the counts of its publisher.
#[test]
fn published_benchmarks_are_read_whole() -> Result<()> {
    let Ok(folder) = std::env::var("RAISIN_DATA").map(PathBuf::from) else {
        println!("skipped: RAISIN_DATA is not set");
        return Ok(());
    };
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
        let task = run_on(&parameters, BTreeMap::from([("/source/path".to_owned(), folder.join(file))]))?;
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
