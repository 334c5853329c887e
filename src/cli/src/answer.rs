//! Passes a query to `raisin-sql`, which replaces this process (exec). raisin-sql does the work.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use raisin_base::error::{Context as _, Error, Result};
use raisin_contract::Process;
use raisin_contract::query::QueryOptions;

/// # Errors
/// `raisin-sql` does not exist or cannot be started. Without an error, this function does not return.
pub fn hand_over(options: &QueryOptions) -> Result<ExitCode> {
    let program = raisin_engine::executable(Process::Sql, None)?;
    let options = serde_json::to_string(options).context("the query cannot be handed over")?;
    let error = Command::new(&program).arg("answer").arg(options).exec();
    Err(Error::from(error).context(format!("cannot start {}", program.display())))
}
