//! Makes a table of the records that a program wrote, as JSON lines, a JSON list or CSV. The types of the columns follow
//! from the values of all rows.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, FixedSizeListBuilder, Float32Builder, Float64Builder, Int64Builder, StringBuilder,
};
use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{DataType, Field, Schema};
use serde_json::{Map, Value};

use raisin_base::error::{Problem, Result};
use raisin_corpus::records::{FileFacts, MOST_BYTES, RecordLayout, for_each_chunk};
use raisin_table::{self as table, vector_type};

/// The type of a column, as far as its values tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ValueType {
    #[default]
    Null,
    Bool,
    Integer,
    Float,
    Text,
    /// A list of numbers of this length.
    Vector(usize),
    /// Lists and objects, written as JSON.
    Json,
}

impl ValueType {
    fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Integer | Self::Float => "a number",
            Self::Text => "a text",
            Self::Vector(_) => "a list of numbers",
            Self::Json => "a list or an object",
        }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Bool,
            Value::Number(number) if number.as_i64().is_some() => Self::Integer,
            Value::Number(_) => Self::Float,
            Value::String(_) => Self::Text,
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_number) => Self::Vector(items.len()),
            Value::Array(_) | Value::Object(_) => Self::Json,
        }
    }

    /// The type that the text of a cell of CSV could have.
    fn of_cell(text: &str) -> Self {
        if matches!(text, "true" | "false" | "True" | "False") {
            Self::Bool
        } else if text.parse::<i64>().is_ok() {
            Self::Integer
        } else if text.parse::<f64>().is_ok_and(f64::is_finite) {
            Self::Float
        } else {
            Self::Text
        }
    }

    /// The type that holds both; `None` if there is none.
    fn with(self, other: Self) -> Option<Self> {
        Some(match (self, other) {
            (one, other) if one == other => one,
            (Self::Null, one) | (one, Self::Null) => one,
            (Self::Integer, Self::Float) | (Self::Float, Self::Integer) => Self::Float,
            (Self::Vector(_) | Self::Json, Self::Vector(_) | Self::Json) => Self::Json,
            _ => return None,
        })
    }

    fn arrow(self) -> DataType {
        match self {
            // A column of nulls alone has the type that most columns can be compared with.
            Self::Null | Self::Text | Self::Json => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Vector(length) => vector_type(length),
        }
    }
}

/// A column, while its type is being found.
#[derive(Clone, Debug)]
struct FoundColumn {
    name: String,
    value_type: ValueType,
    /// In CSV, the type that all texts could have; a column of mixed texts is text.
    of_cells: ValueType,
}

/// Calls `take` with each record of a file that a program wrote, and its line.
///
/// # Errors
/// The file cannot be read, or a record is damaged or no object.
pub fn for_each_row(path: &Path, mut take: impl FnMut(u64, &Map<String, Value>) -> Result<()>) -> Result<FileFacts> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let wrong = |line: u64, what: String| Problem::new(format!("{name}, line {line}: {what}"));
    let facts = for_each_chunk(path, MOST_BYTES, |records, _| {
        for record in records {
            let value = record.value().map_err(|reason| Problem::new(format!("{name}: {reason}")))?;
            if let Some(altered) = record.altered().first() {
                let problem = wrong(record.line, altered.told());
                return Err(problem.hint("write null for a missing number").into());
            }
            let Value::Object(entries) = &*value else {
                let problem =
                    wrong(record.line, format!("the record is {}, not an object", ValueType::of(&value).name()));
                return Err(problem.hint("write one object for each row, such as {\"id\": 0, \"score\": 0.5}").into());
            };
            take(record.line, entries)?;
        }
        Ok(())
    })?;
    match facts.damage.first() {
        None => Ok(facts),
        Some(damage) => Err(wrong(damage.line, damage.told()).into()),
    }
}

