//! Parses the pieces of a text.

use std::path::Path;

use super::Json;
use crate::records::divide::{Layout as _, Outcome, Piece, PieceKind, Resolved, RestOfText, Was};
use crate::records::parse::{self, ParsedRecord};
use crate::records::resume::before;
use crate::records::scan::{begins_record, first_key};

impl Json {
    /// Parses a piece that begins in line `line`. A damaged line can give several records.
    pub(super) fn parsed(&self, bytes: &[u8], piece: Piece, line: u64) -> Vec<Resolved> {
        let Piece { start, end, kind } = piece;
        let text = &bytes[start..end];
        let was = match kind {
            PieceKind::Start => Some(Was::Start),
            PieceKind::Part => Some(Was::Part),
            _ => (text.len() > self.max_bytes).then_some(Was::One),
        };
        if let Some(was) = was {
            let reason = format!("the record is too long to be read: more than {} bytes", self.max_bytes);
            return vec![Resolved::of(start, end, Err(reason), was)];
        }
        let parsed = parse::parse(text, line);
        match (kind, parsed) {
            (_, Ok(parsed)) => vec![Resolved::of(start, end, Ok(parsed), Was::One)],
            (PieceKind::Whole | PieceKind::Start | PieceKind::Part, Err(reason)) => {
                vec![Resolved::of(start, end, Err(reason), Was::One)]
            }
            (PieceKind::Broken, Err(reason)) => match closed(text, line) {
                Some((length, parsed)) => vec![Resolved::of(start, start + length, Ok(parsed), Was::One)],
                None => vec![Resolved::of(start, end, Err(reason), self.hidden(text))],
            },
            (PieceKind::Line, Err(reason)) => self.several(bytes, piece, line, reason),
            (PieceKind::Lines, Err(_)) => {
                let mut at = start;
                let mut line = line;
                let mut all = Vec::new();
                for part in text.split_inclusive(|byte| *byte == b'\n') {
                    let kept = part.trim_ascii_end().len();
                    let one = Piece { start: at, end: at + kept, kind: PieceKind::Line };
                    if kept > 0 {
                        all.extend(self.parsed(bytes, one, line));
                    }
                    (at, line) = (at + part.len(), line + 1);
                }
                all
            }
        }
    }

    /// How many records a damaged part can be, by the objects that begin in it like a record or like an element.
    fn hidden(&self, text: &[u8]) -> Was {
        let begins = |at: &usize| {
            begins_record(text, *at, &self.keys)
                || self.keys.is_empty()
                    && matches!(before(text, *at), Some(b',' | b'['))
                    && first_key(text, *at).is_some()
        };
        match memchr::memchr_iter(b'{', text).filter(begins).count() as u64 {
            0 | 1 => Was::OneOrMore,
            several => Was::Several(several),
        }
    }

    /// The records of a damaged line. If the line has none, the line is one.
    fn several(&self, bytes: &[u8], piece: Piece, line: u64, reason: String) -> Vec<Resolved> {
        let text = &bytes[piece.start..piece.end];
        let whole = |reason| vec![Resolved::of(piece.start, piece.end, Err(reason), Was::OneOrMore)];
        let mut inner = Self { keys: self.keys.clone(), names: self.names.clone(), ..Self::new(Path::new(""), 0) };
        // The lines before were not looked into, so that they can contain objects that begin like a record.
        (inner.max_bytes, inner.is_line, inner.is_nested, inner.documents) = (self.max_bytes, true, true, 1);
        let mut parts = Vec::new();
        if !text.starts_with(b"{") || inner.divide(text, RestOfText::Nothing, &mut parts).is_err() || parts.len() < 2 {
            return whole(reason);
        }
        let parts: Vec<Resolved> = parts
            .into_iter()
            .flat_map(|part| {
                let kind = if part.kind == PieceKind::Line { PieceKind::Broken } else { part.kind };
                inner.parsed(bytes, Piece { start: piece.start + part.start, end: piece.start + part.end, kind }, line)
            })
            .collect();
        let has_record = parts.iter().any(|part| matches!(part.outcome, Outcome::Good(_)));
        if has_record { parts } else { whole(reason) }
    }
}

/// A record whose end is followed by the ends of what lies around it.
fn closed(text: &[u8], line: u64) -> Option<(usize, ParsedRecord)> {
    let mut text = text.strip_suffix(b",").unwrap_or(text).trim_ascii_end();
    for ending in [&b""[..], b"]", b"}"] {
        if !ending.is_empty() {
            text = text.strip_suffix(ending)?.trim_ascii_end();
            text = text.strip_suffix(b"]").unwrap_or(text).trim_ascii_end();
        }
        if text.ends_with(b"}")
            && let Ok(parsed) = parse::parse(text, line)
        {
            return Some((text.len(), parsed));
        }
    }
    None
}
