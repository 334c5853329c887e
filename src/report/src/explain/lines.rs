//! Text for a terminal: aligned tables, wrapped sentences, numbers.

use raisin_base::printable::one_line;

use crate::learned::EffectEstimate;
use crate::markup::{cut, two_decimals};

/// The width of sentences.
const WIDTH: usize = 110;
/// The greatest number of characters of a prompt.
const PROMPT: usize = 60;

/// A table with two spaces before each row. The columns for which `is_text` says so are aligned to the left.
pub fn table(headings: &[String], is_text: impl Fn(usize) -> bool, rows: &[Vec<String>]) -> String {
    let length = |cell: &String| cell.chars().count();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(headings.get(column));
        cells.map(length).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(headings).chain(rows.iter().map(Vec::as_slice)) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths.get(column).map_or(0, |width| width.saturating_sub(length(cell))));
            line += "  ";
            line += &if is_text(column) { format!("{cell}{padding}") } else { format!("{padding}{cell}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Sentences on lines of at most 110 characters, each of which begins with `indent`.
pub fn wrapped(text: &str, indent: &str) -> String {
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        let added = 1 + word.chars().count();
        if length > 0 && length + added <= WIDTH {
            lines += " ";
        } else {
            lines += if length > 0 { "\n" } else { "" };
            lines += indent;
            length = indent.len();
        }
        lines += word;
        length += added;
    }
    lines + "\n"
}

/// The beginning of a prompt on one line.
pub fn prompt(text: &str) -> String {
    cut(&one_line(text), PROMPT)
}

/// `+0.35 ± 0.20`: an effect and half the width of its 95 % interval. An effect that only the prior declares has none.
pub fn with_width(estimate: EffectEstimate) -> String {
    if estimate.deviation == 0.0 {
        return format!("{} declared", two_decimals(estimate.value));
    }
    format!("{} ± {:.2}", two_decimals(estimate.value), estimate.half_width())
}

/// `+0.35 (+0.15 to +0.55)`: an effect and its 95 % interval.
pub fn with_interval(estimate: EffectEstimate) -> String {
    let (low, high) = estimate.interval();
    format!("{} ({} to {})", two_decimals(estimate.value), two_decimals(low), two_decimals(high))
}

/// `1 time`, `3 times`.
pub fn times(count: usize) -> String {
    if count == 1 { "1 time".to_owned() } else { format!("{count} times") }
}
