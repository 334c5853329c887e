//! Leaves out rows that cannot be among the first of their group, for `row_number() over (partition by ... order by
//! ...) <= 3` and its kind: rows that the condition would drop need not be sorted.

mod kept;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures_util::stream::{self, StreamExt as _};

use self::kept::KeptRows;
use super::{only_child, slices};

/// If the memory of a query is limited, the rows of one partition take at most this part of it.
const SHARE: usize = 64;

/// The rows that stay: of each group of equal `groups`, the first `count` by `order`.
#[derive(Clone, Debug)]
pub struct First {
    pub groups: Vec<Arc<dyn PhysicalExpr>>,
    /// At least one key.
    pub order: Vec<PhysicalSortExpr>,
    /// At least one row.
    pub count: usize,
    pub ties: Ties,
}

/// What rows of equal keys count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// Each row by itself, in the order of the rows: `row_number`.
    InTheirOrder,
    /// All as the first of them: `rank`.
    Together,
    /// All as one: `dense_rank`.
    AsOne,
}

/// Passes on, of each partition, the rows that can be among the first of their group, in their order. It may pass on
/// others as well: if most rows stay, or if the memory is short.
#[derive(Debug)]
pub struct FirstExec {
    input: Arc<dyn ExecutionPlan>,
    first: First,
}

impl FirstExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, first: First) -> Self {
        Self { input, first }
    }
}

impl DisplayAs for FirstExec {
    fn fmt_as(&self, _form: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let groups: Vec<String> = self.first.groups.iter().map(ToString::to_string).collect();
        let order: Vec<String> = self.first.order.iter().map(ToString::to_string).collect();
        let First { count, ties, .. } = &self.first;
        write!(f, "FirstExec: count={count}, ties={ties:?}, of=[{}], by=[{}]", groups.join(", "), order.join(", "))
    }
}

impl ExecutionPlan for FirstExec {
    fn name(&self) -> &'static str {
        "FirstExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for key in self.first.groups.iter().chain(self.first.order.iter().map(|key| &key.expr)) {
            visit(key)?;
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(only_child(children)?, self.first.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let most_bytes = match context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / SHARE,
            _ => usize::MAX,
        };
        let rows = ChosenRows {
            most_bytes,
            batch_size: context.session_config().batch_size(),
            next: ForBatch::Choose(Box::new(KeptRows::new(self.first.clone(), self.schema())?)),
            memory: MemoryConsumer::new(format!("FirstExec[{partition}]")).register(context.memory_pool()),
            ready: VecDeque::new(),
            input: self.input.execute(partition, context)?,
        };
        let rows =
            stream::unfold(rows, |mut rows| async move { rows.next().await.transpose().map(|batch| (batch, rows)) });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// The rows of one partition that are passed on.
struct ChosenRows {
    input: SendableRecordBatchStream,
    /// What becomes of the next batch.
    next: ForBatch,
    /// The memory of the kept rows.
    memory: MemoryReservation,
    most_bytes: usize,
    /// The rows of a batch that is passed on.
    batch_size: usize,
    /// Rows that are passed on first.
    ready: VecDeque<RecordBatch>,
}

enum ForBatch {
    /// Its rows are chosen from.
    Choose(Box<KeptRows>),
    /// It is passed on whole.
    PassOn,
    /// There is none.
    End,
}

impl ChosenRows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(rows) = self.ready.pop_front() {
                return Ok(Some(rows));
            }
            self.memory.free();
            match std::mem::replace(&mut self.next, ForBatch::End) {
                ForBatch::Choose(kept) => self.choose(*kept).await?,
                ForBatch::PassOn => {
                    let batch = self.input.next().await.transpose()?;
                    self.next = if batch.is_some() { ForBatch::PassOn } else { ForBatch::End };
                    return Ok(batch);
                }
                ForBatch::End => return Ok(None),
            }
        }
    }

    /// Reads to the end, or until it is better to pass on all rows.
    async fn choose(&mut self, mut kept: KeptRows) -> Result<()> {
        while let Some(batch) = self.input.next().await.transpose()? {
            kept.take(&batch)?;
            let is_short = kept.size() > self.most_bytes
                || match self.memory.try_resize(kept.size()) {
                    Err(DataFusionError::ResourcesExhausted(_)) => true,
                    resized => resized.map(|()| false)?,
                };
            if is_short || kept.is_of_no_use() {
                self.pass_on(&kept.into_rows());
                self.next = ForBatch::PassOn;
                return Ok(());
            }
        }
        self.pass_on(&kept.finish()?);
        Ok(())
    }

    fn pass_on(&mut self, blocks: &[RecordBatch]) {
        self.ready = blocks.iter().flat_map(|rows| slices(rows, self.batch_size)).collect();
    }
}
