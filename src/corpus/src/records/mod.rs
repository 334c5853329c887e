//! Reads a file as a stream of records: lines or elements of JSON, rows of CSV, Parquet or Arrow.
//!
//! What a file is follows from its content (sniff.rs). Only one chunk of records is in memory at a time.
//!
//! A damaged record affects no other. Where a record begins is known without parsing it (json.rs, csv.rs); after
//! damage, the next such place is looked for. What lies between is a record that cannot be read or, if it can have been
//! several records, [`Damage`]. Every byte of a file is in a record, in damage, or is punctuation between records.

mod arrow;
mod columns;
mod csv;
mod divide;
mod flat;
mod json;
mod parquet;
mod parse;
mod resume;
mod role;
mod scan;
mod sniff;
mod source;
mod walks;

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use parse::ParsedRecord;
use raisin_base::error::Result;
use source::ByteSource;

pub use flat::{FlatKind, FlatRecord, JsonText};
pub use parse::Altered;
pub use role::{FileRole, role_of_file};
pub use source::Compression;

/// The most bytes of a record for callers that have no other limit.
pub const MOST_BYTES: usize = 1 << 26;

/// How a file is divided into records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLayout {
    JsonLines,
    JsonArray,
    Csv,
    Tsv,
    Parquet,
    Arrow,
}

/// The layout of a file, and its compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLayout {
    pub records: RecordLayout,
    pub compression: Option<Compression>,
}

impl FileLayout {
    pub fn name(self) -> &'static str {
        match self.records {
            RecordLayout::JsonLines => "jsonl",
            RecordLayout::JsonArray => "json array",
            RecordLayout::Csv => "csv",
            RecordLayout::Tsv => "tsv",
            RecordLayout::Parquet => "parquet",
            RecordLayout::Arrow => "arrow",
        }
    }
}

/// What is known of a file after it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    pub layout: FileLayout,
    /// What could not be divided into records, in the order of the file.
    pub damage: Vec<FileDamage>,
    /// The number of blank lines between records.
    pub blank: u64,
    /// The number of places between records where a comma or a bracket is missing or superfluous. No record is lost
    /// there.
    pub punctuation: u64,
    /// The names beside the list of records, such as `version` in `{"version": 1, "data": [...]}`. Their values are not
    /// read.
    pub beside: Vec<String>,
}

/// A part of a file that could not be divided into records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDamage {
    /// The first line, or the first row of a Parquet or Arrow file.
    pub line: u64,
    pub lines: u64,
    pub bytes: u64,
    pub reason: String,
    /// The number of records that were lost, at least 1: exact if the file says it, else an upper estimate from the
    /// size of the records that could be read.
    pub records: u64,
    /// Whether the file ends early here. Then nobody knows how many records are lost, and `records` is too small.
    pub is_cut: bool,
    /// The position of the first byte in the unpacked file.
    offset: u64,
    head: Box<[u8]>,
}

impl FileDamage {
    /// Rows of a Parquet or Arrow file.
    fn rows(line: u64, records: u64, bytes: u64, reason: String) -> Self {
        Self { line, lines: records, bytes, reason, records, is_cut: false, offset: 0, head: Box::default() }
    }

    /// The reason with the size of the damaged part.
    pub fn told(&self) -> String {
        let Self { lines, records, reason, .. } = self;
        let lines = if *lines > 1 { format!(" in {lines} lines") } else { String::new() };
        format!("up to {records} records{lines} cannot be read: {reason}")
    }

    /// The beginning of the damaged part, for messages and tables.
    pub fn excerpt(&self, characters: usize) -> String {
        excerpt(&self.head, characters)
    }
}

/// One record.
pub struct RawRecord {
    /// The first line of the record in its file; in a Parquet or Arrow file, the number of the row, from 1.
    pub line: u64,
    /// The position of the first byte in the unpacked file; 0 in a Parquet or Arrow file.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests check with it that no byte is uncounted"))]
    offset: u64,
    /// The size of the record in bytes.
    length: usize,
    content: Content,
}

enum Content {
    Flat(FlatRecord),
    /// A record of a text, and its beginning as it is written.
    Text(Box<Result<ParsedRecord, String>>, Box<[u8]>),
    Row(Box<ParsedRecord>),
}

/// The number of bytes of a record that are kept for excerpts.
const HEAD: usize = 2048;

impl RawRecord {
    fn row(line: u64, parsed: ParsedRecord) -> Self {
        Self { line, offset: 0, length: size(&parsed.value), content: Content::Row(Box::new(parsed)) }
    }

    fn flat(line: u64, offset: u64, record: FlatRecord) -> Self {
        Self { line, offset, length: record.size(), content: Content::Flat(record) }
    }

    /// The record without a [`Value`], if it has no lists and objects in it.
    pub fn as_flat(&self) -> Option<&FlatRecord> {
        match &self.content {
            Content::Flat(record) => Some(record),
            Content::Text(..) | Content::Row(_) => None,
        }
    }

