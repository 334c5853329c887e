//! Text on a terminal: the width of a text, columns, and lines that are wrapped where they are too long.

use raisin_base::columns::{padded, width};

/// The number of columns of the terminal on standard error; 100 if standard error is no terminal.
pub fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if size == 0 { 100 } else { size }
}

/// The text with spaces up to this width, before the text if `right`.
fn filled(text: &str, to: usize, right: bool) -> String {
    if right { format!("{:1$}{text}", "", to.saturating_sub(width(text))) } else { padded(text, to) }
}

/// Lines of words with at most this width, if no word is longer. The lines after the first begin with `indent`.
pub fn wrapped(words: &[&str], between: &str, indent: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if width(line) + width(between) + width(word) <= most => {
                line.push_str(between);
                line.push_str(word);
            }
            None => lines.push((*word).to_owned()),
            Some(_) => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

/// Rows of cells as aligned lines. `right` says for each column whether its cells end at the same place. If the lines
/// are wider than `most`, each row is wrapped instead, and no cell is cut.
pub fn aligned(rows: &[Vec<String>], right: &[bool], most: usize) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<usize> =
        (0..count).map(|column| rows.iter().map(|row| width(&cell(row, column))).max().unwrap_or(0)).collect();
    let shown: Vec<usize> = (0..count).filter(|column| widths[*column] > 0).collect();
    let line = |row: &Vec<String>| {
        let is_right = |column: usize| right.get(column).copied().unwrap_or(false);
        let cells: Vec<String> = shown.iter().map(|at| filled(&cell(row, *at), widths[*at], is_right(*at))).collect();
        format!("  {}", cells.join("  ")).trim_end().to_owned()
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    if lines.iter().all(|line| width(line) <= most) {
        return lines;
    }
    let flow = |row: &Vec<String>| {
        let cells: Vec<&str> = row.iter().map(String::as_str).filter(|cell| !cell.is_empty()).collect();
        wrapped(&cells, "  ", "    ", most.saturating_sub(2))
    };
    rows.iter().flat_map(flow).map(|line| format!("  {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_wide_letters_are_aligned_and_narrow_lines_lose_nothing() {
        let rows = [["训练", "1.5", ""], ["random", "10.25", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows, &[false, true], 80), ["  训练      1.5", "  random  10.25"]);
        assert_eq!(aligned(&rows, &[false, true], 12), ["  训练  1.5", "  random", "      10.25"]);
        assert_eq!(wrapped(&["one", "two", "three"], " ", "  ", 7), ["one two", "  three"]);
    }
}
