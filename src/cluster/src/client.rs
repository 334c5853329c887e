//! The client: a session plans a query here, the scheduler gets the physical plan, and the rows come from the executors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::error::BallistaError;
use ballista_core::extension::SessionConfigHelperExt as _;
use ballista_core::optimizer::with_ballista_optimizer_rules;
use ballista_core::planner::scans_only_information_schema;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    CancelJobParams, ExecuteQueryParams, GetJobStatusResult, PartitionLocation, RemoveSessionParams,
};
use ballista_core::version::insert_version_header;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::physical_plan::AsExecutionPlan as _;
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::address::Address;
use super::codec::RaisinCodec;
use super::same;
use super::settings::of_a_client;
use super::told::told;
use raisin_base::error::Problem;
use raisin_base::say;
use raisin_query::elsewhere::{Elsewhere, interruptible};

/// The largest message between the processes, in bytes: tables that have no file travel inside the plan.
pub const LARGEST_MESSAGE: usize = 1 << 28;
/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(10);
/// How often a waiting query looks for Ctrl-C.
const TICK: Duration = Duration::from_millis(100);
/// After this time without an executor, the client says what it waits for.
const PATIENCE: Duration = Duration::from_secs(10);

type SchedulerClient = SchedulerGrpcClient<Channel>;

/// A cluster, as a session uses it.
pub struct SqlCluster {
    pub address: Address,
    /// The version of raisin that the cluster must have.
    pub version: String,
    /// When this becomes true, the query ends, and its job is cancelled.
    pub stop: Arc<AtomicBool>,
}

fn external(problem: Problem) -> DataFusionError {
    DataFusionError::External(Box::new(problem))
}

#[async_trait]
impl Elsewhere for SqlCluster {
    fn settings(&self, settings: SessionConfig) -> SessionConfig {
        of_a_client(settings, self.address.partitions, &self.version)
    }

    fn functions(&self, context: &SessionContext) {
        let others =
            datafusion::functions::crypto::functions().into_iter().chain(datafusion::functions::encoding::functions());
        others.for_each(|function| context.deregister_udf(function.name()));
    }

    async fn execute(&self, context: &SessionContext, plan: LogicalPlan) -> Result<SendableRecordBatchStream> {
        same::check(&plan)?;
        let is_of_names = scans_only_information_schema(&plan).map_err(|_| {
            external(same::of_this_process("a query over information_schema together with other tables"))
        })?;
        let is_an_explanation = matches!(plan, LogicalPlan::Explain(_));
        let state = state(context);
        // A cancelled part of a query ends when it returns to its executor.
        let plan = state.create_physical_plan(&plan).await?;
        same::check_joins(&plan)?;
        let plan = interruptible(plan)?;
        if is_of_names || is_an_explanation {
            return execute_stream(plan, state.task_ctx());
        }
        self.submit(&state, plan).await
    }
}

/// The session with the rules of ballista.
fn state(context: &SessionContext) -> SessionState {
    let state = context.state();
    let (id, rules) = (state.session_id().to_owned(), with_ballista_optimizer_rules(state.optimizers()));
    SessionStateBuilder::new_from_existing(state).with_session_id(id).with_optimizer_rules(rules).build()
}

impl SqlCluster {
    async fn submit(&self, state: &SessionState, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        let schema = plan.schema();
        let bytes = bytes_of(plan)?;
        let session_id = state.session_id().to_owned();
        let settings = state.config().to_key_value_pairs();
        let query = ExecuteQueryParams {
            query: Some(Query::PhysicalPlan(bytes)),
            settings,
            session_id: session_id.clone(),
            operation_id: session_id.clone(),
        };
        let mut scheduler = self.scheduler().await?;
        let mut request = tonic::Request::new(query);
        insert_version_header(request.metadata_mut());
        let answer = scheduler.execute_query_push(request).await.map_err(|status| of_the_scheduler(&status))?;
        let job = RunningJob { address: self.address.clone(), id: None };
        let rows = of_job(answer.into_inner(), job, self.stop.clone());
        let rows = stream::once(rows).try_flatten();
        // The scheduler keeps the settings of a session until it is told that the session has ended.
        let end = stream::once(async move {
            let _ = scheduler.remove_session(RemoveSessionParams { session_id }).await;
        });
        let rows = rows.chain(end.filter_map(|()| async { None }));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    async fn scheduler(&self) -> Result<SchedulerClient> {
        connected(&self.address).await.map_err(|error| {
            let cause = deepest(&error);
            let message = format!("no scheduler answers at {}:{}: {cause}", self.address.host, self.address.port);
            external(Problem::new(message).hint("start one: `raisin cluster scheduler`; or leave out --remote"))
        })
    }
}

async fn connected(address: &Address) -> std::result::Result<SchedulerClient, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.url())?.connect_timeout(CONNECTING).tcp_nodelay(true);
    let client = SchedulerGrpcClient::new(endpoint.connect().await?);
    Ok(client.max_encoding_message_size(LARGEST_MESSAGE).max_decoding_message_size(LARGEST_MESSAGE))
}

