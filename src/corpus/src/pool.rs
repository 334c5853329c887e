//! Reads instructions from files into one pool, with exact duplicates folded.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::artifact::{ConversationColumns, PoolRow, RowOrigin, TableRow};
use super::digests::{content_digest, digest_of_texts, stored};
use super::formats::{Choice, Conversation, FlatReadout, Plan, Readout, RecordReader, RecordRefusal};
use super::intake::{Intake, TakenRecord};
use super::message::Message;
use super::records::FlatRecord;
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
    pub rows: Vec<BuiltRow>,
    pub intake: Intake,
    max_length: usize,
    /// The first row of each content. The map is only looked up, so that its order has no effect.
    seen: HashMap<[u8; 16], u32, BuildHasherDefault<FirstBytes>>,
    /// The number of copies of each row, also of rows that were given away.
    copies: Vec<u32>,
    /// The digests of the rejected responses, by row.
    rejected: HashMap<u32, Digest>,
    taker: Option<RowTaker<'a>>,
}

/// Takes the first bytes of a digest as its hash: they are as good as random.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Takes rows as soon as there are many, so that the pool need not be in memory as a whole.
struct RowTaker<'a> {
    at_once: usize,
    take: Box<dyn FnMut(usize, Vec<BuiltRow>) -> Result<()> + Send + 'a>,
}

/// A reader that refuses long conversations, and computes the digest of the others.
struct Measured {
    choice: Choice,
    max_length: usize,
}

/// What a record gives the pool.
enum RowText {
    Whole(Box<Conversation>),
    /// The record itself, and what it is read by. Its texts are copied only once, into the columns of the table.
    Flat(FlatRecord, Arc<Plan>),
}

/// A row of a pool under construction. The number of its copies is not known yet.
pub struct BuiltRow {
    text: RowText,
    pub source: u32,
    pub line: u64,
    digest: Digest,
}

impl BuiltRow {
    /// The row, with this number of copies.
    pub fn with_copies(self, duplicates: u32) -> PoolRow {
        let Self { text, source, line, digest } = self;
        let Conversation { messages, tools, rejected } = match text {
            RowText::Whole(conversation) => *conversation,
            RowText::Flat(record, plan) => plan.conversation(&record),
        };
        PoolRow { messages, tools, rejected, source, line, digest, duplicates, label: None }
    }
}

impl TableRow for BuiltRow {
    fn add(&self, columns: &mut ConversationColumns) -> Result<()> {
        match &self.text {
            RowText::Whole(conversation) => columns.push(&conversation.messages, &conversation.tools),
            RowText::Flat(record, plan) => {
                if !columns.push_texts(plan.roles(), |turn, to| plan.write(turn, record, to))? {
                    columns.push(&plan.conversation(record).messages, &[])?;
                }
                Ok(())
            }
        }
    }

    fn rejected(&self) -> Option<Cow<'_, str>> {
        match &self.text {
            RowText::Whole(conversation) => conversation.rejected.as_deref().map(Cow::Borrowed),
            RowText::Flat(record, plan) => plan.rejected(record),
        }
    }

    fn origin(&self) -> RowOrigin<'_> {
        RowOrigin { source: self.source, line: self.line, digest: &self.digest, duplicates: 0, label: None }
    }
}

impl RecordReader for Measured {
    type Item = (RowText, Digest);

    fn read<'a>(&self, record: &'a Value) -> Readout<'a, Self::Item> {
        self.choice.read(record).and_then(|conversation| {
            let length: usize = conversation.messages.iter().map(Message::characters).sum();
            self.check_length(length)?;
            let digest = content_digest(&conversation.messages, &conversation.tools);
            Ok((RowText::Whole(Box::new(conversation)), digest))
        })
    }

    fn read_flat(&self, record: &FlatRecord) -> Option<FlatReadout<'_, Self::Item>> {
        let plan = self.choice.plan(record)?;
        // The characters are counted only where they may be too many: a text has at most as many as its record has bytes.
        if record.size() > self.max_length {
            let length: usize = plan.conversation(record).messages.iter().map(Message::characters).sum();
            if let Err(refusal) = self.check_length(length) {
                return Some(FlatReadout { outcome: Err(refusal), plan });
            }
        }
        let digest = digest_of_texts(plan.roles(), |turn, to| plan.add_json(turn, record, to));
        let outcome = Ok((RowText::Flat(record.clone(), Arc::clone(plan)), digest));
        Some(FlatReadout { outcome, plan })
    }

    fn formats(&self) -> Vec<String> {
        self.choice.formats()
    }
}

impl Measured {
    fn check_length(&self, length: usize) -> Result<(), RecordRefusal> {
        if length > self.max_length {
            let reason = format!("{length} characters, more than max_length = {}", self.max_length);
            return Err(RecordRefusal::Rejected(reason));
        }
        Ok(())
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
            seen: HashMap::default(),
            copies: Vec::new(),
            rejected: HashMap::new(),
            taker: None,
        }
    }

    /// Gives the rows away, `at_once` of them at a time, with the number of the first one. Their numbers of copies are 0:
    /// [`Self::finish`] gives them.
    #[must_use]
    pub fn giving(mut self, at_once: usize, take: impl FnMut(usize, Vec<BuiltRow>) -> Result<()> + Send + 'a) -> Self {
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
        let take = |(text, digest), source, line| {
            let built = BuiltRow { text, source, line, digest };
            let of_rejected = built.rejected().map(|text| Digest::of(text.as_bytes()));
            // A table has at most u32::MAX rows: instructions_batch says so.
            let row = copies.len() as u32;
            let first = *seen.entry(stored(&digest)).or_insert(row);
            if first < row {
                copies[first as usize] += 1;
                let is_equal = all_rejected.get(&first) == of_rejected.as_ref();
                return if is_equal { TakenRecord::Copy } else { TakenRecord::CopyWithOtherRejected };
            }
            copies.push(0);
            all_rejected.extend(of_rejected.map(|digest| (row, digest)));
            rows.push(built);
            if let Some(taker) = taker.as_mut().filter(|taker| rows.len() >= taker.at_once)
                && failure.is_none()
            {
                let first = copies.len() - rows.len();
                failure = (taker.take)(first, std::mem::take(rows)).err();
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
        self.rows.into_iter().zip(self.copies).map(|(row, duplicates)| row.with_copies(duplicates)).collect()
    }

    /// Gives the last rows away, also if there are none. Returns the number of copies of each row of the pool.
    ///
    /// # Errors
    /// The rows cannot be taken.
    pub fn finish(mut self) -> Result<Vec<u32>> {
        if let Some(taker) = &mut self.taker {
            let first = self.copies.len() - self.rows.len();
            (taker.take)(first, std::mem::take(&mut self.rows))?;
        }
        Ok(self.copies)
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
