//! What lies between documents, and objects around a list of records.

use super::{DEEPEST, Json, LARGE, LISTS, MOST_FIELD, Nest, Place};
use crate::records::divide::{Piece, PieceKind, RestOfText};
use crate::records::resume::is_turn;
use crate::records::scan::{RecordWalk, ScanWay, Seen, after_space, begins_record, first_key, string_end, walk};
use raisin_base::error::{Error, Problem, Result};

impl Json {
    /// Goes on from a place between documents. Returns the place after the step; `None` if the next bytes are needed.
    pub(super) fn document(&mut self, place: Place, pieces: &mut Vec<Piece>) -> Result<Option<usize>> {
        let (bytes, at) = (place.bytes, place.at);
        Ok(match bytes[at] {
            // The lines are parsed later, on all cores. An object that begins with a new name can lie around a list.
            b'{' if self.lines && begins_record(bytes, at, &self.keys) && is_line(place) == Some(true) => {
                self.line(place, pieces)
            }
            b'{' => return self.object(place, pieces),
            b'[' => return Ok(self.bracket(place, pieces)),
            b',' | b']' | b'}' => {
                self.punctuation += 1;
                Some(at + 1)
            }
            _ => self.line(place, pieces),
        })
    }

    /// A bracket between documents: a list of records, or a list that is a record itself.
    fn bracket(&mut self, place: Place, pieces: &mut Vec<Piece>) -> Option<usize> {
        let (bytes, at) = (place.bytes, place.at);
        let (first, next) = place.next(at + 1);
        if place.is_cut(next) {
            return None;
        }
        if next == Some(b']') {
            let (_, following) = place.next(first + 1);
            if place.is_cut(following) {
                return None;
            }
            // Only a file that is nothing but an empty list has no records.
            if self.documents > 0 || following.is_some() {
                self.push(bytes, at, first + 1, PieceKind::Whole, pieces);
                return Some(first + 1);
            }
        } else if is_turn(bytes, first) {
            let line_end = place.line_end()?;
            let is_whole = is_whole_turn(bytes, first);
            let is_line = bytes[at..line_end].trim_ascii_end().ends_with(b"]")
                && (self.lines || matches!(bytes.get(line_end + 1), Some(b'[' | b'{')));
            if is_whole || is_line {
                let way = ScanWay { is_last: place.is_last(), walks: Some(place.walks), ..ScanWay::default() };
                match walk(bytes, at, way, &mut Seen::default()) {
                    RecordWalk::Whole(end) if is_whole => {
                        self.lines = !bytes[at..end].contains(&b'\n');
                        self.push(bytes, at, end, PieceKind::Whole, pieces);
                        return Some(end);
                    }
                    RecordWalk::Whole(_) => {}
                    // A damaged line costs this line.
                    _ if is_line => {
                        self.lines = true;
                        self.push(bytes, at, line_end, PieceKind::Line, pieces);
                        return Some(line_end);
                    }
                    RecordWalk::Unfinished if !place.is_too_far() => return None,
                    _ => {}
                }
            }
        }
        let is_list = matches!(next, Some(b'{' | b']')) || self.documents == 0;
        if is_list && self.nests.len() < DEEPEST {
            self.open_list();
            Some(at + 1)
        } else {
            self.line(place, pieces)
        }
    }

    fn open_list(&mut self) {
        self.nests.push(Nest::List);
        (self.has_list, self.lines, self.awaits_element) = (true, false, true);
        self.documents += 1;
    }

    /// Takes the line, or the part of it before a record.
    fn line(&mut self, place: Place, pieces: &mut Vec<Piece>) -> Option<usize> {
        let (bytes, at) = (place.bytes, place.at);
        let end = place.line_end()?;
        let mut kind = PieceKind::Line;
        let mut to = end;
        if bytes[at] != b'{' {
            let begins = |at: &usize| match bytes[*at] {
                b'[' => self.keys.is_empty() && bytes.get(after_space(bytes, at + 1)) == Some(&b'{'),
                _ if self.keys.is_empty() => first_key(bytes, *at).is_some(),
                _ => begins_record(bytes, *at, &self.keys),
            };
            let mut inside = memchr::memchr2_iter(b'{', b'[', &bytes[at + 1..end]).map(|found| at + 1 + found);
            if let Some(inside) = inside.find(begins) {
                (kind, to) = (PieceKind::Broken, inside);
            }
        }
        self.push(bytes, at, to, kind, pieces);
        Some(to)
    }

