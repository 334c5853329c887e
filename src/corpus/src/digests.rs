//! The digests of conversations and of examples. Equal ones have equal digests, also from different files.

use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use arrow_array::builder::BinaryBuilder;
use arrow_array::{BinaryArray, RecordBatch};
use serde_json::{Value, json};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::artifact::conversations;
use super::message::{Example, Message};
use super::seen::ContentHash;
use raisin_base::digest::{Digest, canonical};
use raisin_base::error::Result;

/// The digest of the canonical JSON of a conversation and of its tools. Equal conversations have equal digests, also
/// from different files.
pub fn content_digest(messages: &[Message], tools: &[Value]) -> Digest {
    thread_local! {
        static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    if !are_texts(messages, tools) {
        return Digest::of_json(&value_of(messages, tools));
    }
    // The same JSON, without a `Value` for each text.
    TEXT.with_borrow_mut(|text| {
        text.clear();
        text.push(b'[');
        for (turn, message) in messages.iter().enumerate() {
            text.extend_from_slice(if turn == 0 { b"[\"" } else { b",[\"" });
            push_escaped(&message.role, text);
            text.extend_from_slice(b"\",\"");
            push_escaped(&message.content, text);
            text.extend_from_slice(b"\"]");
        }
        text.push(b']');
        Digest::of(text)
    })
}

/// Whether a conversation has no tools, and only turns of a role and a text alone.
fn are_texts(messages: &[Message], tools: &[Value]) -> bool {
    tools.is_empty() && messages.iter().all(Message::is_text)
}

/// Tells equal conversations from different ones within one process, faster than a digest. The key is another one in each
/// process, so that nobody can prepare two texts with the same hash. Two of 10^9 different rows have the same 128 bits with
/// a probability below 10^-20.
#[derive(Clone, Copy, Debug)]
pub struct ContentHasher {
    key: [u64; 2],
}

/// A hash that texts are written to.
struct HashedText(SipHasher13);

impl fmt::Write for HashedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// Stands after each text: no byte of UTF-8 has this value.
const END: u8 = 0xFF;
/// Stands before the JSON of a conversation that has more than texts.
const JSON: u8 = 0xFE;

impl Default for ContentHasher {
    fn default() -> Self {
        // The standard library has no other way to random numbers.
        let random = || RandomState::new().build_hasher().finish();
        Self { key: [random(), random()] }
    }
}

impl ContentHasher {
    pub fn of(&self, messages: &[Message], tools: &[Value]) -> ContentHash {
        if are_texts(messages, tools) {
            let roles = messages.iter().map(|message| message.role.as_str());
            return self.of_texts(roles, |turn, to| to.write_str(&messages[turn].content));
        }
        let mut hash = self.hash();
        hash.0.write_u8(JSON);
        hash.0.write(canonical(&value_of(messages, tools)).as_bytes());
        hash.0.finish128().as_bytes()
    }

    /// The same of turns of a role and a text alone. `write` writes the text of each turn.
    pub fn of_texts<'r>(
        &self,
        roles: impl Iterator<Item = &'r str>,
        write: impl Fn(usize, &mut dyn fmt::Write) -> fmt::Result,
    ) -> ContentHash {
        let mut hash = self.hash();
        for (turn, role) in roles.enumerate() {
            hash.0.write(role.as_bytes());
            hash.0.write_u8(END);
            // A hash takes every text.
            let _ = write(turn, &mut hash);
            hash.0.write_u8(END);
        }
        hash.0.finish128().as_bytes()
    }

    pub fn of_text(&self, text: &str) -> ContentHash {
        let mut hash = self.hash();
        hash.0.write(text.as_bytes());
        hash.0.finish128().as_bytes()
    }

    fn hash(&self) -> HashedText {
        HashedText(SipHasher13::new_with_keys(self.key[0], self.key[1]))
    }
}

/// The number of bytes that are looked at together for characters that need an escape.
const BLOCK: usize = 64;

/// Appends the content of the string of JSON that serde_json writes.
fn push_escaped(text: &str, to: &mut Vec<u8>) {
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

fn value_of(messages: &[Message], tools: &[Value]) -> Value {
    let turn = |message: &Message| {
        if message.is_text() { json!([message.role, message.content]) } else { json!(message) }
    };
    let mut turns: Vec<Value> = messages.iter().map(turn).collect();
    turns.extend((!tools.is_empty()).then(|| json!({ "tools": tools })));
    Value::Array(turns)
}

/// The digests of rows of the table `instructions`: the first 16 bytes of [`content_digest`]. Two of 10^9 different rows
/// have equal 16 bytes with a probability below 10^-20.
///
/// # Errors
/// `messages` or `tools` of a row cannot be read.
pub fn digests_of_rows(rows: &RecordBatch) -> Result<BinaryArray> {
    let mut digests = BinaryBuilder::with_capacity(rows.num_rows(), 16 * rows.num_rows());
    for row in conversations(rows, "the pool")? {
        let (messages, tools) = row?;
        digests.append_value(&content_digest(&messages, &tools).bytes()[..16]);
    }
    Ok(digests.finish())
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
    use crate::artifact::{PoolRow, instructions_batch};
    use crate::message::conversation;

    #[test]
    fn the_digest_depends_on_roles_but_not_on_the_source() {
        let one = PoolRow::new(conversation(None, "a", Some("b")), 0, 1);
        let two = PoolRow::new(conversation(None, "a", Some("b")), 3, 9);
        let other = PoolRow::new(conversation(Some("a"), "b", Some("")), 0, 1);
        let digests = digests_of_rows(&instructions_batch([one, two, other]).unwrap()).unwrap();
        assert_eq!(digests.value(0), digests.value(1));
        assert_ne!(digests.value(0), digests.value(2));
        assert_eq!(digests.value(0), &content_digest(&conversation(None, "a", Some("b")), &[]).bytes()[..16]);
    }

    #[test]
    fn a_hasher_tells_contents_apart_and_two_hashers_have_different_keys() {
        let [one, other] = [ContentHasher::default(), ContentHasher::default()];
        let text = |text: &str| conversation(None, text, Some("b"));
        let as_texts = one.of_texts(["user", "assistant"].into_iter(), |turn, to| to.write_str(["a", "b"][turn]));
        assert_eq!(one.of(&text("a"), &[]), as_texts);
        assert_ne!(one.of(&text("a"), &[]), one.of(&text("c"), &[]));
        assert_ne!(one.of(&text("a"), &[]), one.of(&text("a"), &[json!({})]));
        assert_ne!(one.of(&text("a"), &[]), other.of(&text("a"), &[]));
    }

    proptest::proptest! {
        #[test]
        fn the_digest_of_texts_is_that_of_their_canonical_json(texts in proptest::collection::vec(".{0,8}|[\"\\\\/\u{0}-\u{20}\u{7f}-\u{a0}\u{2028}]{0,8}", 0..5)) {
            let roles = ["system", "user", "assistant", "a \"role\""];
            let turns: Vec<Message> = (0..).zip(texts).map(|(n, text)| Message::new(roles[n % 4], text)).collect();
            proptest::prop_assert_eq!(content_digest(&turns, &[]), Digest::of_json(&value_of(&turns, &[])));
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
