use super::*;
use crate::formats::{Filter, Notice};
use crate::intake::RejectLimit;
use raisin_base::error::{anyhow, render};
use raisin_settings::RecordFormat;
use std::path::PathBuf;

fn add(pool: &mut PoolBuilder, content: &str, format: RecordFormat) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data.json");
    std::fs::write(&path, content)?;
    let mapping = Mapping { format, ..Mapping::default() };
    pool.add(&SourceFile { path: &path, name: "data.json".into(), mapping: &mapping }, &mut |_| {})
}

/// The error of a stage `pool` that reads only this file.
fn refused(content: &str, format: RecordFormat) -> String {
    let mut pool = PoolBuilder::new(100);
    add(&mut pool, content, format).expect("a readable file");
    render(&pool.intake.check(RejectLimit { share: None }, "pool").expect_err("too few records"))
}

#[test]
fn bad_records_are_rejected_with_their_line_and_the_rest_is_kept() -> Result<()> {
    let mut pool = PoolBuilder::new(20);
    let content = "{\"question\":\"a\",\"answer\":\"b\"}\n{\"question\":\n{\"question\":\"a\",\"answer\":\"\"}\n\
                   {\"question\":\"a\",\"answer\":\"123456789012345678901\"}\n{\"question\":\"c\",\"answer\":\"d\"}\n";
    add(&mut pool, content, RecordFormat::Auto)?;
    assert_eq!(pool.rows.len(), 2);
    assert_eq!(pool.rows[1].line, 5);
    let rejects = &pool.intake.rejects;
    let lines: Vec<(u64, &str)> = rejects.iter().map(|it| (it.line, it.reason.as_str())).collect();
    assert_eq!(lines[0].0, 2);
    assert_eq!(lines[1], (3, "the response is empty"));
    assert_eq!(lines[2], (4, "22 characters, more than max_length = 20"));
    let source = &pool.intake.sources[0];
    assert_eq!((source.format.as_str(), source.records, source.rejected), ("qa (question, answer)", 5, 3));
    assert_eq!(source.fields_read.text(), "question 2, answer 2");
    Ok(())
}

#[test]
fn exact_duplicates_fold_into_the_first_across_files() -> Result<()> {
    let mut pool = PoolBuilder::new(100);
    add(
        &mut pool,
        r#"[{"instruction":"a","input":"","output":"b"},{"instruction":"a","output":"b"}]"#,
        RecordFormat::Alpaca,
    )?;
    add(
        &mut pool,
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
        RecordFormat::Auto,
    )?;
    let counts =
        |count: fn(&crate::intake::SourceSummary) -> u64| pool.intake.sources.iter().map(count).collect::<Vec<_>>();
    assert_eq!((counts(|it| it.accepted), counts(|it| it.folded)), (vec![1, 0], vec![1, 1]));
    let rows = pool.into_rows();
    assert_eq!((rows.len(), rows[0].duplicates), (1, 2));
    Ok(())
}

#[test]
fn rows_are_given_away_and_their_copies_are_still_counted() -> Result<()> {
    let mut given: Vec<Vec<u64>> = Vec::new();
    let line = |n: usize| format!("{{\"question\":\"q{n}\",\"answer\":\"a\"}}\n");
    let content: String = [0, 1, 0, 2, 1, 3, 0, 4].map(line).concat();
    let mut pool = PoolBuilder::new(100).giving(2, |_, rows| {
        given.push(rows.iter().map(|row| row.line).collect());
        Ok(())
    });
    add(&mut pool, &content, RecordFormat::Auto)?;
    assert_eq!((pool.count(), pool.rows.len()), (5, 1));
    assert_eq!(pool.finish()?, [2, 1, 0, 0, 0]);
    assert_eq!(given, [vec![1, 2], vec![4, 6], vec![8]]);
    let mut pool = PoolBuilder::new(100).giving(2, |_, _| Err(anyhow!("the disk is full")));
    let failed = add(&mut pool, &content, RecordFormat::Auto).expect_err("the rows cannot be taken");
    assert_eq!(failed.to_string(), "the disk is full");
    Ok(())
}

#[test]
fn records_that_differ_in_any_field_that_is_read_are_different_rows() -> Result<()> {
    let mut pool = PoolBuilder::new(1000);
    let records = [
        serde_json::json!({"instruction": "Is it warm?", "context": "July", "response": "yes"}),
        serde_json::json!({"instruction": "Is it warm?", "context": "June", "response": "yes"}),
        serde_json::json!({"instruction": "Is it warm?", "context": "June", "system": "s", "response": "yes"}),
        serde_json::json!({"instruction": "Is it warm?", "context": "June", "response": "<think>a</think>yes"}),
        serde_json::json!({"instruction": "Is it warm?", "context": "June", "response": "<think>b</think>yes"}),
        serde_json::json!({"instruction": "Is it warm?", "context": "June", "response": "yes", "tools": [{"name": "f"}]}),
    ];
    add(&mut pool, &serde_json::to_string(&records)?, RecordFormat::Auto)?;
    assert_eq!((pool.rows.len(), pool.intake.rejects.len()), (6, 0));
    Ok(())
}

