use super::*;
use serde_json::json;

fn read(reader: &Reader, record: Value) -> Result<Vec<(String, String)>, String> {
    Ok(reader.read(&record)?.into_iter().map(|message| (message.role, message.content)).collect())
}

fn turns(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn alpaca_puts_the_input_below_the_instruction() {
    let record = json!({"instruction": "Add", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"]]});
    let expected = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "Add\n\n1 2"), ("assistant", "3")];
    assert_eq!(read(&Reader::Alpaca, record), Ok(turns(&expected)));
    let bare = json!({"instruction": "Add", "input": "", "output": 3});
    assert_eq!(read(&Reader::Alpaca, bare), Ok(turns(&[("user", "Add"), ("assistant", "3")])));
}

#[test]
fn a_rejected_record_has_a_reason() {
    let reason = |reader: &Reader, record: Value| read(reader, record).expect_err("wrong");
    let alpaca = Reader::Alpaca;
    assert_eq!(reason(&alpaca, json!({"instruction": "a", "output": "  "})), "the response is empty");
    assert_eq!(reason(&alpaca, json!({"instruction": " ", "output": "b"})), "the instruction is empty");
    assert_eq!(reason(&alpaca, json!({"instruction": "a", "output": ["b"]})), "`output` is a list, not a text");
    assert_eq!(
        reason(&alpaca, json!({"instruction": "a"})),
        "there is no `output`; there are the fields `instruction`"
    );
    let history = json!({"instruction": "a", "output": "b", "history": "earlier"});
    assert_eq!(reason(&alpaca, history), "`history` is a text, not a list of pairs");
    let pair = json!({"instruction": "a", "output": "b", "history": [["one"]]});
    assert_eq!(reason(&alpaca, pair), "`history` must hold pairs of texts");
    assert_eq!(reason(&alpaca, json!("text")), "the record is a text, not an object");
    let reader = Reader::Messages;
    let of = |messages: Value| json!({"messages": messages});
    assert_eq!(reason(&reader, of(json!([{"role": "user", "content": "a"}]))), "there is no response");
    assert_eq!(reason(&reader, of(json!([{"role": "owl", "content": "a"}]))), "message 1 has the unknown role `owl`");
    let image = of(json!([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]));
    assert_eq!(reason(&reader, image), "message 1 has a part of the type `image_url`, and only texts can be read");
}

#[test]
fn messages_have_texts_or_typed_parts_and_end_with_a_response() {
    let record = json!({"messages": [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "value": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "unanswered"},
    ]});
    let expected =
        [("system", "s"), ("user", "ab"), ("assistant", r#"[{"name":"f"}]"#), ("tool", "r"), ("assistant", "c")];
    assert_eq!(read(&Reader::Messages, record), Ok(turns(&expected)));
}

#[test]
fn sharegpt_joins_tools_and_system_and_keeps_calls_as_the_assistants() {
    let record = json!({"tools": "[{}]", "system": "s", "conversations": [
        {"from": "human", "value": "a"}, {"from": "function_call", "value": "f"},
        {"from": "observation", "value": "r"}, {"from": "gpt", "value": "c"},
    ]});
    let expected =
        [("system", "s\n\nTools:\n[{}]"), ("user", "a"), ("assistant", "f"), ("tool", "r"), ("assistant", "c")];
    assert_eq!(read(&Reader::Sharegpt, record), Ok(turns(&expected)));
}

#[test]
fn qa_joins_fields_and_writes_whole_numbers_without_a_fraction() {
    let reader = Reader::Qa { prompt: "Body+Question".into(), response: "Answer".into() };
    let record = json!({"Body": "b.", "Question": "q?", "Answer": 51.0});
    assert_eq!(read(&reader, record), Ok(turns(&[("user", "b. q?"), ("assistant", "51")])));
}

#[test]
fn auto_takes_the_format_that_fits_most_records() {
    let auto = |records: &[Value]| Reader::choose(RecordFormat::Auto, None, None, &records.iter().collect::<Vec<_>>());
    let alpaca = json!({"instruction": "a", "input": "i", "output": "b"});
    let qa = json!({"question": "a", "answer": "b"});
    assert_eq!(auto(&[json!(3), alpaca.clone(), alpaca]), Ok(Reader::Alpaca));
    assert_eq!(auto(&[qa]), Ok(Reader::Qa { prompt: "question".into(), response: "answer".into() }));
    let error = auto(&[json!({"text": "a"})]).expect_err("unknown");
    assert_eq!(error, "no known format fits: the first record has the fields `text`");
}
