//! `raisin flight`: serves the tables of `raisin sql` over Flight SQL. raisin-flight has the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::Args;

use super::pipeline_arguments::Folders;
use raisin_base::error::Result;
use raisin_contract::flight::FlightOptions;

/// Serve the tables of `raisin sql` to clients of Flight SQL (ADBC, JDBC). The server only reads.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The address and the port; port 0 takes any free port. Where other machines can connect, the variable
    /// RAISIN_FLIGHT_TOKEN must have a secret, which every client gives.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7726))]
    listen: SocketAddr,
    /// The pipeline whose tables need no catalog [default: the pipeline that was built last].
    #[arg(long)]
    pipeline: Option<String>,
    #[command(flatten)]
    folders: Folders,
}

const EXAMPLES: &str = "\
Examples:
  raisin flight                             prints grpc://127.0.0.1:7726
  raisin flight --listen 127.0.0.1:0        any free port; the address is on standard output
  RAISIN_FLIGHT_TOKEN=... raisin flight --listen 0.0.0.0:7726

In Python, with `pip install adbc-driver-flightsql pyarrow`:
  from adbc_driver_flightsql import dbapi
  with dbapi.connect(\"grpc://127.0.0.1:7726\") as connection, connection.cursor() as cursor:
      cursor.execute(\"select * from tuned.steps where step < $1\", [10])
      print(cursor.fetch_arrow_table())

docs/sql.md says how a client gives the token.";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    super::answer::hand_over_flight(&FlightOptions {
        cache: arguments.folders.cache.path(),
        out: arguments.folders.out.path(),
        pipeline: arguments.pipeline.clone(),
        address: arguments.listen,
    })
}
