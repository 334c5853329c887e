//! The offline runs of Weights & Biases, which `wandb sync` uploads: a log in the format of LevelDB whose records are
//! protocol buffers (wandb/proto/wandb_internal.proto).
//!
//! The file begins with 7 bytes. Then it consists of blocks of 32 KiB; the first one contains the beginning of the file.
//! A record is divided into pieces that fit a block. A piece consists of: the CRC-32 of its type and its bytes, their
//! number as u16, the type as u8, the bytes; all little-endian. A rest of less than 7 bytes in a block is zeros.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::TrackedRun;
use super::protocol_buffer::{Checksum, ProtocolBuffer};
use raisin_base::digest::Digest;
use raisin_base::error::Result;

/// `:W&B`, a magic number, and version 0 of the layout.
const BEGINNING: [u8; 7] = [b':', b'W', b'&', b'B', 0xe1, 0xbe, 0];
const BLOCK: usize = 32 << 10;
/// The bytes of a piece before its data.
const HEAD: usize = 7;

/// The digits of the id of a run.
const ID_DIGITS: usize = 16;

/// The id of a run: the same numbers give the same id, so that a second upload meets the first one.
pub fn id(name: &str, run: &TrackedRun) -> Result<String> {
    let content = serde_json::to_vec(&(name, &run.variant, &run.artifacts, &run.series))?;
    Ok(Digest::of(&content).to_string().chars().take(ID_DIGITS).collect())
}

/// The folder of a run. An artifact has no time, and the name must begin with one.
pub fn folder(id: &str) -> String {
    format!("offline-run-19700101_000000-{id}")
}

pub fn file(id: &str) -> String {
    format!("run-{id}.wandb")
}

/// The bytes of the file of a run. A row of its history has all series that have a point at the step.
pub fn log(project: &str, name: &str, id: &str, run: &TrackedRun) -> Vec<u8> {
    let mut log = Log::default();
    let mut version = ProtocolBuffer::default();
    version.text(1, concat!("raisin ", env!("CARGO_PKG_VERSION")));
    let mut header = ProtocolBuffer::default();
    header.message(1, &version);
    log.record(21, &header);

    let mut settings = ProtocolBuffer::default();
    let about: Map<String, Value> = [("raisin".to_owned(), json!({"artifacts": run.artifacts}))].into_iter().collect();
    for (key, value) in run.hyperparameters().iter().chain(&about) {
        settings.message(1, &item(1, key, &value.to_string()));
    }
    let mut declared = ProtocolBuffer::default();
    declared.text(1, id);
    declared.text(3, project);
    declared.message(4, &settings);
    declared.text(8, name);
    log.record(17, &declared);

    let mut rows: BTreeMap<i64, Vec<(&str, f64)>> = BTreeMap::new();
    for (tag, points) in &run.series {
        points.iter().for_each(|(step, value)| rows.entry(*step).or_default().push((tag, *value)));
    }
    for (step, values) in &rows {
        let mut row = ProtocolBuffer::default();
        for (tag, value) in values {
            row.message(1, &item(2, tag, &json!(value).to_string()));
        }
        row.message(1, &item(2, "_step", &step.to_string()));
        let mut place = ProtocolBuffer::default();
        place.integer(1, *step);
        row.message(2, &place);
        log.record(2, &row);
    }

    let mut summary = ProtocolBuffer::default();
    for (tag, points) in &run.series {
        if let Some((_, value)) = points.last() {
            summary.message(1, &item(2, tag, &json!(value).to_string()));
        }
    }
    log.record(3, &summary);
    let mut ended = ProtocolBuffer::default();
    ended.integer(1, 0);
    log.record(18, &ended);
    log.bytes
}

/// A name with a value as JSON. The field of the name is 1; 2 is a name of which only the whole is meant, with its dots.
fn item(field: u32, name: &str, json: &str) -> ProtocolBuffer {
    let mut item = ProtocolBuffer::default();
    item.text(field, name);
    item.text(16, json);
    item
}

