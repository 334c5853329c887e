use super::*;
use crate::byte_tokenizer;

fn tiny() -> (tempfile::TempDir, Codec) {
    let folder = tempfile::tempdir().expect("a folder");
    byte_tokenizer::write(folder.path(), 256).expect("written");
    let codec = Codec::load(folder.path()).expect("loads");
    (folder, codec)
}

fn with_template(source: Option<&str>) -> Codec {
    let (folder, _) = tiny();
    let path = folder.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    config["chat_template"] = source.map_or(Value::Null, Value::from);
    std::fs::write(&path, config.to_string()).expect("written");
    Codec::load(folder.path()).expect("loads")
}

fn instruction(messages: Vec<Message>) -> Instruction {
    Instruction::new(7, messages)
}

/// The text of the tokens that carry a loss, special ones shown.
fn supervised(codec: &Codec, sequence: &Sequence) -> String {
    let tokens: Vec<u32> =
        sequence.tokens.iter().zip(&sequence.supervised).filter(|(_, target)| **target).map(|(id, _)| *id).collect();
    codec.tokenizer.decode(&tokens, false).expect("decodes")
}

const CHATML: &str = "{% for message in messages %}{{'<|user|>' + message['role'] + '\n' + message['content'] + \
    '<|end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}";

fn two_turns() -> Vec<Message> {
    let mut messages = conversation(Some("s"), "a", Some("first"));
    messages.extend(conversation(None, "b", Some(" second  ")));
    messages
}

#[test]
fn every_assistant_turn_is_supervised_with_its_end() -> Result<()> {
    let (_folder, codec) = tiny();
    let sequence = codec.instruction(&instruction(two_turns()), 256).sequence.expect("supervised");
    let text = codec.tokenizer.decode(&sequence.tokens, false).expect("decodes");
    assert_eq!(
        text,
        "<|system|>s<|end|><|user|>a<|end|><|assistant|>first<|end|><|user|>b<|end|><|assistant|> second  <|end|>"
    );
    assert_eq!(supervised(&codec, &sequence), "first<|end|> second  <|end|>");
    Ok(())
}

#[test]
fn the_newline_after_chatmls_end_of_turn_is_not_supervised() -> Result<()> {
    let codec = with_template(Some(CHATML));
    let sequence = codec.instruction(&instruction(two_turns()), 256).sequence.expect("supervised");
    assert_eq!(supervised(&codec, &sequence), "first<|end|> second  <|end|>");
    assert_eq!(sequence.tokens.last(), Some(&u32::from(b'\n')));
    Ok(())
}

#[test]
fn a_prompt_is_the_beginning_of_its_answered_example() -> Result<()> {
    for codec in [tiny().1, with_template(Some(CHATML)), with_template(None)] {
        let example = Example::open(0, conversation(Some("s"), "a", None), "yes");
        let prompt = codec.prompt(&example)?;
        let sequence = codec.example(&example, 256).sequence.expect("supervised");
        assert!(sequence.tokens.starts_with(&prompt));
        assert_eq!(sequence.supervised.iter().position(|&target| target), Some(prompt.len()));
        assert_eq!(supervised(&codec, &sequence), "yes<|end|>");
        let choice = codec.choice(&example, "yes", 256).sequence.expect("supervised");
        assert_eq!(supervised(&codec, &choice), "yes");
    }
    Ok(())
}

#[test]
fn a_template_that_drops_thoughts_of_earlier_turns_still_finds_the_answers() -> Result<()> {
    let codec = with_template(Some(
        "{% for m in messages %}<|user|>{{ m.role }}:{{ m.content.split('</think>')[-1] | trim }}<|end|>{% endfor %}\
         {% if add_generation_prompt %}<|user|>assistant:<think>{% endif %}",
    ));
    let sequence = codec.instruction(&instruction(two_turns()), 256).sequence.expect("supervised");
    assert_eq!(supervised(&codec, &sequence), "first<|end|>second<|end|>");
    Ok(())
}

