//! Finds the place after damage at which the next record of JSON begins.
//!
//! An unescaped quote cannot stand in a string. Therefore `{"name":`, with the first name of the records before, is
//! never the text of a field: it is the beginning of a record, or of an object in a record. The indent tells these two
//! apart or, without line breaks, what follows the object.

use super::scan::{RecordWalk, ScanWay, Seen, after_space, begins_record, first_key, is_space, walk};
use super::walks::Walks;

/// The first names of the turns of a conversation. A list of such objects is a field of a record.
const TURNS: [&str; 4] = ["role", "from", "content", "value"];

/// Whether the object at `at` is a turn of a conversation.
pub fn is_turn(bytes: &[u8], at: usize) -> bool {
    first_key(bytes, at).is_some_and(|key| TURNS.iter().any(|turn| turn.as_bytes() == key))
}

/// What is known of the records before the damage.
pub struct Known<'k> {
    /// The first names of the records.
    pub keys: &'k [Vec<u8>],
    /// The names of a record's fields, for each kind of record; empty if records contain objects with the same names.
    pub names: &'k [Vec<Vec<u8>>],
    /// Whether records contain objects that begin like a record.
    pub is_nested: bool,
    /// Whether the damaged record lies in a list.
    pub in_list: bool,
    /// Whether the damaged record lies on a line of its own.
    pub in_line: bool,
    /// Whether an object lies around this list.
    pub is_around: bool,
    /// Whether nothing follows the bytes.
    pub is_last: bool,
    /// Records are looked for up to this position.
    pub limit: usize,
    pub walks: &'k Walks,
}

impl<'k> Known<'k> {
    /// A walk over an object that can be a record or lie in one.
    fn way(&self, outer: bool) -> ScanWay<'k> {
        ScanWay { is_last: self.is_last, outer, walks: Some(self.walks), keeps: true, ..ScanWay::default() }
    }
}

/// The indent of the line in which the byte at `at` is the first one; `None` if another byte stands before it.
fn indent(bytes: &[u8], at: usize) -> Option<usize> {
    let before = bytes[..at].iter().rev().take_while(|byte| is_space(**byte) && **byte != b'\n').count();
    (before == at || bytes[at - before - 1] == b'\n').then_some(before)
}

/// The last byte before `at` that is no white space.
pub fn before(bytes: &[u8], at: usize) -> Option<u8> {
    bytes[..at].iter().rev().copied().find(|byte| !is_space(*byte))
}

/// The next place after `start`, where a damaged record begins, at which a record or a list of records begins; `None`
/// if there is none.
pub fn next_record(bytes: &[u8], start: usize, known: &Known) -> Option<usize> {
    // The damaged record can be the first one of its kind.
    let own = first_key(bytes, start).filter(|_| !is_turn(bytes, start)).map(<[u8]>::to_vec);
    let keys: Vec<Vec<u8>> = known.keys.iter().cloned().chain(own).collect();
    let found = if keys.is_empty() { None } else { search(bytes, start, &keys, known) };
    // The first name of the records after the damage may be unknown, because the damage begins in it.
    let is_final = known.in_line || !known.is_last || found.is_some() && !known.keys.is_empty();
    let other = if is_final { None } else { search(bytes, start, &[], known) };
    // The damaged object can lie around a list, and the next such object is another document.
    let begins_list = |at: &usize| !known.in_list && before(bytes, *at) == Some(b'[');
    other.filter(|at| found.is_none_or(|found| *at < found && begins_list(at))).or(found)
}

fn search(bytes: &[u8], start: usize, keys: &[Vec<u8>], known: &Known) -> Option<usize> {
    let most = indent(bytes, start);
    let from = start + 1;
    memchr::memchr2_iter(b'{', b'[', bytes.get(from..known.limit)?).map(|found| from + found).find(|&at| {
        let own_indent = indent(bytes, at);
        // In an indented file, an object that stands further to the right is a part of a record.
        if !keys.is_empty() && own_indent.zip(most).is_some_and(|(own, most)| own > most) {
            return false;
        }
        if bytes[at] == b'[' {
            // A second list after the damaged one.
            let begins = bytes.get(after_space(bytes, at + 1)) == Some(&b'{');
            return begins && (own_indent == Some(0) || before(bytes, at) == Some(b']'));
        }
        if !keys.is_empty() && begins_record(bytes, at, keys) {
            return !known.is_nested || is_alike(bytes, at, known) || !is_inner(bytes, at, known);
        }
        if first_key(bytes, at).is_none() {
            return false;
        }
        match own_indent {
            // Documents and the lines of JSON lines begin without an indent. Before the first record is known, what
            // lies between is looked through first.
            Some(0) => keys.is_empty() || !known.keys.is_empty(),
            _ => {
                keys.is_empty() && matches!(before(bytes, at), Some(b',' | b'[' | b'}')) && !is_inner(bytes, at, known)
            }
        }
    })
}

