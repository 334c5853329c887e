//! Runs a stage of kind `filter`: makes a pool of the rows of another pool that a query gives.
//!
//! The answer of the query is sorted by `id`, and the pool is in the order of its ids. Both are read side by side, batch
//! by batch, so that neither need fit into memory: a sort of DataFusion writes to the disk what does not fit.

mod set;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use datafusion::arrow::compute::{cast, concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use serde_json::json;

use raisin_base::error::{Error, Problem, Result};
use raisin_contract::{Context, Progress};
use raisin_corpus::artifact::{copy_sources, renumbered};
use raisin_corpus::intake::grouped;
use raisin_corpus::replace::{REPLACEABLE, replace_texts};
use raisin_kinds::filter::Parameters;
use raisin_table::{self as table, WriteTable as _, Writer};

use crate::catalog::Catalogs;
use crate::kind::{NOTE_OF_MEMORY, memory_of};
use crate::rows::QueryRows;
use crate::session::{Session, block_on};
use crate::sources::TableFile;
use crate::{TableFiles, tables_of};
use set::SetColumns;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let pool = context.input("/instructions")?.to_owned();
    let tables = Catalogs::of_tables(named_tables(&parameters, context)?);
    let memory = memory_of(context)?;
    let (counts, memory_was_short) = block_on(async {
        let session = Session::over(tables, memory)?.only_of_tables(context.stage());
        let (rows, names) = session.stream_by_id(&parameters.query, parameters.repeats).await?;
        let mut filter = RunningFilter::new(rows, &names, parameters.repeats)?;
        let counts = filter.write(&pool.join("instructions.parquet"), context).await?;
        Ok::<_, Error>((counts, filter.answer.rows.memory_was_short()))
    })??;
    copy_sources(&pool, &context.out())?;
    context.write_table("filter_summary", &counts.table()?)?;
    context.note(counts.note());
    if memory_was_short {
        context.note(NOTE_OF_MEMORY.to_owned());
    }
    Ok(())
}

/// The tables of the stages, by the name of the stage.
fn named_tables(parameters: &Parameters, context: &Context) -> Result<BTreeMap<String, TableFiles>> {
    let mut tables = BTreeMap::new();
    let of = (0..parameters.of.len()).map(|place| format!("/of/{place}"));
    for (stage, pointer) in parameters.stages().into_iter().zip(std::iter::once("/instructions".to_owned()).chain(of)) {
        let files = tables_of(context.input(&pointer)?)?;
        let file = |path| vec![TableFile { path, constants: Vec::new() }];
        tables.insert(stage, files.into_iter().map(|(table, path)| (table, file(path))).collect());
    }
    Ok(tables)
}

/// The counts of a filter.
#[derive(Debug, Default, PartialEq)]
struct FilterCounts {
    pool: u64,
    rows: u64,
    distinct: u64,
    changed: u64,
    rewrites: bool,
    /// The columns that the query sets.
    set: Vec<&'static str>,
}

impl FilterCounts {
    fn table(&self) -> Result<RecordBatch> {
        let count = |count: u64| Arc::new(UInt64Array::from(vec![count])) as ArrayRef;
        table::batch(vec![
            ("pool_rows", count(self.pool)),
            ("rows", count(self.rows)),
            ("distinct_rows", count(self.distinct)),
            ("left_out", count(self.pool - self.distinct)),
            ("changed", count(self.changed)),
        ])
    }

    fn note(&self) -> String {
        let mut note = format!("{} of {} rows stay", grouped(self.distinct), grouped(self.pool));
        if self.rows != self.distinct {
            note.push_str(&format!(", {} with their copies", grouped(self.rows)));
        }
        if self.rewrites {
            note.push_str(&format!("; the query changes the conversation of {}", grouped(self.changed)));
        }
        if !self.set.is_empty() {
            let names: Vec<String> = self.set.iter().map(|name| format!("`{name}`")).collect();
            note.push_str(&format!("; the query sets {}", names.join(", ")));
        }
        note
    }
}

/// The answer of the query, row by row.
struct GivenRows {
    rows: QueryRows,
    batch: Option<RecordBatch>,
    /// The rows of `batch` that were taken.
    taken: usize,
    is_over: bool,
}

impl GivenRows {
    /// The rows whose id is below `end`, as one batch. `None` if there is no further row at all.
    ///
    /// # Errors
    /// There are more than `most` rows.
    async fn below(&mut self, end: i64, most: usize) -> Result<Option<RecordBatch>> {
        let (mut parts, mut total) = (Vec::new(), 0);
        while !self.is_over {
            let Some(batch) = self.batch.as_ref().filter(|batch| self.taken < batch.num_rows()) else {
                self.batch = self.rows.next().await?;
                self.taken = 0;
                self.is_over = self.batch.is_none();
                continue;
            };
            let ids = batch.column(0).as_primitive::<Int64Type>();
            // Nulls come first.
            let fits = |row: &usize| ids.is_null(*row) || ids.value(*row) < end;
            let count = (self.taken..batch.num_rows()).take_while(fits).count();
            parts.push(batch.slice(self.taken, count));
            self.taken += count;
            total += count;
            if total > most {
                let message =
                    format!("the query gives more than {} rows for 8,192 rows of the pool", grouped(most as u64));
                return Err(Problem::new(message).hint(NO_REPEATS).into());
            }
            if self.taken < batch.num_rows() {
                break;
            }
        }
        if parts.is_empty() && self.is_over {
            return Ok(None);
        }
        Ok(Some(concat_batches(&self.rows.schema, &parts)?))
    }
}

