use super::*;
use raisin_settings::{FieldNames, RecordFormat, Role};
use serde_json::json;

fn mapping(format: RecordFormat) -> Mapping {
    Mapping { format, ..Mapping::default() }
}

/// The fields of a mapping as a pipeline file gives them.
fn fields(names: Value) -> Mapping {
    let fields: FieldNames = serde_json::from_value(names).expect("names of fields");
    Mapping { fields, ..Mapping::default() }
}

/// What the settings make of a record that is alone in its file.
fn outcome(mapping: &Mapping, record: &Value) -> Result<Conversation, RecordRefusal> {
    let choice = Choice::new(mapping, &[record]).map_err(RecordRefusal::Rejected)?;
    choice.read(record).outcome
}

fn auto(record: Value) -> Conversation {
    outcome(&Mapping::default(), &record).unwrap_or_else(|reason| panic!("{record}: {reason:?}"))
}

fn reason(mapping: &Mapping, record: Value) -> String {
    match outcome(mapping, &record) {
        Err(RecordRefusal::Rejected(reason)) => reason,
        other => panic!("{record}: {other:?}"),
    }
}

fn notices(record: &Value) -> Vec<&'static str> {
    let choice = Choice::new(&Mapping::default(), &[record]).expect("a format");
    let found = choice.read(record).notices;
    Notice::ALL.into_iter().filter(|notice| found.contains(*notice)).map(Notice::name).collect()
}

fn turns(conversation: &Conversation) -> Vec<(&str, &str)> {
    conversation.messages.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect()
}

#[test]
fn alpaca_puts_the_input_below_the_instruction() {
    let record = json!({"instruction": "Add", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"]]});
    let expected = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "Add\n\n1 2"), ("assistant", "3")];
    assert_eq!(turns(&auto(record)), expected);
    for blank in ["", " \n"] {
        let bare = json!({"instruction": "Add", "input": blank, "system": blank, "output": 3});
        assert_eq!(turns(&auto(bare)), [("user", "Add"), ("assistant", "3")]);
    }
}

#[test]
fn system_context_and_history_are_read_beside_every_question_and_answer() {
    for (record, expected) in [
        (
            json!({"instruction": "Summarise", "context": "A long text", "response": "Short", "category": "x"}),
            vec![("user", "Summarise\n\nA long text"), ("assistant", "Short")],
        ),
        (
            json!({"instruction": "Summarise", "input": "A long text", "response": "Short"}),
            vec![("user", "Summarise\n\nA long text"), ("assistant", "Short")],
        ),
        (
            json!({"system_prompt": "Speak Latin.", "question": "name?", "response": "Marcus", "id": "7"}),
            vec![("system", "Speak Latin."), ("user", "name?"), ("assistant", "Marcus")],
        ),
        (
            json!({"prompt": "Translate", "query": "sun", "response": "sol", "history": [["moon", "luna"]]}),
            vec![("user", "moon"), ("assistant", "luna"), ("user", "Translate\n\nsun"), ("assistant", "sol")],
        ),
        (
            json!({"instruction": "and?", "output": "d", "history": "[[\"one\", \"two\"]]"}),
            vec![("user", "one"), ("assistant", "two"), ("user", "and?"), ("assistant", "d")],
        ),
        (
            json!({"question": "and?", "answer": "d", "history": [{"role": "user", "content": "one"},
                {"role": "assistant", "content": "two"}]}),
            vec![("user", "one"), ("assistant", "two"), ("user", "and?"), ("assistant", "d")],
        ),
        (
            json!({"system": "Be kind", "messages": [{"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"}]}),
            vec![("system", "Be kind"), ("user", "a"), ("assistant", "b")],
        ),
        (
            json!({"id": "seed", "instruction": "Add", "instances": [{"input": "1 2", "output": "3"}]}),
            vec![("user", "Add\n\n1 2"), ("assistant", "3")],
        ),
    ] {
        assert_eq!(turns(&auto(record)), expected);
    }
}