/// The first object between these positions that begins like a record and has the fields of one.
pub fn record_between(bytes: &[u8], start: usize, end: usize, known: &Known) -> Option<usize> {
    if known.keys.is_empty() {
        // The first record is compared with what lies in it.
        let (keys, mut seen) = (vec![first_key(bytes, start)?.to_vec()], Seen::default());
        walk(bytes, start, known.way(true), &mut seen);
        return record_between(bytes, start, end, &Known { keys: &keys, names: &[seen.names()], ..*known });
    }
    let found = memchr::memchr_iter(b'{', &bytes[start + 1..end]).map(|found| start + 1 + found);
    found.into_iter().find(|at| begins_record(bytes, *at, known.keys) && is_alike(bytes, *at, known))
}

/// Whether the object has the fields of a record.
fn is_alike(bytes: &[u8], at: usize, known: &Known) -> bool {
    let mut seen = Seen::default();
    !known.names.is_empty()
        && matches!(walk(bytes, at, known.way(true), &mut seen), RecordWalk::Whole(_))
        && known.names.contains(&seen.names())
}

/// The number of objects after which a list is taken for the list of records.
const MANY: usize = 64;

/// Whether the object at `at` lies in a list that is a part of a record: then more of the record follows the list.
fn is_inner(bytes: &[u8], mut at: usize, known: &Known) -> bool {
    for number in 0..MANY {
        let RecordWalk::Whole(end) = walk(bytes, at, known.way(false), &mut Seen::default()) else { return false };
        let next = after_space(bytes, end);
        match bytes.get(next) {
            Some(b',') => at = after_space(bytes, next + 1),
            Some(b']') => {
                let after = after_space(bytes, next + 1);
                return match bytes.get(after) {
                    _ if known.in_line => true,
                    // The object around the list of records ends.
                    Some(b'}') => {
                        let next = bytes.get(after_space(bytes, after + 1));
                        known.in_list && !known.is_around || !matches!(next, None | Some(b'[' | b'{'))
                    }
                    Some(b',') => bytes.get(after_space(bytes, after + 1)) == Some(&b'"'),
                    _ => false,
                };
            }
            // The value of a field.
            Some(b'}') => return true,
            _ => return false,
        }
        if bytes.get(at) != Some(&b'{') {
            // The object is the value of a field, and another field follows.
            return number == 0 && bytes.get(at) == Some(&b'"');
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, keys: &[&str], is_nested: bool) -> Option<usize> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        let known = Known {
            keys: &keys,
            names: &[],
            is_nested,
            in_list: true,
            in_line: false,
            is_around: false,
            is_last: true,
            limit: text.len(),
            walks: &Walks::default(),
        };
        next_record(text.as_bytes(), text.find('{').expect("a record"), &known)
    }

    fn next_outside(text: &str) -> Option<usize> {
        let known = Known {
            keys: &[],
            names: &[],
            is_nested: false,
            in_list: false,
            in_line: false,
            is_around: false,
            is_last: true,
            limit: text.len(),
            walks: &Walks::default(),
        };
        next_record(text.as_bytes(), 0, &known)
    }

    #[test]
    fn the_next_record_begins_with_a_known_name() {
        assert_eq!(next(r#"{"a": "b, {"c": 1}, {"a": 2}]"#, &["a"], false), Some(20));
        assert_eq!(next(r#"{"a": "b: {"c": "{\"a\": 1"}"#, &["a"], false), None);
        // The name of the damaged record itself.
        assert_eq!(next(r#"{"a": "b, {"c": 1}, {"a": 2}]"#, &[], false), Some(20));
        // The name is damaged, and an object with another name is a field.
        assert_eq!(next(r#"{"a: "b", "c": {"x": 1}}, {"a": 2}]"#, &[], false), Some(26));
        assert_eq!(next("{\"a\": \"b\n{\"b\": 1}", &["a"], false), Some(9));
        // The object around the list is damaged.
        assert_eq!(
            next_outside("{\"v\": 1, \"row\"s\": [\n  {\n    \"a\": 1\n  },\n  {\n    \"a\": 2\n  }\n]}\n{\"w\": 1}"),
            Some(22)
        );
        assert_eq!(next("  {\"a\": \"b\n    {\"a\": 1},\n  {\"a\": 2}", &["a"], false), Some(27));
    }

    #[test]
    fn an_object_in_a_list_of_a_record_is_no_record_if_records_have_such_lists() {
        let text = r#"{"a": "b, "c": [{"a": 1}, {"a": 2}], "d": 1}, {"a": 2, "c": [{"a": 1}]}]"#;
        assert_eq!(next(text, &["a"], true), Some(46));
    }
}
