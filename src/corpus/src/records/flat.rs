//! Records whose fields are texts, numbers, truth values or null, as most records are. Their fields are found without
//! building a [`Value`](serde_json::Value), which costs several allocations for each record.
//!
//! A record is only flat if [`parse`](super::parse::parse) gives its value without a change. All others are parsed.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array as _, ArrayRef, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use arrow_schema::DataType;

use super::columns;
use super::parse::{self, ParsedRecord};
use super::scan::{is_space, is_word};

/// The number of fields for which memory is taken in advance.
const USUAL_FIELDS: usize = 4;

/// A record with more fields is parsed.
const MOST_FIELDS: usize = 32;

/// A number with more bytes is parsed: it may be too large for a float.
const MOST_DIGITS: usize = 16;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlatKind {
    Null,
    /// A text without a character.
    Empty,
    Text,
    /// A number or a truth value.
    Scalar,
}

/// A flat record.
#[derive(Clone, Debug)]
pub struct FlatRecord {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Json { texts: Arc<FlatTexts>, record: usize },
    Row { rows: Arc<FlatRows>, row: usize },
}

/// Flat records of a text, one after the other.
#[derive(Debug, Default)]
pub struct FlatTexts {
    text: String,
    fields: Vec<Field>,
    records: Vec<RecordPlace>,
    /// The size that the text will have if all records are flat.
    expected: usize,
}

/// A record in [`FlatTexts`].
#[derive(Clone, Debug)]
struct RecordPlace {
    text: Range<usize>,
    fields: Range<usize>,
}

/// A field of a JSON object. The positions are those in [`FlatTexts::text`].
#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    kind: FlatKind,
    /// The value, without the quotes of a text.
    value: Span,
    escapes: Escapes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

/// The escapes of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Escapes {
    None,
    /// Only those that raisin's own JSON has too, such as `\n`.
    Usual,
    /// Others too, such as `\/` and `\u00e9`.
    Others,
}

