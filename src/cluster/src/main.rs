//! `raisin-cluster`: answers the queries of `raisin sql --remote` on a cluster of Apache Ballista, and is the scheduler
//! and the executors of such a cluster.

mod address;
mod client;
mod codec;
mod engine;
mod same;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod told;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use raisin_base::error::{Context as _, Error, Problem, Result, exit_code, render};
use raisin_base::say;
use raisin_base::stack::on_large_stack;
use raisin_contract::query::QueryOptions;

use address::Address;
use client::SqlCluster;
use settings::VERSION;

/// The stack of the threads of a scheduler and an executor, in bytes: the tree of a query with many terms is deep. The
/// kernel gives memory only to the pages that are used.
const STACK: &str = "268435456";

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RUST_MIN_STACK", STACK) };
    let result = on_large_stack(run).and_then(|result| result);
    let Err(error) = result else { return ExitCode::SUCCESS };
    say!("{}", render(&error));
    ExitCode::from(exit_code(&error))
}

fn run() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [command, options] if command == "answer" => answer(&of_json(options)?),
        [command, options] if command == "scheduler" => {
            let options = of_json(options)?;
            serve(server::scheduler(&options, VERSION, |address| server::tell("scheduler", address)))
        }
        [command, options] if command == "executor" => {
            let options = of_json(options)?;
            serve(server::executor(&options, VERSION, |address| server::tell("executor", address)))
        }
        _ => Err(Problem::usage(
            "usage: raisin-cluster answer OPTIONS | scheduler OPTIONS | executor OPTIONS, which `raisin` starts; ask with \
             `raisin sql --remote`",
        )
        .into()),
    }
}

fn of_json<T: serde::de::DeserializeOwned>(options: &OsString) -> Result<T> {
    serde_json::from_slice(options.as_encoded_bytes()).context("the options cannot be read")
}

fn answer(options: &QueryOptions) -> Result<()> {
    let address = Address::of(options.remote.as_deref().unwrap_or_default()).map_err(Error::from)?;
    let stop = Arc::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    raisin_query::run(options, Some(Arc::new(SqlCluster { address, version: VERSION.to_owned(), stop })))
}

fn serve(process: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the threads")?.block_on(process)
}
