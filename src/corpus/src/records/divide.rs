//! Divides text into pieces: records, and what lies between records.
//!
//! The text arrives in a buffer of some MiB. The part of it that is complete is divided, then the pieces are parsed on
//! all cores, then more text is read. json.rs and csv.rs know where a piece ends.

use std::path::Path;

use rayon::prelude::*;

use super::flat::FlatTexts;
use super::parse::ParsedRecord;
use super::source::{ByteSource, TextBuffer};
use super::{Content, FileDamage, RawRecord, RecordChunk};
use raisin_base::error::{Context as _, Result};

/// The usual size of the buffer.
const BUFFER: usize = 1 << 22;

/// The number of pieces that are parsed together.
pub const MOST_PIECES: usize = 1 << 14;

/// A damaged part that is not larger than this many usual records is taken for one record.
const SURELY_ONE: u64 = 2;

/// So few records do not tell how large records are.
const FEW: u64 = 8;

/// A part of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub start: usize,
    pub end: usize,
    pub kind: PieceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// A line of a file whose records are lines.
    Line,
    /// Several lines that belong to one record if they can be read together, else each to its own.
    Lines,
    /// A record whose end is certain.
    Whole,
    /// From the beginning of a damaged record to the next place at which a record begins.
    Broken,
    /// The beginning of a record that is too long.
    Start,
    /// More of a record that is too long.
    Part,
}

/// What follows the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestOfText {
    /// More text.
    Comes,
    /// More text, but the buffer has reached its largest size and nothing of it is complete.
    TooFar,
    /// Nothing.
    Nothing,
}

/// A piece after the attempt to parse it.
pub enum Outcome {
    Good(Box<ParsedRecord>),
    /// The next of the flat records that were found together.
    Flat,
    /// The reason why this part of the buffer is no record.
    Bad {
        reason: String,
        was: Was,
    },
}

/// What a damaged part was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    One,
    /// One record, if it is not larger than records are.
    OneOrMore,
    /// At least this number of records, or as many as its size can hold.
    Several(u64),
    /// Up to this number of records.
    AtMost(u64),
    /// The beginning of a record, of which more follows.
    Start,
    /// More of the record before.
    Part,
}

/// A part of the buffer with its outcome.
pub struct Resolved {
    pub start: usize,
    pub end: usize,
    pub outcome: Outcome,
}

impl Resolved {
    pub fn of(start: usize, end: usize, parsed: Result<ParsedRecord, String>, was: Was) -> Self {
        let outcome = match parsed {
            Ok(parsed) => Outcome::Good(Box::new(parsed)),
            Err(reason) => Outcome::Bad { reason, was },
        };
        Self { start, end, outcome }
    }
}

/// How a text is divided.
pub trait Layout: Sync {
    /// Adds the complete pieces at the start of `bytes`, at most about [`MOST_PIECES`], and returns the number of bytes
    /// that are done with. With [`Rest::TooFar`], at least one byte is done with; with [`Rest::Nothing`], all.
    ///
    /// # Errors
    /// The file as a whole cannot be read.
    fn divide(&mut self, bytes: &[u8], rest: RestOfText, pieces: &mut Vec<Piece>) -> Result<usize>;

    /// Adds the record that a piece is, if it is flat. Returns whether it is.
    fn add_flat(&self, bytes: &[u8], piece: Piece, to: &mut FlatTexts) -> bool {
        let _ = (bytes, piece, to);
        false
    }

    /// Parses a piece that begins in line `line`.
    fn resolve(&self, bytes: &[u8], piece: Piece, line: u64) -> Vec<Resolved>;

    /// The reason, if the text ends before its list of records does.
    fn is_unclosed(&self) -> bool;
}

/// The records that were read, for the size of a usual record.
#[derive(Default)]
struct Good {
    records: u64,
    bytes: u64,
    largest: usize,
}

impl Good {
    fn add(&mut self, length: usize) {
        self.records += 1;
        self.bytes += length as u64;
        self.largest = self.largest.max(length);
    }

    /// Whether a part of this size is one record rather than several.
    fn is_one(&self, length: usize) -> bool {
        self.records < FEW || length <= 2 * self.largest || self.hidden(length as u64) <= SURELY_ONE
    }

