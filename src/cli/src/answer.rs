//! Passes a question to another executable, which replaces this process (exec): a query and the page of `raisin ui` to
//! `raisin-sql`, a query on a cluster and `raisin cluster` to `raisin-cluster`, the question of `raisin explain` to
//! `raisin-data`, `raisin remote` and `raisin track` to `raisin-remote`, and `raisin flight` to `raisin-flight`.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use raisin_base::error::{Context as _, Error, Problem, Result};
use raisin_contract::Process;
use raisin_contract::cluster::{EXECUTABLE as CLUSTER, ExecutorOptions, SchedulerOptions};
use raisin_contract::diff::DiffQuestion;
use raisin_contract::explain::ExplainOptions;
use raisin_contract::flight::{self, FlightOptions};
use raisin_contract::query::QueryOptions;
use raisin_contract::remote::{EXECUTABLE, RemoteQuestion};
use raisin_contract::track::TrackQuestion;
use raisin_contract::ui::UiOptions;

/// # Errors
/// `raisin-sql`, or for a cluster `raisin-cluster`, does not exist or cannot be started. Without an error, this function
/// does not return.
pub fn hand_over(options: &QueryOptions) -> Result<ExitCode> {
    match options.remote {
        Some(_) => replace_by_cluster("answer", serde_json::to_string(options)),
        None => replace_by(Process::Sql.executable(), "answer", serde_json::to_string(options)),
    }
}

/// # Errors
/// As [`hand_over`], for `raisin-cluster`.
pub fn become_scheduler(options: &SchedulerOptions) -> Result<ExitCode> {
    replace_by_cluster("scheduler", serde_json::to_string(options))
}

/// # Errors
/// As [`hand_over`], for `raisin-cluster`.
pub fn become_executor(options: &ExecutorOptions) -> Result<ExitCode> {
    replace_by_cluster("executor", serde_json::to_string(options))
}

fn replace_by_cluster(command: &str, options: serde_json::Result<String>) -> Result<ExitCode> {
    replace_by(CLUSTER, command, options).map_err(|error| match error.downcast::<Problem>() {
        // No other command needs this executable, so that an installation is whole without it.
        Ok(problem) => problem.hint("in a clone of raisin, `just cluster` and `just sql --remote` compile it").into(),
        Err(error) => error,
    })
}

/// # Errors
/// As [`hand_over`].
pub fn hand_over_ui(options: &UiOptions) -> Result<ExitCode> {
    replace_by(Process::Sql.executable(), "ui", serde_json::to_string(options))
}

/// # Errors
/// As [`hand_over`], for `raisin-data`.
pub fn hand_over_explanation(options: &ExplainOptions) -> Result<ExitCode> {
    replace_by(Process::Data.executable(), "explain", serde_json::to_string(options))
}

/// # Errors
/// As [`hand_over`], for `raisin-data`.
pub fn hand_over_diff(question: &DiffQuestion) -> Result<ExitCode> {
    replace_by(Process::Data.executable(), "diff", serde_json::to_string(question))
}

/// # Errors
/// As [`hand_over`], for `raisin-remote`.
pub fn hand_over_remote(question: &RemoteQuestion) -> Result<ExitCode> {
    replace_by(EXECUTABLE, "answer", serde_json::to_string(question))
}

/// # Errors
/// As [`hand_over`], for `raisin-remote`.
pub fn hand_over_track(question: &TrackQuestion) -> Result<ExitCode> {
    replace_by(EXECUTABLE, "track", serde_json::to_string(question))
}

/// # Errors
/// `raisin-flight` does not exist or cannot be started. Without an error, this function does not return.
pub fn hand_over_flight(options: &FlightOptions) -> Result<ExitCode> {
    replace_program(flight::EXECUTABLE, &[serde_json::to_string(options).context(HAND_OVER)?])
}

/// What failed, if a question cannot be written.
const HAND_OVER: &str = "the question cannot be handed over";

fn replace_by(name: &str, command: &str, options: serde_json::Result<String>) -> Result<ExitCode> {
    replace_program(name, &[command.to_owned(), options.context(HAND_OVER)?])
}

fn replace_program(name: &str, arguments: &[String]) -> Result<ExitCode> {
    let program = raisin_engine::executable_named(name, None)?;
    let error = Command::new(&program).args(arguments).exec();
    Err(Error::from(error).context(format!("cannot start {}", program.display())))
}
