//! Reads the rows of an Arrow file or stream. A damaged batch of rows costs its own rows.
//!
//! Both are a sequence of messages, each with its length; a file has a mark before and an index after it. The messages
//! are divided here, because a reader of a whole stream trusts the lengths, and takes an end in the middle for the end.

use std::path::Path;
use std::sync::Arc;

use arrow_buffer::Buffer;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::FileDecoder;
use arrow_ipc::{Block, MessageHeader, MetadataVersion, root_as_message};

use super::source::ByteSource;
use super::{FileDamage, RawRecord, RecordChunk, columns};
use raisin_base::error::{Context as _, Problem, Result};

/// The longest description of a message. The rows follow it, and are not limited.
const MOST_DESCRIPTION: u32 = 1 << 28;

/// The largest number of zeros between the mark of a file and its first message.
const MOST_FILLED: usize = 512;

const CUT: &str = "the file ends in the middle of a batch of rows: the rest is lost";

/// The end of a file, after the length of its index.
const END: &[u8] = b"ARROW1";

/// A message without its rows.
struct Head {
    /// The bytes up to the rows.
    bytes: Vec<u8>,
    /// The start of the description in `bytes`.
    start: usize,
    body: u64,
    kind: MessageHeader,
    version: MetadataVersion,
    /// The number of rows, if the message has rows.
    rows: u64,
}

pub fn read(path: &Path, mut take: impl FnMut(Vec<RawRecord>, u64) -> Result<()>) -> Result<Vec<FileDamage>> {
    let mut messages = Messages { source: ByteSource::open(path)?, failure: None, is_cut: false, is_ended: false };
    let refuse = |reason: &str| {
        Problem::new(format!("{} is not a readable Arrow file: {reason}", path.display()))
            .hint("copy or download it again; a file of `datasets` can be written again with save_to_disk")
    };
    let first = messages.next_head().with_context(|| format!("cannot read {}", path.display()))?;
    let first = first.ok_or_else(|| refuse(messages.failure.as_deref().unwrap_or("it ends before its schema")))?;
    let schema = columns::guarded(|| {
        let message = root_as_message(&first.bytes[first.start..]).map_err(|error| error.to_string())?;
        message.header_as_schema().map(fb_to_schema).ok_or_else(|| "it does not begin with a schema".to_owned())
    })
    .map_err(|reason| refuse(&reason))?;
    let mut decoder = FileDecoder::new(Arc::new(schema), first.version);
    let (mut chunk, mut damage) = (RecordChunk::first(), Vec::new());
    let (mut line, mut bytes_of_rows) = (0, 0);
    while let Some(head) = messages.next_head().with_context(|| format!("cannot read {}", path.display()))? {
        let Some(message) = messages.with_body(&head).with_context(|| format!("cannot read {}", path.display()))?
        else {
            break;
        };
        let block = Block::new(0, i32::try_from(head.bytes.len())?, i64::try_from(head.body)?);
        let length = message.len() as u64;
        let buffer = Buffer::from_vec(message);
        let batch = columns::guarded(|| match head.kind {
            MessageHeader::DictionaryBatch => {
                decoder.read_dictionary(&block, &buffer).map(|()| None).map_err(|error| error.to_string())
            }
            _ => decoder.read_record_batch(&block, &buffer).map_err(|error| error.to_string()),
        });
        match batch {
            Ok(Some(batch)) => {
                for record in columns::rows(&batch, line) {
                    if let Some(full) = chunk.add(record) {
                        take(full, messages.source.taken())?;
                    }
                }
                line += batch.num_rows() as u64;
                bytes_of_rows += length;
            }
            Ok(None) if head.kind == MessageHeader::DictionaryBatch => {}
            Ok(None) => {
                let reason = "a batch of rows has lost its description".to_owned();
                damage.push(FileDamage::rows(line + 1, 0, length, reason));
            }
            Err(reason) => {
                let reason = format!("cannot read a batch of rows: {reason}");
                damage.push(FileDamage::rows(line + 1, head.rows, length, reason));
                line += head.rows;
            }
        }
    }
    let left = if messages.is_ended { messages.after_end()? } else { 0 };
    if left > 0 {
        damage.push(FileDamage::rows(line + 1, 0, left, "bytes stand after the mark of the end".to_owned()));
    } else if let Some(reason) = messages.failure.take() {
        let bytes = messages.source.size.saturating_sub(messages.source.taken()).max(1);
        let rows = bytes.div_ceil(usual(bytes_of_rows, line));
        damage.push(FileDamage { is_cut: messages.is_cut, ..FileDamage::rows(line + 1, rows, bytes, reason) });
    } else if !messages.is_ended {
        let reason = "the file ends without its mark of the end: the rest is lost".to_owned();
        damage.push(FileDamage { is_cut: true, ..FileDamage::rows(line + 1, 1, 0, reason) });
    }
    // If the number of rows is damaged too, it is estimated.
    let usual = usual(bytes_of_rows, line);
    for part in damage.iter_mut().filter(|part| part.records == 0) {
        part.records = part.bytes.div_ceil(usual).max(1);
        part.lines = part.records;
    }
    take(chunk.records, messages.source.size)?;
    Ok(damage)
}

