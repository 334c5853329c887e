//! Every layout of JSON and CSV gives back what was written.

use super::*;
use proptest::prelude::*;
use std::io::Write as _;

fn text_of(values: &[Value]) -> Vec<String> {
    values.iter().map(Value::to_string).collect()
}

fn indented(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON")
}

/// The rows in each layout of JSON.
fn layouts(values: &[Value]) -> Vec<(&'static str, String)> {
    let lines = text_of(values);
    let (one, two) = values.split_at(values.len() / 2);
    let list = |values: &[Value]| format!("[{}]", text_of(values).join(", "));
    vec![
        ("lines", lines.iter().map(|line| format!("{line}\n")).collect()),
        ("lines without a last line break", lines.join("\n")),
        ("blank lines", lines.iter().map(|line| format!("\n \n{line}\n")).collect()),
        ("lines of Windows", lines.iter().map(|line| format!("{line}\r\n")).collect()),
        ("objects without line breaks", lines.concat()),
        ("list", list(values)),
        ("compact list", format!("[{}]", lines.join(","))),
        ("indented list", indented(&Value::from(values))),
        ("indented list of Windows", indented(&Value::from(values)).replace('\n', "\r\n")),
        ("list with an object on each line", format!("[\n{}\n]\n", lines.join(",\n"))),
        ("two lists", format!("{}\n{}", list(one), list(two))),
        ("two lists without a line break", format!("{}{}", list(one), list(two))),
        ("two indented lists", format!("{}\n{}\n", indented(&Value::from(one)), indented(&Value::from(two)))),
        ("indented objects", values.iter().map(|value| indented(value) + "\n").collect()),
        ("lines, then a list", format!("{}\n{}", text_of(one).join("\n"), list(two))),
        ("a list, then lines", format!("{}\n{}", list(one), text_of(two).join("\n"))),
        ("a list, then indented objects", format!("{}\n{}", list(one), two.iter().map(indented).collect::<String>())),
        ("list in data", format!("{{\"data\": {}}}", list(values))),
        ("list in data with a version", format!("{{\"version\": \"1\", \"data\": {}, \"n\": [1]}}\n", list(values))),
        ("data with an object on each line", format!("{{\"data\": [\n{}\n]}}\n", lines.join(",\n"))),
        ("indented list in rows", indented(&serde_json::json!({"a": {"b": [1]}, "rows": values}))),
        ("list in another name", format!("{{\"anything\": {}}}", list(values))),
        ("two objects with lists", format!("{{\"data\": {}}}\n{{\"data\": {}}}", list(one), list(two))),
        ("lists in a list", format!("[{}, {}]", list(one), list(two))),
    ]
}

/// A value of a field: texts that look like JSON, numbers, lists and objects.
fn field() -> impl Strategy<Value = Value> {
    prop_oneof![
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            "}, {\"k\": \"",
            "[{\"k\": 1}]",
            "\\",
            "\"",
            "\n{\"k\": 1}\n",
            "\u{feff}",
            "],",
            "{\"data\": [",
            "'",
            "\\u00e9",
            "\r\n",
            ""
        ])
        .prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        prop::collection::vec(".{0,5}", 0..3).prop_map(|texts| {
            texts.into_iter().map(|text| serde_json::json!({"role": text, "content": [text, {}]})).collect()
        }),
    ]
}

fn values() -> impl Strategy<Value = Vec<Value>> {
    let row = prop::collection::vec(field(), 3).prop_map(|values| {
        let names = ["k", "text \"}", "ü"].map(str::to_owned);
        Value::Object(names.into_iter().zip(values).collect())
    });
    prop::collection::vec(row, 2..12)
}

