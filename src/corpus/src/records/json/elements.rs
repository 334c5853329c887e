//! Elements of a list of records.

use super::{DEEPEST, Json, Nest, Place, USUAL};
use crate::records::divide::{Piece, PieceKind, RestOfText};
use crate::records::resume::{is_turn, record_between};
use crate::records::scan::{RecordWalk, ScanWay, Seen, begins_record, begins_word, first_key, string_end, walk};
use raisin_base::error::Result;

impl Json {
    /// Goes on from a place in a list of records.
    ///
    /// # Errors
    /// There are two lists of records.
    pub(super) fn element(&mut self, place: Place, pieces: &mut Vec<Piece>) -> Result<Option<usize>> {
        if let Some(step) = self.sign(place) {
            return Ok(step);
        }
        let (bytes, at) = (place.bytes, place.at);
        self.is_after_comma = false;
        let mut seen = Seen::default();
        let end = match self.walk(place, &mut seen) {
            RecordWalk::Whole(end) => end,
            RecordWalk::Unfinished if !place.is_too_far() => return Ok(None),
            _ => return Ok(self.broken(place, None, pieces)),
        };
        // The end of the list before is missing, and the next document is an object around a list.
        if !self.keys.is_empty() && self.differs(bytes, at, end) && self.is_around(bytes, &seen, false, true) {
            self.punctuation += 1;
            return self.around(&seen);
        }
        match self.goes_on(place, end) {
            None => return Ok(None),
            Some(false) => return Ok(self.broken(place, None, pieces)),
            Some(true) => {}
        }
        // Without an end of the list, its end may have been taken for that of a record.
        let is_unclosed = !matches!(place.next(end).1, Some(b',' | b']'));
        let inside = if is_unclosed { record_between(bytes, at, end, &self.known(place)) } else { None };
        if let Some(inside) = inside.or_else(|| self.swallowed(place, &seen)) {
            return Ok(self.broken(place, Some(inside), pieces));
        }
        self.punctuation += u64::from(!self.awaits_element);
        self.awaits_element = false;
        self.learn(bytes, at, &seen);
        self.push(bytes, at, end, PieceKind::Whole, pieces);
        Ok(Some(end))
    }

    /// Goes over a comma or a bracket between records; `None` if a record begins here.
    #[expect(clippy::option_option, reason = "the inner one is the step, as in the other functions")]
    fn sign(&mut self, place: Place) -> Option<Option<usize>> {
        let (bytes, at) = (place.bytes, place.at);
        match bytes[at] {
            b',' => {
                self.punctuation += u64::from(self.awaits_element);
                (self.awaits_element, self.is_after_comma) = (true, true);
            }
            b']' => {
                self.nests.pop();
                self.punctuation += u64::from(self.is_after_comma);
                (self.awaits_element, self.is_after_comma) = (false, false);
            }
            b'}' => self.punctuation += 1,
            b'[' => {
                let (next, following) = place.next(at + 1);
                if place.is_cut(following) {
                    return Some(None);
                }
                if !matches!(following, Some(b'{' | b'[')) || is_turn(bytes, next) || self.nests.len() >= DEEPEST {
                    return None;
                }
                if self.awaits_element {
                    self.nests.push(Nest::List);
                } else {
                    // The end of the list before is missing.
                    self.punctuation += 1;
                    self.awaits_element = true;
                }
            }
            _ => return None,
        }
        Some(Some(at + 1))
    }

    /// Whether what follows an element can follow it; `None` if the next bytes are needed.
    fn goes_on(&self, place: Place, end: usize) -> Option<bool> {
        let (bytes, at) = (place.bytes, place.at);
        let (next, following) = place.next(end);
        if place.is_cut(following) {
            return None;
        }
        Some(match following {
            Some(b',') => {
                let (after, byte) = place.next(next + 1);
                match byte {
                    None if place.rest == RestOfText::Comes => return None,
                    // A field, and no element: the object before it ended too early.
                    Some(b'"') => match string_end(bytes, after) {
                        Ok(Some(end)) => place.next(end).1 != Some(b':') || self.is_key(&bytes[after + 1..end - 1]),
                        Ok(None) if place.rest == RestOfText::Comes => return None,
                        _ => false,
                    },
                    Some(byte) => matches!(byte, b'{' | b'[' | b']' | b',') || begins_word(byte),
                    None => true,
                }
            }
            Some(b'{') => bytes[at] == b'{' && first_key(bytes, next).is_some(),
            Some(b'[' | b'}') => bytes[at] == b'{',
            Some(b']') => self.ends_list(place, next)?,
            None => true,
            Some(_) => false,
        })
    }

    /// Whether a bracket ends the list of records, and not a list in a record that has lost something: then more of
    /// this record follows. `None` if the next bytes are needed.
    fn ends_list(&self, place: Place, bracket: usize) -> Option<bool> {
        let (after, byte) = place.next(bracket + 1);
        if byte != Some(b',') {
            return if place.is_cut(byte) { None } else { Some(byte != Some(b'"')) };
        }
        let (quote, byte) = place.next(after + 1);
        if place.is_cut(byte) {
            return None;
        }
        if byte != Some(b'"') {
            return Some(true);
        }
        let Ok(Some(end)) = string_end(place.bytes, quote) else {
            return (place.rest != RestOfText::Comes).then_some(false);
        };
        // The object around the list may have other names after the list.
        let name = &place.bytes[quote + 1..end - 1];
        Some(self.nests.contains(&Nest::Around) && !self.names.iter().flatten().any(|own| own == name))
    }

    /// The place of a record in a record: the end of the outer one was lost, and an end too many came later.
    pub(super) fn swallowed(&mut self, place: Place, seen: &Seen) -> Option<usize> {
        let inside = seen.record_inside?;
        if !begins_record(place.bytes, place.at, &self.keys) {
            return None;
        }
        if !self.is_tree && (!self.is_nested || self.plain >= USUAL) {
            let mut inner = Seen::default();
            let way = ScanWay { is_last: place.is_last(), outer: true, ..ScanWay::default() };
            walk(place.bytes, inside, way, &mut inner);
            let is_alike = self.names.contains(&inner.names());
            if is_alike && self.plain >= USUAL {
                return Some(inside);
            }
            self.is_tree = is_alike;
        }
        self.is_nested = true;
        None
    }
}
