//! The cells of a table as text.

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::summary::type_name;
pub use raisin_base::columns::width as width_of;
use raisin_base::error::Result;
use raisin_base::printable::one_line;

pub struct Column {
    /// Whether the column has numbers, which are aligned to the right.
    pub is_right: bool,
    pub heading: String,
    pub type_name: String,
    pub cells: Vec<String>,
    least: usize,
}

impl Column {
    /// The largest width of a cell or of the heading.
    pub fn width(&self) -> usize {
        let cells = self.cells.iter().chain([&self.heading]).map(|cell| width_of(cell));
        cells.chain([self.least]).max().unwrap_or(0)
    }

    /// Makes the column at least this wide.
    pub fn widen(&mut self, least: usize) {
        self.least = self.least.max(least);
    }
}

pub fn columns(rows: &RecordBatch, null: &str) -> Result<Vec<Column>> {
    let schema = rows.schema();
    let column = |(field, array): (&std::sync::Arc<datafusion::arrow::datatypes::Field>, &ArrayRef)| {
        Ok(Column {
            is_right: array.data_type().is_numeric(),
            heading: one_line(field.name()).into_owned(),
            type_name: type_name(field.data_type()),
            cells: cells(array, null)?,
            least: 0,
        })
    };
    schema.fields().iter().zip(rows.columns()).map(column).collect()
}

fn cells(array: &ArrayRef, null: &str) -> Result<Vec<String>> {
    let floats: Option<Vec<Option<f64>>> = match array.data_type() {
        DataType::Float64 => Some(array.as_primitive::<Float64Type>().iter().collect()),
        DataType::Float32 => {
            Some(array.as_primitive::<Float32Type>().iter().map(|value| value.map(f64::from)).collect())
        }
        _ => None,
    };
    if let Some(floats) = floats {
        return Ok(floats.into_iter().map(|value| value.map_or(null.to_owned(), number)).collect());
    }
    let options = FormatOptions::default().with_null(null);
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