#[test]
fn turns_have_any_mix_of_keys_below_any_name_of_the_list() {
    let expected = [("user", "ping"), ("assistant", "pong")];
    let list = json!([{"role": "human", "value": "ping"}, {"from": "gpt", "content": "pong"}]);
    for name in ["messages", "conversations", "conversation"] {
        assert_eq!(turns(&auto(json!({ name: list }))), expected);
        assert_eq!(turns(&auto(json!({ name: list.to_string() }))), expected, "as JSON text");
    }
    assert_eq!(turns(&auto(list)), expected, "a bare list");
    for format in [RecordFormat::Messages, RecordFormat::Sharegpt] {
        let record = json!({"conversation": [{"from": "user", "value": "ping"}, {"from": "bot", "value": "pong"}]});
        assert_eq!(turns(&outcome(&mapping(format), &record).expect("turns")), expected);
    }
}

#[test]
fn the_settings_name_fields_paths_and_speakers() {
    let record = json!({"talk": {"lines": [{"who": "customer", "says": "ping"}, {"who": "agent", "says": "pong"}]},
        "notes": {"persona": "p"}, "thought": "t"});
    let mut settings = fields(json!({"messages": "talk.lines", "role": "who", "content": "says", "system":
        "notes.persona", "reasoning": "thought"}));
    assert!(reason(&settings, record.clone()).contains("unknown role `customer`; say who that is"));
    settings.roles = [("customer".to_owned(), Role::User), ("agent".to_owned(), Role::Assistant)].into();
    let read = outcome(&settings, &record).expect("a conversation");
    assert_eq!(turns(&read), [("system", "p"), ("user", "ping"), ("assistant", "pong")]);
    assert_eq!(read.messages[2].reasoning.as_deref(), Some("t"));

    let settings = fields(json!({"prompt": "Body+Question.text", "response": "Answer"}));
    let record = json!({"Body": "b.", "Question": {"text": "q?"}, "Answer": 51.0});
    assert_eq!(turns(&outcome(&settings, &record).expect("a pair")), [("user", "b. q?"), ("assistant", "51")]);

    let settings = fields(json!({"prompt": "question", "response": "answers.0", "context": ""}));
    let record = json!({"question": "q", "answers": ["a", "b"], "context": "left out"});
    assert_eq!(turns(&outcome(&settings, &record).expect("a pair")), [("user", "q"), ("assistant", "a")]);
}

