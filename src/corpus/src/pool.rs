//! Reads instructions from files into one pool, with exact duplicates folded.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::artifact::{PoolRow, content_digest};
use super::formats::{Choice, Conversation, Readout, RecordReader, RecordRefusal};
use super::intake::{Intake, TakenRecord};
use super::message::Message;
use raisin_base::digest::Digest;
use raisin_base::error::Result;
use raisin_settings::Mapping;

/// A file to read.
pub struct SourceFile<'a> {
    pub path: &'a Path,
    /// The name of the file in messages and tables.
    pub name: String,
    pub mapping: &'a Mapping,
}

/// A pool under construction: instructions in the order of their files, each once.
pub struct PoolBuilder {
    pub rows: Vec<PoolRow>,
    pub intake: Intake,
    max_length: usize,
    /// The first row of each content. The map is only looked up, so that its order has no effect.
    seen: HashMap<Digest, usize>,
}

/// A reader that refuses long conversations, and computes the digest of the others.
struct Measured {
    choice: Choice,
    max_length: usize,
}

impl RecordReader for Measured {
    type Item = (Conversation, Digest);

    fn read<'a>(&self, record: &'a Value) -> Readout<'a, Self::Item> {
        self.choice.read(record).and_then(|conversation| {
            let length: usize = conversation.messages.iter().map(Message::characters).sum();
            if length > self.max_length {
                let reason = format!("{length} characters, more than max_length = {}", self.max_length);
                return Err(RecordRefusal::Rejected(reason));
            }
            let digest = content_digest(&conversation.messages, &conversation.tools);
            Ok((conversation, digest))
        })
    }

    fn formats(&self) -> Vec<String> {
        self.choice.formats()
    }
}

impl PoolBuilder {
    /// Records of more than `max_length` characters are rejected.
    pub fn new(max_length: usize) -> Self {
        // An escape such as \u00e9 has six bytes. Twice as many for each character leave space for field names and
        // brackets.
        let max_bytes = max_length.saturating_mul(12).saturating_add(1 << 16);
        Self { rows: Vec::new(), intake: Intake::new(max_bytes), max_length, seen: HashMap::new() }
    }

    /// Adds the instructions of a file. `progress` is called with the number of bytes read.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn add(&mut self, source: &SourceFile, progress: impl FnMut(u64)) -> Result<()> {
        let Self { rows, intake, max_length, seen } = self;
        let choose = |sample: &[&Value]| {
            let choice = Choice::new(source.mapping, sample)?;
            Ok(Measured { choice, max_length: *max_length })
        };
        let take = |(Conversation { messages, tools, rejected }, digest), source, line| {
            if let Some(&first) = seen.get(&digest) {
                let first: &mut PoolRow = &mut rows[first];
                first.duplicates += 1;
                return if first.rejected == rejected { TakenRecord::Copy } else { TakenRecord::CopyWithOtherRejected };
            }
            seen.insert(digest, rows.len());
            rows.push(PoolRow { messages, tools, rejected, source, line, digest, duplicates: 0, label: None });
            TakenRecord::New
        };
        intake.read(source.path, &source.name, choose, take, progress)
    }

    /// The rows alone. What is needed only while rows are added is dropped.
    pub fn into_rows(self) -> Vec<PoolRow> {
        self.rows
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
