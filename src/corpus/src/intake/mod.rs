//! Reads files record by record, and counts what becomes of each record: accepted, rejected, folded into an equal one,
//! or filtered out. The four counts add up to the number of records.

mod limit;
mod tables;
mod tally;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::Value;

use super::formats::{Filter, FlatReadout, Notice, RecordReader, RecordRefusal, ShapeReading};
use super::records::{self, FileRole, RawRecord, role_of_file};
use raisin_base::error::{Problem, Result, nearest};
use raisin_settings::FieldNames;

pub use limit::RejectLimit;
pub use tables::{counted, grouped, rejects_batch, sources_batch};
pub use tally::Names;
use tally::Tally;

/// The number of characters of a rejected record that the table `rejects` keeps.
const EXCERPT: usize = 300;
/// The number of records from which the format of a file is guessed.
const SAMPLE: usize = 200;
/// The number of records that one thread reads at a time.
const GROUP: usize = 128;

/// A record, or a damaged part of a file, that gives no item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The index of the file in the table `sources`.
    pub source: u32,
    pub file: String,
    pub line: u64,
    pub reason: String,
    /// The beginning of the record.
    pub record: String,
    /// The number of records that are lost here: 1, or more for a damaged part.
    pub records: u64,
}

/// What became of the records of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceSummary {
    pub file: String,
    /// How the file is divided into records.
    pub layout: String,
    /// The format of most records; empty if no record could be read.
    pub format: String,
    /// The number of records that each format read.
    pub formats: Names,
    pub records: u64,
    pub accepted: u64,
    pub rejected: u64,
    /// Exact copies of earlier records.
    pub folded: u64,
    /// Records that the file excludes, by the reason.
    pub filtered: [u64; Filter::ALL.len()],
    pub damaged_lines: u64,
    pub damaged_bytes: u64,
    /// Why the rest of the file is lost, if the file ends early.
    pub lost_rest: Option<String>,
    /// The number of accepted or folded records that have each field, for the fields that were read.
    pub fields_read: Names,
    pub fields_unread: Names,
    pub notices: [u64; Notice::ALL.len()],
    /// The names beside the list of records. Their values are not read.
    pub beside: Vec<String>,
    /// The number of places between records where a comma or a bracket is missing or superfluous.
    pub punctuation: u64,
}

impl SourceSummary {
    /// The summary of records that were made and not read from a file.
    pub fn made(name: &str, records: u64) -> Self {
        let (file, layout, format) = (name.to_owned(), name.to_owned(), name.to_owned());
        Self { file, layout, format, records, accepted: records, ..Self::default() }
    }

    pub fn filtered(&self) -> u64 {
        self.filtered.iter().sum()
    }
}

/// What the receiver of an item did with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenRecord {
    New,
    /// The item equals an earlier one.
    Copy,
    /// The item equals an earlier one but for the rejected response.
    CopyWithOtherRejected,
}

/// Takes the items of a file, each with the index of the file and the line of the record.
pub trait TakeItems<T>: Send {
    fn take(&mut self, item: T, source: u32, line: u64) -> TakenRecord;

    /// Is called with some thousand items before they are taken.
    fn expect(&self, items: &mut dyn Iterator<Item = &T>) {
        let _ = items;
    }
}

impl<T, F: FnMut(T, u32, u64) -> TakenRecord + Send> TakeItems<T> for F {
    fn take(&mut self, item: T, source: u32, line: u64) -> TakenRecord {
        self(item, source, line)
    }
}

/// The counts of all files that were read, and the rejected records.
pub struct Intake {
    pub rejects: Vec<Reject>,
    pub sources: Vec<SourceSummary>,
    /// The files of folders that are no data, each with the reason.
    skipped: Vec<(String, &'static str)>,
    max_bytes: usize,
    /// What a user can do if no record fits.
    formats: &'static str,
}

impl Default for Intake {
    fn default() -> Self {
        Self { rejects: Vec::new(), sources: Vec::new(), skipped: Vec::new(), max_bytes: 0, formats: limit::FORMATS }
    }
}

impl Intake {
    /// A record of more than `max_bytes` is rejected.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, ..Self::default() }
    }

    /// The same with another hint for files of which no record fits.
    #[must_use]
    pub fn with_hint(self, formats: &'static str) -> Self {
        Self { formats, ..self }
    }

