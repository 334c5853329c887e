//! Rows of a Parquet file as JSON values, so that the readers of all formats read the same kind of record.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef};
use arrow_cast::display::array_value_to_string;
use arrow_schema::{DataType, FieldRef, Fields};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::records::RawRecord;
use raisin_base::error::{Context as _, Result};

/// The number of rows that are decoded together. A row of a Parquet file can be far larger than its share of the file,
/// because equal values are stored once. Therefore few rows are decoded at a time.
const DECODED: usize = 128;

/// Calls `take` with each row as a record, in order, and with the number of bytes read so far, which is estimated from
/// the share of rows.
pub fn for_each_record(path: &Path, mut take: impl FnMut(RawRecord, u64) -> Result<()>) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata()?.len();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .with_context(|| format!("{} is not a readable Parquet file", path.display()))?
        .with_batch_size(DECODED);
    let total = u64::try_from(builder.metadata().file_metadata().num_rows())?.max(1);
    let mut line: u64 = 0;
    for batch in builder.build()? {
        let batch = batch.with_context(|| format!("cannot read {} after row {line}", path.display()))?;
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            line += 1;
            // The product of two large numbers needs more than 64 bits.
            let read = u128::from(size) * u128::from(line) / u128::from(total);
            take(RawRecord::row(line, object(schema.fields(), batch.columns(), row)?), u64::try_from(read)?)?;
        }
    }
    Ok(())
}

/// A row of columns as a JSON object.
fn object(fields: &Fields, columns: &[ArrayRef], row: usize) -> Result<Value> {
    let entry = |(field, column): (&FieldRef, &ArrayRef)| Ok((field.name().clone(), value(column, row)?));
    fields.iter().zip(columns).map(entry).collect::<Result<_>>().map(Value::Object)
}

fn value(array: &ArrayRef, row: usize) -> Result<Value> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let list = |items: ArrayRef| (0..items.len()).map(|index| value(&items, index)).collect::<Result<Value>>();
    Ok(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::List(_) => list(array.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(row))?,
        DataType::Struct(fields) => object(fields, array.as_struct().columns(), row)?,
        // Numbers stay numbers. Other types, such as dates and dictionaries, become the text that Arrow prints.
        kind => {
            let text = array_value_to_string(array, row)?;
            let number = kind.is_numeric().then(|| serde_json::from_str(&text).ok()).flatten();
            number.unwrap_or(Value::String(text))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
    use arrow_array::{Int64Array, LargeStringArray};
    use arrow_schema::Field;
    use raisin_table as table;
    use std::sync::Arc;

    #[test]
    fn texts_numbers_and_lists_of_structs_become_json() -> Result<()> {
        let fields =
            Fields::from(vec![Field::new("role", DataType::Utf8, true), Field::new("content", DataType::Utf8, true)]);
        let mut turns = ListBuilder::new(StructBuilder::from_fields(fields, 1));
        for (index, text) in [(0, "user"), (1, "hi")] {
            turns.values().field_builder::<StringBuilder>(index).expect("a text column").append_value(text);
        }
        turns.values().append(true);
        turns.append(true);
        turns.append(false);
        let rows = table::batch(vec![
            ("n", Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef),
            ("text", Arc::new(LargeStringArray::from(vec![Some("é"), None]))),
            ("messages", Arc::new(turns.finish())),
        ])?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.parquet");
        table::write(&path, &rows)?;
        let mut values = Vec::new();
        super::super::records::for_each_chunk(&path, 100, |records, _| {
            for record in records {
                values.push((record.line, record.value().map_err(raisin_base::error::Error::msg)?.into_owned()));
            }
            Ok(())
        })?;
        assert_eq!(
            values,
            [
                (1, serde_json::json!({"n": 7, "text": "é", "messages": [{"role": "user", "content": "hi"}]})),
                (2, serde_json::json!({"n": 8, "text": null, "messages": null})),
            ]
        );
        Ok(())
    }
}