#[test]
fn an_example_supervises_only_its_last_turn() -> Result<()> {
    let (_folder, codec) = tiny();
    let mut messages = two_turns();
    messages.pop();
    let example = Example::open(0, messages, "x");
    let sequence = codec.example(&example, 256).sequence.expect("supervised");
    assert_eq!(supervised(&codec, &sequence), "x<|end|>");
    Ok(())
}

#[test]
fn a_last_turn_that_the_template_leaves_out_supervises_no_earlier_turn() -> Result<()> {
    let codec = with_template(Some(
        "{% for m in messages %}{% if not loop.last %}<|user|>{{ m.content }}<|end|>{% endif %}{% endfor %}",
    ));
    let mut messages = two_turns();
    messages.pop();
    let encoded = codec.example(&Example::open(0, messages, "x"), 256);
    assert_eq!((encoded.sequence, encoded.findings), (None, vec![Finding::of_turn(FindingKind::TurnDropped, 4)]));
    Ok(())
}

#[test]
fn an_example_whose_template_leaves_out_a_part_of_the_prompt_is_reported() -> Result<()> {
    let codec = with_template(Some(
        "{% for m in messages %}{% if m.role != 'system' or loop.first %}<|user|>{{ m.role }}:{{ m.content }}<|end|>\
         {% endif %}{% endfor %}{% if add_generation_prompt %}<|user|>assistant:{% endif %}",
    ));
    let messages = [conversation(Some("s"), "a", Some("b")), conversation(Some("t"), "c", None)].concat();
    let encoded = codec.example(&Example::open(0, messages, "x"), 256);
    assert_eq!(supervised(&codec, encoded.sequence.as_ref().expect("supervised")), "x<|end|>");
    assert_eq!(encoded.findings, [Finding::of_turn(FindingKind::ContextDropped, 3)]);
    Ok(())
}