proptest! {
    #[test]
    fn json_gives_back_the_rows_in_every_layout(values in values(), mark: bool) {
        for (name, text) in layouts(&values) {
            let bytes = if mark { format!("\u{feff}{text}") } else { text };
            let (records, facts) = read(&bytes);
            prop_assert_eq!(good(&records), &values[..], "{}", name);
            prop_assert_eq!(records.len(), values.len(), "{}", name);
            prop_assert_eq!((&facts.damage[..], facts.punctuation), (&[][..], 0), "{}", name);
            prop_assert!(records.iter().all(|record| record.altered.is_empty()), "{}", name);
            // Each record knows its line.
            for record in &records {
                let before = bytes[..record.start as usize].matches('\n').count();
                prop_assert_eq!(record.line, before as u64 + 1, "{}", name);
            }
        }
    }

    #[test]
    fn csv_gives_back_the_rows(
        texts in prop::collection::vec(prop::collection::vec("[a-c,;\t\"\n\r '{é]{0,8}", 3), 1..10),
        is_tsv: bool, is_windows: bool, mark: bool, quoted: bool,
    ) {
        let (delimiter, name) = if is_tsv { ("\t", "a.tsv") } else { (",", "a.csv") };
        let end = if is_windows { "\r\n" } else { "\n" };
        let cell = |text: &String| {
            let is_quoted = quoted || text.contains(['"', '\n', '\r', ',', '\t']) || text.is_empty();
            if is_quoted { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.clone() }
        };
        let mut file = if mark { "\u{feff}".to_owned() } else { String::new() };
        file += &["one", "two", "\"th,\n\"\"ree\""].join(delimiter);
        file += end;
        for row in &texts {
            file += &row.iter().map(cell).collect::<Vec<_>>().join(delimiter);
            file += end;
        }
        let (records, facts) = read_as(name, file.as_bytes(), MOST_BYTES).expect("reads");
        let expected: Vec<Value> = texts
            .iter()
            .map(|row| serde_json::json!({"one": row[0], "two": row[1], "th,\n\"ree": row[2]}))
            .collect();
        prop_assert_eq!(good(&records), expected);
        prop_assert_eq!((records.len(), &facts.damage[..], facts.blank), (texts.len(), &[][..], 0));
        prop_assert_eq!(facts.layout.name(), if is_tsv { "tsv" } else { "csv" });
    }
}

#[test]
fn empty_cells_are_null_and_quoted_empty_cells_are_texts() -> Result<()> {
    let (records, facts) = read_as("a.csv", b"a,b\n,\"\"\n\n1,x\n", MOST_BYTES)?;
    assert_eq!(good(&records), [serde_json::json!({"a": null, "b": ""}), serde_json::json!({"a": "1", "b": "x"})]);
    assert_eq!((records[1].line, facts.blank), (4, 1));
    Ok(())
}

#[test]
fn a_csv_file_may_have_another_delimiter() -> Result<()> {
    for (name, text) in [("a.csv", "a;b\n1,5;2\n"), ("a.csv", "a\tb\n1,5\t2\n"), ("a.tsv", "a\tb\n1,5\t2\n")] {
        assert_eq!(good(&read_as(name, text.as_bytes(), 1000)?.0), [serde_json::json!({"a": "1,5", "b": "2"})]);
    }
    // JSON is JSON under any name.
    assert_eq!(good(&read_as("a.csv", b"{\"a\": 1}\n", 1000)?.0), [serde_json::json!({"a": 1})]);
    Ok(())
}

#[test]
fn names_of_columns_must_be_there_and_differ() {
    assert!(
        refusal("a.csv", b",a\n0,1\n").contains("a.csv: column 1 has no name in the first row\nhint: name each column")
    );
    assert!(refusal("a.csv", b"a,b,a\n1,2,3\n").contains("the first row names two columns `a`\nhint: rename"));
    assert!(refusal("a.csv", b"a,\"b\n1,2\n").contains("the first row, which names the columns, is damaged"));
}

#[test]
fn a_list_that_is_a_field_of_a_record_is_no_list_of_records() {
    for text in [
        r#"{"id": 1, "messages": [{"role": "user", "content": "a"}]}"#,
        r#"{"messages": [{"role": "user", "content": "a"}]}"#,
        r#"{"conversations": [{"from": "human", "value": "a"}]}"#,
        r#"{"id": 1, "instruction": "a", "instances": [{"input": "a"}, {"input": "b"}], "x": 1}"#,
        r#"{"question": "a", "options": [{"text": "b"}], "answer": 1}"#,
    ] {
        let value: Value = serde_json::from_str(text).expect("JSON");
        for content in [format!("{text}\n{text}"), format!("[{text},{text}]"), format!("{text}{text}")] {
            assert_eq!(good(&read(&content).0), [value.clone(), value.clone()], "{content}");
        }
    }
    let one = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    assert_eq!(good(&read(one).0).len(), 1);
    let turns = r#"[[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]"#;
    assert_eq!(good(&read(turns).0).len(), 2);
}