/// A text of a record as JSON has it.
#[derive(Clone, Copy, Debug)]
pub enum JsonText<'a> {
    /// The text itself, which has no escapes.
    Plain(&'a str),
    /// The text with the escapes that raisin's own JSON has.
    Escaped(&'a str),
    /// Other escapes, or a text that is not written as JSON: it has to be escaped again.
    Other,
}

impl FlatTexts {
    /// For about this number of records, with this number of bytes.
    pub fn expecting(records: usize, bytes: usize) -> Self {
        let fields = Vec::with_capacity(USUAL_FIELDS * records);
        Self { records: Vec::with_capacity(records), fields, expected: bytes, ..Self::default() }
    }

    /// Adds a record; false if this text of JSON is not flat, or not exactly JSON.
    pub fn add(&mut self, text: &[u8]) -> bool {
        // Control characters are allowed between tokens only, where few files have them.
        let has_control = text.iter().copied().fold(u8::MAX, u8::min) < 0x20;
        if has_control || u32::try_from(self.text.len() + text.len()).is_err() {
            return false;
        }
        let Ok(text) = std::str::from_utf8(text) else { return false };
        let (start, first) = (self.text.len(), self.fields.len());
        if scan(text.as_bytes(), &mut self.fields, first).is_none() {
            self.fields.truncate(first);
            return false;
        }
        let moved = |span: Span| Span { start: span.start + start as u32, end: span.end + start as u32 };
        for field in &mut self.fields[first..] {
            (field.name, field.value) = (moved(field.name), moved(field.value));
        }
        if start == 0 {
            self.text.reserve_exact(self.expected);
        }
        self.text.push_str(text);
        self.records.push(RecordPlace { text: start..self.text.len(), fields: first..self.fields.len() });
        true
    }

    /// The records, in their order.
    pub fn records(self) -> impl Iterator<Item = FlatRecord> {
        let count = self.records.len();
        let texts = Arc::new(self);
        (0..count).map(move |record| FlatRecord { source: Source::Json { texts: Arc::clone(&texts), record } })
    }

    #[inline]
    fn text(&self, record: usize) -> &str {
        &self.text[self.records[record].text.clone()]
    }

    #[inline]
    fn field(&self, record: usize, place: usize) -> Field {
        self.fields[self.records[record].fields.start + place]
    }

    #[inline]
    fn part(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }
}

/// Rows of columns.
#[derive(Debug)]
pub struct FlatRows {
    batch: RecordBatch,
    columns: Vec<FlatColumn>,
    /// Whether each row is flat, whatever its values are.
    are_all_flat: bool,
}

/// A column, whose type is looked at once and not for each row.
#[derive(Debug)]
enum FlatColumn {
    Text(StringArray),
    LargeText(LargeStringArray),
    View(StringViewArray),
    /// Integers and truth values.
    Scalar(ArrayRef),
    /// Floats, of which some are not flat, and values that are never flat.
    Other(ArrayRef),
}

impl FlatRows {
    /// The rows of a batch, whose columns are given without dictionaries; `None` if two columns have the same name, or
    /// if there are too many.
    pub fn of(batch: &RecordBatch, columns: &[ArrayRef]) -> Option<Arc<Self>> {
        let schema = batch.schema_ref();
        let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
        let is_new = |(place, name): (usize, &&String)| !names[..place].contains(name);
        let is_flat = names.len() <= MOST_FIELDS && names.iter().enumerate().all(is_new);
        let columns: Vec<FlatColumn> = columns.iter().map(FlatColumn::of).collect();
        let are_all_flat = !columns.iter().any(|column| matches!(column, FlatColumn::Other(_)));
        is_flat.then(|| Arc::new(Self { batch: batch.clone(), columns, are_all_flat }))
    }
}

impl FlatColumn {
    fn of(column: &ArrayRef) -> Self {
        match column.data_type() {
            DataType::Utf8 => Self::Text(column.as_string().clone()),
            DataType::LargeUtf8 => Self::LargeText(column.as_string().clone()),
            DataType::Utf8View => Self::View(column.as_string_view().clone()),
            kind if kind.is_integer() || *kind == DataType::Boolean => Self::Scalar(column.clone()),
            _ => Self::Other(column.clone()),
        }
    }

    /// What a row holds; `None` if it is not flat.
    fn kind(&self, row: usize) -> Option<FlatKind> {
        let is_null = match self {
            Self::Text(texts) => texts.is_null(row),
            Self::LargeText(texts) => texts.is_null(row),
            Self::View(texts) => texts.is_null(row),
            Self::Scalar(column) | Self::Other(column) => column.is_null(row),
        };
        if is_null {
            return Some(FlatKind::Null);
        }
        match self {
            Self::Scalar(_) => Some(FlatKind::Scalar),
            Self::Other(column) => {
                let is_scalar = match column.data_type() {
                    DataType::Float32 => column.as_primitive::<Float32Type>().value(row).is_finite(),
                    DataType::Float64 => column.as_primitive::<Float64Type>().value(row).is_finite(),
                    _ => false,
                };
                is_scalar.then_some(FlatKind::Scalar)
            }
            Self::Text(_) | Self::LargeText(_) | Self::View(_) => {
                let is_empty = self.text(row).is_none_or(str::is_empty);
                Some(if is_empty { FlatKind::Empty } else { FlatKind::Text })
            }
        }
    }

    /// The text of a row; `None` if it is null or no text.
    fn text(&self, row: usize) -> Option<&str> {
        match self {
            Self::Text(texts) => texts.is_valid(row).then(|| texts.value(row)),
            Self::LargeText(texts) => texts.is_valid(row).then(|| texts.value(row)),
            Self::View(texts) => texts.is_valid(row).then(|| texts.value(row)),
            Self::Scalar(_) | Self::Other(_) => None,
        }
    }

    fn array(&self) -> ArrayRef {
        match self {
            Self::Text(texts) => Arc::new(texts.clone()),
            Self::LargeText(texts) => Arc::new(texts.clone()),
            Self::View(texts) => Arc::new(texts.clone()),
            Self::Scalar(column) | Self::Other(column) => column.clone(),
        }
    }
}

impl FlatRecord {
    /// The record that this text of JSON is; `None` if it is not flat, or not exactly JSON.
    pub fn of_json(text: &[u8]) -> Option<Self> {
        let mut texts = FlatTexts::default();
        texts.add(text);
        texts.records().next()
    }

    /// A row; `None` if it is not flat.
    pub fn of_row(rows: &Arc<FlatRows>, row: usize) -> Option<Self> {
        let is_flat = rows.are_all_flat || rows.columns.iter().all(|column| column.kind(row).is_some());
        is_flat.then(|| Self { source: Source::Row { rows: Arc::clone(rows), row } })
    }

    /// The number of fields.
    pub fn fields(&self) -> usize {
        match &self.source {
            Source::Json { texts, record } => texts.records[*record].fields.len(),
            Source::Row { rows, .. } => rows.columns.len(),
        }
    }

    /// The name of field `place`.
    pub fn name(&self, place: usize) -> &str {
        match &self.source {
            Source::Json { texts, record } => texts.part(texts.field(*record, place).name),
            Source::Row { rows, .. } => rows.batch.schema_ref().field(place).name(),
        }
    }

    pub fn kind(&self, place: usize) -> FlatKind {
        match &self.source {
            Source::Json { texts, record } => texts.field(*record, place).kind,
            Source::Row { rows, row } => rows.columns[place].kind(*row).unwrap_or(FlatKind::Null),
        }
    }

    /// The text of field `place`, if it is one, as JSON has it.
    pub fn json_text(&self, place: usize) -> JsonText<'_> {
        match &self.source {
            Source::Json { texts, record } => {
                let field = texts.field(*record, place);
                match field.escapes {
                    Escapes::None => JsonText::Plain(texts.part(field.value)),
                    Escapes::Usual => JsonText::Escaped(texts.part(field.value)),
                    Escapes::Others => JsonText::Other,
                }
            }
            Source::Row { .. } => JsonText::Other,
        }
    }

    /// Writes the text of field `place`; nothing if the field holds no text.
    ///
    /// # Errors
    /// The writer fails.
    pub fn write<W: fmt::Write + ?Sized>(&self, place: usize, to: &mut W) -> fmt::Result {
        match &self.source {
            Source::Json { texts, record } => {
                let field = texts.field(*record, place);
                let text = texts.part(field.value);
                match (field.kind, field.escapes) {
                    (FlatKind::Text, Escapes::None) => to.write_str(text),
                    (FlatKind::Text, Escapes::Usual | Escapes::Others) => unescape(text, to),
                    (FlatKind::Null | FlatKind::Empty | FlatKind::Scalar, _) => Ok(()),
                }
            }
            Source::Row { rows, row } => to.write_str(rows.columns[place].text(*row).unwrap_or_default()),
        }
    }

    /// The text of field `place`; empty if the field holds no text.
    pub fn text(&self, place: usize) -> Cow<'_, str> {
        match (&self.source, self.json_text(place)) {
            (Source::Row { rows, row }, _) => rows.columns[place].text(*row).unwrap_or_default().into(),
            (_, JsonText::Plain(text)) if self.kind(place) == FlatKind::Text => text.into(),
            _ => {
                let mut text = String::new();
                // A String takes every text.
                let _ = self.write(place, &mut text);
                text.into()
            }
        }
    }

    /// The size of the record in bytes.
    pub fn size(&self) -> usize {
        match &self.source {
            Source::Json { texts, record } => texts.records[*record].text.len(),
            Source::Row { rows, row } => {
                let texts = rows.columns.iter().map(|column| column.text(*row).map_or(8, str::len));
                texts.sum::<usize>() + 32 * rows.columns.len()
            }
        }
    }

    /// The text of the record, if its file has one.
    pub fn written(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Json { texts, record } => Some(texts.text(*record).as_bytes()),
            Source::Row { .. } => None,
        }
    }

    /// The record as every reader can read it.
    ///
    /// # Errors
    /// Never for a record that is flat.
    pub fn parsed(&self) -> Result<ParsedRecord, String> {
        match &self.source {
            Source::Json { texts, record } => parse::parse(texts.text(*record).as_bytes(), 1),
            Source::Row { rows, row } => {
                let columns: Vec<ArrayRef> = rows.columns.iter().map(FlatColumn::array).collect();
                Ok(columns::parsed(rows.batch.schema_ref(), &columns, *row))
            }
        }
    }
}

