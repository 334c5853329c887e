//! The tables `rejects` and `sources`, and the words of notes.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array};

use super::{Intake, Names, Reject, SourceSummary};
use crate::formats::{Filter, Notice};
use raisin_base::error::Result;
use raisin_table as table;

/// The number of files that the notes describe.
const TOLD: usize = 6;

/// The number of unread fields that a note names.
const UNREAD: usize = 8;

/// The `rejects` table.
pub fn rejects_batch(rejects: &[Reject]) -> Result<RecordBatch> {
    table::batch(vec![
        ("source", Arc::new(UInt32Array::from_iter_values(rejects.iter().map(|it| it.source))) as ArrayRef),
        ("file", Arc::new(StringArray::from_iter_values(rejects.iter().map(|it| &it.file)))),
        ("line", Arc::new(UInt64Array::from_iter_values(rejects.iter().map(|it| it.line)))),
        ("reason", Arc::new(StringArray::from_iter_values(rejects.iter().map(|it| &it.reason)))),
        ("record", Arc::new(StringArray::from_iter_values(rejects.iter().map(|it| &it.record)))),
        ("records", Arc::new(UInt64Array::from_iter_values(rejects.iter().map(|it| it.records)))),
    ])
}

/// The `sources` table: one row for each file. The columns `source` of other tables are indices into it. `records` is
/// the sum of `accepted`, `rejected`, `folded` and `filtered`.
pub fn sources_batch(sources: &[SourceSummary]) -> Result<RecordBatch> {
    let numbers = |of: &dyn Fn(&SourceSummary) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(sources.iter().map(of)))
    };
    let texts = |of: &dyn Fn(&SourceSummary) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(sources.iter().map(of)))
    };
    table::batch(vec![
        ("source", Arc::new(UInt32Array::from_iter_values(0..u32::try_from(sources.len())?)) as ArrayRef),
        ("file", texts(&|it| it.file.clone())),
        ("layout", texts(&|it| it.layout.clone())),
        ("format", texts(&|it| it.format.clone())),
        ("formats", texts(&|it| it.formats.text())),
        ("records", numbers(&|it| it.records)),
        ("accepted", numbers(&|it| it.accepted)),
        ("rejected", numbers(&|it| it.rejected)),
        ("folded", numbers(&|it| it.folded)),
        ("filtered", numbers(&SourceSummary::filtered)),
        ("damaged_lines", numbers(&|it| it.damaged_lines)),
        ("damaged_bytes", numbers(&|it| it.damaged_bytes)),
        ("fields_read", texts(&|it| it.fields_read.text())),
        ("fields_unread", texts(&|it| it.fields_unread.text())),
        ("filters", texts(&|it| named(Filter::ALL.map(Filter::name), it.filtered).text())),
        ("notices", texts(&|it| named(Notice::ALL.map(Notice::name), it.notices).text())),
    ])
}

/// The names whose count is not 0.
fn named<const N: usize>(names: [&str; N], counts: [u64; N]) -> Names {
    let mut some = Names::default();
    names.into_iter().zip(counts).filter(|(_, count)| *count > 0).for_each(|(name, count)| some.add(name, count));
    some
}

impl Intake {
    /// What became of the records that were not accepted, for a note that begins with the items. `stage`: the stage
    /// whose artifact has the table `rejects`.
    pub fn note(&self, items: &str, stage: &str) -> String {
        let records = self.total(|it| it.records);
        let mut note = items.to_owned();
        if records != self.total(|it| it.accepted) {
            let _ = write!(note, " of {}", counted(records, "record"));
        }
        let mut add = |count: u64, what: &str| {
            if count > 0 {
                let _ = write!(note, ", {} {what}", grouped(count));
            }
        };
        add(self.total(|it| it.rejected), &format!("rejected (see {stage}.rejects)"));
        let folded = self.total(|it| it.folded);
        add(folded, if folded == 1 { "exact duplicate folded" } else { "exact duplicates folded" });
        for (index, filter) in Filter::ALL.into_iter().enumerate() {
            add(self.total(|it| it.filtered[index]), &format!("with {} left out", filter.name()));
        }
        note
    }

