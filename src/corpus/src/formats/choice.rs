//! The choice of a format for the records of a file.

use std::cell::LazyCell;
use std::sync::Arc;

use raisin_settings::{Mapping, RecordFormat};
use serde_json::Value;

use super::parts::{is_context, is_part, left_out};
use super::shape::{ShapeReading, Shapes};
use super::turns::split_thoughts;
use super::{Body, Conversation, Notices, Reader, Readout, RecordReader, RecordRefusal, fields_of};
use crate::message::Message;
use crate::records::FlatRecord;

/// The names that the two fields of a `qa` record usually have.
const QA_FIELDS: [(&str, &str); 8] = [
    ("prompt", "response"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("instruction", "response"),
    ("query", "response"),
    ("question", "response"),
    ("input", "output"),
    ("instruction", "output"),
];

/// The formats of a file: the one that the user names or that fits, and with `auto` the others, for records that the
/// first does not fit.
#[derive(Clone, Debug)]
pub struct Choice {
    readers: Vec<Reader>,
    /// Whether the format was guessed. Then a record is read only by a format that ignores nothing.
    is_guessed: bool,
    /// The fields of prompt, response and turns of all readers.
    main: Vec<String>,
    /// The usual names of parts that the user leaves out.
    left_out: Vec<&'static str>,
    /// The records without lists and objects, by their shapes.
    shapes: Shapes,
}

impl Choice {
    /// The formats for a file. For `auto` and `parquet`, and for `qa` without field names, the first is the format that
    /// reads most of `sample` without ignoring a field that another format would read.
    ///
    /// # Errors
    /// No format reads a record of the sample.
    pub fn new(mapping: &Mapping, sample: &[&Value]) -> Result<Self, String> {
        let named = |reader: Reader| {
            Ok(Self {
                readers: vec![reader],
                is_guessed: false,
                main: Vec::new(),
                left_out: Vec::new(),
                shapes: Shapes::default(),
            })
        };
        let fields = &mapping.fields;
        let name = |name: &Option<String>| name.as_deref().filter(|name| !name.is_empty()).map(str::to_owned);
        match (name(&fields.messages), name(&fields.prompt), name(&fields.response)) {
            (Some(messages), None, None) => return named(Reader::turns("messages", &[&messages], mapping)),
            (Some(messages), None, Some(response)) => {
                let name = format!("turns ({messages}, {response})");
                return named(Reader::pair(name, &[&messages], &response, mapping));
            }
            (_, Some(prompt), Some(response)) => return named(Reader::qa(&prompt, &response, mapping)),
            _ => {}
        }
        match mapping.format {
            RecordFormat::Alpaca => return named(Reader::alpaca(mapping)),
            RecordFormat::Messages => {
                return named(Reader::turns("messages", &["messages", "conversations", "conversation"], mapping));
            }
            RecordFormat::Sharegpt => {
                return named(Reader::turns("sharegpt", &["conversations", "conversation", "messages"], mapping));
            }
            RecordFormat::Auto | RecordFormat::Qa | RecordFormat::Parquet => {}
        }
        let mut readers = Vec::new();
        if mapping.format != RecordFormat::Qa {
            readers.extend([
                Reader::turns("messages", &["messages"], mapping),
                Reader::turns("sharegpt", &["conversations", "conversation"], mapping),
                Reader::bare(mapping),
                Reader::texts(mapping),
                Reader::preference(mapping),
                Reader::preference_of("input", mapping),
                Reader::preference_of("query", mapping),
                Reader::calls(mapping),
                Reader::instances(mapping),
                Reader::alpaca(mapping),
            ]);
        }
        let pairs = QA_FIELDS
            .iter()
            .filter(|pair| mapping.format == RecordFormat::Qa || pair.1 != "output" || pair.0 == "input");
        readers.extend(pairs.map(|(prompt, response)| Reader::qa(prompt, response, mapping)));
        let main = readers.iter().flat_map(Reader::main).map(str::to_owned).collect();
        let shapes = Shapes::default();
        let mut choice = Self { readers, is_guessed: true, main, left_out: left_out(fields), shapes };
        let best = choice.best(sample)?;
        let first = choice.readers.remove(best);
        choice.readers.insert(0, first);
        Ok(choice)
    }

    /// How a record without lists and objects is read; `None` if it has to be read with [`RecordReader::read`].
    pub fn plan(&self, record: &FlatRecord) -> Option<&Arc<ShapeReading>> {
        let looks_at = |name: &str| is_part(name) || self.readers.iter().any(|reader| reader.looks_at(name));
        self.shapes.plan(record, |probe| self.read(probe), looks_at)
    }

    /// The reader that reads most records of the sample. A reader that would ignore a field of a record comes after
    /// all readers that would not. Of equal readers the first is taken, because more specific formats come first.
    fn best(&self, sample: &[&Value]) -> Result<usize, String> {
        let score = |reader: &Reader| {
            let (mut clean, mut ignores) = (0_usize, false);
            for record in sample.iter().filter(|record| reader.applies(record)) {
                let readout = reader.read(record);
                if matches!(readout.outcome, Err(RecordRefusal::Rejected(_))) {
                    continue;
                }
                match self.ignored(record, &readout) {
                    None => clean += 1,
                    Some(_) => ignores = true,
                }
            }
            (!ignores && clean > 0, clean)
        };
        let scores: Vec<(bool, usize)> = self.readers.iter().map(score).collect();
        let best = (0..scores.len()).rev().max_by_key(|&index| scores[index]);
        best.filter(|&index| scores[index].1 > 0).ok_or_else(|| self.explain(sample))
    }

    /// A field of the record that was not read, and that another format would read. A field with the same content as a
    /// field that was read is no loss.
    /// A text that is a turn of the conversation is none either.
    fn ignored<'a>(&self, record: &'a Value, readout: &Readout<'a, Conversation>) -> Option<&'a str> {
        let applying: LazyCell<Vec<&str>, _> = LazyCell::new(|| {
            self.readers.iter().filter(|reader| reader.applies(record)).flat_map(Reader::main).collect()
        });
        let is_main = |name: &str| self.main.iter().any(|main| main == name) && applying.contains(&name);
        let is_known = |name: &&&str| is_part(name) || is_main(name);
        let turns = readout.outcome.as_ref().map_or(&[][..], |conversation| &conversation.messages);
        let is_turn =
            |value: &Value| value.as_str().is_some_and(|text| turns.iter().any(|turn| is_text_of(turn, text)));
        let is_copy =
            |name: &str| is_turn(&record[name]) || readout.used.iter().any(|used| record[*used] == record[name]);
        let is_wanted = |name: &&&str| !self.left_out.contains(*name);
        readout.unread.iter().filter(is_wanted).filter(is_known).find(|name| !is_copy(name)).copied()
    }

    /// Why no format reads a record of the sample.
    fn explain(&self, sample: &[&Value]) -> String {
        let Some(first) = sample.first() else { return "there is no record that is JSON".to_owned() };
        let has = |name: &str| first.get(name).is_some();
        let fields = fields_of(first);
        if has("message_id") && (has("parent_id") || has("replies") || has("message_tree_id")) {
            return format!(
                "the records are messages of an OASST tree: the first has {fields}; write each path from a first message \
                 to a reply as one record {{\"messages\": [...]}}"
            );
        }
        if self.readers[0].parts.turns.is_turn(first) {
            return format!(
                "each record is a single turn: the first has {fields}; write the turns of a conversation into one record \
                 {{\"messages\": [...]}}"
            );
        }
        if ["choices", "endings", "options", "answerKey", "option1", "sol1", "answerA"].into_iter().any(has) {
            return format!(
                "the records are multiple-choice questions: the first has {fields}; a stage of kind `task` with format = \
                 \"choices\" reads them"
            );
        }
        let mut reasons = self.readers.iter().filter(|reader| reader.applies(first)).map(|reader| {
            let readout = reader.read(first);
            match &readout.outcome {
                Err(RecordRefusal::Rejected(reason)) => format!("as `{}`: {reason}", reader.name()),
                _ => match self.ignored(first, &readout) {
                    Some(name) => format!("`{}` would ignore `{name}`", reader.name()),
                    None => format!("`{}` reads none", reader.name()),
                },
            }
        });
        if let Some(reason) = reasons.next() {
            let more: String = reasons.map(|reason| format!("; {reason}")).collect();
            return format!("no known format fits: the first record has {fields}; {reason}{more}");
        }
        let prompts = ["instruction", "prompt", "question", "query", "input", "text"];
        let asks = prompts.iter().find(|name| first.get(**name).is_some_and(|value| !super::fields::is_blank(value)));
        let why = asks
            .map_or(String::new(), |name| format!("; `{name}` may be a prompt, and no known field holds a response"));
        format!("no known format fits: the first record has {fields}{why}")
    }

    /// Whether another format may read a record that the first format refused: the fields that the first format needs
    /// are missing, and the fields that both formats read have the same part in both.
    fn may_replace(&self, other: &Reader, record: &Value) -> bool {
        let first = &self.readers[0];
        let (wanted, offered) = (first.main(), other.main());
        let alone: Vec<&&str> = wanted.iter().filter(|name| !offered.contains(*name)).collect();
        let is_missing = |name: &&&str| record.get(**name).is_none();
        let is_blank = |name: &&str| record.get(*name).is_none_or(super::fields::is_blank);
        let absent = alone.iter().all(is_missing) || wanted.iter().all(is_blank);
        let differs = |name: &&&str| is_context(name) && first.is_pair() && other.is_pair();
        absent && !offered.iter().filter(|name| !is_blank(name) && !wanted.contains(name)).any(|name| differs(&name))
    }
}

/// Whether a text is that of a turn, with its thoughts or without.
fn is_text_of(turn: &Message, text: &str) -> bool {
    let is_same = |text: &str| turn.content.trim() == text.trim();
    let mut whole = Message::new(&turn.role, text);
    is_same(text)
        || (split_thoughts(&mut whole, &mut Notices::default()).is_ok()
            && whole.reasoning.is_some()
            && whole.reasoning.as_deref().map(str::trim) == turn.reasoning.as_deref().map(str::trim)
            && is_same(&whole.content))
}

impl Reader {
    fn is_pair(&self) -> bool {
        matches!(self.body, Body::Pair { .. } | Body::Instances | Body::Calls)
    }
}

impl RecordReader for Choice {
    type Item = Conversation;

    fn read<'a>(&self, record: &'a Value) -> Readout<'a, Conversation> {
        let first = self.readers[0].read(record);
        if !self.is_guessed {
            return first;
        }
        let is_wrong = matches!(first.outcome, Err(RecordRefusal::Rejected(_)));
        let ignored = if is_wrong { None } else { self.ignored(record, &first) };
        if !is_wrong && ignored.is_none() {
            return first;
        }
        for (format, reader) in self.readers.iter().enumerate().skip(1).filter(|(_, reader)| reader.applies(record)) {
            if is_wrong && !self.may_replace(reader, record) {
                continue;
            }
            let other = reader.read(record);
            if !matches!(other.outcome, Err(RecordRefusal::Rejected(_))) && self.ignored(record, &other).is_none() {
                return Readout { format, ..other };
            }
        }
        match ignored {
            None => first,
            Some(name) => Readout {
                outcome: Err(RecordRefusal::Rejected(format!(
                    "the format `{}` ignores `{name}`; say with `fields` what it is, or name the `format`",
                    self.readers[0].name()
                ))),
                ..first
            },
        }
    }

    fn formats(&self) -> Vec<String> {
        self.readers.iter().map(|reader| reader.name().to_owned()).collect()
    }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