struct Log {
    bytes: Vec<u8>,
    /// The number of the last record, from 1.
    number: i64,
}

impl Default for Log {
    fn default() -> Self {
        Self { bytes: BEGINNING.to_vec(), number: 0 }
    }
}

impl Log {
    /// Adds a record whose content is this field.
    fn record(&mut self, field: u32, content: &ProtocolBuffer) {
        self.number += 1;
        let mut record = ProtocolBuffer::default();
        record.integer(1, self.number);
        record.message(field, content);
        let mut rest = record.as_bytes();
        let mut is_first = true;
        loop {
            let left = BLOCK - self.bytes.len() % BLOCK;
            if left < HEAD {
                self.bytes.extend(vec![0; left]);
                continue;
            }
            let (piece, more) = rest.split_at(rest.len().min(left - HEAD));
            let kind: u8 = match (is_first, more.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            self.bytes.extend(Checksum::Zip.of([kind].iter().chain(piece)).to_le_bytes());
            self.bytes.extend((piece.len() as u16).to_le_bytes());
            self.bytes.push(kind);
            self.bytes.extend(piece);
            if more.is_empty() {
                return;
            }
            (rest, is_first) = (more, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a log. Stops at a wrong checksum.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        assert_eq!(bytes[..7], BEGINNING);
        let (mut place, mut open, mut records) = (7, Vec::new(), Vec::new());
        while place < bytes.len() {
            let left = BLOCK - place % BLOCK;
            if left < HEAD {
                assert_eq!(bytes[place..place + left], vec![0; left]);
                place += left;
                continue;
            }
            let length = usize::from(u16::from_le_bytes([bytes[place + 4], bytes[place + 5]]));
            let piece = &bytes[place + 6..place + 7 + length];
            assert_eq!(Checksum::Zip.of(piece).to_le_bytes(), bytes[place..place + 4]);
            open.extend(&piece[1..]);
            if [1, 4].contains(&piece[0]) {
                records.push(std::mem::take(&mut open));
            }
            place += HEAD + length;
        }
        assert!(open.is_empty());
        records
    }

    #[test]
    fn records_of_every_length_go_over_the_ends_of_blocks() {
        let mut log = Log::default();
        let lengths: Vec<usize> = (0..20).map(|place| BLOCK - 60 + place * 3).chain([0, 3 * BLOCK, 5]).collect();
        for length in &lengths {
            let mut content = ProtocolBuffer::default();
            content.bytes(1, &vec![7; *length]);
            log.record(3, &content);
        }
        let found = records(&log.bytes);
        let sevens = |record: &Vec<u8>| record.iter().rev().take_while(|byte| **byte == 7).count();
        assert_eq!(found.iter().map(sevens).collect::<Vec<_>>(), lengths);
    }

    #[test]
    fn a_run_has_its_settings_its_rows_in_the_order_of_steps_and_its_end() -> Result<()> {
        let variant = json!({"stage.tuned.rate": 0.5}).as_object().cloned().unwrap_or_default();
        let mut run = TrackedRun::of(variant);
        run.series.insert("b/loss".to_owned(), vec![(1, 2.0), (3, 1.0)]);
        run.series.insert("a/loss".to_owned(), vec![(3, 4.0)]);
        let id = id("rate=0.5", &run)?;
        let bytes = log("p", "rate=0.5", &id, &run);
        let text: Vec<String> =
            records(&bytes).iter().map(|record| String::from_utf8_lossy(record).into_owned()).collect();
        // The header, the run, two rows, the summary and the end.
        assert_eq!(text.len(), 6);
        assert!(text[1].contains(&id) && text[1].contains("tuned.rate") && !text[1].contains("stage."), "{}", text[1]);
        assert!(!text[2].contains("a/loss") && text[3].contains("a/loss"));
        run.series.insert("a/loss".to_owned(), vec![(3, 5.0)]);
        assert_ne!(super::id("rate=0.5", &run)?, id);
        Ok(())
    }
}