    /// What was read in the files, and what was changed, one sentence for each note. `stage`: the stage whose artifact
    /// has the table `sources`.
    pub fn details(&self, stage: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.skipped.is_empty() {
            let names = self.skipped.iter().take(TOLD).map(|(name, reason)| format!("{name} ({reason})"));
            let more = self.skipped.len().saturating_sub(TOLD);
            let more = if more > 0 { format!(" and {}", counted(more as u64, "more file")) } else { String::new() };
            notes.push(format!("skipped: {}{more}", names.collect::<Vec<_>>().join(", ")));
        }
        // Files that were read in the same way share a note.
        let mut ways: Vec<(String, Vec<&SourceSummary>)> = Vec::new();
        for source in &self.sources {
            let way = way(source);
            match ways.iter_mut().find(|(known, _)| *known == way) {
                Some((_, files)) => files.push(source),
                None => ways.push((way, vec![source])),
            }
        }
        for (way, files) in ways.iter().take(TOLD) {
            let name = match files.as_slice() {
                [file] => file.file.clone(),
                [first, ..] => format!("{} and {}", first.file, counted(files.len() as u64 - 1, "more file")),
                [] => continue,
            };
            notes.push(format!("{name}: {way}"));
        }
        if let Some(more) = ways.get(TOLD..).filter(|more| !more.is_empty()) {
            let files: usize = more.iter().map(|(_, files)| files.len()).sum();
            notes.push(format!("{}: see {stage}.sources", counted(files as u64, "more file")));
        }
        let left_out =
            Filter::ALL.into_iter().enumerate().filter(|(index, _)| self.total(|it| it.filtered[*index]) > 0);
        notes.extend(left_out.map(|(_, filter)| filter.hint().to_owned()));
        for (index, notice) in Notice::ALL.into_iter().enumerate() {
            let count = self.total(|it| it.notices[index]);
            if count > 0 {
                notes.push(format!("{}: {}", counted(count, "record"), notice.sentence()));
            }
        }
        notes
    }
}

/// How the records of a file were read, as a sentence.
fn way(source: &SourceSummary) -> String {
    if source.records == 0 {
        return "no records".to_owned();
    }
    if source.formats.is_empty() {
        return format!("0 of {} accepted", counted(source.records, "record"));
    }
    let list = |names: &Names| names.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let few = |names: &Names| {
        let named = names.iter().take(UNREAD).map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let more = names.len().saturating_sub(UNREAD);
        if more > 0 { format!("{named} and {} more", grouped(more as u64)) } else { named }
    };
    let read =
        if source.fields_read.is_empty() { String::new() } else { format!(", reads {}", list(&source.fields_read)) };
    let mut way = match source.formats.len() {
        1 => format!("format {}{read}", source.format),
        _ => {
            let formats = source.formats.iter().map(|(name, count)| format!("{name} ({})", counted(count, "record")));
            format!("several formats: {}{read}", formats.collect::<Vec<_>>().join(", "))
        }
    };
    if !source.fields_unread.is_empty() {
        let _ = write!(way, ", does not read {}", few(&source.fields_unread));
    }
    if !source.beside.is_empty() {
        let names: Vec<String> = source.beside.iter().map(|name| format!("`{name}`")).collect();
        let _ = write!(way, ", does not read {} beside the list of records", names.join(", "));
    }
    if source.punctuation > 0 {
        let places = counted(source.punctuation, "place");
        let _ = write!(way, ", {places} between records with a comma or bracket too few or too many");
    }
    way
}

/// A number of things: `1 record`, `2,000 records`.
pub fn counted(count: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(count), if count == 1 { "" } else { "s" })
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
