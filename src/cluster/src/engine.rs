//! The execution of one part of a query on an executor: that of ballista, with errors that arrive at the user as they
//! would from one process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::client::BallistaClient;
use ballista_core::client_pool::{BallistaClientPool, PooledClient};
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_core::utils::GrpcClientConfig;
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;

use super::client::LARGEST_MESSAGE;
use super::settings::check_version;
use super::told::marked;

/// Connections to other executors that no part uses now. Without it, each read between two steps of a query would open a
/// connection. (The pool of ballista is private.)
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<IdleClients>>);

type IdleClients = HashMap<(String, u16), Vec<BallistaClient>>;

impl Connections {
    fn idle(&self) -> MutexGuard<'_, IdleClients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

#[async_trait]
impl BallistaClientPool for Connections {
    async fn acquire(
        &self,
        host: &str,
        port: u16,
        config: &GrpcClientConfig,
        customize_endpoint: Option<Arc<BallistaConfigGrpcEndpoint>>,
    ) -> ballista_core::error::Result<PooledClient> {
        let key = (host.to_owned(), port);
        let idle = self.idle().get_mut(&key).and_then(Vec::pop);
        let client = match idle {
            Some(client) => client,
            None => {
                BallistaClient::try_new(
                    host,
                    port,
                    LARGEST_MESSAGE,
                    false,
                    customize_endpoint,
                    config.io_retries_times,
                    config.io_retry_wait_time_ms,
                    config.initial_connection_window_size,
                    config.initial_stream_window_size,
                )
                .await?
            }
        };
        let own = self.clone();
        Ok(PooledClient::new(client, Box::new(move |client| own.idle().entry(key).or_default().push(client))))
    }

    async fn evict_idle(&self) {
        self.idle().clear();
    }
}

pub struct RaisinEngine {
    of_ballista: DefaultExecutionEngine,
    version: String,
}

impl RaisinEngine {
    /// The engine of an executor of this version of raisin.
    pub fn of(version: &str) -> Self {
        let of_ballista = DefaultExecutionEngine::with_client_pool(Arc::new(Connections::default()));
        Self { of_ballista, version: version.to_owned() }
    }
}

impl ExecutionEngine for RaisinEngine {
    fn create_query_stage_exec(
        &self,
        job: JobId,
        stage: usize,
        task: usize,
        partitions: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work: &str,
        settings: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let stage = self.of_ballista.create_query_stage_exec(job, stage, task, partitions, plan, work, settings)?;
        Ok(Arc::new(RaisinStage { stage, version: self.version.clone() }))
    }
}

/// A part of a query that checks its version, and marks its error.
#[derive(Debug)]
struct RaisinStage {
    stage: Arc<dyn QueryStageExecutor>,
    version: String,
}

impl fmt::Display for RaisinStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stage.fmt(f)
    }
}

#[async_trait]
impl QueryStageExecutor for RaisinStage {
    async fn execute_query_stage(&self, task: usize, context: Arc<TaskContext>) -> Result<Vec<ShuffleWritePartition>> {
        check_version(context.session_config(), &self.version, "executor").map_err(marked)?;
        self.stage.execute_query_stage(task, context).await.map_err(marked)
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.stage.collect_plan_metrics()
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.stage.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.stage.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.stage.collect_column_stats()
    }
}
