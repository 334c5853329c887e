//! Walks over one JSON value without building it, and stops at the first byte that the grammar of JSON does not allow.
//!
//! The walk finds the end of a record, and it finds damage near its place: after a lost quote, for example, the text of
//! the next string stands where a comma must stand. Numbers, words, escapes and UTF-8 are not checked here, because an
//! error in them does not hide where the value ends.

use super::walks::Walks;

/// The outcome of a walk. Positions are indices of the walked bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordWalk {
    /// The value is complete and ends before this position.
    Whole(usize),
    /// The byte at this position is impossible there.
    Broken(usize),
    /// The bytes end before the value does, and more bytes may come.
    Unfinished,
}

/// A list of objects that is a field of the walked object, such as `data` in `{"data": [{...}, {...}]}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The name as it is written, without quotes.
    pub name: Vec<u8>,
    /// The position after the opening bracket.
    pub inside: usize,
}

/// What a walk saw on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The lists of objects directly in the walked object.
    pub lists: Vec<List>,
    /// The names of the other fields of the walked object, each with its position.
    pub others: Vec<(usize, Vec<u8>)>,
    /// The position of the first inner object that begins like a record.
    pub record_inside: Option<usize>,
}

impl Seen {
    /// The names of the walked object's fields, in a fixed order.
    pub fn names(&self) -> Vec<Vec<u8>> {
        let others = self.others.iter().map(|(_, name)| name);
        let mut all: Vec<Vec<u8>> = others.chain(self.lists.iter().map(|list| &list.name)).cloned().collect();
        all.sort_unstable();
        all
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

/// How to walk.
#[derive(Clone, Copy, Default)]
pub struct ScanWay<'w> {
    /// Whether no bytes follow the walked ones.
    pub is_last: bool,
    /// The first names of records, as they are written.
    pub keys: &'w [Vec<u8>],
    /// Whether the fields of the walked object are noted.
    pub outer: bool,
    pub walks: Option<&'w Walks>,
    /// Whether the ends of inner objects are remembered too.
    pub keeps: bool,
}

/// Walks over the value that begins at `start`.
pub fn walk(bytes: &[u8], start: usize, way: ScanWay, seen: &mut Seen) -> RecordWalk {
    let skips = way.keys.is_empty();
    if let Some(found) = way.walks.and_then(|walks| walks.outcome(start, way.outer || !skips)) {
        return found;
    }
    // The positions of the open brackets.
    let mut open: Vec<usize> = Vec::new();
    let (found, end) = steps(bytes, start, way, seen, &mut open);
    #[cfg(test)]
    STEPS.set(STEPS.get() + end - start);
    if let Some(walks) = way.walks.filter(|_| !matches!(found, RecordWalk::Whole(_))) {
        walks.failed(&open, found, start, end);
    }
    found
}

#[cfg(test)]
thread_local! {
    /// The number of bytes that were walked over in this thread.
    pub static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The outcome, and the position at which the walk stopped.
fn steps(bytes: &[u8], start: usize, way: ScanWay, seen: &mut Seen, open: &mut Vec<usize>) -> (RecordWalk, usize) {
    let ScanWay { is_last, keys, outer, walks, keeps } = way;
    // The walk from `start` itself failed before: then the fields are what is asked for.
    let inner = walks.filter(|walks| matches!(walks.at(start), None | Some(RecordWalk::Whole(_))));
    let mut next = Next::Value;
    let mut at = start;
    // The name of the field that is being read, directly in the walked object.
    let mut name = 0..0;
    let last = |open: &[usize]| open.last().map(|at| bytes[*at]);
    let ended = |at: usize| (if is_last { RecordWalk::Broken(at) } else { RecordWalk::Unfinished }, bytes.len());
    loop {
        while bytes.get(at).is_some_and(|byte| is_space(*byte)) {
            at += 1;
        }
        let Some(&byte) = bytes.get(at) else { return ended(at) };
        match (next, byte) {
            (Next::Key | Next::KeyOrEnd | Next::Value | Next::ValueOrEnd, b'"') => {
                let end = match string_end(bytes, at) {
                    Ok(Some(end)) => end,
                    Ok(None) => return ended(bytes.len()),
                    Err(at) => return (RecordWalk::Broken(at), at),
                };
                if matches!(next, Next::Key | Next::KeyOrEnd) {
                    if outer && open.len() == 1 {
                        name = at + 1..end - 1;
                        seen.others.push((name.start, bytes[name.clone()].to_vec()));
                    }
                    next = Next::Colon;
                } else {
                    next = Next::CommaOrEnd;
                }
                at = end;
            }
            (Next::Colon, b':') => {
                next = Next::Value;
                at += 1;
            }
            (Next::CommaOrEnd, b',') => {
                next = if last(open) == Some(b'{') { Next::Key } else { Next::Value };
                at += 1;
            }
            (Next::Value | Next::ValueOrEnd, b'{') => {
                if !keys.is_empty() && at > start && seen.record_inside.is_none() && begins_record(bytes, at, keys) {
                    seen.record_inside = Some(at);
                }
                if outer
                    && next == Next::ValueOrEnd
                    && open.len() == 2
                    && bytes[open[0]] == b'{'
                    && bytes[open[1]] == b'['
                {
                    seen.others.pop();
                    let inside = bytes[..at].iter().rposition(|byte| *byte == b'[').map_or(at, |at| at + 1);
                    seen.lists.push(List { name: bytes[name.clone()].to_vec(), inside });
                }
                match inner.and_then(|walks| walks.at(at)) {
                    Some(RecordWalk::Whole(end)) if keys.is_empty() && at > start => {
                        (at, next) = (end, Next::CommaOrEnd);
                    }
                    Some(found @ (RecordWalk::Broken(_) | RecordWalk::Unfinished)) => return (found, at),
                    _ => {
                        open.push(at);
                        next = Next::KeyOrEnd;
                        at += 1;
                    }
                }
            }
            (Next::Value | Next::ValueOrEnd, b'[') => {
                open.push(at);
                next = Next::ValueOrEnd;
                at += 1;
            }
            (Next::ValueOrEnd | Next::CommaOrEnd, b']') if last(open) == Some(b'[') => {
                open.pop();
                next = Next::CommaOrEnd;
                at += 1;
            }
            (Next::KeyOrEnd | Next::CommaOrEnd, b'}') if last(open) == Some(b'{') => {
                let begin = open.pop();
                next = Next::CommaOrEnd;
                at += 1;
                if let Some((walks, begin)) = walks.filter(|_| keeps).zip(begin) {
                    walks.ended(begin, at);
                }
            }
            (Next::Value | Next::ValueOrEnd, _) if begins_word(byte) => {
                let length = bytes[at..].iter().position(|byte| !is_word(*byte));
                match length {
                    Some(length) => at += length,
                    None if is_last => at = bytes.len(),
                    None => return (RecordWalk::Unfinished, bytes.len()),
                }
                next = Next::CommaOrEnd;
            }
            _ => return (RecordWalk::Broken(at), at),
        }
        if next == Next::CommaOrEnd && open.is_empty() {
            return (RecordWalk::Whole(at), at);
        }
    }
}

/// The position after the closing quote of the string that begins at `start`; `None` if the bytes end before.
///
/// # Errors
/// The position of a line break in the string. JSON allows no line break there, so a quote is missing.
pub fn string_end(bytes: &[u8], start: usize) -> Result<Option<usize>, usize> {
    let mut at = start + 1;
    while let Some(found) = memchr::memchr3(b'"', b'\\', b'\n', bytes.get(at..).unwrap_or_default()) {
        at += found;
        match bytes[at] {
            b'"' => return Ok(Some(at + 1)),
            b'\\' => at += 2,
            _ => return Err(at),
        }
    }
    Ok(None)
}

pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether a number, a word of JSON, or a word of Python's JSON (`NaN`, `Infinity`) can begin with this byte.
pub fn begins_word(byte: u8) -> bool {
    matches!(byte, b'-' | b'0'..=b'9' | b't' | b'f' | b'n' | b'N' | b'I')
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// The position of the next byte that is no white space.
pub fn after_space(bytes: &[u8], from: usize) -> usize {
    from + bytes.get(from..).unwrap_or_default().iter().take_while(|byte| is_space(**byte)).count()
}

/// The first name of the object that begins at `at`, as it is written, without quotes; `None` if no `{"name":` is
/// there.
pub fn first_key(bytes: &[u8], at: usize) -> Option<&[u8]> {
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let quote = after_space(bytes, at + 1);
    if bytes.get(quote) != Some(&b'"') {
        return None;
    }
    let end = string_end(bytes, quote).ok()??;
    (bytes.get(after_space(bytes, end)) == Some(&b':')).then(|| &bytes[quote + 1..end - 1])
}

/// Whether an object with one of these first names begins at `at`.
pub fn begins_record(bytes: &[u8], at: usize, keys: &[Vec<u8>]) -> bool {
    let quote = after_space(bytes, at + 1);
    bytes.get(quote) == Some(&b'"')
        && keys.iter().any(|key| {
            let rest = &bytes[quote + 1..];
            rest.starts_with(key)
                && rest.get(key.len()) == Some(&b'"')
                && bytes.get(after_space(bytes, quote + 2 + key.len())) == Some(&b':')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(text: &str) -> (RecordWalk, Seen) {
        let mut seen = Seen::default();
        let way = ScanWay { is_last: true, keys: &[b"k".to_vec()], outer: true, ..ScanWay::default() };
        (walk(text.as_bytes(), 0, way, &mut seen), seen)
    }

    #[test]
    fn a_walk_ends_at_the_end_of_the_value_or_at_the_first_impossible_byte() {
        for text in [r#"{"a": [1, {"b": "x]}\""}], "c": NaN}"#, r#""a""#, "[]", "{}", "-1.5e3", "[[], {}]"] {
            assert_eq!(walked(&format!("{text} ,")).0, RecordWalk::Whole(text.len()), "{text}");
        }
        for (text, at) in [
            (r#"{"a": "b}, {"c": 1}"#, 13),
            (r#"{"a" "b"}"#, 5),
            (r#"{"a": 1 "b": 2}"#, 8),
            (r#"{"a": [1}"#, 8),
            (r#"{"a": 1, }"#, 9),
            (r#"[1, {"a": 1]"#, 11),
            ("{\"a\": \"b\n\"}", 8),
            (r#"{"a": "#, 6),
            ("]", 0),
        ] {
            assert_eq!(walked(text).0, RecordWalk::Broken(at), "{text}");
        }
        assert_eq!(walk(b"{\"a\": 1", 0, ScanWay::default(), &mut Seen::default()), RecordWalk::Unfinished);
    }

    #[test]
    fn a_walk_notes_lists_of_objects_and_inner_records() {
        let seen = walked(r#"{"v": 1, "data": [ {"k": 1}], "texts": ["a"], "e": []}"#).1;
        assert_eq!(seen.lists, [List { name: b"data".to_vec(), inside: 18 }]);
        let others: Vec<&[u8]> = seen.others.iter().map(|(_, name)| name.as_slice()).collect();
        assert_eq!(others, [&b"v"[..], b"texts", b"e"]);
        assert_eq!(seen.record_inside, Some(19));
    }
}
