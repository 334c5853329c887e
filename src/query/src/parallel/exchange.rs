//! Runs the partitions of a plan on all cores, and passes their rows on in the order of the partitions: the same rows in
//! the same order as on one core.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::runtime::{JoinSet, SpawnedTask};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties,
};
use futures_util::future::{Either, FutureExt as _, select};
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::division::{Division, bytes_of};
use super::only_child;

/// The bits of a place that number the rows of one partition.
const PLACE_BITS: u32 = 40;

/// The batches that wait between one partition and one output.
const WAITING_BATCHES: usize = 64;

/// The bytes that wait between all partitions and all outputs, if the memory of the query has no limit.
const WAITING_BYTES: usize = 512 << 20;

/// What the scan of a partition takes beside the memory that the query counts: pages and batches on their way. Where the
/// memory is limited, fewer partitions run at the same time.
const MEMORY_OF_A_PARTITION: usize = 4 << 20;

/// Passes the rows of several partitions on in the order of the partitions.
///
/// With a division, all rows of equal keys come out of one output, and each output has its rows in their order. A further
/// column numbers the rows in the order of all outputs together.
#[derive(Debug)]
pub struct InOrderExec {
    input: Arc<dyn ExecutionPlan>,
    division: Option<Division>,
    outputs: usize,
    /// Whether all partitions run at the same time, because they are outputs of one exchange and wait for one another.
    is_at_once: bool,
    properties: Arc<PlanProperties>,
    /// The running partitions and the ends of their channels, until every output has taken its own.
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    driver: Arc<SpawnedTask<()>>,
    /// For each output: one channel for each partition.
    channels: Vec<Option<Vec<mpsc::Receiver<Passed>>>>,
    head: Arc<watch::Sender<usize>>,
}

/// What a partition passes on to an output.
enum Passed {
    /// Rows, and the room that they take while they wait.
    Rows(RecordBatch, #[expect(dead_code, reason = "dropping it is its use")] Option<OwnedSemaphorePermit>),
    Error(DataFusionError),
    Panic(Box<dyn Any + Send>),
    /// The partition is at its end. The next partition may begin when every output has dropped its permit.
    End(#[expect(dead_code, reason = "dropping it is its use")] Arc<OwnedSemaphorePermit>),
}

impl InOrderExec {
    /// All rows in one output.
    pub fn joined(input: Arc<dyn ExecutionPlan>) -> Self {
        let mut equivalence = input.equivalence_properties().clone();
        equivalence.clear_orderings();
        equivalence.clear_per_partition_constants();
        Self::new(input, None, equivalence)
    }

    /// As [`Self::joined`], for partitions that are the outputs of one exchange.
    pub fn joined_at_once(input: Arc<dyn ExecutionPlan>) -> Self {
        Self { is_at_once: true, ..Self::joined(input) }
    }

    /// The rows divided by the hash of keys.
    pub fn divided(input: Arc<dyn ExecutionPlan>, division: Division) -> Self {
        let schema = division.schema(&input.schema());
        Self::new(input, Some(division), EquivalenceProperties::new(schema))
    }

    fn new(input: Arc<dyn ExecutionPlan>, division: Option<Division>, equivalence: EquivalenceProperties) -> Self {
        let (outputs, partitioning) = match &division {
            None => (1, Partitioning::UnknownPartitioning(1)),
            Some(Division { keys, outputs, .. }) => (*outputs, Partitioning::Hash(keys.clone(), *outputs)),
        };
        let properties = PlanProperties::new(equivalence, partitioning, input.pipeline_behavior(), input.boundedness())
            .with_scheduling_type(SchedulingType::Cooperative);
        let properties = Arc::new(properties);
        Self { input, division, outputs, is_at_once: false, properties, running: Mutex::new(None) }
    }

    fn start(&self, context: &Arc<TaskContext>) -> Running {
        let partitions = self.input.output_partitioning().partition_count();
        let mut channels: Vec<Vec<mpsc::Receiver<Passed>>> = (0..self.outputs).map(|_| Vec::new()).collect();
        let mut senders = Vec::new();
        for _ in 0..partitions {
            let mut of_partition = Vec::new();
            for receivers in &mut channels {
                let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
                of_partition.push(sender);
                receivers.push(receiver);
            }
            senders.push(of_partition);
        }
        let head = Arc::new(watch::Sender::new(0));
        let waiting = match context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => (bytes / 8).min(WAITING_BYTES),
            _ => WAITING_BYTES,
        };
        let shared = Shared {
            input: self.input.clone(),
            division: self.division.clone(),
            schema: self.schema(),
            context: context.clone(),
            is_at_once: self.is_at_once,
            head: head.subscribe(),
            waiting: Arc::new(Semaphore::new(waiting)),
            most_waiting: waiting,
        };
        let driver = Arc::new(SpawnedTask::spawn(drive(shared, senders)));
        Running { driver, channels: channels.into_iter().map(Some).collect(), head }
    }
}

/// What all partitions of a running exchange have in common.
#[derive(Clone)]
struct Shared {
    input: Arc<dyn ExecutionPlan>,
    division: Option<Division>,
    schema: SchemaRef,
    context: Arc<TaskContext>,
    is_at_once: bool,
    /// The last partition that an output reads. It and those before it need not wait for memory.
    head: watch::Receiver<usize>,
    /// The bytes that may still wait.
    waiting: Arc<Semaphore>,
    most_waiting: usize,
}

/// Starts the partitions in their order. A bounded number of them runs, or waits with its rows, at the same time.
async fn drive(shared: Shared, senders: Vec<Vec<mpsc::Sender<Passed>>>) {
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    let fit = shared.most_waiting / MEMORY_OF_A_PARTITION;
    let at_once = if shared.is_at_once { senders.len() } else { fit.clamp(2, 2 * threads.max(1)) };
    let at_once = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    for (partition, senders) in senders.into_iter().enumerate() {
        let Ok(permit) = at_once.clone().acquire_owned().await else { return };
        tasks.spawn(run(shared.clone(), partition, senders, Arc::new(permit)));
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

async fn run(shared: Shared, partition: usize, senders: Vec<mpsc::Sender<Passed>>, permit: Arc<OwnedSemaphorePermit>) {
    let rows = AssertUnwindSafe(pass_on(shared, partition, &senders)).catch_unwind().await;
    match rows {
        Ok(Ok(())) => {
            for sender in &senders {
                // An output that needs no more rows has gone.
                let _ = sender.send(Passed::End(permit.clone())).await;
            }
        }
        Ok(Err(error)) => {
            let error = Arc::new(error);
            for sender in &senders {
                let _ = sender.send(Passed::Error(DataFusionError::Shared(error.clone()))).await;
            }
        }
        Err(panic) => {
            if let Some(sender) = senders.first() {
                let _ = sender.send(Passed::Panic(panic)).await;
            }
        }
    }
}

async fn pass_on(mut shared: Shared, partition: usize, senders: &[mpsc::Sender<Passed>]) -> Result<()> {
    let mut rows = shared.input.execute(partition, shared.context.clone())?;
    let mut place = (partition as u64) << PLACE_BITS;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        let parts = match &shared.division {
            None => vec![(0, batch)],
            Some(division) => {
                let parts = division.divide(&batch, place, &shared.schema)?;
                place += batch.num_rows() as u64;
                parts
            }
        };
        let mut is_any_left = false;
        for (output, part) in parts {
            is_any_left |= send(&mut shared, partition, &senders[output], part).await;
        }
        if !is_any_left && senders.iter().all(mpsc::Sender::is_closed) {
            break;
        }
    }
    Ok(())
}

/// Whether the output still reads.
async fn send(shared: &mut Shared, partition: usize, sender: &mpsc::Sender<Passed>, rows: RecordBatch) -> bool {
    let bytes = bytes_of(&rows).min(shared.most_waiting);
    let room = {
        let room = shared.waiting.clone().acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX));
        let turn = shared.head.wait_for(|head| *head >= partition);
        match select(std::pin::pin!(room), std::pin::pin!(turn)).await {
            Either::Left((room, _)) => room.ok(),
            Either::Right(_) => None,
        }
    };
    sender.send(Passed::Rows(rows, room)).await.is_ok()
}

