//! Marks in the texts of a conversation: private-use characters that go through a chat template with their text, and
//! say where in the chat the text lies.
//!
//! A mark stands inside a word or before a space, never at the edge of a text and never in a tag such as `</think>`:
//! templates trim texts, split them at tags, and compare their beginnings. No two marks are the same character.
//! Therefore a place in the chat belongs to one place of one text, also if equal texts occur several times.

use std::ops::Range;

use serde_json::{Map, Value};

use super::message::Message;

/// The marks are characters from here on: the private-use planes 15 and 16.
const FIRST: u32 = 0xF_0000;
/// The characters before and after the output of a `{% generation %}` block.
pub const GENERATION: [char; 2] = ['\u{10FFFC}', '\u{10FFFD}'];

/// Which part of a conversation a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPart {
    Content,
    Reasoning,
    Call,
    /// The name of a speaker, or a text of a tool's schema.
    Other,
}

/// A text with marks.
#[derive(Debug)]
pub struct MarkedText {
    /// The turn, from 0; `None` for the tools of the conversation.
    pub turn: Option<usize>,
    pub part: TextPart,
    /// The text without white space around it.
    pub core: String,
}

/// Puts marks into the texts of one conversation.
#[derive(Debug)]
pub struct Marks {
    pub texts: Vec<MarkedText>,
    /// For each mark: the character, the index of the text, and the place in the core of the text, in bytes. The
    /// characters ascend.
    placed: Vec<(char, usize, usize)>,
    /// Private-use characters that the conversation or the template contains: they are no marks.
    taken: Vec<char>,
    next: u32,
    /// The largest number of marks in one text.
    most: usize,
}

/// A mark in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundMark {
    /// The place in the chat without marks, in bytes.
    pub at: usize,
    /// The index of the text, and the place in its core, in bytes.
    pub text: usize,
    pub offset: usize,
}

/// A chat without its marks.
#[derive(Debug, Default)]
pub struct Stripped {
    pub text: String,
    pub marks: Vec<FoundMark>,
    /// The output of `{% generation %}` blocks, in bytes.
    pub generations: Vec<Range<usize>>,
}

/// The private-use characters of a text that could be taken for marks, with their places.
fn private(text: &str) -> impl Iterator<Item = (usize, char)> + '_ {
    // In UTF-8, these characters begin with one of two bytes.
    memchr::memchr2_iter(0xF3, 0xF4, text.as_bytes())
        .filter_map(|place| Some((place, text[place..].chars().next()?)))
        .filter(|(_, character)| *character as u32 >= FIRST)
}

/// The private-use characters of a text that could be taken for marks.
pub fn private_characters(text: &str) -> impl Iterator<Item = char> + '_ {
    private(text).map(|(_, character)| character)
}

impl Marks {
    /// `taken` are characters that are no marks. A text gets at most `most` marks.
    pub fn new(mut taken: Vec<char>, most: usize) -> Self {
        taken.extend(GENERATION);
        taken.sort_unstable();
        Self { texts: Vec::new(), placed: Vec::new(), taken, next: FIRST, most }
    }

    /// The message with marks in its texts.
    pub fn message(&mut self, turn: usize, message: &Message) -> Message {
        let mut marked = message.clone();
        marked.reasoning =
            message.reasoning.as_ref().map(|reasoning| self.text(Some(turn), TextPart::Reasoning, reasoning));
        marked.content = self.text(Some(turn), TextPart::Content, &message.content);
        marked.tool_calls = message.tool_calls.iter().map(|call| self.call(turn, call)).collect();
        marked.name = message.name.as_ref().map(|name| self.text(Some(turn), TextPart::Other, name));
        marked
    }

    /// Forgets the texts of a turn, before another form of the turn gets marks.
    pub fn forget(&mut self, turn: usize) {
        for text in self.texts.iter_mut().filter(|text| text.turn == Some(turn)) {
            text.core.clear();
        }
    }

    /// A tool with marks in its name and its description.
    pub fn tool(&mut self, tool: &Value) -> Value {
        self.entries(tool, &mut |marks, key, value| match value {
            Value::String(text) if matches!(key, "name" | "description") => {
                marks.text(None, TextPart::Other, text).into()
            }
            Value::Object(_) if key == "function" => marks.tool(value),
            _ => value.clone(),
        })
    }

    fn call(&mut self, turn: usize, call: &Value) -> Value {
        self.entries(call, &mut |marks, key, value| match key {
            "function" => marks.call(turn, value),
            "name" | "arguments" => marks.texts_of(turn, value),
            _ => value.clone(),
        })
    }

