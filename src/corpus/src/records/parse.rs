//! Parses one record of JSON.
//!
//! A record that is JSON is parsed once, strictly. Other records get a second attempt: what people's programs write and
//! JSON does not allow is replaced, and the fields with such a value are named. Then the record is lost only for a
//! reader of these fields.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::scan::{begins_word, is_word};

/// A field whose value is not what the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Altered {
    pub name: String,
    /// The predicate of a sentence about the field.
    pub why: &'static str,
}

pub const TWICE: &str = "occurs twice, with different values";
pub const NO_UTF8: &str = "holds bytes that are not UTF-8";
const INNER_TWICE: &str = "holds an object in which a name occurs twice, with different values";
const NO_NUMBER: &str = "holds NaN, Infinity or a number that is too large";
const HALF_PAIR: &str = "holds half of a surrogate pair, such as `\\ud83d`";
const RAW_BREAK: &str = "holds a raw line break, which must be written as `\\n`";
const CONTROL: &str = "holds a raw control character";

impl Altered {
    pub fn told(&self) -> String {
        format!("`{}` {}", self.name, self.why)
    }
}

/// A parsed record.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedRecord {
    pub value: Value,
    /// The fields whose value is not what the file says: a part of it was replaced, or the field has several values and
    /// the last one is taken.
    pub altered: Vec<Altered>,
    /// How many times the first field of the record occurs again with another value, if all its fields do. Then the ends
    /// of two records were lost between them.
    pub repeats: u64,
}

impl ParsedRecord {
    pub fn of(value: Value) -> Self {
        Self { value, altered: Vec::new(), repeats: 0 }
    }
}

/// The value of a record that begins in line `first_line` of its file.
///
/// # Errors
/// The reason why the record is no JSON.
pub fn parse(bytes: &[u8], first_line: u64) -> Result<ParsedRecord, String> {
    strict(bytes, first_line).or_else(|reason| {
        let Some((mended, altered)) = mended(bytes) else { return Err(reason) };
        let mut parsed = strict(&mended, first_line).map_err(|_| reason)?;
        parsed.altered.extend(altered);
        Ok(parsed)
    })
}

fn strict(bytes: &[u8], first_line: u64) -> Result<ParsedRecord, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("invalid UTF-8 after {} bytes of the record", error.valid_up_to()))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = deserializer.deserialize_any(RecordVisitor);
    parsed.and_then(|parsed| deserializer.end().map(|()| parsed)).map_err(|error| {
        let message = error.to_string();
        let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
        let line = first_line + error.line().saturating_sub(1) as u64;
        format!("not valid JSON: {what} (line {line}, column {})", error.column())
    })
}

/// Builds a value as serde_json does, and notes whether a name occurs twice in an object with different values.
#[derive(Clone, Copy)]
struct ValueVisitor<'a> {
    differs: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for ValueVisitor<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueVisitor<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            if put(&mut all, name, value).is_some() {
                self.differs.set(true);
            }
        }
        Ok(Value::Object(all))
    }
}

/// Sets a value of an object. Returns the name if it had another value before.
fn put(object: &mut Map<String, Value>, name: String, value: Value) -> Option<String> {
    match object.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(value);
            None
        }
        Entry::Occupied(mut entry) => {
            let differing = (*entry.get() != value).then(|| entry.key().clone());
            entry.insert(value);
            differing
        }
    }
}

/// The same for a whole record, whose fields are noted by name.
struct RecordVisitor;

