//! The role `features`: checks the embeddings that a program wrote, and makes the tables that the kind `features` makes.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
    new_null_array,
};
use arrow_cast::cast;
use arrow_schema::{DataType, Field};
use arrow_select::take::take;

use super::results::{input_with, remove, written, written_if_there};
use super::rows;
use raisin_base::error::{Context as _, Problem, Result, nearest};
use raisin_contract::Context;
use raisin_kinds::command::Parameters;
use raisin_table::{self as table, WriteTable as _, vector_type};

const EMBEDDING: &str = "embedding";
/// By default equal to `embedding`.
const WEIGHTED: &str = "weighted_embedding";
/// Why a row has no embedding; a program may say it in its own words.
const MISSING: &str = "missing";
/// Whole numbers, of which each may be absent.
const COUNTS: [&str; 3] = ["prompt_tokens", "response_tokens", "unconditional_tokens"];
/// Numbers of which each may be absent.
const LOG_PROBABILITIES: [&str; 2] = ["logp_conditional", "logp_unconditional"];

/// Takes the table `features`, and `validation_features` if the program wrote it.
///
/// # Errors
/// A row belongs to no instruction, or a column has another form.
pub fn take_features(parameters: &Parameters, context: &Context) -> Result<()> {
    let hint = "give the program a pool, for example {pool.instructions.jsonl}";
    let Some(pool) = input_with("instructions", parameters, context)? else {
        let problem = Problem::new("features belong to a pool, and no input has a table `instructions`");
        return Err(problem.hint(hint).into());
    };
    take_table("features", &written("features", context)?, &pool.join("instructions.parquet"), context)?;
    let Some(path) = written_if_there("validation_features", context)? else { return Ok(()) };
    let Some(task) = input_with("validation", parameters, context)? else {
        let problem = Problem::new("the program wrote validation_features, and no input has a table `validation`");
        return Err(problem.hint("give the program a task, for example {task.validation.jsonl}").into());
    };
    take_table("validation_features", &path, &task.join("validation.parquet"), context)
}

/// Takes one table of features, of the rows of the table `of`.
fn take_table(name: &str, path: &Path, of: &Path, context: &Context) -> Result<()> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let count = usize::try_from(table::rows(of)?)?;
    let read = context.temporary().join(format!("{name}.parquet"));
    std::fs::create_dir_all(context.temporary()).context("cannot create the folder for temporary files")?;
    if path.extension().is_some_and(|ending| ending == "parquet") {
        std::fs::rename(path, &read).with_context(|| format!("cannot move {}", path.display()))?;
    } else {
        rows::write_table(path, &read)?;
        remove(path)?;
    }
    let found = WrittenFeatures::open(&read, &file, count)?;
    let mut writer = context.table_writer(name, Arc::new(found.schema()))?;
    let mut tally = FeatureTally::default();
    found.for_each_part(|rows| {
        tally.add(&rows);
        writer.write(&rows)
    })?;
    writer.close()?;
    let told = [(tally.without_row, "row"), (tally.without_embedding, "embedding")];
    for (rows, what) in told.into_iter().filter(|(rows, _)| *rows > 0) {
        let of = if name == "features" { "instructions" } else { "validation examples" };
        context.note(format!("{rows} of {count} {of} have no {what} in {file}"));
    }
    remove(&read)
}

#[derive(Default)]
struct FeatureTally {
    without_row: u64,
    without_embedding: u64,
}

const NO_ROW: &str = "the program wrote no row";
const NO_EMBEDDING: &str = "the program wrote no embedding";

impl FeatureTally {
    fn add(&mut self, rows: &RecordBatch) {
        let (Some(missing), Some(embedding)) = (rows.column_by_name(MISSING), rows.column_by_name(EMBEDDING)) else {
            return;
        };
        let reasons = missing.as_string::<i32>().iter().enumerate().filter(|(row, _)| embedding.is_null(*row));
        for (_, reason) in reasons {
            let counter = if reason == Some(NO_ROW) { &mut self.without_row } else { &mut self.without_embedding };
            *counter += 1;
        }
    }
}

