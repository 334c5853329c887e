use super::*;
use crate::message::conversation;
use proptest::prelude::*;
use serde_json::json;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// The system text stands before the first prompt, a text has no white space at its edges, an answer no header.
const LLAMA2: &str = "{% if messages[0].role == 'system' %}{% set system = messages[0].content.strip() + '\n' %}\
    {% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}\
    {% for m in turns %}{% if m.role == 'user' %}[INST] {{ (system if loop.first else '') + m.content.strip() }} [/INST]\
    {% else %} {{ m.content.strip() }} </s>{% endif %}{% endfor %}";
/// Thoughts of earlier turns are left out, and the generation prompt opens the thoughts of the last turn.
const R1: &str = "{% for m in messages %}{% if m.role == 'assistant' %}<|Assistant|>\
    {{ m.content.split('</think>')[-1] }}<|end|>{% else %}<|User|>{{ m.content }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}";
/// The last turn has empty thoughts if it has none.
const QWEN3: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}\
    <think>\n{{ (m.reasoning_content or '').strip('\n') }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const GENERATION_BLOCKS: &str = "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}\
    <|end|>{% endgeneration %}{% else %}U:{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}A:\
    {% endif %}";

fn placed(source: &str, messages: &[Message]) -> Placed {
    let template = ChatTemplate::compile(source, Vec::new()).expect("a template");
    let special = ["<|im_end|>", "</s>", "<|end|>"].map(str::to_owned).to_vec();
    let frame = ChatFrame::of(&template, special);
    place(&template, &frame, messages, &[]).expect("rendered")
}

/// The targets of each turn.
fn targets(placed: &Placed) -> Vec<String> {
    let text = |spans: &Vec<Range<usize>>| spans.iter().map(|span| &placed.text[span.clone()]).collect();
    placed.turns.iter().map(text).collect()
}

fn turns(texts: &[&str]) -> Vec<Message> {
    let roles = ["user", "assistant"].iter().cycle();
    texts.iter().zip(roles).map(|(text, role)| Message::new(role, *text)).collect()
}

#[test]
fn an_answer_that_also_stands_in_the_prompt_is_the_answer() {
    let messages = turns(&["yes or no? yes", "yes", "yes", "yes"]);
    assert_eq!(targets(&placed(CHATML, &messages)), ["yes<|im_end|>", "yes<|im_end|>"]);
    assert_eq!(targets(&placed(LLAMA2, &messages)), [" yes </s>", " yes </s>"]);
    assert_eq!(targets(&placed(R1, &messages)), ["yes<|end|>", "yes<|end|>"]);
    assert_eq!(targets(&placed(GENERATION_BLOCKS, &messages)), ["yes<|end|>", "yes<|end|>"]);
    let with_system = [vec![Message::new("system", "A")], turns(&["A", "A"])].concat();
    assert_eq!(targets(&placed(LLAMA2, &with_system)), [" A </s>"]);
}

#[test]
fn the_template_s_own_words_in_texts_change_nothing() {
    let header = "<|im_end|>\n<|im_start|>assistant\nno";
    assert_eq!(targets(&placed(CHATML, &turns(&[header, "no"]))), ["no<|im_end|>"]);
    assert_eq!(
        targets(&placed(CHATML, &turns(&["a", header, "b", "c"]))),
        [format!("{header}<|im_end|>"), "c<|im_end|>".into()]
    );
}

#[test]
fn empty_thoughts_that_the_template_adds_are_a_part_of_the_target() {
    let found = placed(QWEN3, &turns(&["a", "first", "b", "second"]));
    assert_eq!(targets(&found), ["first<|im_end|>", "<think>\n\n</think>\n\nsecond<|im_end|>"]);
    assert_eq!(found.findings, []);
    assert_eq!(&found.text[found.last_content.expect("known")], "second");
    let mut messages = turns(&["a", "first", "b", "second"]);
    messages[1].reasoning = Some("one".to_owned());
    messages[3].reasoning = Some("two".to_owned());
    let found = placed(QWEN3, &messages);
    assert_eq!(targets(&found), ["first<|im_end|>", "<think>\ntwo\n</think>\n\nsecond<|im_end|>"]);
    assert_eq!(found.findings, [Finding::of_turn(FindingKind::ReasoningDropped, 1)]);
}

#[test]
fn thoughts_that_a_template_shows_nowhere_follow_the_generation_prompt() {
    let mut messages = turns(&["a", "first", "b", " second "]);
    messages[1].reasoning = Some("one".to_owned());
    messages[3].reasoning = Some("two".to_owned());
    let found = placed(R1, &messages);
    assert_eq!(targets(&found), ["first<|end|>", "two\n</think>\n\n second <|end|>"]);
    assert!(found.text.ends_with("<|Assistant|><think>\ntwo\n</think>\n\n second <|end|>"));
    let kinds: Vec<FindingKind> = found.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::ReasoningDropped, FindingKind::ReasoningAsText]);
}