macro_rules! as_value {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E: serde::de::Error>(self, value: $kind) -> Result<ParsedRecord, E> {
            ValueVisitor { differs: &Cell::new(false) }.$visit(value).map(ParsedRecord::of)
        })*
    };
}

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = ParsedRecord;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    as_value!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<ParsedRecord, E> {
        Ok(ParsedRecord::of(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<ParsedRecord, A::Error> {
        ValueVisitor { differs: &Cell::new(false) }.visit_seq(items).map(ParsedRecord::of)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<ParsedRecord, A::Error> {
        let differs = Cell::new(false);
        let (mut all, mut altered, mut repeats) = (Map::new(), Vec::new(), 0);
        let mut count = 0;
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(ValueVisitor { differs: &differs })?;
            if differs.take() {
                altered.push(Altered { name: name.clone(), why: INNER_TWICE });
            }
            count += 1;
            if let Some(name) = put(&mut all, name, value) {
                repeats += u64::from(all.keys().next() == Some(&name));
                altered.push(Altered { name, why: TWICE });
            }
        }
        // If only some names occur again, the record is one.
        if count < (repeats as usize + 1) * all.len() {
            repeats = 0;
        }
        Ok(ParsedRecord { value: Value::Object(all), altered, repeats })
    }
}

/// The text of a record in which everything that only JSON's rules forbid is replaced, with the names of the fields
/// that have a replaced part; `None` if nothing was replaced.
///
/// - `NaN`, `Infinity` and numbers beyond the range of a float, outside strings: null.
/// - Half of a surrogate pair, as in `"\ud800"`, and bytes that are not UTF-8, in strings: U+FFFD.
/// - A control character in a string, such as a raw line break: its escape.
fn mended(bytes: &[u8]) -> Option<(Vec<u8>, Vec<Altered>)> {
    let mut mending = Mending { bytes, at: 0, out: Vec::with_capacity(bytes.len() + 16), changed: None };
    let (mut open, mut awaits_name) = (Vec::new(), false);
    let (mut field, mut altered) = (String::new(), Vec::<Altered>::new());
    while let Some(&byte) = bytes.get(mending.at) {
        match byte {
            b'"' => {
                let start = mending.out.len();
                mending.string()?;
                if awaits_name && open.len() == 1 {
                    field = serde_json::from_slice(&mending.out[start..]).ok()?;
                    awaits_name = false;
                }
            }
            _ if begins_word(byte) => mending.word(),
            _ => {
                match byte {
                    b'{' | b'[' => open.push(byte),
                    b'}' | b']' => drop(open.pop()),
                    _ => {}
                }
                if open == [b'{'] && matches!(byte, b'{' | b',') {
                    awaits_name = true;
                }
                mending.copy(1);
            }
        }
        if let Some(why) = mending.changed.take()
            && altered.last().is_none_or(|last| last.name != field)
        {
            altered.push(Altered { name: field.clone(), why });
        }
    }
    (!altered.is_empty()).then_some((mending.out, altered))
}

struct Mending<'b> {
    bytes: &'b [u8],
    at: usize,
    out: Vec<u8>,
    /// The first change since it was asked for.
    changed: Option<&'static str>,
}

impl Mending<'_> {
    fn copy(&mut self, count: usize) {
        let end = (self.at + count).min(self.bytes.len());
        self.out.extend(&self.bytes[self.at..end]);
        self.at = end;
    }

    fn replace(&mut self, count: usize, by: &[u8], why: &'static str) {
        self.out.extend(by);
        self.at += count;
        self.changed.get_or_insert(why);
    }

    fn word(&mut self) {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| !is_word(*byte)).unwrap_or(rest.len());
        let text = std::str::from_utf8(&rest[..length]).unwrap_or_default();
        let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let is_beyond = is_number && text.parse::<f64>().is_ok_and(f64::is_infinite);
        if is_beyond || matches!(text, "NaN" | "Infinity" | "-Infinity") {
            self.replace(length, b"null", NO_NUMBER);
        } else {
            self.copy(length);
        }
    }

    /// Copies a string; `None` if it has no end.
    fn string(&mut self) -> Option<()> {
        self.copy(1);
        loop {
            let rest = &self.bytes[self.at..];
            match *rest.first()? {
                b'"' => {
                    self.copy(1);
                    return Some(());
                }
                b'\\' if rest.get(1) == Some(&b'u') => match (code(rest), code(rest.get(6..).unwrap_or_default())) {
                    (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => self.copy(12),
                    (Some(0xD800..0xE000), _) => self.replace(6, "\u{FFFD}".as_bytes(), HALF_PAIR),
                    _ => self.copy(6),
                },
                b'\\' => self.copy(2),
                control @ 0..0x20 => {
                    let why = if matches!(control, b'\n' | b'\r') { RAW_BREAK } else { CONTROL };
                    self.replace(1, format!("\\u{control:04x}").as_bytes(), why);
                }
                0x80.. => {
                    match (2..=4).find(|length| rest.get(..*length).is_some_and(|it| std::str::from_utf8(it).is_ok())) {
                        Some(length) => self.copy(length),
                        None => self.replace(1, "\u{FFFD}".as_bytes(), NO_UTF8),
                    }
                }
                _ => self.copy(1),
            }
        }
    }
}

