//! Divides a JSON text into records.
//!
//! A text is a sequence of documents, one after the other: objects, each a record, on one line or on several; lists of
//! records; and objects around one list of records, such as `{"data": [...]}`. All of these can follow each other in
//! one file. If the objects are lines, the lines are not looked into before they are parsed.

mod documents;
mod elements;
mod resolve;

use std::path::Path;

use super::divide::{Layout, MOST_PIECES, Piece, PieceKind, Resolved, RestOfText};
use super::flat::FlatTexts;
use super::resume::{Known, next_record};
use super::scan::{RecordWalk, ScanWay, Seen, after_space, begins_record, first_key, is_space, walk};
use super::walks::Walks;
use raisin_base::error::Result;

/// The names under which a file holds its list of records.
const LISTS: [&str; 12] = [
    "data",
    "rows",
    "train",
    "examples",
    "instances",
    "records",
    "items",
    "samples",
    "dataset",
    "instructions",
    "test",
    "validation",
];

/// The number of different first names of records that are remembered.
const MOST_KEYS: usize = 16;

/// Lists in lists are looked into up to this depth.
const DEEPEST: usize = 8;

/// After this number of records without an inner object that begins like a record, such an object is damage.
const USUAL: u64 = 8;

/// An object of this size with one of the names in [`LISTS`] is taken for an object around a list before its end is
/// seen.
const LARGE: usize = 1 << 20;

/// A list of objects on one line that is longer than this is no field of a record.
const MOST_FIELD: usize = 1 << 16;

/// More signs between two records are no punctuation.
const MOST_SIGNS: usize = 16;

const RECORD_SEPARATOR: u8 = 0x1E;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nest {
    /// In a list of records.
    List,
    /// In an object around a list of records, after the list.
    Around,
}

/// The state at the end of the divided part.
pub struct Json {
    file: String,
    max_bytes: usize,
    nests: Vec<Nest>,
    /// Whether the last document was one line.
    lines: bool,
    /// Whether the text is one line of JSON lines.
    is_line: bool,
    keys: Vec<Vec<u8>>,
    /// The names of the first record with each first name, for the comparison with inner objects.
    names: Vec<Vec<Vec<u8>>>,
    is_nested: bool,
    /// Whether records contain objects with the names of a record.
    is_tree: bool,
    /// The number of records without inner objects that begin like a record.
    plain: u64,
    /// The number of documents so far.
    documents: u64,
    /// Whether the bytes after a damaged record are looked through for the next record.
    is_lost: bool,
    /// Whether the last piece is broken.
    is_broken: bool,
    awaits_element: bool,
    /// Whether the last thing was a comma in a list.
    is_after_comma: bool,
    /// Whether the line of the present position has held something.
    in_line: bool,
    pub has_list: bool,
    pub blank: u64,
    pub punctuation: u64,
    pub beside: Vec<String>,
}

/// The place that a step looks at.
#[derive(Clone, Copy)]
struct Place<'b> {
    bytes: &'b [u8],
    at: usize,
    rest: RestOfText,
    /// Whether nothing before the place belongs to the buffer.
    is_first: bool,
    walks: &'b Walks,
}

impl Place<'_> {
    /// Whether the buffer cannot hold what begins here.
    fn is_too_far(&self) -> bool {
        // What is a part of such a thing is given up in the front half of the buffer.
        let is_inner = || 2 * self.at < self.bytes.len() && self.walks.at(self.at) == Some(RecordWalk::Unfinished);
        self.rest == RestOfText::TooFar && (self.is_first || is_inner())
    }

    fn is_last(&self) -> bool {
        self.rest == RestOfText::Nothing
    }

    /// The next byte from `at` that is no white space, and its position.
    fn next(&self, at: usize) -> (usize, Option<u8>) {
        let next = after_space(self.bytes, at);
        (next, self.bytes.get(next).copied())
    }

    /// Whether bytes that decide are not there yet.
    fn is_cut(&self, next: Option<u8>) -> bool {
        next.is_none() && self.rest == RestOfText::Comes
    }

    /// The end of the line; `None` if it has not come yet.
    fn line_end(&self) -> Option<usize> {
        let end = memchr::memchr(b'\n', &self.bytes[self.at..]).map(|length| self.at + length);
        end.or((self.rest != RestOfText::Comes).then_some(self.bytes.len()))
    }
}

impl Json {
    pub fn new(path: &Path, max_bytes: usize) -> Self {
        Self {
            file: path.display().to_string(),
            max_bytes,
            nests: Vec::new(),
            lines: false,
            is_line: false,
            keys: Vec::new(),
            names: Vec::new(),
            is_nested: false,
            is_tree: false,
            plain: 0,
            documents: 0,
            is_lost: false,
            is_broken: false,
            awaits_element: true,
            is_after_comma: false,
            in_line: false,
            has_list: false,
            blank: 0,
            punctuation: 0,
            beside: Vec::new(),
        }
    }

