//! The columns of a row that a query can set: its weight, its source and its tags.

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type, Schema};

use raisin_base::error::{Problem, Result};
use raisin_corpus::set::set_type;
use raisin_table::with_column;

/// The name of a column in the answer, and in the table `instructions`: the column `source` there is the number of the file.
const COLUMNS: [(&str, &str); 3] = [("weight", "weight"), ("source", "source_name"), ("tags", "tags")];

/// The columns of an answer that set something.
pub struct SetColumns {
    /// The names in the answer and in the table, and the place in the answer.
    columns: Vec<(&'static str, &'static str, usize)>,
}

impl SetColumns {
    /// # Errors
    /// A column has a type that cannot be its value.
    pub fn of(schema: &Schema, names: &[String]) -> Result<Self> {
        let place = |name: &str| names.iter().position(|other| other == name);
        let found = COLUMNS.into_iter().filter_map(|(given, stored)| Some((given, stored, place(given)?)));
        let columns: Vec<_> = found.collect();
        for (given, _, place) in &columns {
            let data_type = schema.field(*place).data_type();
            let (fits, what, hint) = match *given {
                "weight" => (data_type.is_numeric(), "no number", "cast(... as double)"),
                "source" => (data_type.is_string(), "no text", "cast(... as varchar)"),
                _ => (is_list_of_texts(data_type), "no list of texts", "make_array('a', 'b')"),
            };
            if !fits && !data_type.is_null() {
                let problem = format!("the query gives a `{given}` of type {data_type}, which is {what}");
                return Err(Problem::usage(problem).hint(format!("give the column another name, or {hint}")).into());
            }
        }
        Ok(Self { columns })
    }

    pub fn has(&self, place: usize) -> bool {
        self.columns.iter().any(|(_, _, other)| *other == place)
    }

    /// The names in the answer, for people.
    pub fn names(&self) -> Vec<&'static str> {
        self.columns.iter().map(|(given, _, _)| *given).collect()
    }

    /// The rows with the given values. Row for row, they belong to those of the answer, whose first column is `id`.
    ///
    /// # Errors
    /// A value cannot be used; the error names the first such row.
    pub fn set(&self, mut rows: RecordBatch, answer: &RecordBatch) -> Result<RecordBatch> {
        let ids = answer.column(0).as_primitive::<Int64Type>();
        for (given, stored, place) in &self.columns {
            let values = cast(answer.column(*place), &set_type(stored))?;
            let mut valid = (0..values.len()).filter(|row| values.is_valid(*row));
            if let Some((row, what)) = valid.find_map(|row| Some((row, fault(given, &values, row)?))) {
                let message = format!("the query gives row {} of the pool {what}", ids.value(row));
                return Err(Problem::new(message).hint("give null, or leave such rows out in WHERE").into());
            }
            rows = with_column(&rows, stored, &values)?;
        }
        Ok(rows)
    }
}

fn is_list_of_texts(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => item.data_type().is_string() || item.data_type().is_null(),
        _ => false,
    }
}

/// Why a value that is not null cannot be used, as the end of a sentence.
fn fault(given: &str, values: &ArrayRef, row: usize) -> Option<String> {
    match given {
        "weight" => {
            let weight = values.as_primitive::<Float64Type>().value(row);
            let is_weight = weight.is_finite() && weight > 0.0;
            (!is_weight).then(|| format!("the weight {weight}: a weight is a number above 0"))
        }
        "source" => values.as_string::<i32>().value(row).is_empty().then(|| "an empty `source`".to_owned()),
        _ => {
            let tags = values.as_list::<i32>().value(row);
            let is_empty = tags.as_string::<i32>().iter().any(|tag| tag.is_none_or(str::is_empty));
            is_empty.then(|| "a tag that is null or empty".to_owned())
        }
    }
}