/// The rows that a query without `repeats` may give for a part of the pool; the rows are in memory. Wrong ids that are
/// counted before the query is refused are among them.
const MOST_AT_ONCE: usize = 1_000_000;

/// What to do about rows that the query gives twice.
const NO_REPEATS: &str = "use `select distinct`, a semi-join (`where id in (select ...)`), or repeats = true";

/// A running filter. The first column of the answer is `id`.
struct RunningFilter {
    answer: GivenRows,
    /// The columns that replace those of the pool, and their places in the answer.
    replaced: Vec<(&'static str, usize)>,
    set: SetColumns,
    /// The further columns.
    further: Vec<usize>,
    repeats: bool,
}

impl RunningFilter {
    fn new(rows: QueryRows, names: &[String], repeats: bool) -> Result<Self> {
        let place = |name: &str| names.iter().position(|other| other == name);
        let replaced: Vec<(&str, usize)> =
            REPLACEABLE.into_iter().filter_map(|name| Some((name, place(name)?))).collect();
        for (name, place) in &replaced {
            let data_type = rows.schema.field(*place).data_type();
            if !(data_type.is_string() || data_type.is_null()) {
                let problem =
                    Problem::usage(format!("the query gives a `{name}` of type {data_type}, which is no text"));
                return Err(problem.hint("give the column another name, or cast(... as varchar)").into());
            }
        }
        if place("messages").is_some()
            && let Some((other, _)) = replaced.iter().find(|(name, _)| ["system", "prompt", "response"].contains(name))
        {
            let problem = Problem::usage(format!("the query gives `messages`, which are all turns, and `{other}`"));
            return Err(problem.hint("give one of both; `select id` alone keeps the conversation").into());
        }
        let set = SetColumns::of(&rows.schema, names)?;
        let is_further = |place: &usize| replaced.iter().all(|(_, other)| other != place) && !set.has(*place);
        let further = (1..names.len()).filter(is_further).collect();
        let answer = GivenRows { rows, batch: None, taken: 0, is_over: false };
        Ok(Self { answer, replaced, set, further, repeats })
    }

    /// Writes the tables `instructions` and `columns`.
    async fn write(&mut self, pool: &Path, context: &Context) -> Result<FilterCounts> {
        let total = table::rows(pool)?;
        let (rewrites, set) = (!self.replaced.is_empty(), self.set.names());
        let mut counts = FilterCounts { rewrites, set, ..FilterCounts::default() };
        let mut wrong = WrongIds::default();
        let mut last = None;
        let mut writers: Option<(Writer, Option<Writer>)> = None;
        for rows in table::batches(pool)? {
            let rows = rows?;
            let first = i64::try_from(counts.pool)?;
            let most = if self.repeats { usize::MAX } else { MOST_AT_ONCE };
            let chosen = match self.answer.below(first + rows.num_rows() as i64, most).await? {
                Some(chosen) => chosen,
                None => RecordBatch::new_empty(self.answer.rows.schema.clone()),
            };
            let chosen = wrong.without(chosen, first)?;
            counts.pool += rows.num_rows() as u64;
            let places = places(&chosen, first, &mut last, &mut counts, &mut wrong)?;
            let kept = take_record_batch(&rows, &places)?;
            let (kept, changed) = self.rewritten(kept, &chosen)?;
            let kept = self.set.set(kept, &chosen)?;
            counts.changed += changed;
            let number = u32::try_from(counts.rows).map_err(|_| too_many(counts.rows))?;
            counts.rows += chosen.num_rows() as u64;
            let ids = UInt32Array::from_iter_values((number..).take(chosen.num_rows()));
            let further = self.further_columns(&chosen, &ids)?;
            let kept = renumbered(kept, ids)?;
            if writers.is_none() {
                let further = further.as_ref().map(|batch| context.table_writer("columns", batch.schema()));
                writers = Some((context.table_writer("instructions", kept.schema())?, further.transpose()?));
            }
            if let Some((instructions, columns)) = &mut writers {
                instructions.write(&kept)?;
                if let (Some(columns), Some(further)) = (columns, further) {
                    columns.write(&further)?;
                }
            }
            let (done, phase, unit) = (counts.pool, "rows".to_owned(), "rows".to_owned());
            context.progress(Progress { phase, done, total, unit, ..Progress::default() });
        }
        wrong.beyond(&mut self.answer).await?;
        wrong.check(self.repeats, counts.pool)?;
        let Some((instructions, columns)) = writers else {
            return Err(Problem::new("the pool has no rows").into());
        };
        if counts.rows == 0 {
            let problem = Problem::new(format!("the query gives none of the {} rows of the pool", counts.pool));
            return Err(problem.hint("try the query with `raisin sql`").into());
        }
        instructions.close()?;
        if let Some(columns) = columns {
            columns.close()?;
            context.write_json("summary.json", &json!({"pass": "filter"}))?;
        }
        Ok(counts)
    }

