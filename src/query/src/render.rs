//! Rows as an aligned text table. Numbers are aligned to the right, and strings are cut so that a row fits the
//! terminal.

use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use raisin_base::error::Result;
use raisin_base::printable::one_line;

/// The smallest width to which strings are cut, even on a narrow terminal.
const LEAST_WIDTH: usize = 12;
const GAP: &str = "  ";

/// The number of columns of the terminal that standard output is.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// A heading, a rule, and one line for each row. If `width` is given, strings are cut so that lines fit if possible.
pub fn table(rows: &RecordBatch, width: Option<usize>) -> Result<String> {
    let schema = rows.schema();
    let mut columns = Vec::new();
    for (field, array) in schema.fields().iter().zip(rows.columns()) {
        let is_right = array.data_type().is_numeric();
        columns.push(Column { is_right, heading: one_line(field.name()).into_owned(), cells: cells(array)? });
    }
    let mut widths: Vec<usize> = columns.iter().map(Column::width).collect();
    if let Some(width) = width {
        shrink(&columns, &mut widths, width);
    }
    let mut text = String::new();
    push_line(&mut text, columns.iter().map(|column| column.heading.as_str()), &columns, &widths);
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    push_line(&mut text, rules.iter().map(String::as_str), &columns, &widths);
    for row in 0..rows.num_rows() {
        push_line(&mut text, columns.iter().map(|column| column.cells[row].as_str()), &columns, &widths);
    }
    Ok(text)
}

struct Column {
    is_right: bool,
    heading: String,
    cells: Vec<String>,
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().chain([&self.heading]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

/// Narrows the widest text column until the line fits.
fn shrink(columns: &[Column], widths: &mut [usize], limit: usize) {
    let gaps = GAP.len() * columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let texts = (0..columns.len()).filter(|place| !columns[*place].is_right && widths[*place] > LEAST_WIDTH);
        let Some(widest) = texts.max_by_key(|place| widths[*place]) else { return };
        widths[widest] -= 1;
    }
}

fn push_line<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>, columns: &[Column], widths: &[usize]) {
    let mut line = String::new();
    for (place, ((cell, column), width)) in cells.zip(columns).zip(widths).enumerate() {
        if place > 0 {
            line.push_str(GAP);
        }
        let length = cell.chars().count();
        let padding = " ".repeat(width.saturating_sub(length));
        if length > *width {
            line.extend(cell.chars().take(width - 1));
            line.push('…');
        } else if column.is_right {
            line.push_str(&padding);
            line.push_str(cell);
        } else {
            line.push_str(cell);
            line.push_str(&padding);
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

fn cells(array: &ArrayRef) -> Result<Vec<String>> {
    let floats: Option<Vec<Option<f64>>> = match array.data_type() {
        DataType::Float64 => Some(array.as_primitive::<Float64Type>().iter().collect()),
        DataType::Float32 => {
            Some(array.as_primitive::<Float32Type>().iter().map(|value| value.map(f64::from)).collect())
        }
        _ => None,
    };
    if let Some(floats) = floats {
        return Ok(floats.into_iter().map(|value| value.map_or("null".to_owned(), number)).collect());
    }
    let options = FormatOptions::default().with_null("null");
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
    (0..array.len()).map(|row| Ok(one_line(&formatter.value(row).try_to_string()?).into_owned())).collect()
}

/// A number with six significant digits and without zeros at the end. Very small and very large numbers have an
/// exponent.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e15).contains(&magnitude) {
        let text = format!("{value:.5e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", without_zeros(digits));
    }
    let whole_digits = if magnitude < 1.0 { 0 } else { magnitude.log10().floor() as usize + 1 };
    let leading_zeros =
        if magnitude == 0.0 || magnitude >= 1.0 { 0 } else { -(magnitude.log10().floor()) as usize - 1 };
    let decimals = (6 + leading_zeros).saturating_sub(whole_digits);
    without_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn without_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray};
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
    fn numbers_have_six_digits_that_matter() {
        let shown: Vec<String> =
            [0.0, 1.0, 0.5, 123_456.789, 1_234_567.0, 0.000_123_456_7, 1e-9, 6.5e18, 1.0 / 3.0, -2.0, f64::NAN]
                .map(number)
                .to_vec();
        let expected = ["0", "1", "0.5", "123457", "1234567", "0.000123457", "1e-9", "6.5e18", "0.333333", "-2", "NaN"];
        assert_eq!(shown, expected);
    }
}
