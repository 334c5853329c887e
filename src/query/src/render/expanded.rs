//! Rows with one line for each column, for rows that are wider than the terminal.

use datafusion::arrow::array::RecordBatch;

use super::cells::{columns, width_of};
use raisin_base::error::Result;

/// A line with the number of the row, from 1, and one line for each column.
pub fn expanded(rows: &RecordBatch) -> Result<String> {
    let columns = columns(rows, "null")?;
    let width = columns.iter().map(|column| width_of(&column.heading)).max().unwrap_or(0);
    let mut text = String::new();
    for row in 0..rows.num_rows() {
        text.push_str(&format!("-- row {} --\n", row + 1));
        for column in &columns {
            let padding = " ".repeat(width - width_of(&column.heading));
            text.push_str(format!("{}{padding}  {}", column.heading, column.cells[row]).trim_end());
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{ArrayRef, Float64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn a_row_has_a_line_for_each_column() {
        let rows = raisin_table::batch(vec![
            ("instruction", Arc::new(StringArray::from(vec![Some("Add\ntwo"), None])) as ArrayRef),
            ("score", Arc::new(Float64Array::from(vec![0.5, 1e-9]))),
        ])
        .expect("columns of one length");
        insta::assert_snapshot!(expanded(&rows).expect("rendered"), @r"
        -- row 1 --
        instruction  Add\ntwo
        score        0.5
        -- row 2 --
        instruction  null
        score        1e-9
        ");
    }
}