#[test]
fn a_rejected_record_has_a_reason() {
    let alpaca = mapping(RecordFormat::Alpaca);
    assert_eq!(reason(&alpaca, json!({"instruction": "a", "output": "  "})), "the response is empty");
    assert_eq!(reason(&alpaca, json!({"instruction": " ", "output": "b"})), "the prompt is empty");
    assert_eq!(reason(&alpaca, json!({"instruction": "a", "output": ["b"]})), "`output` is a list, not a text");
    assert_eq!(
        reason(&alpaca, json!({"instruction": "a"})),
        "there is no `output`; there are the fields `instruction`"
    );
    assert_eq!(reason(&alpaca, json!({"instruction": null, "output": "b"})), "`instruction` is null");
    assert_eq!(
        reason(&alpaca, json!({"instruction": "a", "input": ["i"], "output": "b"})),
        "`input` is a list, not a text"
    );
    let history = json!({"instruction": "a", "output": "b", "history": "earlier"});
    assert!(reason(&alpaca, history).starts_with("`history` is a text, and no JSON list"));
    let pair = json!({"instruction": "a", "output": "b", "history": [["one"]]});
    assert_eq!(reason(&alpaca, pair), "`history` must hold pairs of texts");
    assert_eq!(reason(&alpaca, json!("text")), "the record is a text, not an object");

    let messages = mapping(RecordFormat::Messages);
    let of = |turns: Value| reason(&messages, json!({"messages": turns}));
    let asked = json!({"role": "user", "content": "a"});
    assert_eq!(of(json!([asked])), "there is no response");
    assert_eq!(
        of(json!([{"role": "owl", "content": "a"}])),
        "message 1 has the unknown role `owl`; say who that is, for example with roles = { \"owl\" = \"user\" }"
    );
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]);
    assert_eq!(of(image), "message 1 has a part of the type `image_url`, and only texts can be read");
    assert_eq!(
        of(json!([asked, {"role": "assistant", "text": "b"}])),
        "message 2 has no `content`; there are the fields `role`, `text`"
    );
    assert_eq!(
        of(json!([asked, {"role": "assistant", "content": "<think>hm</think>"}])),
        "the response is empty after its thoughts"
    );
    let picture = json!([{"role": "user", "content": "a", "images": ["a.png"]}]);
    assert_eq!(of(picture), "message 1 has `images`, and only texts can be read");
    assert_eq!(of(json!([])), "`messages` has no turns");
    assert_eq!(
        of(json!([asked, {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": "{}"}}]}])),
        "message 2 has in `tool_calls` a call without a `name`"
    );
    let broken = json!([asked, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]);
    assert!(of(broken).starts_with("message 2 has arguments of the call `f` that are not valid JSON"));
}

#[test]
fn parts_of_a_content_are_texts_thoughts_and_calls() {
    let read = auto(json!({"messages": [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "value": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "id": "7", "name":
            "f", "input": {"x": 1}}]},
        {"role": "tool", "tool_call_id": "7", "content": {"ok": true}},
        {"role": "assistant", "content": [{"type": "reasoning", "value": "so"}, {"type": "output_text", "text": "c"}]},
        {"role": "user", "content": "unanswered"},
    ]}));
    let expected = [("system", "s"), ("user", "ab"), ("assistant", ""), ("tool", r#"{"ok":true}"#), ("assistant", "c")];
    assert_eq!(turns(&read), expected);
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}, "id": "7"});
    assert_eq!((&read.messages[2].tool_calls, read.messages[2].reasoning.as_deref()), (&vec![call], Some("hm")));
    assert_eq!(read.messages[3].tool_call_id.as_deref(), Some("7"));
    assert_eq!(read.messages[4].reasoning.as_deref(), Some("so"));
}

#[test]
fn calls_of_every_form_become_those_of_the_openai_interface() {
    let call = |arguments: Value| json!({"type": "function", "function": {"name": "f", "arguments": arguments}});
    let calls = |turn: Value| {
        let answer = json!({"role": "assistant", "content": "done"});
        let read = auto(json!({"messages": [{"role": "user", "content": "a"}, turn, answer]}));
        (read.messages[1].content.clone(), read.messages[1].tool_calls.clone())
    };
    let nothing = String::new;
    for turn in [
        json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]}),
        json!({"role": "assistant", "content": "", "tool_calls": "[{\"name\": \"f\", \"arguments\": {\"x\": 1}}]"}),
        json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": {"x": 1}},
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}),
        json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"x\": 1}"}}),
        json!({"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"}),
        json!({"from": "function_call", "value": "[{\"name\": \"f\", \"arguments\": {\"x\": 1}}]"}),
        json!({"role": "assistant", "content": [{"type": "tool_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"}]}),
    ] {
        assert_eq!(calls(turn.clone()), (nothing(), vec![call(json!({"x": 1}))]), "{turn}");
    }
    let bare =
        json!({"role": "assistant", "content": "b", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]});
    assert_eq!(calls(bare), ("b".to_owned(), vec![call(json!({}))]));
    let empty = json!({"role": "assistant", "content": "b", "tool_calls": []});
    assert_eq!(calls(empty), ("b".to_owned(), vec![]));
    let last = auto(json!({"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": {}}]}]}));
    assert_eq!(last.messages[1].tool_calls, [call(json!({}))], "a call is a response");
}

