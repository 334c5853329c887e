//! Random records: every reader gives a conversation or a reason, and every field is read or named as unread.

use std::collections::BTreeSet;

use super::*;
use crate::digests::ContentHasher;
use proptest::prelude::*;
use raisin_settings::{FieldNames, RecordFormat};
use serde_json::{Map, json};

const TEXT_FIELDS: [&str; 12] = [
    "instruction",
    "input",
    "output",
    "system",
    "system_prompt",
    "context",
    "prompt",
    "completion",
    "response",
    "question",
    "answer",
    "query",
];
const OTHER_FIELDS: [&str; 16] = [
    "messages",
    "conversations",
    "conversation",
    "history",
    "chosen",
    "rejected",
    "tools",
    "functions",
    "label",
    "weight",
    "loss",
    "instances",
    "reasoning_content",
    "id",
    "source",
    "score",
];

fn text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "yes",
        "no",
        "",
        " ",
        "\n",
        "[]",
        "{}",
        "[[\"a\",\"b\"]]",
        "<think>so</think>",
        "<think>",
        "\n\nHuman: a\n\nAssistant: b",
        "Human: a",
        "Assistant:",
        "so</think>",
        "true",
        "FALSE",
        "a sentence",
        "{\"name\": \"f\", \"arguments\": \"{}\"}",
        "[{\"role\": \"user\", \"content\": \"q\"}]",
        "日本",
        "0",
        "1",
    ]);
    prop::collection::vec(piece, 0..3).prop_map(|pieces| pieces.concat())
}

fn scalar_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => text().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => prop::sample::select(vec![json!(0), json!(1), json!(0.5), json!(-3), json!(1e30)]),
    ]
}

fn turn() -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec![
        "user",
        "human",
        "assistant",
        "gpt",
        "system",
        "tool",
        "function_call",
        "observation",
        "developer",
        "narrator",
    ]);
    let keys =
        prop::sample::select(vec![("role", "content"), ("from", "value"), ("role", "value"), ("speaker", "text")]);
    let content = prop_oneof![
        5 => scalar_value(),
        1 => scalar_value().prop_map(|text| json!([{"type": "text", "text": text}])),
        1 => Just(json!([{"type": "image_url", "image_url": "x"}])),
        1 => Just(json!([{"type": "thinking", "thinking": "so"}, "then"])),
    ];
    let more = prop::sample::select(vec![
        json!({}),
        json!({"weight": 0}),
        json!({"train": false}),
        json!({"loss": null}),
        json!({"weight": "often"}),
        json!({"tool_calls": []}),
        json!({"tool_calls": [{"function": {"name": "f", "arguments": "{\"a\": 1}"}}]}),
        json!({"tool_calls": "no list"}),
        json!({"function_call": {"name": "f", "arguments": {}}}),
        json!({"reasoning_content": "so"}),
        json!({"name": "f", "tool_call_id": "x"}),
        json!({"extra": [1, 2]}),
    ]);
    (role, keys, content, more).prop_map(|(role, keys, content, more)| {
        let mut turn = Map::from_iter([(keys.0.to_owned(), json!(role)), (keys.1.to_owned(), content)]);
        turn.extend(more.as_object().cloned().unwrap_or_default());
        Value::Object(turn)
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => scalar_value(),
        4 => prop::collection::vec(turn(), 0..5).prop_map(Value::from),
        1 => prop::collection::vec(turn(), 0..3).prop_map(|turns| Value::from(turns).to_string().into()),
        1 => turn(),
        1 => prop::collection::vec(scalar_value(), 0..3).prop_map(Value::from),
    ]
}

fn record() -> impl Strategy<Value = Value> {
    let texts = prop::collection::btree_map(prop::sample::select(&TEXT_FIELDS[..]), scalar_value(), 0..4);
    let others = prop::collection::btree_map(prop::sample::select(&OTHER_FIELDS[..]), value(), 0..4);
    (texts, others).prop_map(|(texts, others)| {
        let entries = texts.into_iter().chain(others).map(|(name, value)| (name.to_owned(), value));
        Value::Object(entries.collect())
    })
}