/// The bytes of a usual row.
fn usual(bytes: u64, rows: u64) -> u64 {
    bytes.checked_div(rows).unwrap_or(bytes).max(1)
}

struct Messages {
    source: ByteSource,
    /// Why the rest cannot be divided into messages.
    failure: Option<String>,
    /// Whether the file ends early, so that nobody knows how much is lost.
    is_cut: bool,
    /// Whether the mark of the end was read.
    is_ended: bool,
}

impl Messages {
    /// Reads exactly this number of bytes; `None` at the end of the file, or if fewer are left.
    fn take(&mut self, count: usize) -> std::io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        // A wrong length must not reserve memory.
        while bytes.len() < count && self.source.failure.is_none() {
            let missing = (count - bytes.len()).min(1 << 22);
            if self.source.fill(&mut bytes, missing)? == 0 {
                break;
            }
        }
        if let Some(reason) = &self.source.failure {
            (self.failure, self.is_cut) = (Some(reason.clone()), self.source.is_cut);
        } else if !bytes.is_empty() && bytes.len() < count {
            (self.failure, self.is_cut) = (Some(CUT.to_owned()), true);
        }
        Ok((bytes.len() == count && self.failure.is_none()).then_some(bytes))
    }

    /// The next message without its rows; `None` at the end, or if the rest is damaged.
    fn next_head(&mut self) -> std::io::Result<Option<Head>> {
        if self.is_ended || self.failure.is_some() {
            return Ok(None);
        }
        let Some(mut bytes) = self.take(4)? else { return Ok(None) };
        if bytes == b"ARRO" {
            // The mark of a file is filled up with zeros.
            self.take(4)?;
            bytes = vec![0; 4];
            for _ in 0..MOST_FILLED / 4 {
                if bytes != [0; 4] {
                    break;
                }
                let Some(next) = self.take(4)? else { return Ok(None) };
                bytes = next;
            }
        }
        // Old streams have no mark before the length.
        if bytes == [0xFF; 4] {
            let Some(length) = self.take(4)? else {
                self.is_cut |= self.failure.is_none();
                self.failure.get_or_insert_with(|| CUT.to_owned());
                return Ok(None);
            };
            bytes.extend(length);
        }
        let start = bytes.len();
        let length = u32::from_le_bytes([bytes[start - 4], bytes[start - 3], bytes[start - 2], bytes[start - 1]]);
        if length == 0 {
            self.is_ended = true;
            return Ok(None);
        }
        let description = if length <= MOST_DESCRIPTION { self.take(length as usize)? } else { None };
        let Some(description) = description else {
            self.failure.get_or_insert_with(|| "the length of a batch of rows is damaged".to_owned());
            return Ok(None);
        };
        bytes.extend(description);
        let found = match root_as_message(&bytes[start..]) {
            Ok(message) => {
                let rows = message.header_as_record_batch().map_or(0, |batch| batch.length());
                let body = u64::try_from(message.bodyLength()).ok();
                body.map(|body| (body, message.header_type(), message.version(), rows.try_into().unwrap_or_default()))
            }
            Err(_) => None,
        };
        let Some((body, kind, version, rows)) = found else {
            self.failure = Some("the description of a batch of rows is damaged".to_owned());
            return Ok(None);
        };
        Ok(Some(Head { bytes, start, body, kind, version, rows }))
    }

    /// The number of bytes after the mark of the end that are not the index of a file.
    fn after_end(&mut self) -> std::io::Result<u64> {
        let (mut length, mut bytes) = (0, Vec::new());
        loop {
            bytes.drain(..bytes.len().saturating_sub(END.len() + 4));
            match self.source.fill(&mut bytes, 1 << 18)? {
                0 => break,
                count => length += count as u64,
            }
        }
        let Some((_, size)) = bytes.strip_suffix(END).and_then(<[u8]>::split_last_chunk) else { return Ok(length) };
        Ok(length.saturating_sub(u64::from(u32::from_le_bytes(*size)) + 4 + END.len() as u64))
    }

    /// The whole message; `None` if its rows are not complete.
    fn with_body(&mut self, head: &Head) -> std::io::Result<Option<Vec<u8>>> {
        let body = usize::try_from(head.body).unwrap_or(usize::MAX);
        let Some(body) = self.take(body)? else {
            self.is_cut |= self.failure.is_none();
            self.failure.get_or_insert_with(|| CUT.to_owned());
            return Ok(None);
        };
        Ok(Some([&head.bytes[..], &body].concat()))
    }
}