/// The innermost cause of an error, such as `Connection refused`.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn bytes_of(plan: Arc<dyn ExecutionPlan>) -> Result<Vec<u8>> {
    let node = PhysicalPlanNode::try_from_physical_plan(plan, &RaisinCodec::default()).map_err(|error| {
        let cause = error.find_root().strip_backtrace();
        external(Problem::usage(format!("this query cannot be sent to a cluster: {cause}")).hint("leave out --remote"))
    })?;
    let mut bytes = Vec::new();
    node.try_encode(&mut bytes)?;
    // With some room for what ballista adds.
    if bytes.len() > LARGEST_MESSAGE - (1 << 20) {
        let message = format!("the plan of this query has {} MB, and a cluster takes 256 MB", bytes.len() / 1_000_000);
        let problem = Problem::usage(message);
        return Err(external(problem.hint(
            "temporary tables, `raisin.*` and wide metrics travel inside the plan: write a large one into a Parquet file \
             with -o, and read the file",
        )));
    }
    Ok(bytes)
}

/// The error of a scheduler that did not take a query.
fn of_the_scheduler(status: &tonic::Status) -> DataFusionError {
    external(told(status.message()).unwrap_or_else(|| match status.code() {
        tonic::Code::FailedPrecondition => Problem::new(format!("the cluster does not take the query: {}", status.message()))
            .hint("start the scheduler and all executors with the raisin that asks"),
        tonic::Code::InvalidArgument => {
            let problem = Problem::new(format!("the scheduler cannot read the plan of this query: {}", status.message()));
            problem.hint("is it a scheduler of `raisin cluster`? If so, the query is too deep or too large for a cluster: leave out --remote")
        }
        code => Problem::new(format!("the scheduler does not take the query: {code:?}: {}", status.message())),
    }))
}

/// A job that the scheduler has and that has not ended. If the value is dropped, the job is cancelled.
struct RunningJob {
    address: Address,
    id: Option<String>,
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        let Some(job_id) = self.id.take() else { return };
        let address = self.address.clone();
        // The runtime of the query may not run any more.
        let cancel = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let cancelled =
                    async { connected(&address).await.ok()?.cancel_job(CancelJobParams { job_id }).await.ok() };
                tokio::time::timeout(Duration::from_secs(2), cancelled).await.ok()?
            })
        };
        if std::thread::spawn(cancel).join().ok().flatten().is_none() {
            say!("warning: the query could not be cancelled; the cluster may still execute it");
        }
    }
}

/// Waits for the end of a job, and opens its rows.
async fn of_job(
    mut states: Streaming<GetJobStatusResult>,
    mut job: RunningJob,
    stop: Arc<AtomicBool>,
) -> Result<SendableRows> {
    let began = Instant::now();
    let mut is_told = false;
    loop {
        let next = tokio::time::timeout(TICK, states.message()).await;
        if stop.swap(false, Ordering::Relaxed) {
            return Err(external(Problem::new("the query was stopped")));
        }
        let Ok(next) = next else {
            if !is_told && began.elapsed() > PATIENCE {
                is_told = true;
                say!("the cluster still works on the query, or has no executor");
            }
            continue;
        };
        let status = next.map_err(|status| lost(status.message()))?.and_then(|it| it.status);
        let Some(status) = status else { return Err(lost("it ended without an answer")) };
        job.id = Some(status.job_id);
        match status.status {
            Some(Status::Failed(failed)) => {
                job.id = None;
                return Err(external(told(&failed.error).unwrap_or_else(|| failure(&failed.error))));
            }
            Some(Status::Successful(done)) => {
                job.id = None;
                let rows = stream::iter(done.partition_location).then(rows_of).try_flatten();
                return Ok(rows.boxed());
            }
            Some(Status::Queued(_) | Status::Running(_)) | None => {}
        }
    }
}

type SendableRows = stream::BoxStream<'static, Result<datafusion::arrow::array::RecordBatch>>;

fn failure(text: &str) -> Problem {
    Problem::new(format!("the cluster could not execute the query: {text}"))
}

fn lost(why: &str) -> DataFusionError {
    external(Problem::new(format!("the connection to the scheduler is lost: {why}")).hint("ask again when it is back"))
}

/// The rows of one part of the answer, from the executor that has them.
async fn rows_of(place: PartitionLocation) -> Result<SendableRecordBatchStream> {
    let layout = place.layout();
    let (Some(executor), Some(part)) = (place.executor_meta, place.partition_id) else {
        return Err(external(failure("a part of the answer has no place")));
    };
    let (host, port) = (executor.host.as_str(), u16::try_from(executor.port).unwrap_or_default());
    let of_executor = |error: BallistaError| {
        let message = format!("the rows of the answer cannot be read from the executor at {host}:{port}: {error}");
        external(Problem::new(message).hint("clients must reach the executors: start them with --host"))
    };
    let client = BallistaClient::try_new(host, port, LARGEST_MESSAGE, false, None, 3, 500, 0, 0).await;
    let mut client = client.map_err(of_executor)?;
    let rows =
        client.fetch_partition_proxied(&executor.id, &part.into(), place.file_id, layout, host, port, true).await;
    rows.map_err(of_executor)
}
