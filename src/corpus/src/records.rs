//! Reads a file as a stream of records: lines of JSON, elements of one JSON array, or rows of a Parquet file.
//!
//! Only one chunk of records is in memory at a time. A damaged record of an array does not affect its neighbours:
//!
//! - The array is split into elements by brackets and quotes before an element is parsed.
//! - JSON strings contain no raw line break. A line break therefore ends a string whose closing quote is missing.
//! - After such a string, the next record begins at an opening brace that is the first character of its line and has the
//!   indent of the damaged record.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

use super::parquet_rows;
use raisin_base::error::{Context as _, Problem, Result};

/// How a file is divided into records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileLayout {
    #[default]
    JsonLines,
    JsonArray,
    Parquet,
}

/// One record before it is parsed.
pub struct RawRecord {
    /// The position in the file, from 1: the line of a JSONL file, else the number of the record.
    pub line: u64,
    /// The line of the file in which the record begins.
    first_line: u64,
    content: RecordContent,
}

enum RecordContent {
    Json(Vec<u8>),
    /// The beginning of a record that is too long.
    TooLong(Vec<u8>),
    Row(Value),
}

/// The largest number of records in a chunk: enough for all cores to parse at once.
const CHUNK: usize = 4096;

/// A chunk with this many bytes of records is full. Parsed, the records take a multiple of it.
const CHUNK_BYTES: usize = 1 << 24;

/// The same for the first chunk, from which the format of the file is guessed.
const FIRST_CHUNK_BYTES: usize = 1 << 26;

impl RawRecord {
    pub(super) fn row(line: u64, row: Value) -> Self {
        Self { line, first_line: line, content: RecordContent::Row(row) }
    }

    /// The approximate memory of the record in bytes.
    fn size(&self) -> usize {
        fn of(value: &Value) -> usize {
            let below = match value {
                Value::String(text) => text.len(),
                Value::Array(items) => items.iter().map(of).sum(),
                Value::Object(entries) => entries.iter().map(|(name, value)| name.len() + of(value)).sum(),
                _ => 0,
            };
            size_of::<Value>() + below
        }
        match &self.content {
            RecordContent::Row(value) => of(value),
            RecordContent::Json(bytes) | RecordContent::TooLong(bytes) => bytes.len(),
        }
    }

    /// The JSON value of the record.
    ///
    /// # Errors
    /// The reason why the record is not JSON, with the line in the file.
    pub fn value(&self) -> Result<Cow<'_, Value>, String> {
        let bytes = match &self.content {
            RecordContent::Row(value) => return Ok(Cow::Borrowed(value)),
            RecordContent::TooLong(_) => return Err("the record is too long to be read".to_owned()),
            RecordContent::Json(bytes) => bytes,
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| format!("invalid UTF-8 after {} bytes of the record", error.valid_up_to()))?;
        serde_json::from_str(text).map(Cow::Owned).map_err(|error| {
            let message = error.to_string();
            let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
            let line = self.first_line + error.line().saturating_sub(1) as u64;
            format!("not valid JSON: {what} (line {line}, column {})", error.column())
        })
    }

    /// The beginning of the record, for messages and tables.
    pub fn excerpt(&self, characters: usize) -> String {
        match &self.content {
            RecordContent::Row(value) => value.to_string().chars().take(characters).collect(),
            RecordContent::Json(bytes) | RecordContent::TooLong(bytes) => {
                let head = &bytes[..bytes.len().min(characters * 4)];
                String::from_utf8_lossy(head).chars().take(characters).collect()
            }
        }
    }
}

/// The layout of a file, by its first bytes.
pub fn layout(path: &Path) -> Result<FileLayout> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut head = Vec::new();
    file.take(64 * 1024).read_to_end(&mut head).with_context(|| format!("cannot read {}", path.display()))?;
    if head.starts_with(b"PAR1") {
        return Ok(FileLayout::Parquet);
    }
    if head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF]) {
        return Err(Problem::new(format!("{} is UTF-16 text", path.display()))
            .hint("convert it first: iconv -f UTF-16 -t UTF-8 old.json > new.json")
            .into());
    }
    if head.starts_with(&[0x1F, 0x8B]) {
        return Err(Problem::new(format!("{} is compressed", path.display())).hint("unpack it with gunzip").into());
    }
    let first = without_mark(&head).iter().find(|byte| !byte.is_ascii_whitespace());
    Ok(if first == Some(&b'[') { FileLayout::JsonArray } else { FileLayout::JsonLines })
}

