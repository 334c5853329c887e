//! Divides CSV and TSV into rows. The first row names the columns.
//!
//! - Every cell is a text. An empty cell is null; a quoted empty cell, `""`, is an empty text. (pandas writes missing
//!   values and empty texts so.)
//! - A cell in quotes can contain the delimiter, line breaks and doubled quotes.
//! - A row with another number of cells than the header, or with text beside a quoted cell, is damaged. The next row
//!   begins at a line from which on the rows are right again.
//! - Quotes in a cell that does not begin with one are kept, as Python's `csv` does. If their number is odd, one of them
//!   at the end of the cell, or doubled, can be the rest of a lost pair: then the field counts as altered.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::divide::{Layout, MOST_PIECES, Piece, PieceKind, Resolved, RestOfText, Was, lines_in};
use super::parse::{Altered, NO_UTF8, ParsedRecord};
use raisin_base::error::{Problem, Result};

/// The byte between two cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub delimiter: u8,
}

/// The number of right rows after damage that make it certain that a line is the beginning of a row.
const SURE: usize = 20;

const ONE_QUOTE: &str = "ends with a quote that no other one opens";

pub struct Rows {
    file: String,
    dialect: Dialect,
    max_bytes: usize,
    header: Option<Vec<String>>,
    is_lost: bool,
    pub blank: u64,
}

/// The cells of one row.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    cells: Vec<Cell>,
    /// The position after the line break.
    next: usize,
    /// The end of the last cell.
    end: usize,
    fault: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    start: usize,
    end: usize,
    is_quoted: bool,
    has_quotes: bool,
}

/// Reads the row that begins at `start`; `None` if it does not end in the bytes. With `is_last`, every row ends.
fn row(bytes: &[u8], start: usize, delimiter: u8, is_last: bool) -> Option<Row> {
    let mut row = Row::default();
    let mut at = start;
    loop {
        let mut cell = Cell { start: at, end: at, is_quoted: false, has_quotes: false };
        if bytes.get(at) == Some(&b'"') {
            (cell.is_quoted, cell.start) = (true, at + 1);
            at += 1;
            loop {
                let Some(found) = memchr::memchr(b'"', bytes.get(at..).unwrap_or_default()) else {
                    if !is_last {
                        return None;
                    }
                    row.fault = Some("a quote is not closed");
                    (cell.end, at) = (bytes.len(), bytes.len());
                    break;
                };
                at += found + 1;
                if bytes.get(at) != Some(&b'"') {
                    if at == bytes.len() && !is_last {
                        return None;
                    }
                    cell.end = at - 1;
                    break;
                }
                cell.has_quotes = true;
                at += 1;
            }
        }
        loop {
            let found = memchr::memchr3(delimiter, b'\n', b'"', bytes.get(at..).unwrap_or_default());
            if found.is_none() && !is_last {
                return None;
            }
            let to = found.map_or(bytes.len(), |found| at + found);
            let is_end = bytes.get(to).is_none_or(|byte| *byte == b'\n');
            let text_end = if is_end && to > at && bytes[to - 1] == b'\r' { to - 1 } else { to };
            if !cell.is_quoted {
                cell.end = text_end;
            } else if text_end > at || bytes.get(to) == Some(&b'"') {
                row.fault = row.fault.or(Some("text stands after a quoted cell"));
            }
            at = to;
            if bytes.get(to) == Some(&b'"') {
                cell.has_quotes = true;
                at += 1;
                continue;
            }
            row.cells.push(cell);
            if is_end {
                (row.end, row.next) = (text_end.max(cell.end), (to + 1).min(bytes.len()));
                return Some(row);
            }
            at += 1;
            break;
        }
    }
}

/// The value of a cell, and why it is not certain.
fn value(bytes: &[u8], cell: Cell) -> (Value, Option<&'static str>) {
    let raw = &bytes[cell.start..cell.end];
    if raw.is_empty() && !cell.is_quoted {
        return (Value::Null, None);
    }
    let text = String::from_utf8_lossy(raw);
    let no_utf8 = matches!(text, std::borrow::Cow::Owned(_)).then_some(NO_UTF8);
    if cell.is_quoted {
        let text = if cell.has_quotes { text.replace("\"\"", "\"") } else { text.into_owned() };
        return (Value::String(text), no_utf8);
    }
    // The quotes of a cell that has lost its first one are odd in number.
    let is_odd = cell.has_quotes && memchr::memchr_iter(b'"', raw).count() % 2 == 1;
    let is_rest = is_odd && (raw.ends_with(b"\"") || text.contains("\"\""));
    (Value::String(text.into_owned()), no_utf8.or(is_rest.then_some(ONE_QUOTE)))
}

impl Rows {
    pub fn new(path: &Path, dialect: Dialect, max_bytes: usize) -> Self {
        Self { file: path.display().to_string(), dialect, max_bytes, header: None, is_lost: false, blank: 0 }
    }

    fn row(&self, bytes: &[u8], at: usize, is_last: bool) -> Option<Row> {
        row(bytes, at, self.dialect.delimiter, is_last)
    }

    fn columns(&self) -> usize {
        self.header.as_ref().map_or(0, Vec::len)
    }

    /// What is wrong with a row.
    fn fault(&self, row: &Row) -> Option<String> {
        row.fault.map(str::to_owned).or_else(|| {
            let (cells, columns) = (row.cells.len(), self.columns());
            (cells != columns).then(|| format!("the row has {cells} cells, and the first row names {columns} columns"))
        })
    }