/// Finds the fields of an object. Those of this object begin at `first`.
fn scan(text: &[u8], fields: &mut Vec<Field>, first: usize) -> Option<()> {
    let skip = |at: usize| match text.get(at) {
        Some(byte) if is_space(*byte) => at + text[at..].iter().take_while(|byte| is_space(**byte)).count(),
        _ => at,
    };
    let is_at = |at: usize, sign: u8| text.get(at) == Some(&sign);
    let bytes = |span: Span| &text[span.start as usize..span.end as usize];
    let mut at = skip(0);
    if !is_at(at, b'{') {
        return None;
    }
    at = skip(at + 1);
    loop {
        // An object without fields has nothing to read, and is parsed.
        let (name, escapes) = string(text, at)?;
        let is_known = |field: &Field| bytes(field.name) == bytes(name);
        if escapes != Escapes::None || fields.len() - first == MOST_FIELDS || fields[first..].iter().any(is_known) {
            return None;
        }
        at = skip(name.end as usize + 1);
        if !is_at(at, b':') {
            return None;
        }
        at = skip(at + 1);
        let field = if is_at(at, b'"') {
            let (value, escapes) = string(text, at)?;
            at = value.end as usize + 1;
            let kind = if value.start == value.end { FlatKind::Empty } else { FlatKind::Text };
            Field { name, kind, value, escapes }
        } else {
            let end = at + text.get(at..)?.iter().take_while(|byte| is_word(**byte)).count();
            let kind = match &text[at..end] {
                b"null" => FlatKind::Null,
                b"true" | b"false" => FlatKind::Scalar,
                number if is_number(number) => FlatKind::Scalar,
                _ => return None,
            };
            let value = Span { start: at as u32, end: end as u32 };
            at = end;
            Field { name, kind, value, escapes: Escapes::None }
        };
        fields.push(field);
        at = skip(at);
        match text.get(at)? {
            b',' => at = skip(at + 1),
            b'}' => return (skip(at + 1) == text.len()).then_some(()),
            _ => return None,
        }
    }
}