/// A table that a program wrote.
struct WrittenFeatures<'p> {
    path: &'p Path,
    /// The name of the file of the program, for messages.
    file: &'p str,
    ids: Vec<u32>,
    /// The number of rows that the table of features has.
    count: usize,
    width: usize,
    names: Vec<String>,
}

impl<'p> WrittenFeatures<'p> {
    fn open(path: &'p Path, file: &'p str, count: usize) -> Result<Self> {
        let schema = table::schema(path)?;
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let known: Vec<&str> =
            ["id", EMBEDDING, WEIGHTED, MISSING].into_iter().chain(COUNTS).chain(LOG_PROBABILITIES).collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
            let problem = Problem::new(format!("{file} has the column `{unknown}`, which features do not have"));
            return Err(match nearest(unknown, known.iter().copied()) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint(format!("they have {}; write other columns into a table", known.join(", "))),
            }
            .into());
        }
        for needed in ["id", EMBEDDING] {
            if !names.iter().any(|name| name == needed) {
                let problem = Problem::new(format!("{file} has no column `{needed}`"));
                return Err(problem.hint("a row is {\"id\": 0, \"embedding\": [0.1, 0.2]}").into());
            }
        }
        let mut found = Self { path, file, ids: Vec::new(), count, width: 0, names };
        found.ids = found.read_ids()?;
        found.width = found.find_width()?;
        Ok(found)
    }

    fn wrong(&self, row: usize, what: impl std::fmt::Display) -> Problem {
        Problem::new(format!("{}, row {}: {what}", self.file, row + 1))
    }

    /// The ids of all rows.
    fn read_ids(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut place = vec![0_u32; self.count];
        for batch in table::batches_of(self.path, &["id"])? {
            let batch = batch?;
            let numbers = cast(batch.column(0), &DataType::Int64).ok();
            let numbers: Option<&Int64Array> = numbers.as_ref().map(AsArray::as_primitive::<Int64Type>);
            for row in 0..batch.num_rows() {
                let number = numbers.filter(|numbers| numbers.is_valid(row)).map(|numbers| numbers.value(row));
                let id = number.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < self.count);
                let Some(id) = id else {
                    let id = number.map_or("no whole number".to_owned(), |id| id.to_string());
                    let problem = self.wrong(ids.len(), format!("`id` is {id}, and there are {} rows", self.count));
                    let last = self.count.saturating_sub(1);
                    return Err(problem.hint(format!("an id is a whole number from 0 to {last}")).into());
                };
                if place[id] > 0 {
                    let what = format!("the id {id} is in row {} too", place[id]);
                    return Err(self.wrong(ids.len(), what).hint("write one row for each id").into());
                }
                ids.push(id as u32);
                place[id] = u32::try_from(ids.len())?;
            }
        }
        Ok(ids)
    }

    /// The number of numbers of an embedding.
    fn find_width(&self) -> Result<usize> {
        let no_list = || {
            let problem = Problem::new(format!("`{EMBEDDING}` of {} is not a list of numbers", self.file));
            problem.hint("write as many numbers in each row: {\"id\": 0, \"embedding\": [0.1, 0.2]}")
        };
        let mut row = 0;
        for batch in table::batches_of(self.path, &[EMBEDDING])? {
            let batch = batch?;
            let column = batch.column(0);
            match column.data_type() {
                DataType::FixedSizeList(_, width) => return Ok(usize::try_from(*width)?),
                DataType::List(_) | DataType::LargeList(_) | DataType::Utf8 => {}
                _ => return Err(no_list().into()),
            }
            let large = lists(column, row, self, EMBEDDING)?;
            if let Some(first) = (0..large.len()).find(|row| large[*row].is_some()) {
                return Ok(large[first].as_ref().map_or(0, Float32Array::len));
            }
            row += batch.num_rows();
        }
        Err(no_list().into())
    }

    /// The columns of the table of features.
    fn schema(&self) -> arrow_schema::Schema {
        let vector = vector_type(self.width);
        arrow_schema::Schema::new(
            [
                ("id", DataType::UInt32),
                ("prompt_tokens", DataType::UInt32),
                ("response_tokens", DataType::UInt32),
                ("logp_conditional", DataType::Float32),
                ("logp_unconditional", DataType::Float32),
                ("unconditional_tokens", DataType::UInt32),
                (EMBEDDING, vector.clone()),
                (WEIGHTED, vector),
                (MISSING, DataType::Utf8),
            ]
            .map(|(name, of)| Field::new(name, of, true))
            .to_vec(),
        )
    }

    /// The rows in the order of their ids, part by part. Rows that the program wrote in another order are read at once.
    fn for_each_part(&self, mut take_part: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut next = 0;
        if self.ids.is_sorted() {
            let mut row = 0;
            for batch in table::batches_of(self.path, &names)? {
                let batch = batch?;
                let ids = &self.ids[row..row + batch.num_rows()];
                let places: Vec<usize> = (0..ids.len()).collect();
                let Some(last) = ids.last() else { continue };
                take_part(self.part(&batch, row, next..*last as usize + 1, ids, &places)?)?;
                next = *last as usize + 1;
                row += batch.num_rows();
            }
        } else {
            let all = table::read(self.path)?;
            let mut places: Vec<usize> = (0..self.ids.len()).collect();
            places.sort_by_key(|place| self.ids[*place]);
            let ids: Vec<u32> = places.iter().map(|place| self.ids[*place]).collect();
            take_part(self.part(&all, 0, 0..self.count, &ids, &places)?)?;
            next = self.count;
        }
        if next < self.count {
            let empty = RecordBatch::new_empty(table::schema(self.path)?);
            take_part(self.part(&empty, 0, next..self.count, &[], &[])?)?;
        }
        Ok(())
    }

    /// The features of the ids `wanted`. `read` has the row of `ids[n]` at `places[n]`; its first row is row `first` of the
    /// file.
    fn part(
        &self,
        read: &RecordBatch,
        first: usize,
        wanted: std::ops::Range<usize>,
        ids: &[u32],
        places: &[usize],
    ) -> Result<RecordBatch> {
        let mut place_of = vec![None; wanted.len()];
        for (id, place) in ids.iter().zip(places) {
            place_of[*id as usize - wanted.start] = Some(*place as u32);
        }
        let indices = UInt32Array::from(place_of.clone());
        let chosen = |column: &ArrayRef| take(column, &indices, None);
        let column = |name: &str| read.column_by_name(name).filter(|column| *column.data_type() != DataType::Null);
        let counts = |name: &str| -> Result<ArrayRef> {
            let Some(column) = column(name) else { return Ok(new_null_array(&DataType::UInt32, wanted.len())) };
            Ok(chosen(&self.counts(column, name, first)?)?)
        };
        let log_probabilities = |name: &str| -> Result<ArrayRef> {
            let Some(column) = column(name) else { return Ok(new_null_array(&DataType::Float32, wanted.len())) };
            Ok(chosen(&self.numbers(column, name, first)?)?)
        };
        let vectors = |name: &str| -> Result<ArrayRef> {
            self.vectors(column(name).context("a column is gone")?, name, first, &place_of)
        };
        let embedding = vectors(EMBEDDING)?;
        let weighted = if column(WEIGHTED).is_some() { vectors(WEIGHTED)? } else { Arc::clone(&embedding) };
        let reasons = column(MISSING).map(|reasons| cast(reasons, &DataType::Utf8)).transpose()?;
        let missing: StringArray = (0..wanted.len())
            .map(|row| {
                let Some(place) = place_of[row] else { return Some(NO_ROW) };
                let own = reasons.as_ref().map(AsArray::as_string::<i32>);
                let own = own.filter(|own| own.is_valid(place as usize)).map(|own| own.value(place as usize));
                own.or_else(|| embedding.is_null(row).then_some(NO_EMBEDDING))
            })
            .collect();
        table::batch(vec![
            ("id", Arc::new(UInt32Array::from_iter_values(wanted.start as u32..wanted.end as u32))),
            ("prompt_tokens", counts("prompt_tokens")?),
            ("response_tokens", counts("response_tokens")?),
            ("logp_conditional", log_probabilities("logp_conditional")?),
            ("logp_unconditional", log_probabilities("logp_unconditional")?),
            ("unconditional_tokens", counts("unconditional_tokens")?),
            (EMBEDDING, embedding),
            (WEIGHTED, weighted),
            (MISSING, Arc::new(missing)),
        ])
    }

    fn counts(&self, column: &ArrayRef, name: &str, first: usize) -> Result<ArrayRef> {
        let whole = matches!(column.data_type(), of if of.is_integer());
        let counts = cast(column, &DataType::UInt32).ok().filter(|_| whole);
        let bad = |counts: &ArrayRef| (0..column.len()).find(|row| column.is_valid(*row) && counts.is_null(*row));
        match counts {
            Some(counts) => match bad(&counts) {
                None => Ok(counts),
                Some(row) => {
                    Err(self.wrong(first + row, format!("`{name}` is not a number from 0 to {}", u32::MAX)).into())
                }
            },
            None => Err(Problem::new(format!("`{name}` of {} is not a column of whole numbers", self.file)).into()),
        }
    }

    fn numbers(&self, column: &ArrayRef, name: &str, first: usize) -> Result<ArrayRef> {
        if !column.data_type().is_numeric() {
            return Err(Problem::new(format!("`{name}` of {} is not a column of numbers", self.file)).into());
        }
        let numbers = cast(column, &DataType::Float32)?;
        let values: &Float32Array = numbers.as_primitive();
        if let Some(row) = (0..values.len()).find(|row| values.is_valid(*row) && !values.value(*row).is_finite()) {
            return Err(self.wrong(first + row, format!("`{name}` is {}", values.value(row))).into());
        }
        Ok(numbers)
    }

    /// The embeddings of a column at these places; null without a place.
    fn vectors(&self, column: &ArrayRef, name: &str, first: usize, places: &[Option<u32>]) -> Result<ArrayRef> {
        let lists = lists(column, first, self, name)?;
        for (row, list) in lists.iter().enumerate() {
            let Some(list) = list else { continue };
            if list.len() != self.width {
                let what = format!("`{name}` has {} numbers, and an earlier row has {}", list.len(), self.width);
                return Err(self.wrong(first + row, what).hint("write as many numbers in each row").into());
            }
            if let Some(bad) = (0..list.len()).find(|place| list.is_null(*place) || !list.value(*place).is_finite()) {
                let found = if list.is_null(bad) { "null".to_owned() } else { list.value(bad).to_string() };
                let what = format!("number {} of `{name}` is {found}", bad + 1);
                return Err(self.wrong(first + row, what).hint("write null for a row without an embedding").into());
            }
        }
        let mut values = Vec::with_capacity(places.len() * self.width);
        let mut valid = Vec::with_capacity(places.len());
        for place in places {
            let list = place.and_then(|place| lists[place as usize].as_ref());
            valid.push(list.is_some());
            match list {
                Some(list) => values.extend_from_slice(list.values()),
                None => values.resize(values.len() + self.width, 0.0),
            }
        }
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let width = i32::try_from(self.width)?;
        let values = Arc::new(Float32Array::from(values));
        Ok(Arc::new(FixedSizeListArray::try_new(item, width, values, Some(valid.into()))?))
    }
}

