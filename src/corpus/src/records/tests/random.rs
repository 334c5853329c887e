//! Reads files that were damaged at random. Every row that was written comes back equal or lies in something counted,
//! and rows far from the damage come back.
//!
//! RAISIN_FUZZ_SECONDS is the time for the long form. RAISIN_TORTURE_SEED gives other files.

use super::*;
use raisin_base::random::Rng;
use raisin_base::seed::Seed;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The number of files of the short form.
const FILES: u64 = 500;

/// The long form allows one wrong file of so many: several changes in one file can make a part of a record look like a
/// record, or like the end of a list.
const MOST_WRONG: u64 = 1000;

/// A file, with the place of each row.
#[derive(Clone)]
struct WrittenFile {
    name: &'static str,
    bytes: Vec<u8>,
    rows: Vec<(Range<usize>, Value)>,
    /// The places of changes.
    edits: Vec<usize>,
}

struct GeneratedFile(Rng);

impl GeneratedFile {
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn text(&mut self) -> String {
        let parts = [
            "word",
            " ",
            " ",
            "é",
            "\"",
            "\\",
            "\n",
            "{",
            "}",
            "},",
            ", {\"instruction\": \"",
            "[",
            "]",
            ": ",
            "\t",
            "😀",
            "'",
            "a,b",
            "\n{\"id\": 1}\n",
            "longer text of several words",
        ];
        (0..self.below(9)).map(|_| self.one(&parts)).collect()
    }

    fn row(&mut self, kind: usize, number: usize) -> Value {
        let mut text = || self.text();
        // The number makes each row different.
        match kind {
            0 => serde_json::json!({"instruction": format!("{number} {}", text()), "input": text(), "output": text()}),
            1 => serde_json::json!({"messages": [
                {"role": "user", "content": format!("{number} {}", text())},
                {"role": "assistant", "content": text()},
            ]}),
            2 => {
                let meta = serde_json::json!({"a": [1.5, null], "b": {}});
                serde_json::json!({"id": number, "meta": meta, "question": text(), "answer": text()})
            }
            3 => serde_json::json!({"text": text(), "n": number, "children": [{"text": text()}, {"text": text()}]}),
            _ => serde_json::json!({"a": format!("{number} {}", text()), "b": text()}),
        }
    }

    /// Writes rows in a layout of JSON.
    fn json(&mut self, number: usize) -> WrittenFile {
        let kind = self.below(5);
        let count = 12 + self.below(40);
        let values: Vec<Value> = (0..count).map(|row| self.row(kind, number + row)).collect();
        let layout = self.below(8);
        let (start, between, end) = match layout {
            0 => ("", "\n", "\n"),
            1 => ("[", ", ", "]"),
            2 => ("[", ",", "]"),
            3 => ("[\n", ",\n", "\n]\n"),
            4 => ("[\n  ", ",\n  ", "\n]"),
            5 => ("{\"data\": [", ", ", "]}"),
            6 => ("{\"version\": \"1\", \"rows\": [\n  ", ",\n  ", "\n]}"),
            _ => ("", "\n", ""),
        };
        let indented = matches!(layout, 4 | 6 | 7);
        let mut written = WrittenFile { name: "a.json", bytes: start.into(), rows: Vec::new(), edits: Vec::new() };
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                written.bytes.extend(between.bytes());
            }
            let mut text = value.to_string();
            if indented {
                text = serde_json::to_string_pretty(&value).expect("JSON");
                if layout != 7 {
                    text = text.replace('\n', "\n  ");
                }
            }
            let at = written.bytes.len();
            written.bytes.extend(text.bytes());
            written.rows.push((at..written.bytes.len(), value));
        }
        written.bytes.extend(end.bytes());
        written
    }

    fn csv(&mut self, number: usize) -> WrittenFile {
        let mut written =
            WrittenFile { name: "a.csv", bytes: b"a,b,c\n".to_vec(), rows: Vec::new(), edits: Vec::new() };
        for row in 0..12 + self.below(40) {
            let texts = [format!("{} {}", number + row, self.text()), self.text(), self.text()];
            let at = written.bytes.len();
            let cells = texts.each_ref().map(|text| {
                let is_plain = !text.contains(['"', '\n', ',']) && !text.is_empty();
                if is_plain { text.clone() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
            });
            written.bytes.extend(cells.join(",").bytes());
            written
                .rows
                .push((at..written.bytes.len(), serde_json::json!({"a": texts[0], "b": texts[1], "c": texts[2]})));
            written.bytes.push(b'\n');
        }
        written
    }

    fn file(&mut self) -> WrittenFile {
        if self.below(5) == 0 {
            return self.csv(0);
        }
        let mut file = self.json(0);
        match self.below(6) {
            // Two files, one after the other.
            0 => {
                let other = self.json(1000);
                file.insert(file.bytes.len(), b"\n");
                let at = file.bytes.len();
                file.bytes.extend(other.bytes);
                file.rows
                    .extend(other.rows.into_iter().map(|(range, value)| (range.start + at..range.end + at, value)));
                file.edits.clear();
            }
            1 => file.insert(0, "\u{feff}".as_bytes()),
            2 => {
                let mut at = 0;
                while let Some(found) = memchr::memchr(b'\n', &file.bytes[at..]) {
                    file.insert(at + found, b"\r");
                    at += found + 2;
                }
            }
            _ => return file,
        }
        file.edits.clear();
        file
    }

    fn damage(&mut self, file: &mut WrittenFile) {
        let at = self.below(file.bytes.len());
        match self.below(9) {
            0 => file.remove(at..file.bytes.len()),
            1 => {
                file.bytes[at] ^= 1 << self.below(8);
                file.edits.push(at);
            }
            2 | 3 => file.remove(at..at + 1),
            4 => {
                let bytes =
                    self.one(&[&b"\""[..], b"{", b"}", b"[", b"]", b",", b"\\", b"\n", b":", b"\0", b"\xFF", b"\"\""]);
                file.insert(at, bytes);
            }
            5 => {
                let signs: Vec<usize> =
                    (0..file.bytes.len()).filter(|at| b"\"{}[],:\n".contains(&file.bytes[*at])).collect();
                let at = signs[self.below(signs.len())];
                file.remove(at..at + 1);
            }
            6 => file.remove(at..(at + self.below(40)).min(file.bytes.len())),
            7 => {
                let row = self.below(file.rows.len());
                let end = file.rows[row].0.end;
                // The end of a row, and what stands between it and the next one.
                file.remove(end.saturating_sub(self.below(3))..(end + self.below(4)).min(file.bytes.len()));
            }
            _ => {
                let from = self.below(file.bytes.len());
                let part = file.bytes[from..(from + self.below(60)).min(file.bytes.len())].to_vec();
                file.insert(at, &part);
            }
        }
    }
}