#[test]
fn tools_are_a_list_or_its_json_text() {
    let tool =
        json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}});
    let of = |name: &str, tools: Value| {
        auto(json!({name: tools, "system": "s", "conversations": [
            {"from": "human", "value": "a"}, {"from": "observation", "value": "r"}, {"from": "gpt", "value": "c"}]}))
    };
    let bare = &tool["function"];
    for given in
        [json!([tool]), json!([bare]), json!([bare.to_string()]), json!(json!([bare]).to_string()), bare.clone()]
    {
        assert_eq!(of("tools", given.clone()).tools, std::slice::from_ref(&tool), "{given}");
        assert_eq!(of("functions", given.clone()).tools, std::slice::from_ref(&tool), "{given}");
    }
    let schema = json!([{"name": "f", "description": "d", "input_schema": {"type": "object"}}]);
    assert_eq!(of("tools", schema).tools, [tool]);
    for none in [json!("[]"), json!(""), json!([]), json!(null)] {
        let read = of("tools", none);
        assert_eq!(read.tools, Vec::<Value>::new());
        assert_eq!(turns(&read), [("system", "s"), ("user", "a"), ("tool", "r"), ("assistant", "c")]);
    }
    let wrong = json!({"tools": "a hammer", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    assert!(reason(&mapping(RecordFormat::Messages), wrong).contains("`tools` is a text, and no JSON list"));
}

#[test]
fn thoughts_are_kept_apart_from_the_answer_and_can_be_put_back() {
    for (text, thoughts) in [
        ("<think>\nhm\n</think>\n\nyes\n", "hm"),
        (" \n<think>\n hm\n\nso\n</think>\nyes\n", " hm\n\nso"),
        ("<think>hm</think>yes\n", "hm"),
        ("<think></think>yes\n", ""),
        ("<think>\n\n</think>\n\nyes\n", ""),
        ("hm\n</think>\n\nyes\n", "hm"),
    ] {
        let last = auto(json!({"question": "q", "answer": text})).messages.remove(1);
        assert_eq!((last.reasoning.as_deref(), last.content.as_str()), (Some(thoughts), "yes\n"), "{text:?}");
    }
    for text in ["first <think>hm</think> yes", "The tag </think> ends the thoughts.", "<think>never closed"] {
        let last = auto(json!({"question": "q", "answer": text})).messages.remove(1);
        assert_eq!((last.reasoning, last.content.as_str()), (None, text));
    }
    let twice = |thoughts: &str, text: &str| {
        let asked = json!({"role": "user", "content": "q"});
        json!({"messages": [asked, {"role": "assistant", "content": text, "reasoning_content": thoughts}]})
    };
    for (thoughts, text) in [("hm", "<think>\nhm\n</think>\n\nyes"), ("hm", "<think></think>yes")] {
        let last = auto(twice(thoughts, text)).messages.remove(1);
        assert_eq!((last.reasoning.as_deref(), last.content.as_str()), (Some("hm"), "yes"));
    }
    assert_eq!(
        reason(&mapping(RecordFormat::Messages), twice("ah", "<think>hm</think>yes")),
        "message 2 has two different texts of thoughts, one of them before `</think>`"
    );
    for key in ["reasoning_content", "reasoning", "thinking"] {
        let read = auto(
            json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes", key: "hm"}]}),
        );
        assert_eq!((read.messages[1].reasoning.as_deref(), read.messages[1].content.as_str()), (Some("hm"), "yes"));
    }
}

#[test]
fn a_response_beside_a_list_that_ends_with_a_question_is_the_last_turn() {
    let list = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content":
        "c"}]);
    for name in ["response", "completion", "output", "answer"] {
        for list in [list.clone(), json!(list.to_string())] {
            let record = json!({"messages": list, name: "d"});
            let read = auto(record.clone());
            assert_eq!(turns(&read), [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
            assert_eq!(read.messages.iter().map(|it| it.untrained).collect::<Vec<_>>(), [false, true, false, false]);
            assert_eq!(notices(&record), ["prompt turns"]);
        }
    }
    let two = json!({"messages": list, "response": "d", "answer": "e"});
    assert!(reason(&Mapping::default(), two).contains("both `response` and `answer` may answer it"));
    let answered = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "It is 2."}],
        "answer": "2"});
    assert_eq!(turns(&auto(answered)), [("user", "a"), ("assistant", "It is 2.")], "the list has its response");
}