/// The number in an escape such as `\u00e9` at the start of the bytes.
fn code(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: impl AsRef<[u8]>) -> (Value, Vec<String>) {
        let parsed = parse(text.as_ref(), 1).expect("a record");
        (parsed.value, parsed.altered.into_iter().map(|field| field.name).collect())
    }

    #[test]
    fn an_altered_field_says_why() {
        for (value, why) in [
            (&b"NaN"[..], NO_NUMBER),
            (b"\"\xFF\"", NO_UTF8),
            (b"\"\\ud83d\"", HALF_PAIR),
            (b"\"a\nb\"", RAW_BREAK),
            (b"\"a\tb\"", CONTROL),
            (b"{\"c\": 1, \"c\": 2}", INNER_TWICE),
            (b"1, \"b\": 2", TWICE),
        ] {
            let parsed = parse(&[b"{\"a\": 1, \"b\": ", value, b"}"].concat(), 1).expect("a record");
            assert_eq!(parsed.altered, [Altered { name: "b".into(), why }]);
        }
        assert_eq!(Altered { name: "b".into(), why: TWICE }.told(), "`b` occurs twice, with different values");
    }

    #[test]
    fn a_record_with_some_names_twice_is_one() {
        let repeats = |text: &str| parse(text.as_bytes(), 1).expect("a record").repeats;
        assert_eq!(repeats(r#"{"prompt": "a", "prompt": "b", "response": "c"}"#), 0);
        assert_eq!(repeats(r#"{"p": "a", "r": "b", "p": "c", "r": "b"}"#), 1);
    }

    #[test]
    fn a_record_of_json_is_what_serde_json_reads() {
        let text =
            r#"{"b": [1, -2, 1.5, 1e3, 18446744073709551615, true, null, "\ud83d\ude00\n"], "a": {}, "c": [[]]}"#;
        assert_eq!(read(text), (serde_json::from_str(text).expect("JSON"), vec![]));
        for text in ["[1, {}]", "\"a\"", "1", "-1", "1.5", "true", "null"] {
            assert_eq!(read(text), (serde_json::from_str(text).expect("JSON"), vec![]));
        }
    }

    #[test]
    fn what_json_forbids_is_replaced_and_its_fields_are_named() {
        for value in ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[1, NaN]", "{\"x\": {\"y\": NaN}}"] {
            let (value, altered) = read(format!("{{\"a\": \"NaN\", \"b\\n\": {value}, \"c\": [1]}}"));
            assert_eq!(altered, ["b\n"], "{value}");
            assert_eq!((&value["a"], &value["c"]), (&json!("NaN"), &json!([1])));
        }
        for (text, read_as) in [
            (&b"\\ud800"[..], "\u{FFFD}"),
            (b"\\udc00 \\ud83d\\ude00", "\u{FFFD} \u{1F600}"),
            (b"\\ud800\\ud83d\\ude00", "\u{FFFD}\u{1F600}"),
            (b"a\xFFb\xC3\xA9", "a\u{FFFD}b\u{E9}"),
            (b"a\nb\tc\0", "a\nb\tc\0"),
        ] {
            let bytes = [&b"{\"a\": 1, \"b\": \""[..], text, b"\"}"].concat();
            assert_eq!(read(bytes), (json!({"a": 1, "b": read_as}), vec!["b".to_owned()]));
        }
        assert_eq!(read(b"{\"\xFF\": 1}").1, ["\u{FFFD}"]);
    }

    #[test]
    fn a_name_with_two_values_is_named_and_the_last_value_is_taken() {
        assert_eq!(read(r#"{"a": 1, "b": 2, "a": 1}"#), (json!({"a": 1, "b": 2}), vec![]));
        assert_eq!(read(r#"{"a": 1, "b": 2, "b": 3}"#), (json!({"a": 1, "b": 3}), vec!["b".to_owned()]));
        assert_eq!(read(r#"{"a": 1, "b": [{"c": 1, "c": 2}]}"#).1, ["b"]);
        assert_eq!(parse(br#"{"a": 1, "b": 2, "a": 3, "b": 4}"#, 1).expect("a record").repeats, 1);
    }

    #[test]
    fn other_errors_name_their_place() {
        for (text, reason) in [
            (&b"{\"a\": tru}"[..], "not valid JSON: expected ident (line 7, column 10)"),
            (b"{\"a\":\n \"\\x\"}", "not valid JSON: invalid escape (line 8, column 4)"),
            (b"{\"a\": \"\xFF\", x}", "invalid UTF-8 after 7 bytes of the record"),
            (b"{} {}", "not valid JSON: trailing characters (line 7, column 4)"),
        ] {
            assert_eq!(parse(text, 7).expect_err("no JSON"), reason);
        }
        assert!(parse("[".repeat(500).as_bytes(), 1).expect_err("deep").contains("recursion limit"));
    }
}