#[test]
fn an_invalid_stop_token_is_refused_with_its_file_and_value() -> Result<()> {
    let load = |config: &str| {
        let (folder, _) = tiny();
        std::fs::write(folder.path().join("generation_config.json"), config)?;
        Codec::load(folder.path()).map(|codec| codec.stop_tokens().to_vec())
    };
    assert_eq!(load(r#"{"eos_token_id": [7, null]}"#)?, [7, 256]);
    for id in ["-1", "4294967552", "1.5", "\"end\""] {
        let said = raisin_base::error::render(&load(&format!("{{\"eos_token_id\": {id}}}")).expect_err("no token"));
        assert!(said.contains("generation_config.json is ") && said.contains(id), "{said}");
    }
    Ok(())
}

#[test]
fn the_responses_alone_follow_empty_prompts() -> Result<()> {
    let (_folder, codec) = tiny();
    let row = instruction(two_turns());
    let whole = codec.instruction(&row, 256);
    let sequence = codec.responses_alone(&row, &whole, 256).sequence.expect("supervised");
    let text = codec.tokenizer.decode(&sequence.tokens, false).expect("decodes");
    assert_eq!(text, "<|user|><|end|><|assistant|>first<|end|><|user|><|end|><|assistant|> second  <|end|>");
    Ok(())
}

#[test]
fn the_responses_alone_are_exactly_the_targets_of_the_row_within_its_limit() -> Result<()> {
    for codec in [tiny().1, with_template(Some(CHATML)), with_template(None)] {
        let row = instruction(two_turns());
        let full = codec.instruction(&row, 256).sequence.expect("supervised").tokens.len();
        for limit in 2..full + 2 {
            let encoded = codec.instruction(&row, limit);
            let Some(whole) = &encoded.sequence else { continue };
            let alone = codec.responses_alone(&row, &encoded, limit).sequence.expect("supervised");
            assert!(alone.tokens.len() <= limit);
            assert_eq!(supervised(&codec, whole), supervised(&codec, &alone), "within {limit} tokens");
        }
    }
    Ok(())
}

#[test]
fn truncation_keeps_the_beginning_and_gives_no_sequence_if_no_target_is_left() -> Result<()> {
    let (_folder, codec) = tiny();
    let row = instruction(conversation(None, "abc", Some("de")));
    let cut = codec.instruction(&row, 7).sequence.expect("one target is left");
    assert_eq!((cut.tokens.len(), supervised(&codec, &cut)), (7, "d".to_owned()));
    let refused = codec.instruction(&row, 6);
    let reason = "no response token is left within 6 tokens: the row has 9 tokens";
    assert_eq!((refused.sequence.as_ref(), refused.missing(6).as_deref()), (None, Some(reason)));
    assert_eq!(codec.instruction(&row, 0).sequence, None);
    Ok(())
}

#[test]
fn the_first_token_is_never_a_target() -> Result<()> {
    let codec = with_template(None);
    let row = instruction(vec![Message::new("assistant", "xyz")]);
    let sequence = codec.instruction(&row, 256).sequence.expect("supervised");
    assert!(!sequence.supervised[0]);
    assert_eq!(supervised(&codec, &sequence), "yz<|end|>");
    Ok(())
}

#[test]
fn a_folder_without_a_tokenizer_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Codec::load(folder.path()).err().expect("nothing to load");
    assert!(raisin_base::error::render(&error).contains("save_pretrained"));
}

/// Compares with texts and tokens of `transformers`, which tests/python/golden_codec.py has written.
#[test]
fn chats_are_rendered_and_encoded_as_in_transformers() -> Result<()> {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../../tests/golden/codec.json"))?;
    let (_folder, tiny) = tiny();
    for case in &cases {
        let codec = with_template(case["template"].as_str());
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone())?;
        let render = |codec: &Codec| codec.template.render(&ChatValues::new(&messages, &[]), messages.len(), false);
        assert_eq!(render(&codec)?, case["text"].as_str().expect("a text"));
        let row = instruction(messages.clone());
        if !codec.frame.tool_turns && messages.iter().any(|message| message.role == "tool") {
            // transformers leaves the turn of the tool out, as the template does. Here the turn becomes text.
            let findings = codec.instruction(&row, 1000).findings;
            assert_eq!(findings, [Finding::of_row(FindingKind::CallsAsText, "")]);
            continue;
        }
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone())?;
        assert_eq!(codec.instruction(&row, 1000).sequence.expect("supervised").tokens, tokens);
        let prompt: Vec<u32> = serde_json::from_value(case["prompt_tokens"].clone())?;
        let asked = Example::open(0, messages[..messages.len() - 1].to_vec(), "");
        assert_eq!(codec.prompt(&asked)?, prompt);
    }
    // The first cases are the tiny model's own template.
    let messages: Vec<Message> = serde_json::from_value(cases[1]["messages"].clone())?;
    let own = tiny.template.render(&ChatValues::new(&messages, &[]), messages.len(), false)?;
    assert_eq!(own, cases[1]["text"].as_str().expect("a text"));
    Ok(())
}

#[test]
fn a_damaged_tokenizer_is_an_error_and_no_panic() -> Result<()> {
    let folder = tempfile::tempdir()?;
    crate::byte_tokenizer::write(folder.path(), 64)?;
    let path = folder.path().join("tokenizer.json");
    let whole = std::fs::read_to_string(&path)?;
    let mut tokenizer: Value = serde_json::from_str(&whole)?;
    let refused = |text: &str| -> Result<String> {
        std::fs::write(&path, text)?;
        Ok(format!("{:#}", Codec::load(folder.path()).err().context("it is accepted")?))
    };
    // The tokenizers library panics on an unfinished decoder.
    let end = whole.find("\"decoder\": {").context("the decoder")? + 20;
    assert!(refused(&whole[..end])?.contains("tokenizer.json is not JSON"));
    // The library panics on a normalizer that is no base64.
    tokenizer["normalizer"] = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "!"});
    let words = refused(&tokenizer.to_string())?;
    assert!(words.contains("cannot read"), "{words}");
    // The library recurses into long tokens when it drops a tokenizer.
    tokenizer["normalizer"] = Value::Null;
    let long = "x".repeat(200_000);
    tokenizer["model"] = serde_json::json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], [long, -1.0]]});
    let words = refused(&tokenizer.to_string())?;
    assert!(words.ends_with("has a token of 200000 bytes, and the limit is 4096"), "{words}");
    Ok(())
}