impl WrittenFile {
    fn insert(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.splice(at..at, bytes.iter().copied());
        let moved = |place: &mut usize| *place += if *place >= at { bytes.len() } else { 0 };
        self.rows.iter_mut().for_each(|(range, _)| {
            moved(&mut range.start);
            range.end += if range.end > at { bytes.len() } else { 0 };
        });
        self.edits.iter_mut().for_each(moved);
        self.edits.extend([at, at + bytes.len()]);
    }

    fn remove(&mut self, part: Range<usize>) {
        let length = part.len();
        self.bytes.drain(part.clone());
        let moved =
            |place: &mut usize| *place = if *place <= part.start { *place } else { (*place).max(part.end) - length };
        self.rows.iter_mut().for_each(|(range, _)| {
            moved(&mut range.start);
            moved(&mut range.end);
        });
        self.edits.iter_mut().for_each(moved);
        self.edits.push(part.start);
    }

    /// The rows that are not as they were written: with a change in or beside the row.
    fn touched(&self) -> Vec<bool> {
        let near = |range: &Range<usize>, at: usize| range.start <= at + 1 && at <= range.end + 1;
        self.rows.iter().map(|(range, _)| range.is_empty() || self.edits.iter().any(|at| near(range, *at))).collect()
    }
}

/// What became of the rows of a file.
#[derive(Debug, Default)]
struct DamageTally {
    rows: usize,
    equal: usize,
    /// Rows without a change that did not come back.
    neighbours: usize,
    /// Rows that came back with another value: a change within a text.
    changed: usize,
}