    /// An object between documents: a record, or an object around a list of records.
    fn object(&mut self, place: Place, pieces: &mut Vec<Piece>) -> Result<Option<usize>> {
        let (bytes, at) = (place.bytes, place.at);
        let mut seen = Seen::default();
        let end = match self.walk(place, &mut seen) {
            RecordWalk::Whole(end) => end,
            found => {
                let is_far = place.is_too_far() || bytes.len() - at > LARGE;
                let is_broken = matches!(found, RecordWalk::Broken(_));
                let is_new = first_key(bytes, at).is_some_and(|key| !self.is_key(key));
                if (is_broken || is_far)
                    && (is_new || self.keys.is_empty())
                    && self.is_around(bytes, &seen, is_far, true)
                {
                    return self.around(&seen);
                }
                // In JSON lines, a raw line break in a string is the end of a damaged line, or a part of the string.
                if let RecordWalk::Broken(broken) = found
                    && bytes.get(broken) == Some(&b'\n')
                    && let Some(end) = self.joined_line(place, broken)
                {
                    self.push(bytes, at, end, PieceKind::Lines, pieces);
                    return Ok(Some(end));
                }
                let is_given_up = is_broken || place.is_too_far();
                return Ok(if is_given_up { self.broken(place, None, pieces) } else { None });
            }
        };
        let (next, following) = place.next(end);
        if place.is_cut(following) {
            return Ok(None);
        }
        let is_only = following.is_none() && self.keys.is_empty();
        if self.is_around(bytes, &seen, is_only, is_only || self.differs(bytes, at, end)) {
            return self.around(&seen);
        }
        let ends_line = following.is_none() || bytes[end..next].contains(&b'\n');
        let goes_on = match following {
            Some(b',') => {
                let (name, after) = place.next(next + 1);
                if place.is_cut(after) {
                    return Ok(None);
                }
                let key = string_end(bytes, name).ok().flatten().map(|end| &bytes[name + 1..end - 1]);
                matches!(after, None | Some(b'{' | b'[' | b']'))
                    || after == Some(b'"') && key.is_some_and(|key| self.is_key(key))
            }
            following => ends_line || matches!(following, Some(b'{' | b'[' | b']' | b'}')),
        };
        if !goes_on {
            return Ok(self.broken(place, None, pieces));
        }
        if let Some(inside) = self.swallowed(place, &seen) {
            return Ok(self.broken(place, Some(inside), pieces));
        }
        self.learn(bytes, at, &seen);
        self.lines = ends_line && !bytes[at..end].contains(&b'\n');
        self.push(bytes, at, end, PieceKind::Whole, pieces);
        Ok(Some(end))
    }

    /// The end of a record of several lines of which the first one breaks off in a string.
    fn joined_line(&self, place: Place, broken: usize) -> Option<usize> {
        if !self.lines {
            return None;
        }
        let mut at = broken + 1;
        for _ in 0..64 {
            let line = Place { at, ..place };
            let (next, first) = place.next(at);
            if matches!(first, None | Some(b'{' | b'[')) || next < at {
                return None;
            }
            let end = line.line_end()?;
            if place.bytes[at..end].trim_ascii_end().ends_with(b"}") {
                return Some(end);
            }
            at = end + 1;
        }
        None
    }

    /// Whether the object is no record but lies around a list of records. `is_only` says that nothing else is in the
    /// file, `differs` that the object is not like the records before it.
    pub(super) fn is_around(&self, bytes: &[u8], seen: &Seen, is_only: bool, differs: bool) -> bool {
        let Some(list) = seen.lists.first() else { return false };
        if is_turn(bytes, after_space(bytes, list.inside)) {
            return false;
        }
        let (is_alone, is_fresh) = (seen.others.is_empty(), self.keys.is_empty());
        if seen.lists.iter().all(|list| LISTS.iter().any(|name| name.as_bytes() == list.name)) {
            return differs || is_alone;
        }
        // The list of another name is most of the file.
        let last = seen.others.last().map_or(0, |(at, _)| *at);
        let is_most = last < list.inside && 4 * list.inside < bytes.len();
        is_only && is_fresh && seen.lists.len() == 1 && (is_alone || is_most)
    }