    /// The number of records that this number of bytes can hide.
    fn hidden(&self, bytes: u64) -> u64 {
        if self.records == 0 {
            return 1;
        }
        bytes.div_ceil((self.bytes / self.records).max(1)).max(1)
    }
}

/// The position in the file of the start of the buffer.
struct Position {
    offset: u64,
    line: u64,
}

/// Reads the whole source. Returns the damage.
pub fn read(
    path: &Path,
    source: &mut ByteSource,
    layout: &mut dyn Layout,
    max_bytes: usize,
    mut take: impl FnMut(Vec<RawRecord>, u64) -> Result<()>,
) -> Result<Vec<FileDamage>> {
    let cannot_read = || format!("cannot read {}", path.display());
    let largest = max_bytes.max(1 << 16);
    let (mut buffer, mut target) = (TextBuffer::default(), BUFFER.min(largest));
    let mut position = Position { offset: 0, line: 1 };
    let (mut chunk, mut good, mut damage) = (RecordChunk::first(), Good::default(), Vec::new());
    let mut pieces = Vec::new();
    let mut is_stuck = true;
    let mut is_end = false;
    loop {
        if is_stuck && !is_end {
            let missing = target.saturating_sub(buffer.len());
            is_end = buffer.fill(source, missing).with_context(cannot_read)? < missing;
            if position.offset == 0 && buffer.starts_with(MARK) {
                buffer.remove(MARK.len());
                position.offset += MARK.len() as u64;
            }
        }
        let rest = match () {
            () if is_end => RestOfText::Nothing,
            () if is_stuck && buffer.len() >= largest => RestOfText::TooFar,
            () => RestOfText::Comes,
        };
        pieces.clear();
        let done = layout.divide(&buffer, rest, &mut pieces)?;
        let (together, counted) = resolve_all(layout, &buffer, &pieces, &position);
        let resolved = together.into_iter().flat_map(|(all, flat)| {
            let mut flat = flat.records();
            all.into_iter().map(move |(resolved, line)| {
                let record = if matches!(resolved.outcome, Outcome::Flat) { flat.next() } else { None };
                (resolved, line, record)
            })
        });
        for (resolved, line, record) in resolved {
            let bytes = &buffer[resolved.start..resolved.end];
            let offset = position.offset + resolved.start as u64;
            match resolved.outcome {
                Outcome::Flat => {
                    good.add(bytes.len());
                    let record = record.context("raisin itself failed: a flat record is missing")?;
                    if let Some(full) = chunk.add(RawRecord::flat(line, offset, record)) {
                        take(full, source.taken())?;
                    }
                }
                Outcome::Good(parsed) if parsed.repeats == 0 => {
                    good.add(bytes.len());
                    if let Some(full) = chunk.add(RawRecord::text(line, offset, bytes, Ok(*parsed))) {
                        take(full, source.taken())?;
                    }
                }
                Outcome::Good(parsed) => damage.push(FileDamage {
                    records: parsed.repeats + 1,
                    ..FileDamage::of(line, offset, bytes, "records run into each other: a name stands in it twice")
                }),
                Outcome::Bad { reason, was } => {
                    if was == Was::One || was == Was::OneOrMore && good.is_one(bytes.len()) {
                        if let Some(full) = chunk.add(RawRecord::text(line, offset, bytes, Err(reason))) {
                            take(full, source.taken())?;
                        }
                    } else {
                        let hidden = good.hidden(bytes.len() as u64);
                        let records = match was {
                            Was::Several(least) => hidden.max(least),
                            Was::AtMost(most) => (hidden + 1).min(most),
                            Was::Start if good.is_one(bytes.len()) => 1,
                            Was::Part if good.is_one(bytes.len()) => 0,
                            Was::Part => hidden - 1,
                            Was::One | Was::OneOrMore | Was::Start => hidden,
                        };
                        join(&mut damage, FileDamage { records, ..FileDamage::of(line, offset, bytes, &reason) });
                    }
                }
            }
        }
        position.line = counted.line + lines_in(&buffer[counted.at..done]);
        position.offset += done as u64;
        buffer.remove(done);
        if is_end && (buffer.is_empty() || done == 0) {
            break;
        }
        is_stuck = pieces.is_empty() || buffer.len() < BUFFER / 4;
        // A record that is not complete yet needs a larger buffer.
        let needed = if done == 0 && is_stuck { 2 * buffer.len() } else { BUFFER };
        target = needed.max(BUFFER).min(largest);
    }
    if let Some(reason) = &source.failure {
        // The rest is as well compressed as the part before it.
        let packed = source.size.saturating_sub(source.taken());
        let bytes = u128::from(position.offset) * u128::from(packed) / u128::from(source.taken().max(1));
        damage.push(FileDamage {
            bytes: packed,
            lines: 0,
            records: if source.is_cut { 1 } else { good.hidden(bytes as u64) },
            is_cut: source.is_cut,
            ..FileDamage::of(position.line, position.offset, &[], reason)
        });
    } else if layout.is_unclosed() {
        let reason = "the file ends before the end of its list of records";
        damage.push(FileDamage::of(position.line, position.offset, &[], reason));
    }
    take(chunk.records, source.taken())?;
    Ok(damage)
}

