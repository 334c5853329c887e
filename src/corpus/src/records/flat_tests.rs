use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

/// The value that the fields of a flat record make.
fn value_of(record: &FlatRecord) -> Map<String, Value> {
    let whole = record.parsed().expect("flat records can be parsed").value;
    let value = |place: usize| match record.kind(place) {
        FlatKind::Null => Value::Null,
        FlatKind::Scalar => whole[record.name(place)].clone(),
        FlatKind::Empty | FlatKind::Text => {
            let text = record.text(place);
            match record.json_text(place) {
                JsonText::Plain(plain) => assert_eq!(plain, text),
                JsonText::Escaped(escaped) => {
                    assert_eq!(format!("\"{escaped}\""), Value::from(text.as_ref()).to_string());
                }
                JsonText::Other => {}
            }
            Value::String(text.into_owned())
        }
    };
    (0..record.fields()).map(|place| (record.name(place).to_owned(), value(place))).collect()
}

fn flat(text: &str) -> bool {
    FlatRecord::of_json(text.as_bytes()).is_some()
}

#[test]
fn only_objects_of_plain_values_are_flat() {
    for text in [
        r#"{"a": "b"}"#,
        r#" {"a":"","b":null , "c":-1.5,"d":true,"é":"ü\n\u00e9\/\\\""} "#,
        r#"{"a": 0, "b": 12345678901234}"#,
    ] {
        assert!(flat(text), "{text}");
    }
    for text in [
        "{}",
        "[]",
        r#"{"a": []}"#,
        r#"{"a": {"b": 1}}"#,
        r#"{"a": 1, "a": 1}"#,
        r#"{"a": 01}"#,
        r#"{"a": 1.}"#,
        r#"{"a": 1e5}"#,
        r#"{"a": NaN}"#,
        r#"{"a": 12345678901234567890}"#,
        r#"{"a": "\ud83d\ude00"}"#,
        r#"{"a": "\x"}"#,
        r#"{"a": "b"} x"#,
        r#"{"a": "b",}"#,
        r#"{"a": "b""#,
        r#"{"a\n": "b"}"#,
        "{\"a\": \"\t\"}",
        "{\"a\":\n\"b\"}",
    ] {
        assert!(!flat(text), "{text}");
    }
    assert!(FlatRecord::of_json(b"{\"a\": \"\xFF\"}").is_none());
}

proptest! {
    #[test]
    fn a_flat_record_has_the_value_that_the_parser_gives(
        text in r#"\{("[ab]{1,2}" ?: ?("([a-c"é/ntu0-9]|\\[nu"\\/x]|\\u00e9|\\ud83d)*"|null|true|-?[0-9.e]{1,18}|\[\]),? ?){0,4}\}"#
    ) {
        if let Some(record) = FlatRecord::of_json(text.as_bytes()) {
            let parsed = parse::parse(text.as_bytes(), 1).expect("JSON");
            prop_assert!(parsed.altered.is_empty() && parsed.repeats == 0);
            prop_assert_eq!(Value::Object(value_of(&record)), parsed.value);
            prop_assert_eq!(record.written(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn what_serde_json_writes_of_plain_values_is_flat(texts in proptest::collection::vec(".{0,20}", 1..6)) {
        let object: Map<String, Value> =
            texts.into_iter().enumerate().map(|(place, text)| (place.to_string(), text.into())).collect();
        let text = Value::Object(object.clone()).to_string();
        let record = FlatRecord::of_json(text.as_bytes()).expect("flat");
        prop_assert_eq!(value_of(&record), object);
    }
}