#[test]
fn a_transcript_may_end_where_the_response_begins() {
    for (record, expected) in [
        (json!({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " a", "rejected": " b"}), vec!["q", "a"]),
        (json!({"prompt": "\n\nHuman: q\n\nAssistant: ", "completion": " a"}), vec!["q", "a"]),
        (json!({"prompt": "Human: q\n\nAssistant:", "completion": "a"}), vec!["q", "a"]),
        (
            json!({"prompt": "\n\nHuman: q\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "completion": " a"}),
            vec!["q", "b", "c", "a"],
        ),
    ] {
        let read = auto(record.clone());
        let texts: Vec<&str> = read.messages.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(texts, expected, "{record}");
        let trained = read.messages.iter().filter(|message| message.is_assistant() && !message.untrained).count();
        assert_eq!(trained, 1, "{record}");
    }
}

#[test]
fn a_preference_file_trains_on_the_chosen_response() {
    let good = [("user", "ask"), ("assistant", "good")];
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    for record in [
        json!({"prompt": "ask", "chosen": "good", "rejected": "bad"}),
        json!({"instruction": "ask", "input": "", "chosen": "good", "rejected": "bad"}),
        json!({"system": "", "input": "ask", "chosen": "good", "rejected": "bad"}),
        json!({"query": "ask", "chosen": "good", "rejected": "bad"}),
        json!({"question": "ask", "chosen": "good", "rejected": "bad"}),
        json!({"conversation": [{"input": "ask", "output": "old"}], "chosen": [turn("user", "ask"), turn("assistant",
            "good")], "rejected": [turn("user", "ask"), turn("assistant", "bad")]}),
        json!({"prompt": [turn("user", "ask")], "chosen": [turn("assistant", "good")], "rejected": [turn("assistant", "bad")]}),
        json!({"chosen": [turn("user", "ask"), turn("assistant", "good")], "rejected": [turn("user", "ask"), turn("assistant", "bad")]}),
        json!({"prompt": "ask", "chosen": [turn("user", "ask"), turn("assistant", "good")],
            "rejected": [turn("user", "ask"), turn("assistant", "bad")],
            "messages": [turn("user", "ask"), turn("assistant", "good")], "score_chosen": 8.0}),
        json!({"chosen": "\n\nHuman: ask\n\nAssistant: good", "rejected": "\n\nHuman: ask\n\nAssistant: bad"}),
        json!({"conversations": [{"from": "human", "value": "ask"}], "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"}}),
    ] {
        let read = auto(record.clone());
        assert_eq!((turns(&read).as_slice(), read.rejected.as_deref()), (&good[..], Some("bad")), "{record}");
    }
    let below = json!({"instruction": "ask", "input": "this", "chosen": "good", "rejected": "bad"});
    assert_eq!(turns(&auto(below)), [("user", "ask\n\nthis"), ("assistant", "good")]);
    let long = json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human",
        "value": "c"}], "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}});
    let read = auto(long.clone());
    assert_eq!(turns(&read), [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "good")]);
    assert_eq!(read.messages.iter().map(|message| message.untrained).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(notices(&long), ["prompt turns"]);
    let other = json!({"prompt": "x", "chosen": [turn("user", "ask"), turn("assistant", "good")], "rejected": "bad"});
    assert!(
        reason(&Mapping::default(), other).contains("`chosen` begins with a prompt, and `prompt` holds another one")
    );
}

#[test]
fn prompt_and_completion_are_texts_or_turns() {
    let expected = [("user", "q"), ("assistant", "a")];
    assert_eq!(turns(&auto(json!({"prompt": "q", "completion": "a"}))), expected);
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    assert_eq!(turns(&auto(json!({"prompt": [turn("user", "q")], "completion": [turn("assistant", "a")]}))), expected);
}