/// A record without lists and objects.
fn flat_record() -> impl Strategy<Value = Value> {
    let fields = TEXT_FIELDS.into_iter().chain(OTHER_FIELDS).chain(["kto_tag", "image", "a.b", "a+b"]);
    let name = prop::sample::select(fields.collect::<Vec<_>>());
    let fields = prop::collection::vec((name, scalar_value()), 1..6);
    fields.prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// All texts of a conversation.
fn texts(conversation: &Conversation) -> String {
    let Conversation { messages, tools, rejected } = conversation;
    let mut all = json!([tools, rejected]).to_string();
    for message in messages {
        all += &format!("{}{}", message.reasoning.as_deref().unwrap_or_default(), message.content);
        all += &Value::from(message.tool_calls.clone()).to_string();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_field_is_read_or_named_and_a_text_that_is_read_is_in_the_conversation(
        records in prop::collection::vec(record(), 1..5),
        format in prop::sample::select(vec![
            RecordFormat::Auto, RecordFormat::Alpaca, RecordFormat::Qa, RecordFormat::Messages, RecordFormat::Sharegpt,
        ]),
    ) {
        let sample: Vec<&Value> = records.iter().collect();
        let mapping = Mapping { format, ..Mapping::default() };
        let Ok(choice) = Choice::new(&mapping, &sample) else { return Ok(()) };
        for record in &records {
            let readout = choice.read(record);
            let object = record.as_object().expect("an object");
            let Ok(conversation) = &readout.outcome else { continue };
            let used: BTreeSet<&str> = readout.used.iter().copied().collect();
            let unread: BTreeSet<&str> = readout.unread.iter().copied().collect();
            prop_assert!(used.is_disjoint(&unread), "{} {:?} {:?}", record, used, unread);
            for (name, value) in object {
                let known = used.contains(name.as_str()) || unread.contains(name.as_str());
                prop_assert!(known || fields::is_blank(value), "{}: `{}` is neither read nor unread", record, name);
            }
            let last = conversation.messages.last().expect("a turn");
            prop_assert!(last.is_assistant() && !last.is_empty(), "{}", record);
            prop_assert!(conversation.messages.iter().any(|it| !it.is_assistant() && !it.is_empty()), "{}", record);
            let all = texts(conversation);
            for name in TEXT_FIELDS.iter().filter(|name| used.contains(**name)) {
                if let Some(Value::String(text)) = object.get(*name)
                    && text.chars().all(char::is_alphanumeric)
                {
                    prop_assert!(all.contains(text.as_str()), "{}: the text of `{}` is lost: {}", record, name, all);
                }
            }
        }
    }

    #[test]
    fn a_flat_record_is_read_as_every_other_record(
        records in prop::collection::vec(flat_record(), 1..12),
        format in prop::sample::select(vec![RecordFormat::Auto, RecordFormat::Alpaca, RecordFormat::Qa]),
        names in prop::sample::select(vec![
            FieldNames::default(),
            FieldNames { prompt: Some("a+b".into()), response: Some("output".into()), ..FieldNames::default() },
            FieldNames { context: Some("source+id".into()), label: Some("score".into()), ..FieldNames::default() },
            FieldNames { reasoning: Some("answer".into()), system: Some(String::new()), ..FieldNames::default() },
        ]),
    ) {
        let sample: Vec<&Value> = records.iter().collect();
        let mapping = Mapping { format, fields: names, ..Mapping::default() };
        let Ok(choice) = Choice::new(&mapping, &sample) else { return Ok(()) };
        let hasher = ContentHasher::default();
        // Each record twice: the second time its shape is known.
        for record in records.iter().chain(&records) {
            let Some(flat) = FlatRecord::of_json(record.to_string().as_bytes()) else { continue };
            let Some(plan) = choice.plan(&flat) else { continue };
            let slow = choice.read(record);
            let conversation = plan.conversation(&flat);
            let hash = hasher.of_texts(plan.roles(), |turn, to| plan.write(turn, &flat, to));
            prop_assert_eq!(hash, hasher.of(&conversation.messages, &conversation.tools), "{}", record);
            prop_assert_eq!(Ok(conversation), slow.outcome, "{}", record);
            prop_assert_eq!((plan.format, plan.notices), (slow.format, slow.notices), "{}", record);
            prop_assert_eq!(&plan.used, &slow.used, "{}", record);
            prop_assert_eq!(&plan.unread, &slow.unread, "{}", record);
            prop_assert!(slow.unread_below.is_empty(), "{}", record);
        }
    }
}

/// A test that skips what it tests would pass: the records that people have are read fast.
#[test]
fn the_usual_records_are_read_by_their_shape() {
    let cases = [
        json!({"instruction": "a b", "input": "c", "output": "d\n"}),
        json!({"instruction": " a", "input": "", "output": "d"}),
        json!({"question": "a", "answer": "b", "id": 7, "source": "x", "score": 0.5}),
        json!({"system_prompt": "s", "question": "a", "response": "b", "id": "x"}),
        json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
    ];
    for record in cases {
        let choice = Choice::new(&Mapping::default(), &[&record]).expect("a format");
        let flat = FlatRecord::of_json(record.to_string().as_bytes()).expect("flat");
        let plan = choice.plan(&flat).unwrap_or_else(|| panic!("{record}"));
        assert_eq!(Ok(plan.conversation(&flat)), choice.read(&record).outcome, "{record}");
    }
    let thoughts = json!({"instruction": "a", "output": "<think>b</think>c"});
    let choice = Choice::new(&Mapping::default(), &[&thoughts]).expect("a format");
    assert!(choice.plan(&FlatRecord::of_json(thoughts.to_string().as_bytes()).expect("flat")).is_none());
}
