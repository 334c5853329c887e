use super::*;
use proptest::prelude::*;

fn read(content: &[u8]) -> Vec<(u64, std::result::Result<Value, String>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, content).expect("written");
    let mut all = Vec::new();
    for_each_chunk(&path, 1000, |records, _| {
        all.extend(records.iter().map(|record| (record.line, record.value().map(Cow::into_owned))));
        Ok(())
    })
    .expect("reads");
    all
}

#[test]
fn line_numbers_count_blank_lines() {
    let records = read(b"\xEF\xBB\xBF{\"a\":1}\r\n\r\n  \n{\"a\":2}\n{oops}\n{\"a\":3}");
    let numbers: Vec<u64> = records.iter().map(|(line, _)| *line).collect();
    assert_eq!(numbers, [1, 4, 5, 6]);
    assert_eq!(records[1].1, Ok(serde_json::json!({"a": 2})));
    let reason = records[2].1.clone().expect_err("no JSON");
    assert_eq!(reason, "not valid JSON: key must be a string (line 5, column 2)");
}

#[test]
fn a_bad_record_of_an_array_does_not_affect_its_neighbours() {
    let records =
        read(b"[\n{\"a\": \"x],}\"},\n{\"a\": \"no closing quote},\n{\"a\": 3},\n{\"a\": tru},\n {\"a\":[1,{}]}\n]\n");
    assert_eq!(records.len(), 5, "{records:?}");
    assert_eq!(records[0], (1, Ok(serde_json::json!({"a": "x],}"}))));
    assert!(records[1].1.as_ref().expect_err("bad").contains("line 3"));
    assert_eq!(records[2], (3, Ok(serde_json::json!({"a": 3}))));
    assert!(records[3].1.as_ref().expect_err("bad").contains("(line 5, column"));
    assert_eq!(records[4], (5, Ok(serde_json::json!({"a": [1, {}]}))));
}

#[test]
fn invalid_utf8_nul_and_too_deep_or_too_long_records_are_reasons() {
    let mut content = b"{\"a\": \"\xFF\"}\n{\"a\": \"\0\"}\n".to_vec();
    content.extend(std::iter::repeat_n(b'[', 500));
    content.push(b'\n');
    content.extend(std::iter::repeat_n(b'x', 2000));
    content.extend(b"\n{}");
    // Only the first line decides whether the file is an array.
    let records = read(&content);
    let reasons: Vec<&str> = records.iter().filter_map(|(_, value)| value.as_ref().err().map(String::as_str)).collect();
    assert_eq!(records.len(), 5);
    assert!(reasons[0].starts_with("invalid UTF-8"));
    assert!(reasons[1].contains("control character"));
    assert!(reasons[2].contains("recursion limit"));
    assert!(reasons[3].contains("too long"));
    assert_eq!(records[4].0, 5);
}

#[test]
fn text_after_the_end_of_an_array_and_an_unfinished_array_are_noticed() {
    assert!(read(b"[{}] trailing")[1].1.is_err());
    assert!(read(b"[{}, {\"a\": 1")[1].1.is_err());
    assert!(read(b"[]").is_empty());
    assert!(read(b"").is_empty());
}

#[test]
fn utf16_says_how_to_convert_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, [0xFF, 0xFE, b'[', 0]).expect("written");
    assert!(raisin_base::error::render(&layout(&path).expect_err("not UTF-8")).contains("iconv"));
}

proptest! {
    #[test]
    fn an_array_and_lines_give_back_what_was_written(texts in prop::collection::vec(".{0,20}", 0..20)) {
        let values: Vec<Value> = texts.iter().map(|text| serde_json::json!({"a": text, "b": [text, {"c": 1}]})).collect();
        let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
        for content in [lines, serde_json::to_string(&values).expect("JSON"), serde_json::to_string_pretty(&values).expect("JSON")] {
            let read: Vec<Value> = read(content.as_bytes()).into_iter().map(|(_, value)| value.expect("valid")).collect();
            prop_assert_eq!(&read, &values);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), array: bool) {
        if array {
            bytes.insert(0, b'[');
        }
        if !bytes.starts_with(&[0xFF, 0xFE]) && !bytes.starts_with(&[0xFE, 0xFF]) && !bytes.starts_with(&[0x1F, 0x8B]) {
            read(&bytes);
        }
    }
}

#[test]
fn a_chunk_of_large_records_is_limited_by_bytes_and_one_of_small_records_by_their_number() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sizes = |name: &str, record: usize, count: usize| -> Result<Vec<usize>> {
        let path = folder.path().join(name);
        let line = format!("{{\"a\": \"{}\"}}\n", "x".repeat(record));
        std::fs::write(&path, line.repeat(count))?;
        let mut sizes = Vec::new();
        for_each_chunk(&path, 1 << 24, |chunk, _| {
            sizes.push(chunk.len());
            Ok(())
        })?;
        Ok(sizes)
    };
    assert_eq!(sizes("small.jsonl", 10, 10_000)?, [4096, 4096, 1808]);
    // 64 MiB, then 16 MiB, of records with about 100,000 bytes.
    assert_eq!(sizes("large.jsonl", 100_000, 1000)?, [672, 168, 160]);
    Ok(())
}
