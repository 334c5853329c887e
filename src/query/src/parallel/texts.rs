//! The distinct texts of a column, where DataFusion's groups would hash each text once more and wait for each place in the
//! memory by itself.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, UInt64Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{first_columns, only_child, slices};
use raisin_rows::TextSet;

/// Whether the groups are the texts of one column, without functions.
pub fn are_texts(groups: &AggregateExec) -> bool {
    let schema = groups.input_schema();
    let [(key, _)] = groups.group_expr().expr() else { return false };
    groups.aggr_expr().is_empty() && key.data_type(&schema).is_ok_and(|it| it == DataType::Utf8View)
}

/// What an aggregate of [`are_texts`] gives, over an exchange whose columns are the text, its place if there are places,
/// and its hash. If the memory is short, the aggregate itself goes on: it writes groups into files.
#[derive(Debug)]
pub struct TextsExec {
    input: Arc<dyn ExecutionPlan>,
    /// The aggregate over the columns of the input without the hash.
    groups: Arc<AggregateExec>,
}

impl TextsExec {
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        groups: impl FnOnce(Arc<dyn ExecutionPlan>) -> Result<AggregateExec>,
    ) -> Result<Self> {
        let without_hash = first_columns(input.clone(), input.schema().fields().len() - 1)?;
        Ok(Self { input, groups: Arc::new(groups(without_hash)?) })
    }
}

impl DisplayAs for TextsExec {
    fn fmt_as(&self, _form: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let keys: Vec<String> = self.groups.group_expr().expr().iter().map(|(key, _)| key.to_string()).collect();
        write!(f, "TextsExec: of=[{}]", keys.join(", "))
    }
}

impl ExecutionPlan for TextsExec {
    fn name(&self) -> &'static str {
        "TextsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.groups.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.groups.apply_expressions(visit)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(only_child(children)?, |input| over(&self.groups, input))?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context.clone())?;
        let memory = MemoryConsumer::new(format!("TextsExec[{partition}]")).register(context.memory_pool());
        let groups = self.groups.clone();
        let rows = async move { distinct(input, memory, &groups, partition, context).await };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream::once(rows).try_flatten())))
    }
}

/// The same aggregate over another input.
fn over(groups: &AggregateExec, input: Arc<dyn ExecutionPlan>) -> Result<AggregateExec> {
    let (functions, filters) = (groups.aggr_expr().to_vec(), groups.filter_expr().to_vec());
    let (keys, schema) = (groups.group_expr().clone(), groups.input_schema());
    AggregateExec::try_new(*groups.mode(), keys, functions, filters, input, schema)
}

async fn distinct(
    mut input: SendableRecordBatchStream,
    memory: MemoryReservation,
    groups: &AggregateExec,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let mut texts = TextSet::default();
    let size = context.session_config().batch_size();
    while let Some(batch) = input.next().await.transpose()? {
        let ([text, place @ ..], Some(hash)) = (&batch.columns()[..batch.num_columns() - 1], batch.columns().last())
        else {
            return Err(DataFusionError::Internal("texts without hashes".to_owned()));
        };
        let place = place.first().map(AsArray::as_primitive::<UInt64Type>);
        texts.add(text.as_string_view(), place, hash.as_primitive::<UInt64Type>());
        match memory.try_resize(texts.size()) {
            Err(DataFusionError::ResourcesExhausted(_)) => {
                memory.free();
                let schema = groups.input().schema();
                let columns: Vec<usize> = (0..schema.fields().len()).collect();
                let known = RecordBatch::try_new(schema.clone(), texts.into_columns())?;
                let others = input.map(move |rows| Ok(rows?.project(&columns)?));
                let rows = stream::iter(slices(&known, size).into_iter().map(Ok)).chain(others);
                let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
                let rows = Arc::new(RowsExec { rows: Mutex::new(Some(rows)), of: groups.input().clone() });
                return over(groups, rows)?.execute(partition, context);
            }
            resized => resized?,
        }
    }
    let schema = groups.schema();
    let rows = slices(&RecordBatch::try_new(schema.clone(), texts.into_columns())?, size);
    // Whoever keeps the rows counts their memory: each batch has the buffers of all.
    memory.free();
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(rows.into_iter().map(Ok)))))
}

/// Rows in place of those of one partition of a plan.
struct RowsExec {
    rows: Mutex<Option<SendableRecordBatchStream>>,
    of: Arc<dyn ExecutionPlan>,
}

impl fmt::Debug for RowsExec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("RowsExec")
    }
}

impl DisplayAs for RowsExec {
    fn fmt_as(&self, _form: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("RowsExec")
    }
}

impl ExecutionPlan for RowsExec {
    fn name(&self) -> &'static str {
        "RowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.of.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.ok_or_else(|| DataFusionError::Internal("rows are read once".to_owned()))
    }
}