/// Calls `take` with each chunk of records, in order, and with the number of bytes read so far. A record of more than
/// `max_bytes` is cut. A chunk is limited by the number and by the bytes of its records.
pub fn for_each_chunk(
    path: &Path,
    max_bytes: usize,
    mut take: impl FnMut(Vec<RawRecord>, u64) -> Result<()>,
) -> Result<()> {
    let layout = layout(path)?;
    if layout == FileLayout::Parquet {
        let mut chunk = RecordChunk::first();
        parquet_rows::for_each_record(path, |record, bytes_read| match chunk.add(record) {
            Some(full) => take(full, bytes_read),
            None => Ok(()),
        })?;
        let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        return take(chunk.records, size);
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut bytes_read = 0;
    let mut splitter = Splitter::new(layout, max_bytes);
    let mut chunk = RecordChunk::first();
    loop {
        let buffer = reader.fill_buf().with_context(|| format!("cannot read {}", path.display()))?;
        let length = buffer.len();
        if length == 0 {
            break;
        }
        let content = if bytes_read == 0 { without_mark(buffer) } else { buffer };
        for &byte in content {
            if let Some(record) = splitter.push(byte)
                && let Some(full) = chunk.add(record)
            {
                take(full, bytes_read)?;
            }
        }
        reader.consume(length);
        bytes_read += length as u64;
    }
    chunk.records.extend(splitter.cut());
    take(chunk.records, bytes_read)
}

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
        self.room = self.room.saturating_sub(record.size());
        self.records.push(record);
        if self.records.len() < CHUNK && self.room > 0 {
            return None;
        }
        self.room = CHUNK_BYTES;
        Some(std::mem::take(&mut self.records))
    }
}

/// The bytes without the byte order mark that some editors write before UTF-8.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(bytes)
}

/// Divides bytes into records.
#[derive(Default)]
struct Splitter {
    layout: FileLayout,
    max_bytes: usize,
    /// The line of the file in which the next byte lies.
    line: u64,
    records: u64,
    first_line: u64,
    bytes: Vec<u8>,
    is_too_long: bool,
    /// The number of open brackets; only for an array.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    is_damaged: bool,
    has_ended: bool,
    /// The number of bytes of white space at the start of the current line; `None` after another byte in the line.
    indent: Option<usize>,
    /// The indent of the line in which the current record begins; `None` if another byte precedes the record in that
    /// line.
    record_indent: Option<usize>,
}

impl Splitter {
    fn new(layout: FileLayout, max_bytes: usize) -> Self {
        Self { layout, max_bytes, line: 1, indent: Some(0), ..Self::default() }
    }

    fn push(&mut self, byte: u8) -> Option<RawRecord> {
        let record = match self.layout {
            FileLayout::JsonArray => self.push_array(byte),
            _ if byte == b'\n' => self.cut(),
            _ => self.keep(byte),
        };
        if byte == b'\n' {
            self.line += 1;
            self.indent = Some(0);
        } else {
            self.indent = self.indent.filter(|_| byte.is_ascii_whitespace()).map(|indent| indent + 1);
        }
        record
    }

    fn push_array(&mut self, byte: u8) -> Option<RawRecord> {
        if self.depth == 0 && !self.has_ended && byte == b'[' {
            self.depth = 1;
            return None;
        }
        if self.has_ended || self.depth == 0 {
            return self.keep(byte);
        }
        if self.in_string {
            match byte {
                b'\n' => (self.in_string, self.is_escaped, self.is_damaged) = (false, false, true),
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return self.keep(byte);
        }
        if self.is_damaged && byte == b'{' && self.indent.is_some() && self.indent == self.record_indent {
            let record = self.cut();
            self.depth = 2;
            self.keep(byte);
            return record;
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            b',' if self.depth == 1 => return self.cut(),
            b']' if self.depth == 1 => {
                self.has_ended = true;
                self.depth = 0;
                return self.cut();
            }
            b']' | b'}' => self.depth = (self.depth - 1).max(1),
            _ => {}
        }
        self.keep(byte)
    }

    fn keep(&mut self, byte: u8) -> Option<RawRecord> {
        if self.bytes.is_empty() {
            if byte.is_ascii_whitespace() {
                return None;
            }
            self.first_line = self.line;
            self.record_indent = self.indent;
        }
        if self.bytes.len() < self.max_bytes {
            self.bytes.push(byte);
        } else {
            self.is_too_long = true;
        }
        None
    }

    /// The record that ends here; `None` if it is blank.
    fn cut(&mut self) -> Option<RawRecord> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let is_too_long = std::mem::take(&mut self.is_too_long);
        self.is_damaged = false;
        bytes.truncate(bytes.trim_ascii_end().len());
        if bytes.is_empty() {
            return None;
        }
        self.records += 1;
        let line = if self.layout == FileLayout::JsonArray { self.records } else { self.first_line };
        let content = if is_too_long { RecordContent::TooLong(bytes) } else { RecordContent::Json(bytes) };
        Some(RawRecord { line, first_line: self.first_line, content })
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
