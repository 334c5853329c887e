//! How records without lists and objects are read fast: what a format makes of one record tells what it makes of all
//! records of the same shape.
//!
//! The shape of a record is the names of its fields and what kind of value each holds. For each shape, the format reads
//! a probe once: a record of this shape in which every text is a mark. Where the marks stand in the conversation of the
//! probe, the texts of other records of the shape belong. This holds for texts that no format looks into; all others
//! ([`is_neutral`]) are read in the usual way.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use memchr::memmem::Finder;
use serde_json::{Map, Value};

use super::{Conversation, Notices, Reader, Readout};
use crate::message::Message;
use crate::records::{FlatKind, FlatRecord, JsonText};

/// The number of shapes that are remembered. A file has few.
const SHAPES: usize = 32;

/// The shapes that a format has met.
#[derive(Debug, Default)]
pub struct Shapes {
    known: [OnceLock<Shape>; SHAPES],
}

/// A copy has met no shapes yet.
impl Clone for Shapes {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[derive(Debug)]
struct Shape {
    fields: Vec<(String, FlatKind)>,
    /// Missing if the conversation does not follow from the shape.
    plan: Option<Arc<ShapeReading>>,
}

/// What a format makes of the records of a shape.
#[derive(Debug)]
pub struct ShapeReading {
    messages: Vec<(String, Vec<TemplatePart>)>,
    /// The field of the rejected response.
    rejected: Option<usize>,
    /// The fields whose texts are in the conversation, or are the rejected response.
    taken: Vec<usize>,
    pub format: usize,
    pub used: Vec<String>,
    pub unread: Vec<String>,
    pub notices: Notices,
}

/// A part of a text: what stands before the text of a field, and the field; or what stands at the end.
#[derive(Debug)]
struct TemplatePart {
    before: String,
    field: Option<usize>,
}

impl Shapes {
    /// How the record is read; `None` if it has to be read in the usual way. `read` is the usual way, and `looks_at` says
    /// whether it looks at a field of this name.
    pub fn plan(
        &self,
        record: &FlatRecord,
        read: impl Fn(&Value) -> Readout<'_, Conversation>,
        looks_at: impl Fn(&str) -> bool,
    ) -> Option<&Arc<ShapeReading>> {
        let plan = self.shape(record, read, looks_at)?.plan.as_ref()?;
        plan.taken.iter().all(|field| has_neutral(record, *field)).then_some(plan)
    }

    fn shape(
        &self,
        record: &FlatRecord,
        read: impl Fn(&Value) -> Readout<'_, Conversation>,
        looks_at: impl Fn(&str) -> bool,
    ) -> Option<&Shape> {
        let mut place = 0;
        loop {
            let slot = self.known.get(place)?;
            // Two threads can meet a new shape together. The one that comes second takes the next place.
            let shape = slot.get_or_init(|| Shape::new(record, &read, &looks_at));
            if shape.fits(record) {
                return Some(shape);
            }
            place += 1;
        }
    }
}

impl Shape {
    fn new(
        record: &FlatRecord,
        read: impl Fn(&Value) -> Readout<'_, Conversation>,
        looks_at: impl Fn(&str) -> bool,
    ) -> Self {
        let fields: Vec<(String, FlatKind)> =
            (0..record.fields()).map(|place| (record.name(place).to_owned(), record.kind(place))).collect();
        let plan = ShapeReading::new(&fields, read, looks_at).map(Arc::new);
        Self { fields, plan }
    }

    fn fits(&self, record: &FlatRecord) -> bool {
        let is_same = |(place, (name, kind)): (usize, &(String, FlatKind))| {
            record.kind(place) == *kind && record.name(place) == name
        };
        self.fields.len() == record.fields() && self.fields.iter().enumerate().all(is_same)
    }
}

/// The text of field `place` in a probe. The characters stand for nothing in Unicode, and in no name of a field.
fn mark(place: usize) -> String {
    format!("\u{F8F0}{place}\u{F8F1}")
}

impl ShapeReading {
    fn new(
        fields: &[(String, FlatKind)],
        read: impl Fn(&Value) -> Readout<'_, Conversation>,
        looks_at: impl Fn(&str) -> bool,
    ) -> Option<Self> {
        let value = |(place, (name, kind)): (usize, &(String, FlatKind))| {
            let value = match kind {
                FlatKind::Null => Value::Null,
                FlatKind::Empty => Value::String(String::new()),
                FlatKind::Text => Value::String(mark(place)),
                FlatKind::Scalar => Value::from(1),
            };
            (name.clone(), value)
        };
        let probe = Value::Object(fields.iter().enumerate().map(value).collect::<Map<_, _>>());
        let readout = read(&probe);
        let conversation = readout.outcome.as_ref().ok()?;
        if !conversation.tools.is_empty() || !conversation.messages.iter().all(Message::is_text) {
            return None;
        }
        let mut taken = vec![false; fields.len()];
        let mut messages = Vec::with_capacity(conversation.messages.len());
        for message in &conversation.messages {
            messages.push((message.role.clone(), parts(&message.content, &mut taken)?));
        }
        let rejected = match &conversation.rejected {
            None => None,
            Some(text) => match parts(text, &mut taken)?.as_slice() {
                [TemplatePart { before, field: Some(field), .. }] if before.is_empty() => Some(*field),
                _ => return None,
            },
        };
        // A field whose value matters in another way than as a part of a text.
        let matters = |(place, (name, kind)): (usize, &(String, FlatKind))| {
            let is_used = readout.used.contains(&name.as_str());
            match kind {
                FlatKind::Null | FlatKind::Empty => false,
                FlatKind::Text => !taken[place] && (is_used || looks_at(name)),
                FlatKind::Scalar => is_used || looks_at(name),
            }
        };
        if !readout.unread_below.is_empty() || fields.iter().enumerate().any(matters) {
            return None;
        }
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Some(Self {
            messages,
            rejected,
            taken: taken.iter().enumerate().filter(|(_, taken)| **taken).map(|(place, _)| place).collect(),
            format: readout.format,
            used: owned(&readout.used),
            unread: owned(&readout.unread),
            notices: readout.notices,
        })
    }

