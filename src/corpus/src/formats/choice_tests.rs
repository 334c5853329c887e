use super::*;
use serde_json::json;

fn choose(records: &[Value]) -> Result<Choice, String> {
    Choice::new(&Mapping::default(), &records.iter().collect::<Vec<_>>())
}

/// The format of each record, or the reason why it has none.
fn formats(records: &[Value]) -> Vec<String> {
    let choice = choose(records).expect("a format");
    let names = choice.formats();
    let format = |record: &Value| {
        let readout = choice.read(record);
        match readout.outcome {
            Ok(_) => names[readout.format].clone(),
            Err(RecordRefusal::Rejected(reason)) => reason,
            Err(filtered) => format!("{filtered:?}"),
        }
    };
    records.iter().map(format).collect()
}

#[test]
fn auto_takes_the_format_that_reads_most_records() {
    let alpaca = json!({"instruction": "a", "input": "i", "output": "b"});
    let wrong = "the record is a number, not an object";
    assert_eq!(formats(&[json!(3), alpaca.clone(), alpaca]), [wrong, "alpaca", "alpaca"]);
    assert_eq!(formats(&[json!({"question": "a", "answer": "b"})]), ["qa (question, answer)"]);
}

#[test]
fn a_format_that_ignores_a_text_never_outvotes_one_that_reads_it() {
    // A format that reads `input` and `output` alone would read all of these records.
    let record = |instruction: Value, input: Value| json!({"instruction": instruction, "input": input, "output": "z"});
    let translate = record(json!("Say in French"), json!("sun"));
    let mut records = vec![record(json!(null), json!("moon")); 5];
    records.push(translate.clone());
    let mut expected = vec!["`instruction` is null"; 5];
    expected.push("alpaca");
    assert_eq!(formats(&records), expected);
    let listed = record(json!("Say in French"), json!(["sun"]));
    assert_eq!(formats(&[translate.clone(), listed]), ["alpaca", "`input` is a list, not a text"]);
    let without = json!({"input": "moon", "output": "z"});
    let reason = "there is no `instruction`; there are the fields `input`, `output`";
    assert_eq!(formats(&[translate, without]), ["alpaca", reason], "`input` is not the prompt of one record alone");
}

#[test]
fn a_record_of_another_format_is_read_by_that_format() {
    let chat = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    let alpaca = json!({"instruction": "a", "output": "b"});
    let (first, second) = (json!({"prompt": "a", "response": "b"}), json!({"prompt": "a", "completion": "b"}));
    assert_eq!(formats(&[alpaca.clone(), alpaca, chat.clone()]), ["alpaca", "alpaca", "messages"]);
    assert_eq!(formats(&[first, second]), ["qa (prompt, response)", "qa (prompt, completion)"]);
    // A table has all columns in every row.
    let wide = json!({"messages": null, "instruction": "a", "output": "b"});
    assert_eq!(formats(&[chat.clone(), chat, wide]), ["messages", "messages", "alpaca"]);
}

#[test]
fn two_fields_that_may_both_be_the_response_are_for_the_user_to_decide() {
    let record = json!({"question": "a", "answer": "b", "response": "c"});
    let error = choose(std::slice::from_ref(&record)).expect_err("ambiguous");
    assert!(error.contains("`qa (question, answer)` would ignore `response`"), "{error}");
    let mapping = Mapping {
        fields: raisin_settings::FieldNames {
            prompt: Some("question".into()),
            response: Some("answer".into()),
            ..Default::default()
        },
        ..Mapping::default()
    };
    let readout = Choice::new(&mapping, &[]).expect("named").read(&record).unread;
    assert_eq!(readout, ["response"]);
    let named = json!({"instruction": "a", "input": "", "output": "b", "answer": "answer2"});
    assert_eq!(formats(&[named]), ["alpaca"], "without a `question`, no format reads `answer`");
}

#[test]
fn conversation_fields_that_no_format_reads_are_never_dropped() {
    for (name, value) in [("context", json!("c")), ("images", json!(["a.png"])), ("history", json!([["a", "b"]]))] {
        let chat =
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], name: value});
        let error = choose(&[chat]).expect_err("a field without a reader");
        assert!(error.contains(&format!("`messages` would ignore `{name}`")), "{error}");
    }
}

#[test]
fn a_file_without_conversations_is_refused_by_what_it_is() {
    let reason = |record: Value| choose(&[record]).expect_err("no conversation");
    assert_eq!(
        reason(json!({"text": "a"})),
        "no known format fits: the first record has the fields `text`; `text` may be a prompt, and no known field holds a \
         response"
    );
    assert!(
        reason(json!({"message_id": "1", "parent_id": null, "text": "a", "role": "prompter"})).contains("OASST tree")
    );
    assert!(reason(json!({"role": "user", "content": "a"})).contains("each record is a single turn"));
    assert!(reason(json!({"instruction": "a", "input": "b"})).contains("no known field holds a response"));
    assert!(reason(json!({"instruction": "a", "output": ""})).contains("the first record has the fields"));
    assert!(reason(json!({"query": "a", "choices": ["b", "c"], "gold": 1})).contains("multiple-choice questions"));
    let two = json!({"instruction": "a", "instances": [{"input": "", "output": "1"}, {"input": "", "output": "2"}]});
    assert!(reason(two).contains("there are 2 `instances`"));
}

#[test]
fn texts_that_are_turns_of_the_list_are_copies() {
    let turns = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "<think>\nt\n</think>\n\na"}]);
    let record = |prompt: &str, response: &str| json!({"instruction": prompt, "response": response, "prompt": prompt, "conversations": turns});
    for response in ["a", "<think>t</think>a"] {
        assert_eq!(formats(&[record("q", response)]), ["sharegpt"]);
    }
    for (prompt, response) in [("other", "a"), ("q", "other"), ("q", "<think>other</think>a")] {
        let error = choose(&[record(prompt, response)]).expect_err("two conversations");
        assert!(error.contains("`sharegpt` would ignore"), "{error}");
    }
    // The table of instructions that raisin writes.
    let list = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant",
        "content": "a"}, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]);
    let table =
        json!({"id": 0, "system": "s", "prompt": "r", "response": "b", "messages": list.to_string(), "tools": null});
    assert_eq!(formats(&[table]), ["messages"]);
}

#[test]
fn a_part_with_an_empty_name_is_left_out() {
    let record = json!({"instruction": "a", "input": "i", "output": "b", "system": "s"});
    let fields =
        raisin_settings::FieldNames { context: Some(String::new()), system: Some(String::new()), ..Default::default() };
    let choice = Choice::new(&Mapping { fields, ..Mapping::default() }, &[&record]).expect("a format");
    let readout = choice.read(&record);
    let texts: Vec<String> = readout.outcome.expect("read").messages.into_iter().map(|turn| turn.content).collect();
    assert_eq!((texts, readout.unread), (vec!["a".to_owned(), "b".to_owned()], vec!["input", "system"]));
}
