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
pub struct PoolBuilder<'a> {
    /// The rows that were not given away yet.
    pub rows: Vec<PoolRow>,
    pub intake: Intake,
    max_length: usize,
    /// The first row of each content. The map is only looked up, so that its order has no effect.
    seen: HashMap<Digest, u32>,
    /// The number of copies of each row, also of rows that were given away.
    copies: Vec<u32>,
    /// The digests of the rejected responses, by row.
    rejected: HashMap<u32, Digest>,
    taker: Option<RowTaker<'a>>,
}

/// Takes rows as soon as there are many, so that the pool need not be in memory as a whole.
struct RowTaker<'a> {
    at_once: usize,
    take: Box<dyn FnMut(Vec<PoolRow>) -> Result<()> + 'a>,
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

impl<'a> PoolBuilder<'a> {
    /// Records of more than `max_length` characters are rejected.
    pub fn new(max_length: usize) -> Self {
        // An escape such as \u00e9 has six bytes. Twice as many for each character leave space for field names and
        // brackets.
        let max_bytes = max_length.saturating_mul(12).saturating_add(1 << 16);
        Self {
            rows: Vec::new(),
            intake: Intake::new(max_bytes),
            max_length,
            seen: HashMap::new(),
            copies: Vec::new(),
            rejected: HashMap::new(),
            taker: None,
        }
    }

    /// Gives the rows away, `at_once` of them at a time. Their numbers of copies are 0: [`Self::finish`] gives them.
    #[must_use]
    pub fn giving(mut self, at_once: usize, take: impl FnMut(Vec<PoolRow>) -> Result<()> + 'a) -> Self {
        self.taker = Some(RowTaker { at_once, take: Box::new(take) });
        self
    }

    /// Adds the instructions of a file. `progress` is called with the number of bytes read.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn add(&mut self, source: &SourceFile, progress: impl FnMut(u64)) -> Result<()> {
        let Self { rows, intake, max_length, seen, copies, rejected: all_rejected, taker } = self;
        let mut failure = None;
        let choose = |sample: &[&Value]| {
            let choice = Choice::new(source.mapping, sample)?;
            Ok(Measured { choice, max_length: *max_length })
        };
        let take = |(Conversation { messages, tools, rejected }, digest), source, line| {
            let of_rejected = rejected.as_ref().map(|text: &String| Digest::of(text.as_bytes()));
            if let Some(first) = seen.get(&digest) {
                copies[*first as usize] += 1;
                let is_equal = all_rejected.get(first) == of_rejected.as_ref();
                return if is_equal { TakenRecord::Copy } else { TakenRecord::CopyWithOtherRejected };
            }
            // A table has at most u32::MAX rows: instructions_batch says so.
            let row = copies.len() as u32;
            seen.insert(digest, row);
            copies.push(0);
            all_rejected.extend(of_rejected.map(|digest| (row, digest)));
            rows.push(PoolRow { messages, tools, rejected, source, line, digest, duplicates: 0, label: None });
            if let Some(taker) = taker.as_mut().filter(|taker| rows.len() >= taker.at_once)
                && failure.is_none()
            {
                failure = (taker.take)(std::mem::take(rows)).err();
            }
            // The rest of the file is read, and its rows are of no use.
            if failure.is_some() {
                rows.clear();
            }
            TakenRecord::New
        };
        intake.read(source.path, &source.name, choose, take, progress)?;
        failure.map_or(Ok(()), Err)
    }

    /// The number of rows so far.
    pub fn count(&self) -> usize {
        self.copies.len()
    }

    /// The rows of a pool that gives none away. What is needed only while rows are added is dropped.
    pub fn into_rows(self) -> Vec<PoolRow> {
        self.rows.into_iter().zip(self.copies).map(|(row, duplicates)| PoolRow { duplicates, ..row }).collect()
    }

    /// Gives the last rows away, also if there are none. Returns the number of copies of each row of the pool.
    ///
    /// # Errors
    /// The rows cannot be taken.
    pub fn finish(mut self) -> Result<Vec<u32>> {
        if let Some(taker) = &mut self.taker {
            (taker.take)(std::mem::take(&mut self.rows))?;
        }
        Ok(self.copies)
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
