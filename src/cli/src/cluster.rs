//! `raisin cluster`: the processes of a cluster for `raisin sql --remote`. `raisin-cluster` is these processes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};

use super::{answer, gc};
use raisin_base::error::Result;
use raisin_contract::cluster::{ExecutorOptions, PORT, SchedulerOptions};

/// Start the processes of a cluster, on which `raisin sql --remote` runs queries.
///
/// A cluster is one scheduler and any number of executors. All machines see the cache and the files of queries at the
/// same paths. The processes know no passwords: whoever reaches a port can read these files (docs/sql.md).
#[derive(Args)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: ClusterCommand,
}

const EXAMPLES: &str = "\
Examples:
  raisin cluster scheduler --host 10.0.0.1
  raisin cluster executor --scheduler 10.0.0.1:50050 --host 10.0.0.2 --memory 64GB
  raisin sql --remote df://10.0.0.1:50050 \"select count(*) from history.instructions\"";

#[derive(Subcommand)]
enum ClusterCommand {
    /// Start the scheduler, which divides queries and gives their parts to executors.
    Scheduler(SchedulerArguments),
    /// Start an executor, which executes parts of queries.
    Executor(ExecutorArguments),
}

#[derive(Args)]
struct SchedulerArguments {
    /// The address of this machine at which clients and executors reach the scheduler.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 for a free one.
    #[arg(long, value_name = "PORT", default_value_t = PORT)]
    port: u16,
}

#[derive(Args)]
struct ExecutorArguments {
    /// The place of the scheduler. The executor waits 30 seconds for it.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
    scheduler: String,
    /// The address of this machine at which the scheduler, the other executors and clients reach the executor.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// The port for rows; 0 for a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// The port for orders of the scheduler; 0 for a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    control_port: u16,
    /// How many parts of queries run at the same time [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cores: Option<u32>,
    /// The memory of all parts together, such as 64GB; rows that need more go to the disk [default: half of the machine]
    #[arg(long, value_name = "SIZE", value_parser = gc::size)]
    memory: Option<u64>,
    /// The folder for rows between two steps of a query [default: a new folder for temporary files]
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    work: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        ClusterCommand::Scheduler(arguments) => {
            answer::become_scheduler(&SchedulerOptions { host: arguments.host.clone(), port: arguments.port })
        }
        ClusterCommand::Executor(arguments) => answer::become_executor(&ExecutorOptions {
            scheduler: arguments.scheduler.clone(),
            host: arguments.host.clone(),
            port: arguments.port,
            control_port: arguments.control_port,
            cores: arguments.cores.map(|cores| cores as usize),
            memory: arguments.memory.map(|memory| memory.max(1)),
            work: arguments.work.clone(),
        }),
    }
}