/// The byte order mark that some editors write before UTF-8.
pub const MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

/// The number of pieces that one thread parses at a time.
const PIECES: usize = 128;

/// Results with their lines, and the flat records among them.
type ResolvedPieces = (Vec<(Resolved, u64)>, FlatTexts);

/// A place in the buffer, and its line in the file.
struct CountedPlace {
    at: usize,
    line: u64,
}

/// Parses the pieces on all cores, and adds the line of each result. Gives the last place whose line was counted, too.
fn resolve_all(
    layout: &dyn Layout,
    buffer: &[u8],
    pieces: &[Piece],
    position: &Position,
) -> (Vec<ResolvedPieces>, CountedPlace) {
    let (mut line, mut at) = (position.line, 0);
    let placed: Vec<(&[Piece], u64)> = pieces
        .chunks(PIECES)
        .map(|pieces| {
            line += lines_in(&buffer[at..pieces[0].start]);
            at = pieces[0].start;
            (pieces, line)
        })
        .collect();
    let resolve = |(pieces, line): &(&[Piece], u64)| {
        let bytes = pieces.last().map_or(0, |last| last.end - pieces[0].start);
        let (mut all, mut flat) = (Vec::with_capacity(pieces.len()), FlatTexts::expecting(pieces.len(), bytes));
        let (mut line, mut at) = (*line, pieces[0].start);
        for piece in *pieces {
            line += lines_in(&buffer[at..piece.start]);
            at = piece.start;
            if layout.add_flat(buffer, *piece, &mut flat) {
                // A flat record has no line ends.
                at = piece.end;
                all.push((Resolved { start: piece.start, end: piece.end, outcome: Outcome::Flat }, line));
                continue;
            }
            for resolved in layout.resolve(buffer, *piece, line) {
                line += lines_in(&buffer[at..resolved.start]);
                at = resolved.start;
                all.push((resolved, line));
            }
        }
        (all, flat)
    };
    (placed.par_iter().map(resolve).collect(), CountedPlace { at, line })
}

/// Adds damage. Damage without a gap to the last one is the same damage.
fn join(all: &mut Vec<FileDamage>, damage: FileDamage) {
    match all.last_mut() {
        Some(last) if last.offset + last.bytes == damage.offset => {
            last.bytes += damage.bytes;
            last.lines += damage.lines - 1;
            last.records += damage.records;
        }
        _ => all.push(FileDamage { records: damage.records.max(1), ..damage }),
    }
}

pub fn lines_in(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

impl RawRecord {
    fn text(line: u64, offset: u64, bytes: &[u8], parsed: Result<ParsedRecord, String>) -> Self {
        let head = bytes[..bytes.len().min(super::HEAD)].into();
        Self { line, offset, length: bytes.len(), content: Content::Text(Box::new(parsed), head) }
    }
}

impl FileDamage {
    fn of(line: u64, offset: u64, bytes: &[u8], reason: &str) -> Self {
        Self {
            line,
            offset,
            lines: lines_in(bytes) + 1,
            bytes: bytes.len() as u64,
            reason: reason.to_owned(),
            records: 1,
            is_cut: false,
            head: bytes[..bytes.len().min(super::HEAD)].into(),
        }
    }
}