    /// The roles of the turns.
    pub fn roles(&self) -> impl ExactSizeIterator<Item = &str> {
        self.messages.iter().map(|(role, _)| role.as_str())
    }

    /// Writes the text of a turn of a record of this shape.
    ///
    /// # Errors
    /// The writer fails.
    pub fn write<W: fmt::Write + ?Sized>(&self, turn: usize, record: &FlatRecord, to: &mut W) -> fmt::Result {
        for part in &self.messages[turn].1 {
            if !part.before.is_empty() {
                to.write_str(&part.before)?;
            }
            part.field.map_or(Ok(()), |field| record.write(field, to))?;
        }
        Ok(())
    }

    /// The rejected response of a record of this shape.
    pub fn rejected<'r>(&self, record: &'r FlatRecord) -> Option<Cow<'r, str>> {
        self.rejected.map(|field| record.text(field))
    }

    /// The conversation of a record of this shape.
    pub fn conversation(&self, record: &FlatRecord) -> Conversation {
        let message = |(turn, role): (usize, &str)| {
            let mut content = String::new();
            // A String takes every text.
            let _ = self.write(turn, record, &mut content);
            Message::new(role, content)
        };
        let messages = self.roles().enumerate().map(message).collect();
        Conversation { messages, tools: Vec::new(), rejected: self.rejected(record).map(Cow::into_owned) }
    }
}

/// The parts of a text of a probe; `None` if a mark is not whole. Sets `taken` for each field in it.
fn parts(text: &str, taken: &mut [bool]) -> Option<Vec<TemplatePart>> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{F8F0}') {
        let (place, after) = after.split_once('\u{F8F1}')?;
        let place: usize = place.parse().ok()?;
        *taken.get_mut(place)? = true;
        all.push(TemplatePart::new(before, Some(place)));
        rest = after;
    }
    if rest.contains('\u{F8F1}') {
        return None;
    }
    all.extend((!rest.is_empty()).then(|| TemplatePart::new(rest, None)));
    Some(all)
}

impl TemplatePart {
    fn new(before: &str, field: Option<usize>) -> Self {
        Self { before: before.to_owned(), field }
    }
}

const THOUGHTS: &str = "</think>";
const ANSWER: &str = "Assistant:";

static FIND_THOUGHTS: LazyLock<Finder> = LazyLock::new(|| Finder::new(THOUGHTS));
static FIND_ANSWER: LazyLock<Finder> = LazyLock::new(|| Finder::new(ANSWER));

/// Whether the text of a field is [neutral](is_neutral). A text with escapes is only looked at where they can matter.
fn has_neutral(record: &FlatRecord, field: usize) -> bool {
    let has = |text: &str, words: &Finder| words.find(text.as_bytes()).is_some();
    match record.json_text(field) {
        JsonText::Plain(text) => is_neutral(text),
        // The first character is neither an escape nor white space, so that no turn of a transcript and no blank text
        // hides behind escapes.
        JsonText::Escaped(text) if text.starts_with(|first: char| first != '\\' && !first.is_whitespace()) => {
            !has(text, &FIND_THOUGHTS)
                && !has(text, &FIND_ANSWER)
                && !text.starts_with("Human:")
                && !text.starts_with("System:")
        }
        JsonText::Escaped(_) | JsonText::Other => is_neutral(&record.text(field)),
    }
}

/// Whether every format takes a text as it is: it is not blank, no transcript of several turns, and has no thoughts.
fn is_neutral(text: &str) -> bool {
    let has_turns = text.starts_with("\n\n")
        || ["Human:", ANSWER, "System:"].iter().any(|mark| text.starts_with(mark))
        || text.trim_end().ends_with(ANSWER);
    !has_turns && !text.trim_start().is_empty() && FIND_THOUGHTS.find(text.as_bytes()).is_none()
}

impl Reader {
    /// Whether this format looks at a field of this name, also if it then does not read it.
    pub(super) fn looks_at(&self, name: &str) -> bool {
        let is_named = |names: &str| {
            names == name || names.split('+').any(|path| path.trim().split('.').next().is_some_and(|of| of == name))
        };
        self.main().into_iter().chain(self.parts.names()).any(is_named)
    }
}