/// What an output reads: the channels of the partitions, one after the other.
struct Reading {
    channels: std::vec::IntoIter<mpsc::Receiver<Passed>>,
    channel: Option<mpsc::Receiver<Passed>>,
    /// The number of the partition.
    partition: usize,
    head: Arc<watch::Sender<usize>>,
    /// Ends the partitions when every output has gone.
    _driver: Arc<SpawnedTask<()>>,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            let channel = self.channel.as_mut()?;
            match channel.recv().await {
                Some(Passed::Rows(rows, _)) => return Some(Ok(rows)),
                Some(Passed::End(_)) => {
                    self.channel = self.channels.next();
                    self.partition += 1;
                    let partition = self.partition;
                    self.head.send_if_modified(|head| {
                        let is_later = partition > *head;
                        *head = partition.max(*head);
                        is_later
                    });
                }
                Some(Passed::Error(error)) => {
                    self.channel = None;
                    return Some(Err(error));
                }
                Some(Passed::Panic(panic)) => std::panic::resume_unwind(panic),
                None => {
                    self.channel = None;
                    let message = format!("partition {} of a query ended before its end", self.partition);
                    return Some(Err(DataFusionError::Internal(message)));
                }
            }
        }
    }
}

impl DisplayAs for InOrderExec {
    fn fmt_as(&self, _form: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let partitions = self.input.output_partitioning().partition_count();
        write!(f, "InOrderExec: partitions={partitions}")?;
        let Some(division) = &self.division else { return Ok(()) };
        let keys: Vec<String> = division.keys.iter().map(ToString::to_string).collect();
        write!(f, ", by=[{}]", keys.join(", "))
    }
}

impl ExecutionPlan for InOrderExec {
    fn name(&self) -> &'static str {
        "InOrderExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for key in self.division.iter().flat_map(|division| &division.keys) {
            visit(key)?;
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child(children)?;
        let again = match &self.division {
            None => Self::joined(input),
            Some(division) => Self::divided(input, division.clone()),
        };
        Ok(Arc::new(Self { is_at_once: self.is_at_once, ..again }))
    }

    fn execute(&self, output: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let now = running.get_or_insert_with(|| self.start(&context));
        let Some(channels) = now.channels.get_mut(output).and_then(Option::take) else {
            return Err(DataFusionError::Internal(format!("the exchange has no output {output} left")));
        };
        let mut channels = channels.into_iter();
        let channel = channels.next();
        let reading = Reading { channels, channel, partition: 0, head: now.head.clone(), _driver: now.driver.clone() };
        if now.channels.iter().all(Option::is_none) {
            // The next time, the partitions run anew.
            *running = None;
        }
        let rows =
            stream::unfold(reading, |mut reading| async move { reading.next().await.map(|rows| (rows, reading)) });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
