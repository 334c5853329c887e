use super::*;
use raisin_base::error::render;
use std::path::PathBuf;

fn add(pool: &mut PoolBuilder, content: &str, format: RecordFormat) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data.json");
    std::fs::write(&path, content)?;
    pool.add(&SourceFile { path: &path, name: "data.json".into(), format, prompt: None, response: None }, |_| {})
}

#[test]
fn bad_records_are_rejected_with_their_line_and_the_rest_is_kept() -> Result<()> {
    let mut pool = PoolBuilder::new(20);
    let content = "{\"question\":\"a\",\"answer\":\"b\"}\n{\"question\":\n{\"question\":\"a\",\"answer\":\"\"}\n\
                   {\"question\":\"a\",\"answer\":\"123456789012345678901\"}\n{\"question\":\"c\",\"answer\":\"d\"}\n";
    add(&mut pool, content, RecordFormat::Auto)?;
    assert_eq!(pool.rows.len(), 2);
    assert_eq!(pool.rows[1].line, 5);
    let lines: Vec<(u64, &str)> = pool.rejects.iter().map(|it| (it.line, it.reason.as_str())).collect();
    assert_eq!(lines[0].0, 2);
    assert_eq!(lines[1], (3, "the response is empty"));
    assert_eq!(lines[2], (4, "22 characters, more than max_length = 20"));
    assert_eq!(pool.rejects[0].record, "{\"question\":");
    assert_eq!(pool.sources[0].format, "qa (question, answer)");
    assert_eq!((pool.sources[0].records, pool.sources[0].rejected), (5, 3));
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
    assert_eq!((pool.rows.len(), pool.rows[0].duplicates, pool.folded), (1, 2, 2));
    Ok(())
}

#[test]
fn a_file_without_an_instruction_is_an_error_with_the_first_reason() {
    let error = add(&mut PoolBuilder::new(100), "{\"a\":1}\n{\"a\":2}", RecordFormat::Alpaca).expect_err("not alpaca");
    let text = render(&error);
    assert!(text.contains("none of the 2 records of data.json can be read as alpaca"), "{text}");
    assert!(text.contains("line 1: there is no `instruction`; there are the fields `a`"), "{text}");
    let unknown = render(&add(&mut PoolBuilder::new(100), "[\"a\", \"b\"]", RecordFormat::Auto).expect_err("unknown"));
    assert!(unknown.contains("data.json: no known format fits: the first record has a text"), "{unknown}");
    let empty = render(&add(&mut PoolBuilder::new(100), "[]", RecordFormat::Auto).expect_err("empty"));
    assert!(empty.contains("data.json has no records"), "{empty}");
}

#[test]
fn thousands_are_separated_by_commas() {
    assert_eq!([0, 999, 1000, 24994, 1_234_567].map(grouped), ["0", "999", "1,000", "24,994", "1,234,567"]);
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
        pool.add(
            &SourceFile { path: &path, name: file.into(), format: RecordFormat::Auto, prompt: None, response: None },
            |_| {},
        )?;
        println!("{file}: {:?}, {} rows, {} folded", pool.sources[0], pool.rows.len(), pool.folded);
        for reject in pool.rejects.iter().take(5) {
            println!("  {}: {}", reject.line, reject.reason);
        }
        assert_eq!((pool.sources[0].records, pool.rejects.len()), (expected, rejected), "{file}");
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
    let kept: Vec<&str> = pool.rows.iter().map(|row| row.messages[1].content.as_str()).collect();
    let mut expected: Vec<&str> = strings.iter().map(String::as_str).filter(|text| !text.trim().is_empty()).collect();
    let mut seen = std::collections::BTreeSet::new();
    expected.retain(|text| seen.insert(*text));
    assert_eq!(kept, expected);
    Ok(())
}
