//! `raisin-flight`: serves the tables of `raisin sql` over Flight SQL, for clients of ADBC, JDBC and ODBC. It only reads.
//! Reasons: docs/decisions/0036-trackers-and-flight.md.
//!
//! | module | concern |
//! |---|---|
//! | `statement` | a statement, which a `raisin-sql` of its own answers |
//! | `service` | the methods of Flight SQL |
//! | `values` | the values of parameters, as a client binds them |
//! | `access` | the token |

mod access;
mod service;
mod statement;
mod values;

use std::net::SocketAddr;
use std::process::ExitCode;

use access::Access;
use arrow_flight::flight_service_server::FlightServiceServer;
use raisin_base::error::{Context as _, Problem, Result, exit_code, render};
use raisin_base::say;
use raisin_contract::flight::{FlightOptions, TOKEN};
use service::Service;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("{}", render(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn serve() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [options] = arguments.as_slice() else {
        let problem = Problem::usage("usage: raisin-flight OPTIONS, which `raisin` starts");
        return Err(problem.hint("start it with `raisin flight`").into());
    };
    let options: FlightOptions = serde_json::from_slice(options.as_encoded_bytes())?;
    let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    refuse_without_token(options.address, token.as_deref())?;
    let address = options.address;
    let (service, access) = (Service::new(options)?, Access::new(token));
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads of the server")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
            Problem::new(format!("cannot listen at {address}: {error}"))
                .hint("--listen 127.0.0.1:0 takes any free port")
        })?;
        // Standard output is for data: the address, for programs that start the server.
        println_address(listener.local_addr()?)?;
        let service = FlightServiceServer::with_interceptor(service, access);
        let served = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)).await;
        served.context("the server has ended")
    })
}

/// # Errors
/// Other machines could connect, and no token keeps them out.
fn refuse_without_token(address: SocketAddr, token: Option<&str>) -> Result<()> {
    if address.ip().is_loopback() || token.is_some() {
        return Ok(());
    }
    let problem = Problem::usage(format!("at {address}, other machines could read all results, and there is no token"));
    Err(problem.hint(format!("set {TOKEN} to a secret that every client gives; or listen on 127.0.0.1")).into())
}

fn println_address(address: SocketAddr) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "grpc://{address}").and_then(|()| out.flush()).context("cannot write the address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_needs_no_token() {
        let refused = |address: &str, token| refuse_without_token(address.parse().expect("an address"), token).is_err();
        assert!(!refused("127.0.0.1:0", None) && !refused("[::1]:7", None) && !refused("0.0.0.0:7", Some("t")));
        assert!(refused("0.0.0.0:7", None) && refused("192.168.0.1:7", None) && refused("[::]:7", None));
    }
}