/// The content of the string that begins at `at`, and its escapes. Only escapes that stand for a character of their own
/// are taken: no half of a surrogate pair.
fn string(text: &[u8], at: usize) -> Option<(Span, Escapes)> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let start = at + 1;
    let mut at = start;
    let mut escapes = Escapes::None;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some((Span { start: start as u32, end: at as u32 }, escapes));
        }
        match *text.get(at + 1)? {
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => {
                escapes = escapes.max(Escapes::Usual);
                at += 2;
            }
            b'/' => {
                escapes = Escapes::Others;
                at += 2;
            }
            b'u' => {
                char::from_u32(hexadecimal(text.get(at + 2..at + 6)?)?)?;
                escapes = Escapes::Others;
                at += 6;
            }
            _ => return None,
        }
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
}

/// Whether these bytes are a short number of JSON without an exponent.
fn is_number(bytes: &[u8]) -> bool {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], Some(&digits[point + 1..])),
        None => (digits, None),
    };
    let are_digits = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    bytes.len() <= MOST_DIGITS
        && are_digits(whole)
        && (whole == b"0" || whole[0] != b'0')
        && fraction.is_none_or(are_digits)
}

/// Writes a string of JSON without its escapes, which [`string`] has checked.
fn unescape<W: fmt::Write + ?Sized>(text: &str, to: &mut W) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        to.write_str(&rest[..at])?;
        let sign = rest.as_bytes().get(at + 1).copied().unwrap_or_default();
        to.write_char(match sign {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let code = rest.as_bytes().get(at + 2..at + 6).and_then(hexadecimal).and_then(char::from_u32);
                code.unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            sign => char::from(sign),
        })?;
        rest = rest.get(at + if sign == b'u' { 6 } else { 2 }..).unwrap_or_default();
    }
    to.write_str(rest)
}

#[cfg(test)]
#[path = "flat_tests.rs"]
mod tests;
