//! The digests of conversations and of examples. Equal ones have equal digests, also from different files.

use std::cell::RefCell;

use serde_json::{Value, json};

use super::message::{Example, Message};
use raisin_base::digest::Digest;

/// The digest of the canonical JSON of a conversation and of its tools. Equal conversations have equal digests, also
/// from different files.
pub fn content_digest(messages: &[Message], tools: &[Value]) -> Digest {
    if tools.is_empty() && messages.iter().all(Message::is_text) {
        let roles = messages.iter().map(|message| message.role.as_str());
        return digest_of_texts(roles, |turn, to| push_escaped(&messages[turn].content, to));
    }
    digest_of_any(messages, tools)
}

/// The digest of turns of a role and a text alone, without tools and without a [`Value`] for each text. `add` appends the
/// text of each turn as a part of a string of JSON.
pub fn digest_of_texts<'r>(roles: impl Iterator<Item = &'r str>, add: impl Fn(usize, &mut Vec<u8>)) -> Digest {
    thread_local! {
        static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    TEXT.with_borrow_mut(|text| {
        text.clear();
        text.push(b'[');
        for (turn, role) in roles.enumerate() {
            text.extend_from_slice(if turn == 0 { b"[\"" } else { b",[\"" });
            push_escaped(role, text);
            text.extend_from_slice(b"\",\"");
            add(turn, text);
            text.extend_from_slice(b"\"]");
        }
        text.push(b']');
        Digest::of(text)
    })
}

/// The number of bytes that are looked at together for characters that need an escape.
const BLOCK: usize = 64;

/// Appends the content of the string of JSON that serde_json writes.
pub fn push_escaped(text: &str, to: &mut Vec<u8>) {
    for block in text.as_bytes().chunks(BLOCK) {
        // Few blocks have such characters. A loop without branches looks at many bytes at a time.
        let needs = |byte: u8| u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\');
        if block.iter().fold(0, |found, byte| found | needs(*byte)) == 0 {
            to.extend_from_slice(block);
        } else {
            block.iter().for_each(|byte| push_byte(*byte, to));
        }
    }
}

fn push_byte(byte: u8, to: &mut Vec<u8>) {
    let escape = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0C => b'f',
        b'\r' => b'r',
        0..0x20 => return to.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        _ => return to.push(byte),
    };
    to.extend_from_slice(&[b'\\', escape]);
}

fn digest_of_any(messages: &[Message], tools: &[Value]) -> Digest {
    let turn = |message: &Message| {
        if message.is_text() { json!([message.role, message.content]) } else { json!(message) }
    };
    let mut turns: Vec<Value> = messages.iter().map(turn).collect();
    turns.extend((!tools.is_empty()).then(|| json!({ "tools": tools })));
    Digest::of_json(&Value::Array(turns))
}

/// The part of a digest that the column `digest` holds. Two of 10^9 different rows have equal 16 bytes with a probability
/// below 10^-20, and digests cannot be compressed.
pub fn stored(digest: &Digest) -> [u8; 16] {
    let bytes = digest.bytes();
    std::array::from_fn(|place| bytes[place])
}

/// The digest of what an example asks: its conversation without the response, and its choices.
pub fn question_digest(example: &Example) -> Digest {
    Digest::of_json(&json!([content_digest(&example.messages, &example.tools).to_hex(), example.choices]))
}

/// The digest of an example without its id. Examples with equal digests are copies.
pub fn example_digest(example: &Example) -> Digest {
    let question = question_digest(example).to_hex();
    Digest::of_json(&json!([question, example.response, example.answer]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::PoolRow;
    use crate::message::conversation;

    #[test]
    fn the_digest_depends_on_roles_but_not_on_the_source() {
        let one = PoolRow::new(conversation(None, "a", Some("b")), 0, 1);
        let two = PoolRow::new(conversation(None, "a", Some("b")), 3, 9);
        let other = PoolRow::new(conversation(Some("a"), "b", None), 0, 1);
        assert_eq!(one.digest, two.digest);
        assert_ne!(one.digest, other.digest);
    }

    proptest::proptest! {
        #[test]
        fn the_digest_of_texts_is_that_of_their_canonical_json(texts in proptest::collection::vec(".{0,8}|[\"\\\\/\u{0}-\u{20}\u{7f}-\u{a0}\u{2028}]{0,8}", 0..5)) {
            let roles = ["system", "user", "assistant", "a \"role\""];
            let turns: Vec<Message> = (0..).zip(texts).map(|(n, text)| Message::new(roles[n % 4], text)).collect();
            proptest::prop_assert_eq!(content_digest(&turns, &[]), digest_of_any(&turns, &[]));
        }

        #[test]
        fn escapes_are_those_of_serde_json(text in "(.|[\\x00-\\x1f\\x7f\"\\\\/]){0,150}") {
            let mut escaped = Vec::new();
            push_escaped(&text, &mut escaped);
            let expected = Value::from(text.as_str()).to_string();
            proptest::prop_assert_eq!(format!("\"{}\"", String::from_utf8_lossy(&escaped)), expected);
        }
    }

    #[test]
    fn examples_are_copies_only_if_conversation_choices_answer_and_response_agree() {
        let open = Example::open(0, conversation(None, "which?", None), "a");
        let example = Example { choices: vec!["a".into(), "b".into()], answer: Some(0), ..open };
        let copy = Example { id: 7, ..example.clone() };
        assert_eq!(example_digest(&example), example_digest(&copy));
        let answered = Example { response: Message::new("assistant", "b"), answer: Some(1), ..example.clone() };
        assert_ne!(example_digest(&example), example_digest(&answered));
        assert_eq!(question_digest(&example), question_digest(&answered), "the same question");
        let chosen = Example { choices: vec!["a".into(), "c".into()], ..example.clone() };
        assert_ne!(question_digest(&example), question_digest(&chosen));
        let spoken = Example { messages: vec![Message::new("tool", "which?")], ..example.clone() };
        assert_ne!(question_digest(&example), question_digest(&spoken), "roles count");
    }
}