/// Reads a damaged file and checks every row.
fn check(file: &WrittenFile) -> Result<DamageTally, String> {
    let (records, facts) = match read_as(file.name, &file.bytes, MOST_BYTES) {
        Ok(read) => read,
        // The header of a CSV file, or the kind of the file, is damaged, or nothing is left.
        Err(error) => {
            let text = render(&error);
            return if text.contains("hint: ") { Ok(DamageTally::default()) } else { Err(text) };
        }
    };
    if file.name == "a.csv" && file.edits.iter().any(|at| *at <= b"a,b,c\n".len()) {
        return Ok(DamageTally::default());
    }
    let touched = file.touched();
    let mut tally = DamageTally { rows: file.rows.len(), ..DamageTally::default() };
    let overlaps = |range: &Range<usize>, start: u64, end: u64| (range.start as u64) < end && start < range.end as u64;
    let mut used = vec![false; records.len()];
    for (row, (range, value)) in file.rows.iter().enumerate() {
        let equal = records.iter().position(|record| {
            record.value.as_ref() == Ok(value) && (range.is_empty() || overlaps(range, record.start, record.end))
        });
        if let Some(found) = equal {
            used[found] = true;
            tally.equal += 1;
            continue;
        }
        // Signs between rows.
        if range.len() <= 2 {
            continue;
        }
        let is_counted = facts.damage.iter().any(|damage| overlaps(range, damage.offset, damage.offset + damage.bytes))
            || records.iter().any(|record| {
                overlaps(range, record.start, record.end) && (record.value.is_err() || !record.altered.is_empty())
            });
        let is_read = records.iter().any(|record| overlaps(range, record.start, record.end));
        if !(is_counted || touched[row] && is_read) {
            return Err(format!("row {row} at {range:?} is neither read nor counted (touched: {})", touched[row]));
        }
        tally.changed += usize::from(!is_counted);
        tally.neighbours += usize::from(!touched[row]);
    }
    // No record appears that nobody wrote.
    for (record, _) in records.iter().zip(&used).filter(|(record, used)| !**used && record.value.is_ok()) {
        let near = |row: usize| {
            touched[row] && {
                let range = &file.rows[row].0;
                range.start as u64 <= record.end + 2 && record.start <= range.end as u64 + 2
            }
        };
        let is_excused = (0..file.rows.len()).any(near)
            || file.edits.iter().any(|at| record.start <= *at as u64 + 2 && *at as u64 <= record.end + 2)
            // Between two changes, such as the ends of an inserted part, or beside something counted.
            || file.edits.iter().any(|at| *at as u64 <= record.start && record.start < *at as u64 + 64)
                && file.edits.iter().any(|at| record.end <= *at as u64 && (*at as u64) < record.end + 64)
            || records.iter().any(|bad| {
                bad.value.is_err() && bad.start <= record.end + 4 && record.start <= bad.end + 4
            });
        if !is_excused && record.altered.is_empty() {
            return Err(format!(
                "the record at {}..{} was never written: {:?}",
                record.start, record.end, record.value
            ));
        }
    }
    let counted = records.iter().filter(|record| record.value.is_err() || !record.altered.is_empty()).count() as u64
        + facts.damage.iter().map(|damage| damage.records).sum::<u64>();
    let gone = file.rows.iter().filter(|(range, _)| range.len() <= 2).count();
    let missing = (tally.rows - tally.equal - tally.changed).saturating_sub(gone);
    if missing as u64 > counted + file.edits.len() as u64 {
        return Err(format!("{missing} rows are missing and {counted} are counted"));
    }
    Ok(tally)
}

/// Keeps a file for a person, with what was read of it, and returns its description.
fn kept(file: &WrittenFile, seed: u64, number: u64) -> String {
    let path = std::env::temp_dir().join(format!("raisin-damaged-{seed}-{number}.{}", &file.name[2..]));
    std::fs::write(&path, &file.bytes).expect("written");
    format!("file {number} of seed {seed}, changed at {:?}, see {}", file.edits, path.display())
}

fn run(seed: u64, goes_on: impl Fn(u64) -> bool) {
    let mut total = DamageTally::default();
    let (mut far, mut number, mut wrong) = (0, 0, 0);
    while goes_on(number) {
        let mut source = GeneratedFile(Seed::new(seed).at(number.to_string()).rng());
        let mut file = source.file();
        let damages = 1 + source.below(3) * source.below(2);
        for _ in 0..damages {
            if !file.bytes.is_empty() {
                source.damage(&mut file);
            }
        }
        let checked = std::panic::catch_unwind(|| check(&file));
        assert!(checked.is_ok(), "a panic: {}", kept(&file, seed, number));
        let tally = checked.unwrap_or(Ok(DamageTally::default())).unwrap_or_else(|reason| {
            raisin_base::say!("{}: {reason}", kept(&file, seed, number));
            wrong += 1;
            DamageTally::default()
        });
        total.rows += tally.rows;
        total.equal += tally.equal;
        total.changed += tally.changed;
        total.neighbours += tally.neighbours;
        far = far.max(tally.neighbours);
        number += 1;
    }
    println!("{number} files, {wrong} wrong, {total:?}, at most {far} neighbours of one file");
    assert!(wrong * MOST_WRONG <= number, "{wrong} of {number} files");
    assert!(total.neighbours * 100 <= total.rows, "{total:?}");
}

#[test]
fn every_row_of_a_damaged_file_is_read_or_counted() {
    let seed = std::env::var("RAISIN_TORTURE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    match std::env::var("RAISIN_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()) {
        None => run(seed, |number| number < FILES),
        Some(seconds) => {
            let end = Instant::now() + Duration::from_secs(seconds);
            run(seed, |_| Instant::now() < end);
        }
    }
}

#[test]
fn undamaged_files_come_back_complete() {
    for number in 0..200 {
        let file = GeneratedFile(Seed::new(2).at(number.to_string()).rng()).file();
        let tally = check(&file)
            .unwrap_or_else(|reason| panic!("file {number}: {reason}\n{}", String::from_utf8_lossy(&file.bytes)));
        let told = || {
            let (records, facts) = read_as(file.name, &file.bytes, MOST_BYTES).expect("reads");
            format!("file {number}: {:?} {facts:?}\n{}", bad(&records), String::from_utf8_lossy(&file.bytes))
        };
        assert_eq!((tally.equal, tally.neighbours), (tally.rows, 0), "{}", told());
    }
}