#[test]
fn labels_and_weights_leave_out_records_and_turns() {
    let outcome = |record: Value| outcome(&Mapping::default(), &record);
    let record =
        |label: Value, weight: Value| json!({"prompt": "q", "completion": "a", "label": label, "weight": weight});
    assert!(outcome(record(json!(true), json!(1))).is_ok());
    assert_eq!(outcome(record(json!(false), json!(1))), Err(RecordRefusal::Filtered(Filter::Label)));
    assert_eq!(outcome(record(json!(true), json!(0.0))), Err(RecordRefusal::Filtered(Filter::Weight)));
    assert!(outcome(record(json!(null), json!("heavy"))).is_ok(), "no weight of a response");
    for label in [json!("False"), json!("false"), json!(0), json!("0"), json!(0.0)] {
        assert_eq!(outcome(record(label, json!(1))), Err(RecordRefusal::Filtered(Filter::Label)));
    }
    for label in [json!("True"), json!(1)] {
        assert!(outcome(record(label, json!(1))).is_ok());
    }
    let greeting = record(json!("greeting"), json!(1));
    assert!(reason(&Mapping::default(), greeting.clone()).contains("`label` is a text, not a truth value; fields = {"));
    assert!(super::tests::outcome(&fields(json!({"label": ""})), &greeting).is_ok());
    let class = |label: Value| outcome(json!({"question": "q", "answer": "a", "label": label}));
    assert!(class(json!("greeting")).is_ok() && class(json!(0)).is_ok(), "a class of the question");
    assert_eq!(class(json!("false")), Err(RecordRefusal::Filtered(Filter::Label)));
    assert_eq!(notices(&record(json!(null), json!(0.5))), ["weight ignored"]);

    let turns = |key: &str, first: Value, last: Value| {
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bad", key: first},
            {"role": "user", "content": "b"}, {"role": "assistant", "content": "good", key: last}]})
    };
    for (key, no, yes) in [
        ("weight", json!(0), json!(1)),
        ("train", json!(false), json!(true)),
        ("loss", json!(false), json!(true)),
        ("training", json!("false"), json!("true")),
        ("loss_weight", json!(0.0), json!(1.0)),
    ] {
        let read = outcome(turns(key, no.clone(), yes.clone())).expect("a conversation");
        let untrained: Vec<bool> = read.messages.iter().map(|message| message.untrained).collect();
        assert_eq!(untrained, [false, true, false, false], "{key}");
        assert_eq!(notices(&turns(key, no.clone(), yes.clone())), ["untrained turns"]);
        let cut = outcome(turns(key, yes, no.clone())).expect("a conversation");
        assert_eq!(cut.messages.len(), 2, "nothing after the last trained response has an effect");
        assert_eq!(outcome(turns(key, no.clone(), no)), Err(RecordRefusal::Filtered(Filter::Weight)));
    }
    let user =
        json!({"messages": [{"role": "user", "content": "a", "train": true}, {"role": "assistant", "content": "b"}]});
    assert_eq!(notices(&user), ["other turns weighted"]);
}

