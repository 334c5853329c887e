//! Rows as a table for people: aligned text, or a frame. Numbers are aligned to the right, and strings are cut so that a
//! row fits the terminal.

use datafusion::arrow::array::RecordBatch;

use super::cells::{Column, columns, width_of};
use raisin_base::error::Result;

/// The smallest width to which strings are cut, even on a narrow terminal.
const LEAST_WIDTH: usize = 12;
const GAP: &str = "  ";

/// What divides the columns of a table.
struct Lines {
    /// Between two columns, before the first one and behind the last one.
    between: &'static str,
    edge: (&'static str, &'static str),
    /// The letter of a rule.
    rule: &'static str,
}

const PLAIN: Lines = Lines { between: GAP, edge: ("", ""), rule: "-" };
const FRAME: Lines = Lines { between: " │ ", edge: ("│ ", " │"), rule: "─" };

/// A heading, a rule, and one line for each row. If `width` is given, strings are cut so that lines fit if possible.
pub fn table(rows: &RecordBatch, width: Option<usize>) -> Result<String> {
    let columns = columns(rows, "null")?;
    let widths = widths(&columns, width, &PLAIN);
    let mut text = String::new();
    push_line(&mut text, columns.iter().map(|column| column.heading.as_str()), &columns, &widths, &PLAIN);
    let rules: Vec<String> = widths.iter().map(|width| PLAIN.rule.repeat(*width)).collect();
    push_line(&mut text, rules.iter().map(String::as_str), &columns, &widths, &PLAIN);
    for row in 0..rows.num_rows() {
        push_line(&mut text, columns.iter().map(|column| column.cells[row].as_str()), &columns, &widths, &PLAIN);
    }
    Ok(text)
}

/// As [`table`], in a frame, with the types below the headings.
pub fn boxed(rows: &RecordBatch, width: Option<usize>) -> Result<String> {
    let mut columns = columns(rows, "null")?;
    for column in &mut columns {
        column.widen(width_of(&column.type_name));
    }
    let widths = widths(&columns, width, &FRAME);
    let rule = |left: &str, between: &str, right: &str| {
        let rules: Vec<String> = widths.iter().map(|width| FRAME.rule.repeat(width + 2)).collect();
        format!("{left}{}{right}\n", rules.join(between))
    };
    let mut text = rule("┌", "┬", "┐");
    push_line(&mut text, columns.iter().map(|column| column.heading.as_str()), &columns, &widths, &FRAME);
    push_line(&mut text, columns.iter().map(|column| column.type_name.as_str()), &columns, &widths, &FRAME);
    text.push_str(&rule("├", "┼", "┤"));
    for row in 0..rows.num_rows() {
        push_line(&mut text, columns.iter().map(|column| column.cells[row].as_str()), &columns, &widths, &FRAME);
    }
    text.push_str(&rule("└", "┴", "┘"));
    Ok(text)
}

/// The widths of the columns. The widest text column is narrowed until the line fits.
fn widths(columns: &[Column], limit: Option<usize>, lines: &Lines) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(Column::width).collect();
    let Some(limit) = limit else { return widths };
    let between = width_of(lines.between) * columns.len().saturating_sub(1);
    let edges = width_of(lines.edge.0) + width_of(lines.edge.1);
    while widths.iter().sum::<usize>() + between + edges > limit {
        let texts = (0..columns.len()).filter(|place| !columns[*place].is_right && widths[*place] > LEAST_WIDTH);
        let Some(widest) = texts.max_by_key(|place| widths[*place]) else { break };
        widths[widest] -= 1;
    }
    widths
}

fn push_line<'a>(
    text: &mut String,
    cells: impl Iterator<Item = &'a str>,
    columns: &[Column],
    widths: &[usize],
    lines: &Lines,
) {
    let mut line = lines.edge.0.to_owned();
    for (place, ((cell, column), width)) in cells.zip(columns).zip(widths).enumerate() {
        if place > 0 {
            line.push_str(lines.between);
        }
        let length = width_of(cell);
        let padding = " ".repeat(width.saturating_sub(length));
        if length > *width {
            line.push_str(&cut(cell, *width));
        } else if column.is_right {
            line.push_str(&padding);
            line.push_str(cell);
        } else {
            line.push_str(cell);
            line.push_str(&padding);
        }
    }
    line.push_str(lines.edge.1);
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The beginning of a text, with an ellipsis, in exactly this width. A wide letter (of Chinese, for example) takes two
/// columns of the terminal.
fn cut(text: &str, width: usize) -> String {
    let (mut cut, mut taken) = (String::new(), 0);
    for letter in text.chars() {
        let more = width_of(letter.encode_utf8(&mut [0; 4]));
        if taken + more + 1 > width {
            break;
        }
        taken += more;
        cut.push(letter);
    }
    cut + "…" + &" ".repeat(width.saturating_sub(taken + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    fn rows() -> RecordBatch {
        raisin_table::batch(vec![
            ("step", Arc::new(Int64Array::from(vec![Some(1), Some(200), None])) as ArrayRef),
            (
                "instruction",
                Arc::new(StringArray::from(vec!["Add\ntwo", "a long line that goes on and on", "\u{1b}[31mred"])),
            ),
            ("score", Arc::new(Float64Array::from(vec![0.123_456_789, -1234.5, 1e-7]))),
            ("kept", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ])
        .expect("columns of one length")
    }

    #[test]
    fn a_table_aligns_numbers_right_and_keeps_a_row_on_its_line() {
        insta::assert_snapshot!(table(&rows(), None).expect("rendered"), @r"
        step  instruction                         score  kept
        ----  -------------------------------  --------  -----
           1  Add\ntwo                         0.123457  true
         200  a long line that goes on and on   -1234.5  false
        null  \u{1b}[31mred                        1e-7  null
        ");
    }

    #[test]
    fn on_a_narrow_terminal_text_is_cut_and_numbers_are_not() {
        insta::assert_snapshot!(table(&rows(), Some(35)).expect("rendered"), @r"
        step  instruction      score  kept
        ----  ------------  --------  -----
           1  Add\ntwo      0.123457  true
         200  a long line…   -1234.5  false
        null  \u{1b}[31mr…      1e-7  null
        ");
    }

    #[test]
    fn a_frame_has_the_types_and_wide_letters_take_two_columns() {
        let rows = raisin_table::batch(vec![
            ("名前", Arc::new(StringArray::from(vec!["日本語の長い文です", "short"])) as ArrayRef),
            ("n", Arc::new(Int64Array::from(vec![1, 20]))),
        ])
        .expect("columns of one length");
        insta::assert_snapshot!(boxed(&rows, Some(28)).expect("rendered"), @r"
            ┌──────────────────┬───────┐
            │ 名前             │     n │
            │ Utf8             │ Int64 │
            ├──────────────────┼───────┤
            │ 日本語の長い文…  │     1 │
            │ short            │    20 │
            └──────────────────┴───────┘
            ");
    }
}