#[test]
fn the_layout_and_what_stands_beside_the_records_are_told() {
    let facts = read(r#"{"version": 1, "data": [{"a": 1}], "license": {"x": []}}"#).1;
    assert_eq!((facts.layout.name(), facts.beside), ("json array", vec!["version".to_owned(), "license".to_owned()]));
    assert_eq!(read("{\"a\": 1}\n\n\n{\"a\": 2}\n").1.blank, 2);
    assert_eq!(read("{\"a\": 1}\n").1.layout.name(), "jsonl");
    let two = refusal("a.json", br#"{"train": [{"a": 1}], "test": [{"a": 1}]}"#);
    assert!(two.contains("a.json has two lists of records: `train` and `test`\nhint: write each list"), "{two}");
}

#[test]
fn compressed_files_are_read() -> Result<()> {
    let gzip = |bytes: &[u8]| -> Result<Vec<u8>> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes)?;
        Ok(encoder.finish()?)
    };
    let zstd = |bytes: &[u8]| -> Result<Vec<u8>> { Ok(zstd::encode_all(bytes, 1)?) };
    let values = rows(30_000);
    let (one, two) = values.split_at(1234);
    for (kind, pack) in [("gz", &gzip as &dyn Fn(&[u8]) -> Result<Vec<u8>>), ("zst", &zstd)] {
        for (layout, text) in layouts(&values) {
            let (records, facts) = read_as("a", &pack(text.as_bytes())?, MOST_BYTES)?;
            assert_eq!(good(&records), values, "{kind}, {layout}");
            assert_eq!(facts.layout.compression.map(Compression::name), Some(kind));
        }
        // Several parts, one after the other.
        let parts =
            [pack(text_of(one).join("\n").as_bytes())?, pack(b"\n")?, pack(text_of(two).join("\n").as_bytes())?];
        assert_eq!(good(&read(parts.concat()).0), values);
        let name = format!("a.csv.{kind}");
        assert_eq!(good(&read_as(&name, &pack(b"a\n1\n")?, MOST_BYTES)?.0), [serde_json::json!({"a": "1"})]);
        // The end is missing, or a byte is wrong.
        let whole = pack(text_of(&values).join("\n").as_bytes())?;
        let (records, facts) = read(&whole[..whole.len() / 2]);
        let found = good(&records);
        assert!(values.starts_with(&found) && records.len() - found.len() <= 1);
        assert_eq!(facts.damage.len(), 1);
        assert_eq!(facts.damage[0].reason, "the compressed file ends early: the rest is lost");
        assert!(facts.damage[0].is_cut);
        assert!(facts.damage[0].records >= 1 && found.len() > 5000);
        if kind == "gz" {
            // `gzip` ignores zeros after the last part.
            let (records, facts) = read([&whole[..], &[0; 700]].concat());
            assert_eq!((good(&records).len(), &facts.damage[..]), (values.len(), &[][..]));
            assert_eq!(read([&whole[..], &[0, 1]].concat()).1.damage.len(), 1);
        }
        let mut wrong = whole.clone();
        let (at, length) = (whole.len() / 2, whole.len() / 4);
        wrong[at..at + length].fill(0xFF);
        let (records, facts) = read(&wrong);
        // What was unpacked before the end is not known to be right.
        assert!(!facts.damage.is_empty() && good(&records).len() < values.len(), "{facts:?}");
    }
    Ok(())
}

#[test]
fn a_list_of_turns_on_a_line_is_one_record() {
    for turns in [
        r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#,
        r#"[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]"#,
        r#"[{"role": "user", "content": [{"type": "text", "text": "a"}]}]"#,
    ] {
        let value: Value = serde_json::from_str(turns).expect("JSON");
        let (records, facts) = read(format!("{turns}\n{turns}\n{turns}\n"));
        assert_eq!((good(&records), facts.layout.name()), (vec![value.clone(); 3], "jsonl"));
        assert_eq!(good(&read(turns).0), std::slice::from_ref(&value));
        // A damaged line costs this line.
        for damaged in [turns.replacen("\", ", ", ", 1), turns.replacen('}', "", 1)] {
            for text in [format!("{turns}\n{damaged}\n{turns}"), format!("{damaged}\n{turns}\n{turns}")] {
                let (records, facts) = read(&text);
                assert_eq!((good(&records).len(), records.len()), (2, 3), "{facts:?}\n{text}");
            }
        }
    }
    // Records with a field of such a name.
    assert_eq!(read(r#"[{"content": "a", "label": 1}, {"content": "b", "label": 0}]"#).0.len(), 2);
}

#[test]
fn an_empty_list_between_documents_is_a_record() {
    for text in ["{\"a\": 1}\n[]\n{\"a\": 2}", "[]\n{\"a\": 1}\n{\"a\": 2}", "[{\"a\": 1}]\n[{\"a\": 2}]\n[]\n"] {
        let (records, facts) = read(text);
        assert_eq!((records.len(), facts.punctuation, facts.blank), (3, 0, 0), "{text}");
        assert_eq!(good(&records).iter().filter(|value| **value == serde_json::json!([])).count(), 1, "{text}");
    }
}

#[test]
fn record_separators_stand_between_records() {
    let (records, facts) = read("\u{1e}{\"a\": 1}\n\u{1e}{\"a\": 2}\n\u{1e}{\n\"a\": 3}\n");
    assert_eq!((good(&records), records.len()), ((1..4).map(|n| serde_json::json!({"a": n})).collect(), 3));
    assert_eq!((facts.punctuation, facts.blank, facts.damage), (0, 0, vec![]));
}