#[test]
fn what_a_reader_changes_is_a_notice() {
    let of = |turns: Value| notices(&json!({ "messages": turns }));
    let (asked, answered) = (json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"}));
    assert_eq!(of(json!([asked, answered])), Vec::<&str>::new());
    assert_eq!(of(json!([asked, answered, asked])), ["trailing turns"]);
    let systems = json!([{"role": "system", "content": "one"}, {"role": "system", "content": "two"}, asked, answered]);
    assert_eq!(turns(&auto(json!({"messages": systems})))[0], ("system", "one\n\ntwo"));
    assert_eq!(of(systems), ["systems joined"]);
    assert_eq!(of(json!([asked, {"role": "assistant", "content": ""}, asked, answered])), ["empty turns"]);
    assert_eq!(of(json!([asked, {"role": "assistant", "content": "<think>c</think>b"}])), ["thoughts"]);
}

#[test]
fn fields_that_are_not_read_are_known() {
    let record = json!({"id": 7, "messages": [{"role": "user", "content": "a", "time": 3}, {"role": "assistant",
        "content": "b", "id": "x"}], "tags": [], "source": "web"});
    let choice = Choice::new(&Mapping::default(), &[&record]).expect("a format");
    let readout = choice.read(&record);
    assert_eq!((readout.used, readout.unread), (vec!["messages"], vec!["id", "source"]));
    assert_eq!(readout.unread_below, ["messages[].time", "messages[].id"]);
}

#[test]
fn what_stands_beside_a_path_is_not_read() {
    let of = |settings: &Mapping, record: &Value| {
        Choice::new(settings, &[]).expect("named").read(record).unread_below.join(" ")
    };
    let settings = fields(json!({"prompt": "talk.0", "response": "talk.1"}));
    assert_eq!(of(&settings, &json!({"talk": ["a", "b", "c", ""]})), "talk[2]");
    assert_eq!(of(&settings, &json!({"talk": ["a", "b"]})), "");
    let long: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    assert_eq!(of(&settings, &json!({"talk": long})), "talk[2] talk[3] talk[4] talk[5] talk[6..]");
    let settings = fields(json!({"prompt": "q.text", "response": "q.more.answer"}));
    let record = json!({"q": {"text": "a", "textbook": 1, "more": {"answer": "b", "note": "c"}}});
    assert_eq!(of(&settings, &record), "q.textbook q.more.note");
}

#[test]
fn numbers_are_texts_only_with_all_their_digits() {
    let read = |text: &str| {
        let record = serde_json::from_str(&format!("{{\"prompt\": \"q\", \"response\": {text}}}")).expect("a record");
        outcome(&mapping(RecordFormat::Qa), &record).map(|read| read.messages[1].content.clone())
    };
    for text in ["12345678901234567890", "-9007199254740993", "1.1", "7"] {
        assert_eq!(read(text).as_deref(), Ok(text));
    }
    for text in ["98765432109876543210", "1.2345678901234568e+17", "-98765432109876543210"] {
        let Err(RecordRefusal::Rejected(reason)) = read(text) else { panic!("{text}") };
        let wanted = "`response` is a number of more digits than can be kept (write it as a text), not a text";
        assert!(reason.contains(wanted), "{reason}");
    }
    let call = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls":
        [{"name": "f", "arguments": {"id": [98765432109876543210]}}]}]}"#;
    let call = serde_json::from_str(call).expect("a record");
    assert!(reason(&mapping(RecordFormat::Messages), call).contains("an argument of the call `f`"));
}

#[test]
fn lists_of_texts_and_of_pairs_are_turns() {
    let expected = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
    for record in [
        json!({"conversations": ["a", "b", "c", "d"], "source": "x"}),
        json!({"id": "7", "data": ["a", "b", "c", "d"]}),
        json!({"conversation": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]}),
    ] {
        assert_eq!(turns(&auto(record.clone())), expected, "{record}");
        assert_eq!(notices(&record), Vec::<&str>::new());
    }
    assert_eq!(notices(&json!({"conversations": ["a", "b", "c"]})), ["trailing turns"]);
    let data = json!({"prompt": "a", "response": "b", "data": "web"});
    assert_eq!(turns(&auto(data)), expected[..2], "`data` is no list of texts");
    let json = json!({"messages": [json!({"role": "user", "content": "a"}).to_string()]});
    assert_eq!(reason(&mapping(RecordFormat::Messages), json), "message 1 is a text, not an object");
}

#[test]
fn answers_that_are_calls_become_calls() {
    let calls = "[{\"name\": \"f\", \"arguments\": {\"x\": 1}}]";
    let read = auto(json!({"id": 0, "query": "q", "tools": "[{\"name\": \"f\"}]", "answers": calls}));
    assert_eq!((turns(&read), read.tools.len()), (vec![("user", "q"), ("assistant", "")], 1));
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
    assert_eq!(read.messages[1].tool_calls, [call]);
}

#[test]
fn a_turn_without_a_speaker_is_rejected_by_what_it_is() {
    let record = json!({"messages": [{"role": null, "content": "a"}]});
    assert_eq!(reason(&mapping(RecordFormat::Messages), record), "message 1 has null as `role`, and no speaker");
}