/// Writes the records of a file as a table. Returns the number of rows.
///
/// # Errors
/// A record cannot be read, or a column has values of several types.
pub fn write_table(from: &Path, to: &Path) -> Result<u64> {
    let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut columns: Vec<FoundColumn> = Vec::new();
    let mut mixed: Option<(String, Problem)> = None;
    let mut rows = 0;
    let facts = for_each_row(from, |line, entries| {
        rows += 1;
        for (key, value) in entries {
            let place = columns.iter().position(|column| column.name == *key).unwrap_or_else(|| {
                let (value_type, of_cells) = (ValueType::Null, ValueType::Null);
                columns.push(FoundColumn { name: key.clone(), value_type, of_cells });
                columns.len() - 1
            });
            let column = &mut columns[place];
            let own = ValueType::of(value);
            match column.value_type.with(own) {
                Some(common) => column.value_type = common,
                None => {
                    mixed.get_or_insert_with(|| {
                        let (own, before) = (own.name(), column.value_type.name());
                        let message = format!("{name}, line {line}: `{key}` is {own}, and {before} in an earlier row");
                        let hint = "write one type in each column, or the whole column as text";
                        (key.clone(), Problem::new(message).hint(hint))
                    });
                }
            }
            if let Value::String(text) = value {
                column.of_cells = column.of_cells.with(ValueType::of_cell(text)).unwrap_or(ValueType::Text);
            }
        }
        Ok(())
    })?;
    if let Some((_, problem)) = mixed {
        return Err(problem.into());
    }
    if columns.is_empty() {
        let problem = Problem::new(format!("{name} has no records, so that its columns are not known"));
        return Err(problem.hint("write at least one record, or an empty Parquet file").into());
    }
    let is_csv = matches!(facts.layout.records, RecordLayout::Csv | RecordLayout::Tsv);
    if is_csv {
        columns.iter_mut().for_each(|column| column.value_type = column.of_cells);
    }
    let fields: Vec<Field> =
        columns.iter().map(|column| Field::new(&column.name, column.value_type.arrow(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let mut writer = table::Writer::create(to, Arc::clone(&schema))?;
    let mut chunk: Vec<Map<String, Value>> = Vec::new();
    let mut write = |chunk: &mut Vec<Map<String, Value>>| -> Result<()> {
        let arrays = columns.iter().map(|column| array(column, chunk)).collect();
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), arrays)?)?;
        chunk.clear();
        Ok(())
    };
    for_each_row(from, |_, entries| {
        chunk.push(entries.clone());
        if chunk.len() == 4096 { write(&mut chunk) } else { Ok(()) }
    })?;
    write(&mut chunk)?;
    writer.close()?;
    Ok(rows)
}

