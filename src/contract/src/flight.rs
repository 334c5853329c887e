//! What `raisin`, `raisin-flight` and `raisin-sql` say to each other about Flight SQL. `raisin` gives the server its options
//! as one JSON argument. For each statement the server starts a `raisin-sql`, which reads one line with a
//! [`FlightQuestion`] from its standard input, and writes an Arrow IPC stream. When its standard input ends, it ends too.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The executable that serves Flight SQL.
pub const EXECUTABLE: &str = "raisin-flight";

/// The variable with the token that every client must give.
pub const TOKEN: &str = "RAISIN_FLIGHT_TOKEN";

/// The number of statements that the server answers at the same time. They share the memory of a query.
pub const MOST_STATEMENTS: usize = 8;

/// The names of the parameters of a statement, separated by commas, in the metadata of the schema of
/// [`FlightTask::Describe`].
pub const PARAMETERS: &str = "raisin.parameters";

/// What to serve, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlightOptions {
    pub cache: PathBuf,
    pub out: PathBuf,
    /// The pipeline whose tables need no catalog. Default: the one that was built last.
    pub pipeline: Option<String>,
    /// Port 0 stands for any free port.
    pub address: SocketAddr,
}

/// A question about one statement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlightQuestion {
    pub cache: PathBuf,
    pub out: PathBuf,
    pub pipeline: Option<String>,
    pub task: FlightTask,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlightTask {
    /// The rows of a statement.
    Run {
        sql: String,
        /// The values of `$1` or the first `?`, and so on. A value with a name is that of `$name`, too.
        values: Vec<(String, FlightValue)>,
    },
    /// The schema of a statement, and no rows. A statement with parameters has no columns yet.
    Describe { sql: String },
    /// The catalogs, schemas and tables, as the columns `catalog`, `schema`, `table`; with `columns` also the schema of
    /// each table as an Arrow IPC stream.
    Tables { columns: bool },
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlightValue {
    Null,
    Bool(bool),
    /// The digits, because a number of JSON has no 64 bits everywhere.
    Number(String),
    Text(String),
}