    fn parsed(&self) -> Result<Cow<'_, ParsedRecord>, String> {
        match &self.content {
            Content::Flat(record) => record.parsed().map(Cow::Owned),
            Content::Text(parsed, _) => parsed.as_ref().as_ref().map(Cow::Borrowed).map_err(Clone::clone),
            Content::Row(parsed) => Ok(Cow::Borrowed(parsed)),
        }
    }

    /// The JSON value of the record.
    ///
    /// # Errors
    /// The reason why the record cannot be read, with the line in the file.
    pub fn value(&self) -> Result<Cow<'_, Value>, String> {
        Ok(match self.parsed()? {
            Cow::Borrowed(parsed) => Cow::Borrowed(&parsed.value),
            Cow::Owned(parsed) => Cow::Owned(parsed.value),
        })
    }

    /// The fields whose value is not what the file says: a part of it cannot be represented and was replaced, or the
    /// field has several values, of which the last is taken. A reader must refuse a record of which it reads such a
    /// field.
    pub fn altered(&self) -> &[Altered] {
        match &self.content {
            Content::Text(parsed, _) => parsed.as_ref().as_ref().map_or(&[], |parsed| &parsed.altered),
            Content::Row(parsed) => &parsed.altered,
            Content::Flat(_) => &[],
        }
    }

    /// What `read` makes of the record. A field that is not what the file says costs the record only if it matters to
    /// `read`: if the outcome differs without the field.
    ///
    /// # Errors
    /// The record cannot be read, `read` refuses it, or an altered field matters.
    pub fn read<T: PartialEq>(&self, read: impl Fn(&Value) -> Result<T, String>) -> Result<T, String> {
        let parsed = self.parsed()?;
        let found = read(&parsed.value)?;
        for field in &parsed.altered {
            let mut without = parsed.value.clone();
            without.as_object_mut().and_then(|entries| entries.shift_remove(&field.name));
            if read(&without).as_ref() != Ok(&found) {
                return Err(field.told());
            }
        }
        Ok(found)
    }

    /// The beginning of the record, for messages and tables.
    pub fn excerpt(&self, characters: usize) -> String {
        match &self.content {
            Content::Text(_, head) => excerpt(head, characters),
            Content::Flat(record) if record.written().is_some() => {
                excerpt(record.written().unwrap_or_default(), characters)
            }
            Content::Flat(_) | Content::Row(_) => {
                self.value().map(|value| value.to_string().chars().take(characters).collect()).unwrap_or_default()
            }
        }
    }
}

fn excerpt(head: &[u8], characters: usize) -> String {
    String::from_utf8_lossy(&head[..head.len().min(characters * 4)]).chars().take(characters).collect()
}

/// The approximate memory of a value in bytes.
fn size(value: &Value) -> usize {
    let below = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(entries) => entries.iter().map(|(name, value)| name.len() + size(value)).sum(),
        _ => 0,
    };
    size_of::<Value>() + below
}

/// The largest number of records in a chunk: enough for all cores at once.
const CHUNK: usize = 4096;

/// A chunk with this many bytes of records is full. Parsed, the records take a multiple of it.
const CHUNK_BYTES: usize = 1 << 24;

/// The same for the first chunk, from which the format of the file is guessed.
const FIRST_CHUNK_BYTES: usize = 1 << 26;

/// The records of the next call of `take`.
struct RecordChunk {
    records: Vec<RawRecord>,
    /// The number of bytes that the chunk can still take.
    room: usize,
}

impl RecordChunk {
    fn first() -> Self {
        Self { records: Vec::new(), room: FIRST_CHUNK_BYTES }
    }

    /// Adds a record. Returns all records if the chunk is full now.
    fn add(&mut self, record: RawRecord) -> Option<Vec<RawRecord>> {
        self.room = self.room.saturating_sub(record.length);
        self.records.push(record);
        if self.records.len() < CHUNK && self.room > 0 {
            return None;
        }
        self.room = CHUNK_BYTES;
        Some(std::mem::replace(&mut self.records, Vec::with_capacity(CHUNK)))
    }
}

/// Calls `take` with each chunk of records, in order, and with the number of bytes of the file that were read so far. A
/// record of more than `max_bytes` is not read. A chunk is limited by the number and by the bytes of its records.
///
/// # Errors
/// The file cannot be read, or is of a kind that has no records.
pub fn for_each_chunk(
    path: &Path,
    max_bytes: usize,
    take: impl FnMut(Vec<RawRecord>, u64) -> Result<()>,
) -> Result<FileFacts> {
    let (layout, dialect) = sniff::layout(path)?;
    let facts = FileFacts { layout, damage: Vec::new(), blank: 0, punctuation: 0, beside: Vec::new() };
    match layout.records {
        RecordLayout::Parquet => Ok(FileFacts { damage: parquet::read(path, layout.compression, take)?, ..facts }),
        RecordLayout::Arrow => Ok(FileFacts { damage: arrow::read(path, take)?, ..facts }),
        RecordLayout::Csv | RecordLayout::Tsv => {
            let mut rows = csv::Rows::new(path, dialect, max_bytes);
            let damage = divide::read(path, &mut ByteSource::open(path)?, &mut rows, max_bytes, take)?;
            Ok(FileFacts { damage, blank: rows.blank, ..facts })
        }
        RecordLayout::JsonLines | RecordLayout::JsonArray => {
            let mut text = json::Json::new(path, max_bytes);
            let damage = divide::read(path, &mut ByteSource::open(path)?, &mut text, max_bytes, take)?;
            let (blank, punctuation) = (text.blank, text.punctuation);
            let records = if text.has_list { RecordLayout::JsonArray } else { RecordLayout::JsonLines };
            let layout = FileLayout { records, ..layout };
            Ok(FileFacts { layout, damage, blank, punctuation, beside: text.beside })
        }
    }
}

#[cfg(test)]
mod tests;
