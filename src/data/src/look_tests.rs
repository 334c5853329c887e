//! What a look finds in small files of several formats.

use super::*;

struct DataFiles(tempfile::TempDir);

impl DataFiles {
    fn new(files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn look(&self, pool: &str, task: &str, test: Option<&str>) -> Result<DataFindings> {
        let path = |name: &str| self.0.path().join(name);
        look(&DataQuestion { pool: path(pool), task: path(task), test: test.map(path) })
    }
}

fn lines(count: usize, line: impl Fn(usize) -> Value) -> String {
    (0..count).map(|n| format!("{}\n", line(n))).collect()
}

fn alpaca(count: usize) -> String {
    lines(count, |n| json!({"instruction": format!("i{n}"), "input": "", "output": format!("o{n}")}))
}

#[test]
fn formats_and_fields_are_found() {
    let files = DataFiles::new(&[
        ("alpaca.jsonl", alpaca(20) + &alpaca(1)),
        ("qa.csv", "prompt,completion,mark\na,b,1\nc,d,2\n".to_owned()),
        (
            "chat.jsonl",
            lines(
                5,
                |n| json!({"messages": [{"role": "user", "content": format!("q{n}")}, {"role": "assistant", "content": "a"}]}),
            ),
        ),
        ("pairs.jsonl", lines(4, |n| json!({"prompt": format!("q{n}"), "chosen": "good", "rejected": "bad"}))),
        ("task.jsonl", lines(10, |n| json!({"question": format!("q{n}"), "answer": format!("a\n#### {n}")}))),
    ]);
    let pool = |name: &str| files.look(name, "task.jsonl", None).unwrap().pool;
    let found = pool("alpaca.jsonl");
    assert_eq!((json!(found.settings), found.instructions), (json!({"format": "alpaca"}), 20));
    assert_eq!(found.told, ["alpaca.jsonl: 21 records (jsonl), read as alpaca: 20 instructions, 1 copies folded"]);
    let found = pool("qa.csv");
    assert_eq!(json!(found.settings), json!({"format": "qa", "prompt": "prompt", "response": "completion"}));
    assert!(found.told[0].ends_with("; not read: mark"), "{:?}", found.told);
    assert_eq!(json!(pool("chat.jsonl").settings), json!({"format": "messages"}));
    // The format of preference pairs has no name in a pipeline: the stage finds it again.
    assert_eq!(json!(pool("pairs.jsonl").settings), json!({}));
}

#[test]
fn the_scoring_follows_from_the_answers() {
    let files = DataFiles::new(&[
        ("pool.jsonl", alpaca(9)),
        ("gsm8k.jsonl", lines(9, |n| json!({"question": format!("q{n}"), "answer": format!("a\n#### {n}")}))),
        ("short.jsonl", lines(9, |n| json!({"question": format!("q{n}"), "answer": format!("{n}")}))),
        ("long.jsonl", lines(9, |n| json!({"question": format!("q{n}"), "answer": "word ".repeat(30 + n)}))),
        ("choices.jsonl", lines(9, |n| json!({"question": format!("q{n}"), "choices": ["x", "y"], "answer": n % 2}))),
    ]);
    let scoring = |task: &str| {
        let found = files.look("pool.jsonl", task, None).unwrap().task;
        (found.scoring, found.extract, found.questions)
    };
    assert_eq!(scoring("gsm8k.jsonl"), ("match".to_owned(), Some("gsm8k".to_owned()), 9));
    assert_eq!(scoring("short.jsonl"), ("match".to_owned(), Some("exact".to_owned()), 9));
    assert_eq!(scoring("long.jsonl"), ("loss".to_owned(), None, 9));
    assert_eq!(scoring("choices.jsonl"), ("choice".to_owned(), None, 9));
}

#[test]
fn questions_of_the_test_file_do_not_count_for_validation() {
    let asked =
        |from: usize, count: usize| lines(count, |n| json!({"question": format!("q{}", from + n), "answer": "a"}));
    let files =
        DataFiles::new(&[("pool.jsonl", alpaca(9)), ("train.jsonl", asked(0, 10)), ("test.jsonl", asked(7, 6))]);
    let found = files.look("pool.jsonl", "train.jsonl", Some("test.jsonl")).unwrap();
    assert_eq!((found.task.questions, found.test.unwrap().questions), (7, 6));
}

#[test]
fn what_cannot_be_read_is_named_with_its_line() {
    let files = DataFiles::new(&[
        ("pool.jsonl", "{\"a\": 1}\n".to_owned()),
        ("task.jsonl", alpaca(3)),
        ("empty", String::new()),
    ]);
    let said = |pool: &str| raisin_base::error::render(&files.look(pool, "task.jsonl", None).unwrap_err());
    let unknown = said("pool.jsonl");
    assert!(unknown.contains("pool.jsonl, line 1: ") && unknown.contains("{\"a\": 1}"), "{unknown}");
    assert!(said("missing").contains("No such file"), "{}", said("missing"));
    assert!(said("empty").contains("is empty"), "{}", said("empty"));
}
