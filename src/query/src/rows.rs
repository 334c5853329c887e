//! The rows of an answer: read batch by batch, under short headings, within a limit of memory, until Ctrl-C.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;

use super::pool::QueryPool;
use super::problems::of_plan;
use raisin_base::error::{Error, Problem, Result};
use raisin_contract::memory::{exceeded, more_than};

/// The memory of a query.
#[derive(Clone, Debug)]
pub struct QueryMemory {
    /// The limit in bytes; `None` for no limit.
    pub limit: Option<u64>,
    /// The folder into which sorts, joins and groups write the rows that do not fit into the limit. `None` if such a
    /// query fails.
    pub folder: Option<PathBuf>,
    /// The stage to which the limit belongs; `None` for a query on the command line.
    pub stage: Option<String>,
}

impl QueryMemory {
    /// The error of a query. DataFusion tells a lack of memory by operators and reservations, which no user knows.
    pub fn problem(&self, error: &DataFusionError, sql: &str) -> Error {
        match (error.find_root(), self.limit) {
            (DataFusionError::ResourcesExhausted(_), Some(limit)) => self.exceeded(limit),
            _ => of_plan(error, sql),
        }
    }

    fn exceeded(&self, limit: u64) -> Error {
        match &self.stage {
            Some(stage) => exceeded(stage, limit).into(),
            None => {
                let message = format!("the query needs more than the memory of a query, {} MB", limit / 1_000_000);
                let more = more_than(limit);
                let hint =
                    format!("ask for fewer rows or columns, or give the query more memory, such as --memory {more}");
                Problem::new(message).hint(hint).into()
            }
        }
    }
}

/// The time between two looks whether the query shall stop.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The rows of an answer, batch by batch.
pub struct QueryRows {
    pub schema: SchemaRef,
    pub stream: SendableRecordBatchStream,
    /// The tables that the statement names.
    pub tables: Vec<TableReference>,
    /// When this becomes true, the next batch is an error.
    pub stop: Arc<AtomicBool>,
    pub pool: Option<Arc<QueryPool>>,
    pub memory: QueryMemory,
}

impl QueryRows {
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let batch = loop {
            let batch = poll_fn(|context| {
                if self.stop.load(Ordering::Relaxed) {
                    return Poll::Ready(Some(Err(DataFusionError::External(Box::new(stopped())))));
                }
                self.stream.as_mut().poll_next(context)
            });
            // While other threads work, nothing else wakes this one to look.
            if let Ok(batch) = tokio::time::timeout(BETWEEN_LOOKS, batch).await {
                break batch.transpose();
            }
        };
        let batch = batch.map_err(|error| self.memory.problem(&error, ""))?;
        Ok(batch.map(|batch| self.in_own_schema(&batch)).transpose()?)
    }

    /// The rows under the headings and in the types of the answer.
    fn in_own_schema(&self, batch: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
        let fields = self.schema.fields().iter();
        let in_its_type = |(values, field): (&ArrayRef, &FieldRef)| {
            if values.data_type() == field.data_type() { Ok(values.clone()) } else { cast(values, field.data_type()) }
        };
        let columns = batch.columns().iter().zip(fields).map(in_its_type).collect::<std::result::Result<_, _>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &rows)
    }

    /// Whether the memory was short, so that the order of the rows can depend on the limit.
    pub fn memory_was_short(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.was_short())
    }

    /// All rows in one batch.
    pub async fn all(self) -> Result<RecordBatch> {
        Ok(self.first(None).await?.0)
    }

    /// The first rows in one batch, and the number of the other rows.
    pub async fn first(self, most: Option<usize>) -> Result<(RecordBatch, u64)> {
        self.begin(most, true).await
    }

    /// The first rows in one batch, and whether there are others. They are not read.
    pub async fn head(self, most: usize) -> Result<(RecordBatch, bool)> {
        let (rows, others) = self.begin(Some(most), false).await?;
        Ok((rows, others > 0))
    }

    /// The first rows, and the number of the others; without `counts`, of those that came with the first ones or with one
    /// batch more.
    async fn begin(mut self, most: Option<usize>, counts: bool) -> Result<(RecordBatch, u64)> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let (mut free, mut left_out) = (most.unwrap_or(usize::MAX), 0);
        while let Some(batch) = self.next().await? {
            let taken = batch.num_rows().min(free);
            free -= taken;
            left_out += (batch.num_rows() - taken) as u64;
            if !counts && left_out > 0 && taken == 0 {
                break;
            }
            if taken == 0 {
                continue;
            }
            let batch = batch.slice(0, taken);
            bytes += batch.get_array_memory_size() as u64;
            // Joining the batches takes the same memory again.
            if let Some(limit) = self.memory.limit.filter(|limit| bytes > limit / 2) {
                return Err(self.memory.exceeded(limit));
            }
            batches.push(batch);
        }
        Ok((concat_batches(&self.schema, &batches)?, left_out))
    }
}

/// The plan with joins that return to the caller from time to time. A join can make rows for hours without reading any,
/// and only what reads returns by itself.
pub fn interruptible(plan: Arc<dyn ExecutionPlan>) -> PlanResult<Arc<dyn ExecutionPlan>> {
    let returning = |node: Arc<dyn ExecutionPlan>| {
        Ok(if node.children().len() > 1 {
            Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>)
        } else {
            Transformed::no(node)
        })
    };
    Ok(plan.transform_up(returning)?.data)
}

/// The problem of a query that Ctrl-C ended.
fn stopped() -> Problem {
    Problem::new("the query was stopped")
}

/// The schema without views of texts and bytes.
pub fn plain(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_data_type(plain_type(field.data_type())));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The type without views. Views are the fast form of texts inside a query; tables and other programs have the plain one.
fn plain_type(data_type: &DataType) -> DataType {
    let plain = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(plain_type(field.data_type())));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(plain(item)),
        DataType::LargeList(item) => DataType::LargeList(plain(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(plain(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain(entries), *sorted),
        other => other.clone(),
    }
}

/// The schema with plain types and short names: `avg(acc)` instead of `avg(scores.metrics.acc)`. Columns of equal names are numbered:
/// `id`, `id_1`.
pub fn short_headings(schema: &SchemaRef, tables: &[TableReference]) -> SchemaRef {
    let short = |name: &str| tables.iter().fold(name.to_owned(), |name, table| name.replace(&format!("{table}."), ""));
    let names: Vec<String> = schema.fields().iter().map(|field| short(field.name())).collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let fields = schema.fields().iter().zip(&names).map(|(field, name)| {
        let numbered = (1..).map(|number| format!("{name}_{number}"));
        let mut free = std::iter::once(name.clone()).chain(numbered).filter(|other| !taken.contains(other));
        let name = free.next().unwrap_or_else(|| name.clone());
        drop(free);
        taken.insert(name.clone());
        field.as_ref().clone().with_name(name).with_data_type(plain_type(field.data_type()))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
