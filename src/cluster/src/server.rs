//! The scheduler and the executors: those of ballista, with the functions and the codec of raisin.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::error::BallistaError;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};

use super::address::host_and_port;
use super::client::LARGEST_MESSAGE;
use super::codec::RaisinCodec;
use super::engine::RaisinEngine;
use super::settings::{check_version, of_a_server};
use super::told::marked;
use raisin_base::error::{Context as _, Problem, Result, anyhow};
use raisin_base::memory::default_limit;
use raisin_base::say;
use raisin_contract::cluster::{ExecutorOptions, PORT, SchedulerOptions};

/// How long the rows of an answer stay with the executors after the query, in seconds.
const ROWS_STAY: u64 = 3600;
/// How long an executor waits for its scheduler.
const WAITING: Duration = Duration::from_secs(30);

/// Serves until the process is ended. `began` gets the address when connections are taken.
pub async fn scheduler(options: &SchedulerOptions, version: &str, began: impl FnOnce(SocketAddr)) -> Result<()> {
    let listener = listener(&options.host, options.port)?;
    let address = listener.local_addr()?;
    let own = version.to_owned();
    let config = SchedulerConfig {
        bind_host: options.host.clone(),
        bind_port: address.port(),
        external_host: options.host.clone(),
        finished_job_data_clean_up_interval_seconds: ROWS_STAY,
        finished_job_state_clean_up_interval_seconds: ROWS_STAY,
        grpc_server_max_decoding_message_size: u32::try_from(LARGEST_MESSAGE)?,
        grpc_server_max_encoding_message_size: u32::try_from(LARGEST_MESSAGE)?,
        grpc_client_max_message_size: u32::try_from(LARGEST_MESSAGE)?,
        override_physical_codec: Some(Arc::new(RaisinCodec::default())),
        override_config_producer: Some(Arc::new(of_a_server)),
        override_session_builder: Some(Arc::new(move |settings: SessionConfig| {
            check_version(&settings, &own, "scheduler").map_err(marked)?;
            let state = SessionStateBuilder::new_with_default_features().with_config(settings).build();
            let context = SessionContext::new_with_state(state);
            raisin_query::elsewhere::install(&context)?;
            Ok(context.state())
        })),
        ..SchedulerConfig::default()
    };
    config.validate().map_err(of_ballista)?;
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(of_ballista)?;
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config));
    let scheduler = scheduler.await.map_err(of_ballista)?;
    listener.set_nonblocking(true)?;
    began(address);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    start_grpc_service_with_listener(listener, scheduler).await.map_err(of_ballista)
}

/// Serves until SIGTERM or Ctrl-C. `began` gets the address for rows before the scheduler knows the executor.
pub async fn executor(options: &ExecutorOptions, version: &str, began: impl FnOnce(SocketAddr)) -> Result<()> {
    let (scheduler_host, scheduler_port) = host_and_port(&options.scheduler, PORT).map_err(|why| {
        let problem = Problem::usage(format!("`{}` is not the place of a scheduler: {why}", options.scheduler));
        problem.hint("write HOST:PORT, such as 127.0.0.1:50050")
    })?;
    wait_for(&scheduler_host, scheduler_port).await?;
    // Ballista takes the ports as numbers. Both are found before one of them is free again.
    let (rows, control) = (listener(&options.host, options.port)?, listener(&options.host, options.control_port)?);
    let (address, control_port) = (rows.local_addr()?, control.local_addr()?.port());
    drop((rows, control));
    let temporary = match &options.work {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("raisin-cluster-").tempdir()?),
    };
    let work = options.work.clone().or(temporary.as_ref().map(|folder| folder.path().to_owned())).unwrap_or_default();
    std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let cores = options.cores.unwrap_or(std::thread::available_parallelism()?.get());
    let context = SessionContext::new_with_state(SessionStateBuilder::new_with_default_features().build());
    raisin_query::elsewhere::install(&context)?;
    let config = ExecutorProcessConfig {
        bind_host: options.host.clone(),
        external_host: Some(options.host.clone()),
        port: address.port(),
        grpc_port: control_port,
        scheduler_host,
        scheduler_port,
        vcores: cores,
        work_dir: Some(work.display().to_string()),
        grpc_max_decoding_message_size: u32::try_from(LARGEST_MESSAGE)?,
        grpc_max_encoding_message_size: u32::try_from(LARGEST_MESSAGE)?,
        // `Some(0)` would be no limit.
        memory_pool_size: options.memory.or_else(default_limit),
        override_execution_engine: Some(Arc::new(RaisinEngine::of(version))),
        override_function_registry: Some(Arc::new(BallistaFunctionRegistry::from(&context.state()))),
        override_config_producer: Some(Arc::new(of_a_server)),
        override_physical_codec: Some(Arc::new(RaisinCodec::default())),
        ..ExecutorProcessConfig::default()
    };
    began(address);
    start_executor_process(Arc::new(config)).await.map_err(of_ballista)
}

/// # Errors
/// The host is none of this machine, or the port is taken.
fn listener(host: &str, port: u16) -> Result<TcpListener> {
    let listening = TcpListener::bind((host.trim_matches(['[', ']']), port));
    listening.map_err(|error| {
        let problem = Problem::new(format!("cannot listen at {host}:{port}: {error}"));
        problem.hint("--host is an address of this machine, and --port a free port, or 0").into()
    })
}

/// # Errors
/// The scheduler does not listen, also after some time.
async fn wait_for(host: &str, port: u16) -> Result<()> {
    let began = Instant::now();
    loop {
        let place = (host.trim_matches(['[', ']']), port).to_socket_addrs();
        let error = match place.map(Iterator::collect::<Vec<_>>) {
            Ok(places) => match tokio::net::TcpStream::connect(places.as_slice()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if began.elapsed() > WAITING {
            let problem = Problem::new(format!("no scheduler answers at {host}:{port}: {error}"));
            return Err(problem.hint("start one: `raisin cluster scheduler`").into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn of_ballista(error: BallistaError) -> raisin_base::error::Error {
    anyhow!("{error}")
}

/// Says on standard error that a process of a cluster takes connections.
pub fn tell(process: &str, address: SocketAddr) {
    say!("{process} of raisin {} at {address}", super::settings::VERSION);
}
