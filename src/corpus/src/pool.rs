//! Reads instructions from files into one pool, with rejected records listed and exact duplicates folded.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array};
use rayon::prelude::*;
use serde_json::Value;

use super::artifact::PoolRow;
use super::formats::Reader;
use super::message::Message;
use super::records::{self, RawRecord};
use raisin_base::digest::Digest;
use raisin_base::error::{Problem, Result};
use raisin_settings::RecordFormat;
use raisin_table as table;

/// The number of characters of a rejected record that the table `rejects` keeps.
const EXCERPT: usize = 300;
/// The number of records from which the format of a file is guessed.
const SAMPLE: usize = 200;

const FORMATS: &str =
    "formats are alpaca, qa (with `prompt` and `response` naming its fields), messages, sharegpt and parquet";

/// A file to read.
pub struct SourceFile<'a> {
    pub path: &'a Path,
    /// The name of the file in messages and tables.
    pub name: String,
    pub format: RecordFormat,
    /// The names of the two fields of a `qa` record.
    pub prompt: Option<&'a str>,
    pub response: Option<&'a str>,
}

/// A record that is not an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub source: u32,
    pub file: String,
    pub line: u64,
    pub reason: String,
    /// The beginning of the record.
    pub record: String,
}

/// The numbers of records that were read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSummary {
    pub file: String,
    pub format: String,
    pub records: u64,
    pub rejected: u64,
}

/// A pool under construction: instructions in the order of their files, each once.
#[derive(Default)]
pub struct PoolBuilder {
    pub rows: Vec<PoolRow>,
    pub rejects: Vec<Reject>,
    pub sources: Vec<SourceSummary>,
    pub folded: u64,
    max_length: usize,
    /// The first row of each content. The map is only looked up, so that its order has no effect.
    seen: HashMap<Digest, usize>,
}

impl PoolBuilder {
    /// Records of more than `max_length` characters are rejected.
    pub fn new(max_length: usize) -> Self {
        Self { max_length, ..Self::default() }
    }

    /// Adds the instructions of a file. `progress` is called with the number of bytes read.
    ///
    /// # Errors
    /// The file cannot be read, or none of its records is an instruction.
    pub fn add(&mut self, source: &SourceFile, mut progress: impl FnMut(u64)) -> Result<()> {
        let index = self.sources.len() as u32;
        let (mut records, rejects_before) = (0, self.rejects.len());
        let mut reader: Option<Reader> = None;
        // An escape such as \u00e9 has six bytes. Twice as many for each character leave space for field names and
        // brackets.
        let max_bytes = self.max_length.saturating_mul(12).saturating_add(1 << 16);
        records::for_each_chunk(source.path, max_bytes, |chunk, bytes| {
            records += chunk.len() as u64;
            let parsed: Vec<_> = chunk.par_iter().map(RawRecord::value).collect();
            if reader.is_none() {
                let sample: Vec<&Value> = parsed.iter().flatten().take(SAMPLE).map(std::borrow::Cow::as_ref).collect();
                // If all records so far are broken, the format is guessed from the next chunk.
                if !sample.is_empty() || source.format != RecordFormat::Auto {
                    reader = Some(choose(source, &sample)?);
                }
            }
            let max_length = self.max_length;
            let converted: Vec<Result<(Vec<Message>, Digest), String>> = parsed
                .into_par_iter()
                .map(|value| {
                    let value = value?;
                    let reader = reader.as_ref().ok_or("the format of the file is not known yet")?;
                    let messages = reader.read(&value)?;
                    let length: usize = messages.iter().map(|message| message.content.chars().count()).sum();
                    if length > max_length {
                        return Err(format!("{length} characters, more than max_length = {max_length}"));
                    }
                    let digest = super::artifact::content_digest(&messages);
                    Ok((messages, digest))
                })
                .collect();
            for (record, outcome) in chunk.iter().zip(converted) {
                match outcome {
                    Ok((messages, digest)) => self.take(messages, digest, index, record.line),
                    Err(reason) => self.rejects.push(Reject {
                        source: index,
                        file: source.name.clone(),
                        line: record.line,
                        reason,
                        record: record.excerpt(EXCERPT),
                    }),
                }
            }
            progress(bytes);
            Ok(())
        })?;
        let rejected = (self.rejects.len() - rejects_before) as u64;
        if rejected == records {
            return Err(self.nothing_in(source, records, rejects_before));
        }
        let format = reader.map_or(String::new(), |reader| reader.name());
        self.sources.push(SourceSummary { file: source.name.clone(), format, records, rejected });
        Ok(())
    }

    /// The rows alone. What is needed only while rows are added is dropped.
    pub fn into_rows(self) -> Vec<PoolRow> {
        self.rows
    }

    fn take(&mut self, messages: Vec<Message>, digest: Digest, source: u32, line: u64) {
        if let Some(&first) = self.seen.get(&digest) {
            self.rows[first].duplicates += 1;
            self.folded += 1;
        } else {
            self.seen.insert(digest, self.rows.len());
            self.rows.push(PoolRow { messages, source, line, digest, duplicates: 0, label: None });
        }
    }

    fn nothing_in(&self, source: &SourceFile, records: u64, rejects_before: usize) -> raisin_base::error::Error {
        let Some(first) = self.rejects.get(rejects_before) else {
            return Problem::new(format!("{} has no records", source.name)).into();
        };
        let format = source.format.name();
        Problem::new(format!("none of the {records} records of {} can be read as {format}", source.name))
            .hint(format!("the first: line {}: {}; {FORMATS}", first.line, first.reason))
            .into()
    }
}

fn choose(source: &SourceFile, sample: &[&Value]) -> Result<Reader> {
    Reader::choose(source.format, source.prompt, source.response, sample)
        .map_err(|reason| Problem::new(format!("{}: {reason}", source.name)).hint(FORMATS).into())
}

/// The `rejects` table.
pub fn rejects_batch(rejects: &[Reject]) -> Result<RecordBatch> {
    table::batch(vec![
        ("source", Arc::new(UInt32Array::from_iter_values(rejects.iter().map(|it| it.source))) as ArrayRef),
        ("file", Arc::new(StringArray::from_iter_values(rejects.iter().map(|it| &it.file)))),
        ("line", Arc::new(UInt64Array::from_iter_values(rejects.iter().map(|it| it.line)))),
        ("reason", Arc::new(StringArray::from_iter_values(rejects.iter().map(|it| &it.reason)))),
        ("record", Arc::new(StringArray::from_iter_values(rejects.iter().map(|it| &it.record)))),
    ])
}

/// The `sources` table: one row for each file. The columns `source` of other tables are indices into it.
pub fn sources_batch(sources: &[SourceSummary]) -> Result<RecordBatch> {
    table::batch(vec![
        ("source", Arc::new(UInt32Array::from_iter_values(0..sources.len() as u32)) as ArrayRef),
        ("file", Arc::new(StringArray::from_iter_values(sources.iter().map(|it| &it.file)))),
        ("format", Arc::new(StringArray::from_iter_values(sources.iter().map(|it| &it.format)))),
        ("records", Arc::new(UInt64Array::from_iter_values(sources.iter().map(|it| it.records)))),
        ("rejected", Arc::new(UInt64Array::from_iter_values(sources.iter().map(|it| it.rejected)))),
    ])
}

/// A number with separated thousands, such as `24,994`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