    fn texts_of(&mut self, turn: usize, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(Some(turn), TextPart::Call, text).into(),
            Value::Array(items) => items.iter().map(|item| self.texts_of(turn, item)).collect(),
            Value::Object(_) => self.entries(value, &mut |marks, _, value| marks.texts_of(turn, value)),
            _ => value.clone(),
        }
    }

    fn entries(&mut self, object: &Value, change: &mut dyn FnMut(&mut Self, &str, &Value) -> Value) -> Value {
        let Some(entries) = object.as_object() else { return object.clone() };
        let changed = entries.iter().map(|(key, value)| (key.clone(), change(self, key, value)));
        Value::Object(changed.collect::<Map<_, _>>())
    }

    fn text(&mut self, turn: Option<usize>, part: TextPart, text: &str) -> String {
        let core = text.trim();
        if core.is_empty() {
            return text.to_owned();
        }
        let index = self.texts.len();
        self.texts.push(MarkedText { turn, part, core: core.to_owned() });
        let before = text.len() - text.trim_start().len();
        let places = places(core, self.most);
        let mut marked = String::with_capacity(text.len() + 4 * places.len());
        let mut done = 0;
        for place in places {
            // After the last character, texts stay without a mark: then the conversation is too long to be marked.
            let Some(character) = self.fresh() else { break };
            marked.push_str(&text[done..before + place]);
            marked.push(character);
            done = before + place;
            self.placed.push((character, index, place));
        }
        marked.push_str(&text[done..]);
        marked
    }

    fn fresh(&mut self) -> Option<char> {
        loop {
            let character = char::from_u32(self.next);
            self.next += 1;
            match character {
                Some(character) if self.taken.binary_search(&character).is_ok() => {}
                Some(character) => return Some(character),
                None if self.next > 0x10_FFFF => return None,
                None => {}
            }
        }
    }

    /// Takes the marks out of a chat.
    pub fn strip(&self, chat: &str) -> Stripped {
        let mut stripped = Stripped { text: String::with_capacity(chat.len()), ..Stripped::default() };
        let mut open = None;
        let mut done = 0;
        for (place, character) in private(chat) {
            let found = self.placed.binary_search_by_key(&character, |(mark, ..)| *mark).ok();
            if found.is_none() && !GENERATION.contains(&character) {
                continue;
            }
            stripped.text.push_str(&chat[done..place]);
            done = place + character.len_utf8();
            let at = stripped.text.len();
            if let Some(&(_, text, offset)) = found.and_then(|found| self.placed.get(found)) {
                stripped.marks.push(FoundMark { at, text, offset });
            } else if character == GENERATION[0] {
                open = Some(at);
            } else {
                stripped.generations.extend(open.take().map(|start| start..at));
            }
        }
        stripped.text.push_str(&chat[done..]);
        stripped
    }
}

/// The places of marks in a text without white space at its edges: at most `most`, and at least one.
fn places(core: &str, most: usize) -> Vec<usize> {
    let inner = || {
        let mut before = None;
        core.char_indices().filter_map(move |(place, character)| Some((place, before.replace(character)?, character)))
    };
    let follows_a_word = |place: &usize| core[..*place].chars().next_back().is_some_and(char::is_alphanumeric);
    let spaces: Vec<usize> = memchr::memchr_iter(b' ', core.as_bytes()).filter(follows_a_word).collect();
    if let (Some(last), true) = (spaces.len().checked_sub(1), most > 1) {
        let count = spaces.len().min(most);
        let mut chosen: Vec<usize> =
            (0..count).map(|number| spaces[if count == 1 { 0 } else { number * last / (count - 1) }]).collect();
        chosen.dedup();
        return chosen;
    }
    // Without a space between words: the place in the middle, inside a word if there is one.
    let middle = core.len() / 2;
    let nearest = |places: &mut dyn Iterator<Item = usize>| places.min_by_key(|place| place.abs_diff(middle));
    let in_word = nearest(
        &mut inner()
            .filter(|(_, before, after)| before.is_alphanumeric() && after.is_alphanumeric())
            .map(|(place, ..)| place),
    );
    let anywhere = || nearest(&mut inner().map(|(place, ..)| place));
    vec![in_word.or_else(anywhere).unwrap_or(core.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn marks_lie_inside_words_or_before_spaces() {
        assert_eq!(places("<think> one two three </think>", 12), [11, 15, 21]);
        assert_eq!(places("yes", 12).len(), 1);
        assert_eq!(places("A", 12), [1]);
        assert_eq!(places("</think>", 12), [4]);
        assert_eq!(places("日本語", 12), [3]);
        assert_eq!(places("<|>", 12), [1]);
        assert_eq!(places(&"word ".repeat(1000), 4), [4, 1669, 3334, 4999]);
        assert_eq!(places("one two three", 1), [6]);
    }

    #[test]
    fn calls_and_tools_are_marked_in_names_and_texts_alone() {
        let call = json!({"id": "abcdefghi", "type": "function",
            "function": {"name": "look", "arguments": {"place": "here", "days": 2, "list": ["one"]}}});
        let tool = json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}});
        let message = Message { tool_calls: vec![call.clone()], ..Message::new("assistant", "") };
        let mut marks = Marks::new(Vec::new(), 12);
        let marked = marks.message(3, &message);
        let marked_tool = marks.tool(&tool);
        assert_eq!(marks.texts.len(), 4);
        assert!(marks.texts.iter().take(3).all(|text| text.turn == Some(3) && text.part == TextPart::Call));
        let stripped = marks.strip(&marked.tool_calls[0].to_string());
        assert_eq!((stripped.text, stripped.marks.len()), (call.to_string(), 3));
        assert_eq!(marks.strip(&marked_tool.to_string()).text, tool.to_string());
    }

    proptest! {
        #[test]
        fn a_text_without_its_marks_is_the_text_and_each_mark_is_at_its_place(
            text in "[ a-z<>\n日\u{F0000}\u{F0001}]{0,60}",
            most in 1..14usize,
        ) {
            let mut marks = Marks::new(private_characters(&text).collect(), most);
            let marked = marks.text(Some(0), TextPart::Content, &text);
            let stripped = marks.strip(&marked);
            prop_assert_eq!(&stripped.text, &text);
            prop_assert_eq!(stripped.marks.is_empty(), text.trim().is_empty());
            let lead = text.len() - text.trim_start().len();
            for mark in stripped.marks {
                prop_assert_eq!(mark.at, lead + mark.offset);
            }
        }
    }
}
