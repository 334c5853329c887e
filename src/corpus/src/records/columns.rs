//! Rows of columns as JSON values, so that the readers of all formats read the same kind of record.
//!
//! A value that JSON cannot hold becomes null, and its column counts as altered: the row is lost only for a reader of
//! the column.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::array_value_to_string;
use arrow_schema::{DataType, FieldRef, Fields, Schema};
use serde_json::{Map, Value};

use super::RawRecord;
use super::flat::{FlatRecord, FlatRows};
use super::parse::{Altered, NO_UTF8, ParsedRecord, TWICE};

/// Why a column is not what the file says.
type Lost = Option<&'static str>;

const NO_JSON: &str = "holds a value that JSON does not have, such as NaN";

/// A number with more digits stays a text: JSON's readers would round it.
const EXACT_DIGITS: usize = 15;

/// Calls `take` with each row of the batch. `line` is the number of the row before the first one.
pub fn rows(batch: &RecordBatch, line: u64) -> impl Iterator<Item = RawRecord> + '_ {
    let columns: Vec<ArrayRef> = batch.columns().iter().map(plain).collect();
    let flat = FlatRows::of(batch, &columns);
    (0..batch.num_rows()).map(move |row| {
        let place = line + row as u64 + 1;
        match flat.as_ref().and_then(|rows| FlatRecord::of_row(rows, row)) {
            Some(record) => RawRecord::flat(place, 0, record),
            None => RawRecord::row(place, parsed(batch.schema_ref(), &columns, row)),
        }
    })
}

/// A row as the readers of all formats read it.
pub fn parsed(schema: &Schema, columns: &[ArrayRef], row: usize) -> ParsedRecord {
    let (mut entries, mut altered) = (Map::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(columns) {
        let mut lost = None;
        let value = value(column, row, &mut lost);
        if put(&mut entries, field.name(), value) {
            lost = Some(TWICE);
        }
        if let Some(why) = lost {
            altered.push(Altered { name: field.name().clone(), why });
        }
    }
    ParsedRecord { altered, ..ParsedRecord::of(Value::Object(entries)) }
}

/// Runs the decoder of a library. A damaged file may cause a panic in it.
pub fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err("the decoder failed on damaged bytes".to_owned()))
}

/// The column without a dictionary.
fn plain(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Dictionary(_, of) => arrow_cast::cast(column, of).unwrap_or_else(|_| column.clone()),
        _ => column.clone(),
    }
}

/// Sets a field. Returns whether it had another value before: files can have two columns of one name.
fn put(entries: &mut Map<String, Value>, name: &str, value: Value) -> bool {
    let before = entries.insert(name.to_owned(), value);
    before.is_some_and(|before| entries.get(name) != Some(&before))
}

fn value(array: &ArrayRef, row: usize, altered: &mut Lost) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    let mut list = |items: ArrayRef| (0..items.len()).map(|index| value(&items, index, altered)).collect();
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Binary => text(array.as_binary::<i32>().value(row), altered),
        DataType::LargeBinary => text(array.as_binary::<i64>().value(row), altered),
        DataType::BinaryView => text(array.as_binary_view().value(row), altered),
        DataType::FixedSizeBinary(_) => text(array.as_fixed_size_binary().value(row), altered),
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::List(_) => list(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row)),
        DataType::ListView(_) => list(array.as_list_view::<i32>().value(row)),
        DataType::LargeListView(_) => list(array.as_list_view::<i64>().value(row)),
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => object(fields, array.as_struct().columns(), row, altered),
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let [names, values] = entries.columns() else { return lost(altered, NO_JSON) };
            let mut all = Map::new();
            for index in 0..entries.len() {
                let name = match value(names, index, altered) {
                    Value::String(name) => name,
                    name => name.to_string(),
                };
                let value = value(values, index, altered);
                if put(&mut all, &name, value) {
                    *altered = Some(TWICE);
                }
            }
            Value::Object(all)
        }
        // Inside lists and structs. A column is changed as a whole before (`plain`).
        DataType::Dictionary(_, of) => match arrow_cast::cast(&array.slice(row, 1), of) {
            Ok(one) => value(&one, 0, altered),
            Err(_) => lost(altered, NO_JSON),
        },
        // Numbers stay numbers. Other types, such as dates, become the text that Arrow prints.
        kind => match array_value_to_string(array, row) {
            Err(_) => lost(altered, NO_JSON),
            Ok(printed) if !kind.is_numeric() => Value::String(printed),
            Ok(printed) => match serde_json::from_str::<Value>(&printed) {
                Ok(number) if !kind.is_decimal() || digits(&printed) <= EXACT_DIGITS => number,
                Ok(_) => Value::String(printed),
                // NaN and infinity.
                Err(_) => lost(altered, NO_JSON),
            },
        },
    }
}

fn digits(number: &str) -> usize {
    number.bytes().filter(u8::is_ascii_digit).count()
}

/// Bytes as text. Some programs write texts as bytes without the mark of a text.
fn text(bytes: &[u8], altered: &mut Lost) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| lost(altered, NO_UTF8), Value::from)
}

fn lost(altered: &mut Lost, why: &'static str) -> Value {
    *altered = Some(why);
    Value::Null
}

fn object(fields: &Fields, columns: &[ArrayRef], row: usize, altered: &mut Lost) -> Value {
    let mut entries = Map::new();
    for (field, column) in fields.iter().zip(columns) {
        let field: &FieldRef = field;
        let value = value(column, row, altered);
        if put(&mut entries, field.name(), value) {
            *altered = Some(TWICE);
        }
    }
    Value::Object(entries)
}