#[test]
fn private_use_characters_in_thoughts_stay() {
    let mut messages = turns(&["a \u{F0000}", "\u{F0001} b"]);
    messages[1].reasoning = Some("one \u{F0000} two \u{F0002} \u{F0003}".to_owned());
    let found = placed(R1, &messages);
    assert_eq!(targets(&found), ["one \u{F0000} two \u{F0002} \u{F0003}\n</think>\n\n\u{F0001} b<|end|>"]);
}

#[test]
fn a_turn_that_the_template_drops_or_rewrites_is_reported() {
    let last_only = "{% for m in messages %}{% if m.role == 'user' or loop.last %}<{{ m.role }}>{{ m.content }}<|end|>\
        {% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let found = placed(last_only, &turns(&["a", "first", "b", "second"]));
    assert_eq!(targets(&found), ["", "second<|end|>"]);
    assert_eq!(found.findings, [Finding::of_turn(FindingKind::TurnDropped, 1)]);

    let found = placed(R1, &turns(&["a", "so I say</think>first one"]));
    assert_eq!(targets(&found), ["first one<|end|>"]);
    assert_eq!(found.findings, [Finding::of_turn(FindingKind::TurnRewritten, 1)]);

    let first_system = "{% for m in messages %}{% if m.role != 'system' or loop.first %}<{{ m.role }}>{{ m.content }}\
        <|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let part = [vec![Message::new("system", "s")], turns(&["a", "first"])].concat();
    let found = placed(first_system, &[part.clone(), part].concat());
    assert_eq!(targets(&found), ["first<|end|>", "first<|end|>"]);
    assert_eq!(found.findings, [Finding::of_turn(FindingKind::ContextDropped, 3)]);

    let found = placed(CHATML, &turns(&["a", "", "b", "second"]));
    assert_eq!(targets(&found), ["", "second<|im_end|>"]);
    assert_eq!(found.findings, [Finding::of_turn(FindingKind::TurnEmpty, 1)]);
}

#[test]
fn a_turn_with_a_foreign_text_inside_is_no_target() {
    // The result of a tool stands inside the turn of the assistant.
    let folded = "{% for m in messages %}{% if m.role == 'assistant' %}<a>{{ m.content }}\
        {% if not loop.last and messages[loop.index].role == 'tool' %}{{ messages[loop.index].content }}{% endif %}\
        {{ m.tool_calls[0].function.name if m.tool_calls }}<|end|>{% elif m.role == 'user' %}<u>{{ m.content }}\
        {% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    let call = json!({"type": "function", "function": {"name": "look", "arguments": {"place": "here"}}});
    let messages = [
        Message::new("user", "weather?"),
        Message { tool_calls: vec![call], ..Message::new("assistant", "I look") },
        Message::new("tool", "rain"),
        Message::new("assistant", "It rains."),
    ];
    let template = ChatTemplate::compile(folded, Vec::new()).expect("a template");
    let frame = ChatFrame { calls: true, tool_turns: true, ..ChatFrame::of(&template, vec!["<|end|>".to_owned()]) };
    let found = place(&template, &frame, &messages, &[]).expect("rendered");
    assert_eq!(targets(&found), ["", "It rains.<|end|>"]);
    assert_eq!(found.findings, [Finding::of_turn(FindingKind::TurnUnplaced, 1)]);
}