    /// Whether an object differs from the records around it: it begins with another name, or is much larger.
    pub(super) fn differs(&self, bytes: &[u8], at: usize, end: usize) -> bool {
        let Some(key) = first_key(bytes, at) else { return false };
        let is_large = bytes[at..end].contains(&b'\n') || end - at > MOST_FIELD;
        !self.is_key(key) && (is_large || first_key(bytes, after_space(bytes, end)) != Some(key))
    }

    /// Enters the list of an object around it.
    ///
    /// # Errors
    /// There are two lists of records.
    pub(super) fn around(&mut self, seen: &Seen) -> Result<Option<usize>> {
        if seen.lists.len() > 1 {
            return Err(self.two_lists(&seen.lists[0].name, &seen.lists[1].name));
        }
        let inside = seen.lists[0].inside;
        for (_, name) in seen.others.iter().filter(|(at, _)| *at < inside) {
            self.note_beside(name);
        }
        self.nests.push(Nest::Around);
        self.open_list();
        Ok(Some(inside))
    }

    fn two_lists(&self, one: &[u8], other: &[u8]) -> Error {
        let [one, other] = [one, other].map(String::from_utf8_lossy);
        Problem::new(format!("{} has two lists of records: `{one}` and `{other}`", self.file))
            .hint("write each list into a file of its own, and name the file to be read")
            .into()
    }

    fn note_beside(&mut self, name: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        if !self.beside.contains(&name) {
            self.beside.push(name);
        }
    }

    /// Goes on from a place in an object around a list, after the list.
    pub(super) fn after_list(&mut self, place: Place) -> Result<Option<usize>> {
        let (bytes, at) = (place.bytes, place.at);
        let leave = |json: &mut Self| {
            json.nests.pop();
            Ok(Some(at))
        };
        match bytes[at] {
            b'}' => {
                self.nests.pop();
                return Ok(Some(at + 1));
            }
            b',' => {}
            _ => return leave(self),
        }
        let (quote, next) = place.next(at + 1);
        if place.is_cut(next) {
            return Ok(None);
        }
        if next != Some(b'"') {
            return leave(self);
        }
        let Ok(Some(end)) = string_end(bytes, quote) else {
            return if place.rest == RestOfText::Comes { Ok(None) } else { leave(self) };
        };
        let (colon, next) = place.next(end);
        let (value, first) = place.next(colon + 1);
        if place.is_cut(next) || place.is_cut(first) {
            return Ok(None);
        }
        if next != Some(b':') || first.is_none() {
            return leave(self);
        }
        let name = &bytes[quote + 1..end - 1];
        if first == Some(b'[') && first_key(bytes, after_space(bytes, value + 1)).is_some() {
            return Err(self.two_lists(b"the first list", name));
        }
        match walk(bytes, value, ScanWay { is_last: place.is_last(), ..ScanWay::default() }, &mut Seen::default()) {
            RecordWalk::Whole(end) => {
                self.note_beside(name);
                Ok(Some(end))
            }
            RecordWalk::Unfinished if place.rest == RestOfText::Comes => Ok(None),
            _ => leave(self),
        }
    }
}

/// Whether a turn of a conversation begins at `at`. A list of turns is one record.
fn is_whole_turn(bytes: &[u8], at: usize) -> bool {
    if !is_turn(bytes, at) {
        return false;
    }
    let mut seen = Seen::default();
    walk(bytes, at, ScanWay { outer: true, ..ScanWay::default() }, &mut seen);
    let has = |name: &str| seen.others.iter().any(|(_, other)| other == name.as_bytes());
    let content = has("content") || seen.lists.iter().any(|list| list.name == b"content");
    has("role") && content || has("from") && has("value")
}

/// Whether a line ends like the object with which it begins; `None` if the end of the line has not come yet.
fn is_line(place: Place) -> Option<bool> {
    let end = place.line_end()?;
    Some(place.bytes[place.at..end].trim_ascii_end().ends_with(b"}"))
}
