//! Processes of other versions, in this process: each refuses the query, and names both versions.

use std::net::SocketAddr;
use std::sync::Arc;

use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion::arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use futures_util::TryStreamExt as _;

use super::address::Address;
use super::client::SqlCluster;
use super::server;
use super::settings::VERSION;
use raisin_base::error::Problem;
use raisin_contract::cluster::{ExecutorOptions, SchedulerOptions};
use raisin_query::elsewhere::{Elsewhere as _, install};

const HERE: &str = "127.0.0.1";

async fn scheduler(version: &'static str) -> SocketAddr {
    let (sender, began) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let options = SchedulerOptions { host: HERE.to_owned(), port: 0 };
        server::scheduler(&options, version, |address| sender.send(address).expect("the test waits")).await
    });
    began.await.expect("the scheduler starts")
}

fn executor(scheduler: SocketAddr, version: &'static str) {
    tokio::spawn(async move {
        let options = ExecutorOptions {
            scheduler: scheduler.to_string(),
            host: HERE.to_owned(),
            port: 0,
            control_port: 0,
            cores: Some(1),
            memory: Some(100_000_000),
            work: None,
        };
        server::executor(&options, version, |_| {}).await
    });
}

/// The number of rows of a query on a cluster.
async fn rows(scheduler: SocketAddr, sql: &str) -> Result<usize> {
    let address = Address { host: HERE.to_owned(), port: scheduler.port(), partitions: 2 };
    let cluster = SqlCluster { address, version: VERSION.to_owned(), stop: Arc::default() };
    let context = SessionContext::new_with_config(cluster.settings(SessionConfig::new()));
    install(&context)?;
    let plan = context.sql(sql).await?.into_unoptimized_plan();
    let batches: Vec<_> = cluster.execute(&context, plan).await?.try_collect().await?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

fn problem(result: Result<usize>) -> Problem {
    match result.expect_err("a refusal").find_root() {
        DataFusionError::External(inner) => inner.downcast_ref::<Problem>().expect("a problem").clone(),
        other => panic!("{other:?}"),
    }
}

const SUM: &str = "select sum(x) as s from (values (1), (2)) as t(x) group by x";

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_the_same_version_answer() {
    let scheduler = scheduler(VERSION).await;
    executor(scheduler, VERSION);
    assert_eq!(rows(scheduler, SUM).await.expect("rows"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_of_another_version_refuses_a_query() {
    let problem = problem(rows(scheduler("0.0.1").await, "select 1 as one").await);
    assert_eq!(
        problem.message,
        format!("the scheduler is one of raisin 0.0.1, and the query comes from raisin {VERSION}")
    );
    assert!(problem.hint.is_some_and(|hint| hint.contains("with the raisin that asks")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_of_another_version_refuses_its_part() {
    let scheduler = scheduler(VERSION).await;
    executor(scheduler, "0.0.1");
    let problem = problem(rows(scheduler, SUM).await);
    assert_eq!(
        problem.message,
        format!("the executor is one of raisin 0.0.1, and the query comes from raisin {VERSION}")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_is_not_one_of_raisin_calculates_no_sum() {
    let listener = tokio::net::TcpListener::bind((HERE, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let config = SchedulerConfig::default();
    let cluster = BallistaCluster::new_from_config(&config).await.expect("a cluster");
    let plain = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config));
    let plain = plain.await.expect("a scheduler");
    tokio::spawn(start_grpc_service_with_listener(listener, plain));
    let problem = problem(rows(address, SUM).await);
    assert!(problem.message.starts_with("the scheduler cannot read the plan of this query"), "{problem}");
    assert!(problem.hint.is_some_and(|hint| hint.contains("is it a scheduler of `raisin cluster`?")));
}