    /// The files of a folder or of a pattern that are data. The others are named in the notes.
    ///
    /// # Errors
    /// A file cannot be read, or no file is data.
    pub fn data_files<'a>(&mut self, files: Vec<(String, &'a Path)>) -> Result<Vec<(String, &'a Path)>> {
        let mut data = Vec::with_capacity(files.len());
        let skipped_before = self.skipped.len();
        for (name, path) in files {
            match role_of_file(&name, path)? {
                FileRole::Data => data.push((name, path)),
                FileRole::Skip(reason) => self.skipped.push((name, reason)),
            }
        }
        match self.skipped.get(skipped_before) {
            Some((name, reason)) if data.is_empty() => {
                let message = format!("no file is data; {name}, for example, is {reason}");
                Err(Problem::new(message).hint("name the file itself to read it all the same").into())
            }
            _ => Ok(data),
        }
    }

    /// Reads a file. `choose` gives the reader for a sample of the records. `take` gets each item with the index of the
    /// file and the line of the record. `progress` gets the number of bytes read.
    ///
    /// # Errors
    /// The file cannot be read. A file without a record that can be read is no error here: see [`Self::check`].
    pub fn read<R: RecordReader>(
        &mut self,
        path: &Path,
        name: &str,
        choose: impl Fn(&[&Value]) -> Result<R, String>,
        mut take: impl TakeItems<R::Item>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let index = u32::try_from(self.sources.len())?;
        let mut reader: Option<Result<R, String>> = None;
        let rejects_before = self.rejects.len();
        let mut receiver = Receiver {
            index,
            name,
            summary: SourceSummary { file: name.to_owned(), ..SourceSummary::default() },
            tally: Tally::default(),
            rejects: &mut self.rejects,
            take: &mut take,
        };
        // The items of a chunk are received while the records of the next one are read.
        let mut before: Option<ReadChunk<R::Item>> = None;
        let facts = records::for_each_chunk(path, self.max_bytes, |chunk, bytes| {
            if reader.is_none() {
                let values = chunk.iter().filter_map(|record| record.value().ok()).take(SAMPLE);
                let sample: Vec<Cow<Value>> = values.collect();
                let sample: Vec<&Value> = sample.iter().map(Cow::as_ref).collect();
                // If all records so far are broken, the format is guessed from the next chunk.
                reader = (!sample.is_empty()).then(|| choose(&sample));
            }
            let read = || chunk.par_chunks(GROUP).map(|records| read_group(reader.as_ref(), records)).collect();
            let (groups, ()) =
                rayon::join(read, || before.take().into_iter().for_each(|chunk| receiver.receive(chunk)));
            before = Some(ReadChunk { records: chunk, groups });
            progress(bytes);
            Ok(())
        })?;
        before.into_iter().for_each(|chunk| receiver.receive(chunk));
        let Receiver { mut summary, tally, .. } = receiver;
        for damage in facts.damage {
            summary.records += damage.records;
            summary.rejected += damage.records;
            summary.damaged_lines += damage.lines;
            summary.damaged_bytes += damage.bytes;
            if damage.is_cut {
                summary.lost_rest = Some(damage.reason.clone());
            }
            self.rejects.push(Reject {
                source: index,
                file: name.to_owned(),
                line: damage.line,
                record: damage.excerpt(EXCERPT),
                records: damage.records,
                reason: damage.reason,
            });
        }
        self.rejects[rejects_before..].sort_by_key(|reject| reject.line);
        (summary.beside, summary.punctuation) = (facts.beside, facts.punctuation);
        facts.layout.name().clone_into(&mut summary.layout);
        if let Some(Ok(reader)) = &reader {
            summary.formats = tally.formats(&reader.formats());
            summary.format = summary.formats.most().unwrap_or_default().to_owned();
        }
        (summary.fields_read, summary.fields_unread, summary.notices) = (tally.read, tally.unread, tally.notices);
        self.sources.push(summary);
        Ok(())
    }

    /// Refuses names of fields that no record of these files has: the names are wrong.
    ///
    /// # Errors
    /// See above.
    pub fn check_names(&self, files: Range<usize>, fields: &FieldNames) -> Result<()> {
        let files = &self.sources[files];
        let is_read = |name: &str| {
            let first = name.split_once('.').map_or(name, |(first, _)| first);
            files.iter().any(|file| file.fields_read.contains(name) || file.fields_read.contains(first))
        };
        for (setting, names) in fields.given().filter(|(setting, _)| !matches!(*setting, "role" | "content")) {
            if names.is_empty() || is_read(names) || names.split('+').any(|name| is_read(name.trim())) {
                continue;
            }
            let unread = files.iter().flat_map(|file| file.fields_unread.iter()).map(|(name, _)| name);
            let near = nearest(names, unread).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let of = files.first().map_or_else(String::new, |file| format!(" of {}", file.file));
            return Err(Problem::new(format!("no record{of} has the field `{names}`"))
                .hint(format!("`fields.{setting}` names it{near}"))
                .into());
        }
        Ok(())
    }

    /// The sum of a count over all files.
    pub fn total(&self, count: impl Fn(&SourceSummary) -> u64) -> u64 {
        self.sources.iter().map(count).sum()
    }
}