/// The lists of numbers of a column. Lists of different lengths of a file of JSON are there as text.
fn lists(column: &ArrayRef, first: usize, of: &WrittenFeatures<'_>, name: &str) -> Result<Vec<Option<Float32Array>>> {
    let one = |values: &ArrayRef| -> Option<Float32Array> {
        values.data_type().is_numeric().then_some(())?;
        Some(cast(values, &DataType::Float32).ok()?.as_primitive::<Float32Type>().clone())
    };
    let parsed = |text: &str| serde_json::from_str::<Vec<Option<f32>>>(text).ok().map(Float32Array::from);
    (0..column.len())
        .map(|row| {
            if column.is_null(row) {
                return Ok(None);
            }
            let list = match column.data_type() {
                DataType::FixedSizeList(..) => one(&column.as_fixed_size_list().value(row)),
                DataType::List(_) => one(&column.as_list::<i32>().value(row)),
                DataType::LargeList(_) => one(&column.as_list::<i64>().value(row)),
                DataType::Utf8 => parsed(column.as_string::<i32>().value(row)),
                _ => None,
            };
            let problem = || of.wrong(first + row, format!("`{name}` is not a list of numbers"));
            Ok(Some(list.ok_or_else(|| problem().hint("write a list of numbers, or null"))?))
        })
        .collect()
}