    fn walk(&self, place: Place, seen: &mut Seen) -> RecordWalk {
        // Inner objects are compared with one name: with several, they could begin like a record by chance.
        let keys = if self.keys.len() == 1 { &self.keys[..] } else { &[] };
        let outer = self.nests.is_empty() || !begins_record(place.bytes, place.at, &self.keys);
        let way = ScanWay { is_last: place.is_last(), keys, outer, walks: Some(place.walks), keeps: false };
        walk(place.bytes, place.at, way, seen)
    }

    /// Whether records begin with this name: then an opening brace is missing before it.
    fn is_key(&self, name: &[u8]) -> bool {
        self.keys.iter().any(|key| key == name)
    }

    /// Remembers how records begin.
    fn learn(&mut self, bytes: &[u8], at: usize, seen: &Seen) {
        self.plain += u64::from(seen.record_inside.is_none());
        if begins_record(bytes, at, &self.keys) || self.keys.len() >= MOST_KEYS {
            return;
        }
        let Some(key) = first_key(bytes, at) else { return };
        let mut own = Seen::default();
        walk(bytes, at, ScanWay { is_last: true, outer: true, ..ScanWay::default() }, &mut own);
        self.names.push(own.names());
        self.keys.push(key.to_vec());
    }

    fn known<'k>(&'k self, place: Place<'k>) -> Known<'k> {
        Known {
            keys: &self.keys,
            names: if self.is_tree || self.lines || self.is_line { &[] } else { &self.names },
            // Lines are not looked into, so that they can contain objects that begin like a record.
            is_nested: self.is_nested || self.lines,
            in_list: !self.nests.is_empty(),
            in_line: self.nests.is_empty() && (self.lines || self.is_line),
            is_around: self.nests.contains(&Nest::Around),
            is_last: place.is_last(),
            limit: place.bytes.len(),
            walks: place.walks,
        }
    }

    /// Takes everything up to the next record; `None` if the next bytes are needed to find it.
    fn broken(&mut self, place: Place, next: Option<usize>, pieces: &mut Vec<Piece>) -> Option<usize> {
        let (bytes, at) = (place.bytes, place.at);
        let is_line = self.nests.is_empty() && (self.lines || bytes[at] != b'{' || is_closed_line(place));
        let end = if is_line { place.line_end() } else { None };
        let known = Known { limit: end.unwrap_or(bytes.len()), ..self.known(place) };
        let mut found = next.or_else(|| next_record(bytes, at, &known));
        let was_lost = std::mem::take(&mut self.is_lost);
        let mut kind = if was_lost { PieceKind::Part } else { PieceKind::Broken };
        if is_line {
            // A damaged line costs this line.
            // If the line has several records, resolve.rs finds them.
            let is_object = self.lines && bytes[at] == b'{' && next.is_none();
            if end.is_some_and(|end| is_object || found.is_none_or(|found| end < found)) {
                found = end;
                kind = if was_lost { kind } else { PieceKind::Line };
            }
        }
        let end = match (found, place.rest) {
            (Some(found), _) => found,
            (None, RestOfText::Nothing) => bytes.len(),
            (None, _) if place.is_too_far() => {
                kind = if was_lost { PieceKind::Part } else { PieceKind::Start };
                self.is_lost = true;
                bytes.len()
            }
            (None, _) => {
                self.is_lost = was_lost;
                return None;
            }
        };
        self.awaits_element = true;
        self.push(bytes, at, end, kind, pieces);
        Some(end)
    }

    /// Adds a piece, or counts it if it is punctuation.
    fn push(&mut self, bytes: &[u8], start: usize, end: usize, kind: PieceKind, pieces: &mut Vec<Piece>) {
        let text = bytes[start..end].trim_ascii_end();
        // A brace or a quote can be the rest of a record.
        let signs: &[u8] = match kind {
            PieceKind::Broken if text.starts_with(b"{") => b"",
            PieceKind::Broken => b",:[]{}\"",
            _ => b",[]}",
        };
        let is_punctuation = !matches!(kind, PieceKind::Start | PieceKind::Part)
            && text.len() <= MOST_SIGNS
            && text.iter().all(|byte| is_space(*byte) || signs.contains(byte));
        if is_punctuation && kind != PieceKind::Whole {
            self.punctuation += 1;
            return;
        }
        self.is_broken = !matches!(kind, PieceKind::Whole | PieceKind::Line | PieceKind::Lines);
        self.documents += u64::from(self.nests.is_empty());
        // Parts of one record have nothing between them.
        let end = if kind == PieceKind::Start { end } else { start + text.len() };
        pieces.push(Piece { start, end, kind });
    }