    /// The rows with the texts that the query gives, and the number of rows that it changes.
    fn rewritten(&self, rows: RecordBatch, chosen: &RecordBatch) -> Result<(RecordBatch, u64)> {
        let text = |(name, place): &(&'static str, usize)| -> Result<(&'static str, StringArray)> {
            Ok((*name, cast(chosen.column(*place), &DataType::Utf8)?.as_string().clone()))
        };
        let given = self.replaced.iter().map(text).collect::<Result<Vec<_>>>()?;
        replace_texts(&rows, &given, table::column(&rows, "id")?)
    }

    /// The rows of the table `columns`; `None` if the query gives no further column.
    fn further_columns(&self, chosen: &RecordBatch, ids: &UInt32Array) -> Result<Option<RecordBatch>> {
        if self.further.is_empty() {
            return Ok(None);
        }
        let schema = self.answer.rows.schema.clone();
        let mut columns: Vec<(&str, ArrayRef)> = vec![("id", Arc::new(ids.clone()))];
        for place in &self.further {
            let values = chosen.column(*place);
            // The state of a candidate has 32 bits for a number.
            let is_a_number = values.data_type().is_numeric() || values.data_type() == &DataType::Boolean;
            let values = if is_a_number { cast(values, &DataType::Float32)? } else { values.clone() };
            columns.push((schema.field(*place).name(), values));
        }
        Ok(Some(table::batch(columns)?))
    }
}

/// The places in a batch of the pool of the rows of the answer. `first` is the id of the first row of the batch.
fn places(
    chosen: &RecordBatch,
    first: i64,
    last: &mut Option<i64>,
    counts: &mut FilterCounts,
    wrong: &mut WrongIds,
) -> Result<UInt32Array> {
    let ids = chosen.column(0).as_primitive::<Int64Type>();
    let mut places = Vec::with_capacity(ids.len());
    for id in ids.values() {
        if *last == Some(*id) {
            wrong.repeated += 1;
            wrong.first_repeated.get_or_insert(*id);
        } else {
            counts.distinct += 1;
        }
        *last = Some(*id);
        places.push(u32::try_from(*id - first)?);
    }
    Ok(UInt32Array::from(places))
}

/// Ids of the answer that make no pool.
#[derive(Default)]
struct WrongIds {
    null: u64,
    /// Ids that the pool does not have.
    unknown: u64,
    first_unknown: Option<i64>,
    /// Rows whose id the answer had before.
    repeated: u64,
    first_repeated: Option<i64>,
}

impl WrongIds {
    /// Counts nulls and ids below those of the pool, and leaves them out.
    fn without(&mut self, chosen: RecordBatch, first: i64) -> Result<RecordBatch> {
        let ids = chosen.column(0).as_primitive::<Int64Type>();
        let null = ids.null_count();
        let below = (null..ids.len()).take_while(|row| ids.value(*row) < first).count();
        self.null += null as u64;
        self.unknown += below as u64;
        if below > 0 {
            self.first_unknown.get_or_insert(ids.value(null));
        }
        Ok(chosen.slice(null + below, chosen.num_rows() - null - below))
    }

    /// Counts the ids above those of the pool.
    async fn beyond(&mut self, answer: &mut GivenRows) -> Result<()> {
        while let Some(rows) = answer.below(i64::MAX, usize::MAX).await? {
            let ids = rows.column(0).as_primitive::<Int64Type>();
            if ids.is_empty() {
                // An id of i64::MAX is left.
                self.unknown += 1;
                break;
            }
            self.null += ids.null_count() as u64;
            self.unknown += (ids.len() - ids.null_count()) as u64;
            let first = ids.iter().flatten().next();
            self.first_unknown = self.first_unknown.or(first);
        }
        Ok(())
    }

    fn check(&self, repeats: bool, pool: u64) -> Result<()> {
        if self.null > 0 {
            let problem = Problem::new(format!("the query gives {} rows without an `id`", self.null));
            return Err(problem.hint("an outer join gives rows without a partner: use an inner join").into());
        }
        if self.unknown > 0 {
            let first = self.first_unknown.unwrap_or(i64::MAX);
            let problem = Problem::new(format!(
                "the query gives {} ids that the pool of {pool} rows does not have, the first one is {first}",
                self.unknown
            ));
            return Err(problem.hint("give the `id` of the table `instructions` of this pool").into());
        }
        if self.repeated > 0 && !repeats {
            let first = self.first_repeated.unwrap_or_default();
            let message = format!("the query gives {} rows a second time or more often", self.repeated);
            let problem = Problem::new(format!("{message}, the first one has the id {first}"));
            return Err(problem.hint(NO_REPEATS).into());
        }
        Ok(())
    }
}

fn too_many(rows: u64) -> Error {
    Problem::new(format!("{rows} rows are more than a table of instructions holds")).into()
}

#[cfg(test)]
mod tests;