/// The records of a chunk, and what they became.
struct ReadChunk<T> {
    records: Vec<RawRecord>,
    groups: Vec<ReadGroup<T>>,
}

/// Gives the items of a file to their receiver, in the order of the file, and counts what became of each record.
struct Receiver<'r, F> {
    index: u32,
    name: &'r str,
    summary: SourceSummary,
    tally: Tally,
    rejects: &'r mut Vec<Reject>,
    take: &'r mut F,
}

impl<F> Receiver<'_, F> {
    fn receive<T>(&mut self, chunk: ReadChunk<T>)
    where
        F: TakeItems<T>,
    {
        self.take.expect(&mut chunk.groups.iter().flat_map(|(items, _)| items).flatten());
        let Self { index, name, summary, tally, rejects, take } = self;
        summary.records += chunk.records.len() as u64;
        let mut records = chunk.records.iter();
        for (items, group) in chunk.groups {
            tally.add(group);
            for (item, record) in items.into_iter().zip(records.by_ref()) {
                match item.map(|item| take.take(item, *index, record.line)) {
                    Ok(TakenRecord::New) => summary.accepted += 1,
                    Ok(TakenRecord::Copy) => summary.folded += 1,
                    Ok(TakenRecord::CopyWithOtherRejected) => {
                        summary.folded += 1;
                        tally.notices[Notice::RejectedFolded as usize] += 1;
                    }
                    Err(RecordRefusal::Filtered(filter)) => summary.filtered[filter as usize] += 1,
                    Err(RecordRefusal::Rejected(reason)) => {
                        summary.rejected += 1;
                        rejects.push(Reject {
                            source: *index,
                            file: (*name).to_owned(),
                            line: record.line,
                            reason,
                            record: record.excerpt(EXCERPT),
                            records: 1,
                        });
                    }
                }
            }
        }
    }
}

/// What successive records became, and what was read in them.
type ReadGroup<T> = (Vec<Result<T, RecordRefusal>>, Tally);

/// Reads successive records.
fn read_group<R: RecordReader>(reader: Option<&Result<R, String>>, records: &[RawRecord]) -> ReadGroup<R::Item> {
    let mut tally = Tally::default();
    // The records of a shape are counted together.
    let mut plans: Vec<(&Arc<ShapeReading>, u64)> = Vec::new();
    let mut read = |record: &RawRecord| {
        if let (Some(Ok(reader)), Some(flat)) = (reader, record.as_flat())
            && let Some(FlatReadout { outcome, plan }) = reader.read_flat(flat)
        {
            if outcome.is_ok() {
                match plans.iter_mut().find(|(known, _)| Arc::ptr_eq(known, plan)) {
                    Some((_, count)) => *count += 1,
                    None => {
                        plans.push((plan, 0));
                        tally.count_plan(plan, 1);
                    }
                }
            }
            return outcome;
        }
        let value = record.value()?;
        let reader = match reader {
            Some(Ok(reader)) => reader,
            Some(Err(reason)) => return Err(RecordRefusal::Rejected(reason.clone())),
            None => return Err("the format of the file is not known yet".into()),
        };
        let readout = reader.read(&value);
        if let Some(field) = record.altered().iter().find(|field| readout.used.contains(&field.name.as_str())) {
            return Err(RecordRefusal::Rejected(field.told()));
        }
        if readout.outcome.is_ok() {
            tally.count(&readout);
        }
        readout.outcome
    };
    let items = records.iter().map(&mut read).collect();
    plans.into_iter().for_each(|(plan, count)| tally.count_plan(plan, count));
    (items, tally)
}

#[cfg(test)]
mod tests;