/// The values of a column in these rows. A row without the column has a null.
fn array(column: &FoundColumn, rows: &[Map<String, Value>]) -> ArrayRef {
    let values = rows.iter().map(|row| row.get(&column.name).unwrap_or(&Value::Null));
    let number = |value: &Value| match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_f64(),
    };
    match column.value_type {
        ValueType::Null => new_null_array(&DataType::Utf8, rows.len()),
        ValueType::Bool => {
            let mut builder = BooleanBuilder::new();
            let of = |value: &Value| value.as_bool().or_else(|| Some(value.as_str()?.eq_ignore_ascii_case("true")));
            values.for_each(|value| builder.append_option(of(value)));
            Arc::new(builder.finish())
        }
        ValueType::Integer => {
            let mut builder = Int64Builder::new();
            let of = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
            values.for_each(|value| builder.append_option(of(value)));
            Arc::new(builder.finish())
        }
        ValueType::Float => {
            let mut builder = Float64Builder::new();
            values.for_each(|value| builder.append_option(number(value)));
            Arc::new(builder.finish())
        }
        ValueType::Text => {
            let mut builder = StringBuilder::new();
            values.for_each(|value| builder.append_option(value.as_str()));
            Arc::new(builder.finish())
        }
        ValueType::Json => {
            let mut builder = StringBuilder::new();
            values.for_each(|value| builder.append_option((!value.is_null()).then(|| value.to_string())));
            Arc::new(builder.finish())
        }
        ValueType::Vector(length) => {
            let item = Field::new("item", DataType::Float32, false);
            let width = i32::try_from(length).unwrap_or(i32::MAX);
            let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), width).with_field(item);
            for value in values {
                let items = value.as_array();
                for place in 0..length {
                    let number = items.and_then(|items| items.get(place)).and_then(Value::as_f64);
                    builder.values().append_value(number.unwrap_or_default() as f32);
                }
                builder.append(items.is_some());
            }
            Arc::new(builder.finish())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Array as _, BooleanArray, FixedSizeListArray, Float64Array, Int64Array, StringArray};
    use raisin_base::error::render;

    fn of(name: &str, text: &str) -> Result<RecordBatch> {
        let folder = tempfile::tempdir()?;
        let (from, to) = (folder.path().join(name), folder.path().join("made.parquet"));
        std::fs::write(&from, text)?;
        let rows = write_table(&from, &to)?;
        let made = table::read(&to)?;
        assert_eq!(made.num_rows() as u64, rows);
        Ok(made)
    }

    #[test]
    fn json_lines_become_columns_of_the_types_of_their_values() -> Result<()> {
        let text = "{\"id\": 1, \"score\": 1, \"good\": true, \"v\": [1, 2.5], \"tags\": [\"a\"], \"none\": null}\n\
                    {\"id\": 2, \"score\": 0.5, \"v\": null, \"tags\": {\"b\": 1}, \"text\": \"é\"}\n";
        let rows = of("a.jsonl", text)?;
        assert_eq!(table::column::<Int64Array>(&rows, "id")?.values(), &[1, 2]);
        assert_eq!(table::column::<Float64Array>(&rows, "score")?.values(), &[1.0, 0.5]);
        let good: &BooleanArray = table::column(&rows, "good")?;
        assert!(good.value(0) && good.is_null(1));
        let vectors: &FixedSizeListArray = table::column(&rows, "v")?;
        assert!(vectors.value_length() == 2 && vectors.is_null(1));
        assert_eq!(table::column::<StringArray>(&rows, "tags")?.value(1), "{\"b\":1}");
        assert_eq!(table::column::<StringArray>(&rows, "text")?.value(1), "é");
        assert_eq!(table::column::<StringArray>(&rows, "none")?.null_count(), 2);
        Ok(())
    }

    #[test]
    fn cells_of_csv_have_the_type_that_all_of_them_can_have() -> Result<()> {
        let rows = of("a.csv", "id,score,name,flag,empty\n1,0.5,7,True,\n2,,x,false,\n")?;
        assert_eq!(table::column::<Int64Array>(&rows, "id")?.values(), &[1, 2]);
        assert!(table::column::<Float64Array>(&rows, "score")?.is_null(1));
        assert_eq!(table::column::<StringArray>(&rows, "name")?.value(0), "7");
        assert!(table::column::<BooleanArray>(&rows, "flag")?.value(0));
        assert_eq!(table::column::<StringArray>(&rows, "empty")?.null_count(), 2);
        Ok(())
    }

    #[test]
    fn rows_that_are_no_table_are_refused_with_file_line_and_value() {
        let said = |name: &str, text: &str| render(&of(name, text).unwrap_err());
        let mixed = said("a.jsonl", "{\"a\": 1}\n{\"a\": \"x\"}\n");
        assert!(mixed.contains("a.jsonl, line 2: `a` is a text, and a number in an earlier row"), "{mixed}");
        let nan = said("a.jsonl", "{\"a\": 1}\n{\"a\": NaN}\n");
        assert!(nan.contains("a.jsonl, line 2: `a` holds NaN") && nan.contains("write null"), "{nan}");
        let scalar = said("a.jsonl", "{\"a\": 1}\n3\n");
        assert!(scalar.contains("line 2"), "{scalar}");
        let cut = said("a.jsonl", "{\"a\": 1}\n{\"a\": \n");
        assert!(cut.contains("a.jsonl"), "{cut}");
        let none = said("a.csv", "id,score\n");
        assert!(none.contains("a.csv has no records"), "{none}");
    }
}
