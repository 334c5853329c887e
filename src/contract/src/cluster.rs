//! What `raisin cluster` passes to `raisin-cluster` as one JSON argument. src/cluster has the processes of a cluster.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The executable for queries on a cluster.
pub const EXECUTABLE: &str = "raisin-cluster";

/// The port of a scheduler, if none is given.
pub const PORT: u16 = 50050;

/// A scheduler: it gives the parts of queries to executors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SchedulerOptions {
    /// The address at which it listens.
    pub host: String,
    /// The port; 0 for a free one.
    pub port: u16,
}

/// An executor: it executes parts of queries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecutorOptions {
    /// `HOST:PORT` of the scheduler.
    pub scheduler: String,
    /// The address at which it listens, and at which scheduler, client and other executors reach it.
    pub host: String,
    /// The port for rows; 0 for a free one.
    pub port: u16,
    /// The port for orders of the scheduler; 0 for a free one.
    pub control_port: u16,
    /// How many parts it executes at the same time; `None` for the number of cores.
    pub cores: Option<usize>,
    /// The memory of all parts together, in bytes; `None` for half of the machine.
    pub memory: Option<u64>,
    /// The folder for rows between two steps of a query; `None` for a temporary one.
    pub work: Option<PathBuf>,
}
