//! Reads instructions from files into one pool, with exact duplicates folded.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use serde_json::Value;

use super::artifact::{ConversationColumns, PoolRow, RowOrigin, TableRow, instructions_part};
use super::digests::ContentHasher;
use super::formats::{Choice, Conversation, FlatReadout, Readout, RecordReader, RecordRefusal, ShapeReading};
use super::intake::{Intake, TakeItems, TakenRecord};
use super::message::Message;
use super::records::FlatRecord;
use super::seen::{ContentHash, SeenContents};
use raisin_base::error::{Error, Result};
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
    seen: SeenContents,
    /// The number of copies of each row, also of rows that were given away.
    copies: Vec<u32>,
    /// The hashes of the rejected responses, by row.
    rejected: HashMap<u32, ContentHash>,
    hasher: ContentHasher,
    taker: Option<RowTaker<'a>>,
}

/// Takes rows as soon as there are many, so that the pool need not be in memory as a whole.
struct RowTaker<'a> {
    at_once: usize,
    take: Box<dyn FnMut(usize, Vec<BuiltRow>) -> Result<()> + Send + 'a>,
}

/// A reader that refuses long conversations, and computes the hash of the others.
struct Measured {
    choice: Choice,
    hasher: ContentHasher,
    max_length: usize,
}

/// What a record gives the pool.
enum RowText {
    Whole(Box<Conversation>),
    /// The record itself, and what it is read by. Its texts are copied only once, into the columns of the table.
    Flat(FlatRecord, Arc<ShapeReading>),
}

/// A row of a pool under construction. The number of its copies is not known yet.
pub struct BuiltRow {
    text: RowText,
    pub source: u32,
    pub line: u64,
}

impl BuiltRow {
    /// The row, with this number of copies.
    pub fn with_copies(self, duplicates: u32) -> PoolRow {
        let Self { text, source, line } = self;
        let Conversation { messages, tools, rejected } = match text {
            RowText::Whole(conversation) => *conversation,
            RowText::Flat(record, plan) => plan.conversation(&record),
        };
        PoolRow { messages, tools, rejected, source, line, duplicates, label: None }
    }
}

/// A part of the table `instructions`, of which the first row has the number `first`.
// Not generic: the crate that calls it is not optimised.
pub fn built_part(first: usize, rows: Vec<BuiltRow>) -> Result<RecordBatch> {
    instructions_part(first, rows)
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
        RowOrigin { source: self.source, line: self.line, duplicates: 0, label: None }
    }
}

impl RecordReader for Measured {
    type Item = (RowText, ContentHash);

    fn read<'a>(&self, record: &'a Value) -> Readout<'a, Self::Item> {
        self.choice.read(record).and_then(|conversation| {
            let length: usize = conversation.messages.iter().map(Message::characters).sum();
            self.check_length(length)?;
            let hash = self.hasher.of(&conversation.messages, &conversation.tools);
            Ok((RowText::Whole(Box::new(conversation)), hash))
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
        let hash = self.hasher.of_texts(plan.roles(), |turn, to| plan.write(turn, record, to));
        let outcome = Ok((RowText::Flat(record.clone(), Arc::clone(plan)), hash));
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

/// Takes the rows of a file into the pool.
struct Taking<'p, 'a> {
    rows: &'p mut Vec<BuiltRow>,
    seen: &'p mut SeenContents,
    copies: &'p mut Vec<u32>,
    rejected: &'p mut HashMap<u32, ContentHash>,
    hasher: ContentHasher,
    taker: &'p mut Option<RowTaker<'a>>,
    failure: &'p mut Option<Error>,
}

impl TakeItems<(RowText, ContentHash)> for Taking<'_, '_> {
    fn take(&mut self, (text, hash): (RowText, ContentHash), source: u32, line: u64) -> TakenRecord {
        let built = BuiltRow { text, source, line };
        let of_rejected = built.rejected().map(|text| self.hasher.of_text(&text));
        let (first, row) = (self.seen.first(&hash), self.copies.len() as u32);
        if first < row {
            self.copies[first as usize] += 1;
            let is_equal = self.rejected.get(&first) == of_rejected.as_ref();
            return if is_equal { TakenRecord::Copy } else { TakenRecord::CopyWithOtherRejected };
        }
        self.copies.push(0);
        self.rejected.extend(of_rejected.map(|hash| (row, hash)));
        self.rows.push(built);
        if let Some(taker) = self.taker.as_mut().filter(|taker| self.rows.len() >= taker.at_once)
            && self.failure.is_none()
        {
            let first = self.copies.len() - self.rows.len();
            *self.failure = (taker.take)(first, std::mem::take(self.rows)).err();
        }
        // The rest of the file is read, and its rows are of no use.
        if self.failure.is_some() {
            self.rows.clear();
        }
        TakenRecord::New
    }

    fn expect(&self, items: &mut dyn Iterator<Item = &(RowText, ContentHash)>) {
        self.seen.fetch(items.map(|(_, hash)| hash));
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
            seen: SeenContents::default(),
            copies: Vec::new(),
            rejected: HashMap::new(),
            hasher: ContentHasher::default(),
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
    // Not generic: the crate that calls it is not optimised.
    pub fn add(&mut self, source: &SourceFile, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let Self { rows, intake, max_length, seen, copies, rejected, hasher, taker } = self;
        let choose = |sample: &[&Value]| {
            let choice = Choice::new(source.mapping, sample)?;
            Ok(Measured { choice, hasher: *hasher, max_length: *max_length })
        };
        let mut failure = None;
        let taking = Taking { rows, seen, copies, rejected, hasher: *hasher, taker, failure: &mut failure };
        intake.read(source.path, &source.name, choose, taking, progress)?;
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

    /// The rows of a pool that gives none away, and the number of copies of each.
    pub fn into_built(self) -> (Vec<BuiltRow>, Vec<u32>) {
        (self.rows, self.copies)
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