    /// # Errors
    /// A name is empty or stands twice.
    fn read_header(&mut self, bytes: &[u8], row: &Row) -> Result<()> {
        let names: Vec<String> =
            row.cells.iter().map(|cell| value(bytes, *cell).0.as_str().unwrap_or_default().trim().to_owned()).collect();
        let refuse = |what: String, hint: &str| Err(Problem::new(format!("{}: {what}", self.file)).hint(hint).into());
        if let Some(fault) = row.fault {
            return refuse(
                format!("the first row, which names the columns, is damaged: {fault}"),
                "mend the first row",
            );
        }
        if let Some(at) = names.iter().position(String::is_empty) {
            return refuse(
                format!("column {} has no name in the first row", at + 1),
                "name each column; pandas writes a column without a name for its index: use to_csv(..., index=False)",
            );
        }
        let mut seen = BTreeSet::new();
        if let Some(name) = names.iter().find(|name| !seen.insert(*name)) {
            return refuse(format!("the first row names two columns `{name}`"), "rename one of them");
        }
        self.header = Some(names);
        Ok(())
    }

    /// The beginning of the next row after damage at `start`; `None` if the next bytes are needed to find it. Without
    /// such a row, the end of the bytes.
    fn next_row(&self, bytes: &[u8], start: usize, rest: RestOfText) -> Option<usize> {
        let is_last = rest != RestOfText::Comes;
        let mut at = start;
        loop {
            let Some(found) = memchr::memchr(b'\n', &bytes[at..]) else { return is_last.then_some(bytes.len()) };
            at += found + 1;
            let (mut next, mut is_quoted) = (at, false);
            let mut wrong = None;
            for _ in 0..SURE {
                if next >= bytes.len() || is_quoted {
                    break;
                }
                let row = self.row(bytes, next, is_last)?;
                let is_blank = row.end == next;
                if !is_blank && self.fault(&row).is_some() {
                    wrong = Some(next);
                    break;
                }
                is_quoted = row.cells.iter().any(|cell| cell.is_quoted);
                // The rest of a cell whose opening quote stands before the damage ends with a quote.
                if row.cells.iter().any(|cell| !cell.is_quoted && cell.has_quotes) {
                    wrong = Some(next);
                    break;
                }
                next = row.next;
            }
            match wrong {
                Some(wrong) => at = wrong,
                None => return Some(at),
            }
        }
    }
}

impl Layout for Rows {
    fn divide(&mut self, bytes: &[u8], rest: RestOfText, pieces: &mut Vec<Piece>) -> Result<usize> {
        let is_last = rest == RestOfText::Nothing;
        let mut at = 0;
        while at < bytes.len() && pieces.len() < MOST_PIECES {
            let is_too_far = rest == RestOfText::TooFar && pieces.is_empty();
            let row = self.row(bytes, at, is_last || is_too_far).unwrap_or_default();
            if row.next == 0 {
                break;
            }
            if row.end == at {
                self.blank += 1;
                at = row.next;
                continue;
            }
            if self.header.is_none() {
                self.read_header(bytes, &row)?;
                at = row.next;
                continue;
            }
            let is_lost = std::mem::take(&mut self.is_lost);
            if !is_lost && self.fault(&row).is_none() {
                pieces.push(Piece { start: at, end: row.end, kind: PieceKind::Whole });
                at = row.next;
                continue;
            }
            // A row without quotes ends at its line.
            let is_line = !is_lost && !bytes[at..row.end].contains(&b'"');
            let rest = if is_too_far { rest } else { rest.or_comes() };
            let Some(next) = (if is_line { Some(row.next) } else { self.next_row(bytes, at, rest) }) else { break };
            let end = at + bytes[at..next].trim_ascii_end().len();
            self.is_lost = next == bytes.len() && !is_last;
            pieces.push(Piece { start: at, end, kind: if is_line { PieceKind::Line } else { PieceKind::Broken } });
            at = next;
        }
        Ok(at)
    }

    fn resolve(&self, bytes: &[u8], piece: Piece, _line: u64) -> Vec<Resolved> {
        let Piece { start, end, kind } = piece;
        let text = &bytes[start..end];
        let header = self.header.as_deref().unwrap_or_default();
        let parsed = if text.len() > self.max_bytes {
            Err(format!("the record is too long to be read: more than {} bytes", self.max_bytes))
        } else {
            let row = self.row(text, 0, true).unwrap_or_default();
            match self.fault(&row) {
                Some(fault) => Err(fault),
                None if kind != PieceKind::Whole => Err("the row lies between damaged rows".to_owned()),
                None => {
                    let (mut entries, mut altered) = (Map::new(), Vec::new());
                    for (name, cell) in header.iter().zip(row.cells) {
                        let (value, doubt) = value(text, cell);
                        if let Some(why) = doubt {
                            altered.push(Altered { name: name.clone(), why });
                        }
                        entries.insert(name.clone(), value);
                    }
                    Ok(ParsedRecord { altered, ..ParsedRecord::of(Value::Object(entries)) })
                }
            }
        };
        let lines = lines_in(text) + 1;
        let was = if kind == PieceKind::Broken && lines > 1 { Was::AtMost(lines) } else { Was::One };
        vec![Resolved::of(start, end, parsed, was)]
    }

    fn is_unclosed(&self) -> bool {
        false
    }
}

impl RestOfText {
    fn or_comes(self) -> Self {
        if self == Self::Nothing { self } else { Self::Comes }
    }
}