    /// Goes over white space, and counts its blank lines.
    fn skip_space(&mut self, bytes: &[u8], from: usize) -> usize {
        let mut at = from;
        // RFC 7464 writes a record separator before each document.
        let is_between = |byte: u8| is_space(byte) || byte == RECORD_SEPARATOR && self.nests.is_empty();
        while let Some(byte) = bytes.get(at).filter(|byte| is_between(**byte)) {
            if *byte == b'\n' {
                self.blank += u64::from(!self.in_line && self.nests.is_empty());
                self.in_line = false;
            }
            at += 1;
        }
        at
    }
}

/// Whether an object without an indent ends in its line, and the next line begins with an object or is missing: such
/// lines are the records of JSON lines, even before one of them could be read.
fn is_closed_line(place: Place) -> bool {
    let (bytes, at) = (place.bytes, place.at);
    let begins = at == 0 || matches!(bytes[at - 1], b'\n' | RECORD_SEPARATOR);
    let Some(end) = place.line_end().filter(|_| begins) else { return false };
    let next = bytes.get(end + 1).copied();
    bytes[at..end].trim_ascii_end().ends_with(b"}")
        && matches!(next, None | Some(b'{' | b'\n' | b'\r' | RECORD_SEPARATOR))
}

impl Layout for Json {
    fn divide(&mut self, bytes: &[u8], rest: RestOfText, pieces: &mut Vec<Piece>) -> Result<usize> {
        let (mut at, mut is_first) = (0, true);
        let walks = Walks::of(bytes);
        while pieces.len() < MOST_PIECES {
            at = self.skip_space(bytes, at);
            if at == bytes.len() {
                break;
            }
            let place = Place { bytes, at, rest, is_first, walks: &walks };
            let step = if self.is_lost {
                self.broken(place, None, pieces)
            } else {
                match self.nests.last() {
                    None => self.document(place, pieces)?,
                    Some(Nest::List) => self.element(place, pieces)?,
                    Some(Nest::Around) => self.after_list(place)?,
                }
            };
            let Some(next) = step else {
                // The indent of an unfinished record stays in the buffer: resume.rs compares it.
                return Ok(at - bytes[..at].iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count());
            };
            self.in_line = true;
            (at, is_first) = (next, false);
        }
        Ok(at)
    }

    fn add_flat(&self, bytes: &[u8], piece: Piece, to: &mut FlatTexts) -> bool {
        let Piece { start, end, kind } = piece;
        let is_record = matches!(kind, PieceKind::Line | PieceKind::Whole) && end - start <= self.max_bytes;
        is_record && to.add(&bytes[start..end])
    }

    fn resolve(&self, bytes: &[u8], piece: Piece, line: u64) -> Vec<Resolved> {
        self.parsed(bytes, piece, line)
    }

    fn is_unclosed(&self) -> bool {
        !self.nests.is_empty() && !self.is_broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::scan::STEPS;

    #[test]
    fn the_steps_for_damaged_text_grow_with_its_size() {
        let good = "{\"p\": \"q\", \"r\": [{\"p\": 1}]}";
        let nested = |part: &str| part.repeat(5_000);
        for text in [
            nested("[{\"a\":"),
            format!("{good}\n{}\n{good}", nested("{\"a\":")),
            format!("{good}\n{}\n{good}", nested("{\"p\":")),
            format!("[{good},\n{}\n{good}]", nested("{\"p\":[{\"role\":")),
            format!("[{good},\n{}\n{good}]", nested("{\"p\": \"x\", \"r\": \"a\",")),
            format!("[{good},\n{{\"p\": oops\"{}1{}]", nested("[{\"p\":"), nested("}]")),
            format!("{good}\n{}", nested("{oops}\n")),
            nested("{oops}\n"),
        ] {
            STEPS.set(0);
            let mut json = Json::new(Path::new("file"), 1 << 26);
            let (mut bytes, mut pieces) = (text.as_bytes(), Vec::new());
            while !bytes.is_empty() {
                pieces.clear();
                let done = json.divide(bytes, RestOfText::Nothing, &mut pieces).expect("divides");
                pieces.iter().for_each(|piece| drop(json.parsed(bytes, *piece, 1)));
                bytes = &bytes[done..];
            }
            let start: String = text.chars().take(50).collect();
            assert!(STEPS.get() < 20 * text.len(), "{} steps for {} bytes: {start}", STEPS.get(), text.len());
        }
    }
}