#[test]
fn every_record_is_counted_once() -> Result<()> {
    let mut pool = PoolBuilder::new(1000);
    let records = [
        r#"{"prompt": "a", "chosen": "b", "rejected": "c", "id": 1}"#,
        r#"{"prompt": "a", "chosen": "b", "rejected": "d"}"#,
        r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#,
        r#"{"prompt": "a", "chosen": "e", "rejected": "c", "label": false}"#,
        r#"{"prompt": "a", "chosen": "", "rejected": "c"}"#,
        r#"{"prompt": "a", "completion": "f"}"#,
        "{",
    ];
    add(&mut pool, &records.join("\n"), RecordFormat::Auto)?;
    let source = &pool.intake.sources[0];
    assert_eq!((source.records, source.accepted, source.rejected, source.folded), (7, 2, 2, 2));
    assert_eq!((source.filtered(), source.filtered[Filter::Label as usize]), (1, 1));
    assert_eq!(source.records, source.accepted + source.rejected + source.folded + source.filtered());
    assert_eq!(source.notices[Notice::RejectedFolded as usize], 1);
    assert_eq!(pool.rows[0].rejected().as_deref(), Some("c"));
    assert_eq!(source.formats.text(), "preference 3, qa (prompt, completion) 1");
    assert_eq!(source.fields_unread.text(), "id 1");
    let note = pool.intake.note("2 instructions", "pool");
    assert_eq!(
        note,
        "2 instructions of 7 records, 2 rejected (see pool.rejects), 2 exact duplicates folded, 1 with label = \
        false left out"
    );
    Ok(())
}

#[test]
fn a_file_without_an_instruction_is_an_error_with_the_first_reason() {
    let text = refused("{\"a\":1}\n{\"a\":2}", RecordFormat::Alpaca);
    assert!(text.contains("none of 2 records of data.json can be taken"), "{text}");
    let first = "2 records: there is no `instruction`; there are the fields `a` (data.json, line 1)";
    assert!(text.contains(first), "{text}");
    let unknown = refused("[\"a\", \"b\"]", RecordFormat::Auto);
    assert!(unknown.contains("no known format fits: the first record has a text"), "{unknown}");
    assert!(refused("[]", RecordFormat::Auto).contains("data.json has no records"));
}

#[test]
fn a_given_name_that_no_record_has_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data.jsonl");
    std::fs::write(&path, r#"{"question": "a", "answer": "b", "persona": "p"}"#)?;
    let names = |system: &str| raisin_settings::FieldNames { system: Some(system.to_owned()), ..Default::default() };
    let read = |fields: raisin_settings::FieldNames| {
        let mapping = Mapping { fields, ..Mapping::default() };
        let mut pool = PoolBuilder::new(100);
        pool.add(&SourceFile { path: &path, name: "data.jsonl".into(), mapping: &mapping }, &mut |_| {})?;
        pool.intake.check_names(0..1, &mapping.fields)
    };
    read(names("persona"))?;
    let error = render(&read(names("personna")).expect_err("misspelt"));
    assert!(error.contains("no record of data.jsonl has the field `personna`"), "{error}");
    assert!(error.contains("`fields.system` names it; did you mean `persona`?"), "{error}");
    Ok(())
}

/// Every published file of the test data, with its number of instructions.
#[test]
#[ignore = "needs RAISIN_DATA, a folder of published files: RAISIN_DATA=... cargo test -- --ignored"]
fn published_files_are_read_completely() -> Result<()> {
    let folder = std::env::var("RAISIN_DATA").map(PathBuf::from)?;
    for (file, expected, rejected) in [
        // Some of the published rows have no output.
        ("pool/alpaca_25k.json", 24994, 15),
        ("pool/alpaca_data_random_1k.json", 1000, 0),
        ("pool/code_alpaca_2k.json", 2017, 2),
        ("peers/alpagasus_dolly_3k.json", 2996, 0),
        ("peers/nuggets_alpaca_gpt4_kmeans_100.json", 100, 0),
        ("formats/lf_alpaca_en_demo.json", 999, 0),
        ("formats/lf_v1_sft_demo.jsonl", 500, 0),
        ("formats/lf_glaive_toolcall_en_demo.json", 300, 0),
        ("formats/sharegpt_dummy_conversation.json", 500, 0),
        ("formats/dolly_hhrlhf_train_small.jsonl", 1000, 0),
        ("eval/gsm8k_test.jsonl", 1319, 0),
    ] {
        let mut pool = PoolBuilder::new(100_000);
        let path = folder.join(file);
        pool.add(&SourceFile { path: &path, name: file.into(), mapping: &Mapping::default() }, &mut |_| {})?;
        println!("{file}: {:?}, {} rows", pool.intake.sources[0], pool.rows.len());
        for reject in pool.intake.rejects.iter().take(5) {
            println!("  {}: {}", reject.line, reject.reason);
        }
        assert_eq!((pool.intake.sources[0].records, pool.intake.rejects.len()), (expected, rejected), "{file}");
    }
    Ok(())
}

#[test]
#[ignore = "needs RAISIN_DATA, a folder of published files: RAISIN_DATA=... cargo test -- --ignored"]
fn difficult_strings_are_read_unchanged_as_prompts_and_responses() -> Result<()> {
    let folder = std::env::var("RAISIN_DATA").map(PathBuf::from)?;
    let strings: Vec<String> = serde_json::from_slice(&std::fs::read(folder.join("dirty/blns.json"))?)?;
    let records: Vec<Value> =
        strings.iter().map(|text| serde_json::json!({"prompt": format!("echo {text}"), "response": text})).collect();
    let mut pool = PoolBuilder::new(100_000);
    add(&mut pool, &serde_json::to_string(&records)?, RecordFormat::Auto)?;
    let rows = pool.into_rows();
    let kept: Vec<&str> = rows.iter().map(|row| row.messages[1].content.as_str()).collect();
    let mut expected: Vec<&str> = strings.iter().map(String::as_str).filter(|text| !text.trim().is_empty()).collect();
    let mut seen = std::collections::BTreeSet::new();
    expected.retain(|text| seen.insert(*text));
    assert_eq!(kept, expected);
    Ok(())
}