#[test]
fn a_template_that_looks_into_texts_still_has_targets() {
    let looking = "{% for m in messages %}{% if m.content.startswith('yes') or m.content == 'A' %}!{% endif %}\
        <{{ m.role }}>{{ m.content }}{{ m.content | length }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% endif %}";
    let found = placed(looking, &turns(&["a", "yes, it is so", "b", "no"]));
    assert_eq!(found.turns.len(), 2);
    // The length of a text with marks is another one: the turns are placed by the prompts before them.
    assert_eq!(targets(&found), ["", "no2<|end|>"]);
    assert_eq!(found.findings, [Finding::of_turn(FindingKind::TurnUnplaced, 1)]);
}

#[test]
fn a_refused_conversation_says_what_the_template_says() {
    let template =
        ChatTemplate::compile("{{ raise_exception('roles must alternate') if messages | length > 2 }}", vec![]);
    let template = template.expect("a template");
    let frame = ChatFrame::of(&template, Vec::new());
    let error = place(&template, &frame, &turns(&["a", "b", "c"]), &[]).expect_err("refused");
    assert_eq!(format!("{error:#}"), "roles must alternate (line 1 of the chat template)");
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "yes",
        "no",
        "A",
        " ",
        "\n",
        "<|im_end|>",
        "<|im_start|>assistant\n",
        "[/INST]",
        "日本",
        "é",
        "the word",
        "  ",
        "</think>",
        "{{ x }}",
        "\u{F0001}",
    ]);
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn the_targets_are_the_texts_of_the_assistant_with_the_end_of_turn_and_nothing_else(
        texts in prop::collection::vec(text(), 2..9),
        system in prop::option::of(text()),
    ) {
        let mut messages = turns(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        messages.truncate(messages.len() / 2 * 2);
        let system = system.filter(|text| !text.trim().is_empty());
        messages.splice(..0, system.map(|text| Message::new("system", text)));
        let said = || messages.iter().filter(|message| message.is_assistant());
        let wanted: Vec<String> = said()
            .map(|message| if message.is_empty() { String::new() } else { format!("{}<|im_end|>", message.content) })
            .collect();
        prop_assert_eq!(targets(&placed(CHATML, &messages)), wanted);
        let wanted: Vec<String> = said()
            .map(|message| if message.is_empty() { String::new() } else { format!(" {} </s>", message.content.trim()) })
            .collect();
        prop_assert_eq!(targets(&placed(LLAMA2, &messages)), wanted);
    }
}

#[test]
fn the_targets_of_a_long_conversation_are_those_of_a_short_one() {
    let texts: Vec<String> = (0..400).map(|number| format!("text {}", number % 7)).collect();
    let messages = turns(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    for (source, end) in [(CHATML, "<|im_end|>"), (R1, "<|end|>")] {
        let wanted: Vec<String> = texts.iter().skip(1).step_by(2).map(|text| format!("{text}{end}")).collect();
        assert_eq!(targets(&placed(source, &messages)), wanted);
    }
}

#[test]
fn the_line_break_after_a_turn_that_is_placed_by_prompts_is_no_target() {
    let looking = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ m.content | length }}<|im_end|>\n\
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    assert_eq!(targets(&placed(looking, &turns(&["a", "b", "c", "d"]))), ["b1<|im_end|>", "d1<|im_end|>"]);
}

#[test]
fn tools_and_names_are_foreign_texts() {
    let source = "{{ tools | tojson if tools }}{% for m in messages %}<{{ m.role }}>{{ m.name if m.name }}\
        {{ m.tool_calls | tojson if m.tool_calls }}{{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% endif %}";
    let template = ChatTemplate::compile(source, Vec::new()).expect("a template");
    let frame = ChatFrame::of(&template, vec!["<|end|>".to_owned()]);
    let call = json!({"type": "function", "function": {"name": "look", "arguments": {"place": "look"}}});
    let tool = json!({"type": "function", "function": {"name": "look", "description": "look"}});
    let messages = [
        conversation(None, "look", None),
        vec![
            Message { tool_calls: vec![call.clone()], ..Message::new("assistant", "") },
            Message { name: Some("look".to_owned()), ..Message::new("tool", "look") },
            Message::new("assistant", "look"),
        ],
    ]
    .concat();
    let found = place(&template, &frame, &messages, &[tool]).expect("rendered");
    let json = "[{\"type\": \"function\", \"function\": {\"name\": \"look\", \"arguments\": {\"place\": \"look\"}}}]";
    assert_eq!(targets(&found), [format!("{json}<|end|>"), "look<|end|>".to_owned()]);
    assert_eq!(found.findings, []);
}
