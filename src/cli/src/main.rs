//! The executable `raisin`: one small file for each command. All logic that a user of the libraries needs is in the
//! libraries, not here.
//!
//! Standard output is for data. Standard error is for messages and progress.

mod accept;
mod answer;
mod build;
mod cluster;
mod completions;
mod diff;
mod digest;
mod doctor;
mod du;
mod explain;
mod flight;
mod gc;
mod init;
mod job;
mod kinds;
mod man;
mod next;
mod outcome;
mod pin;
mod pipeline_arguments;
mod plan;
mod remote;
mod report;
mod runs;
mod schema;
mod shared_cache;
mod sql;
mod text;
mod track;
mod ui;
mod verify;
mod watch;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use raisin_base::error::{Result, exit_code, render};
use raisin_base::panics;
use raisin_base::say::say;

/// Learns which instructions to fine-tune a language model on: a pipeline of cached stages, from raw files to the
/// selection and the fine-tuned model.
#[derive(Parser)]
#[command(name = "raisin", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  raisin init quickstart trial                                  write the quickstart's files into the folder trial
  raisin init mine --pool p.jsonl --task t.jsonl --model m.gguf write a pipeline for your own data and model
  raisin build pipelines/quickstart.toml                        build everything that is not built yet
  raisin plan pipelines/quickstart.toml                         what a build would run, and why
  raisin build p.toml --set stage.clusters.clusters=8           change a parameter for this build
  raisin build p.toml --sweep 'pipeline.seed=[17, 18, 19]'      three variants; what they share runs once
  raisin build p.toml --only scores -j 2 --keep-going           one stage and what it needs, two at once
  raisin build p.toml --force tuned --check                     run a cached stage twice, and compare
  raisin plan p.toml --out plan.json                            keep the plan; `raisin build plan.json` builds it
  raisin build p.toml --watch                                   build again after each edit
  raisin build p.toml --detach                                  submit jobs to the cluster of [executor], and leave
  raisin why p.toml tuned                                       why a stage would run, or which run made its artifact
  raisin explain p.toml selector --id 12                        what the selector learned, and why it picks a row
  raisin accept p.toml tuned                                    a change was cosmetic: keep the artifact
  raisin runs                                                   all runs, with what came out
  raisin diff 20261130T1 20261130T2                             what two runs differ in
  raisin sql 'select * from report.comparison'                  what came out
  raisin ui                                                     a page that shows builds while they run
  raisin kinds selector                                         the parameters of a stage kind

Environment: RAISIN_CACHE (default ./cache), RAISIN_OUT (default ./out), RAISIN_REMOTE (a shared cache, such as
s3://bucket/prefix, or none), RAISIN_REMOTE_MODE (read or read-write), MLFLOW_TRACKING_URI, NO_COLOR.
Exit codes: 0 done, 1 a stage, the machine or raisin itself failed, 2 the command line, the pipeline or the query is wrong, 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    Init(init::Arguments),
    Build(build::Arguments),
    Plan(plan::Arguments),
    Why(why::Arguments),
    Explain(explain::Arguments),
    Accept(accept::Arguments),
    Report(report::Arguments),
    Runs(runs::Arguments),
    Diff(diff::Arguments),
    Sql(sql::Arguments),
    Ui(ui::Arguments),
    Flight(flight::Arguments),
    Kinds(kinds::Arguments),
    Schema(schema::Arguments),
    Verify(verify::Arguments),
    Gc(gc::Arguments),
    Remote(remote::Arguments),
    Track(track::Arguments),
    Cluster(cluster::Arguments),
    Pin(pin::Arguments),
    Unpin(pin::Unpin),
    Du(du::Arguments),
    Digest(digest::Arguments),
    Doctor(doctor::Arguments),
    #[command(hide = true)]
    Job(job::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// Reads the command line, runs the command, and reports an error.
fn main() -> ExitCode {
    panics::keep_panics();
    refuse_large_files_with_an_error();
    let result = panics::caught(run).flatten();
    result.unwrap_or_else(|error| {
        if is_closed_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        say(&render(&error));
        ExitCode::from(exit_code(&error))
    })
}

/// Makes a write beyond the file size limit of the process (`ulimit -f`) fail with an error that names the file. By
/// default, the signal SIGXFSZ ends the process without a message. The workers inherit this.
fn refuse_large_files_with_an_error() {
    // SAFETY: no other thread runs yet, and ignoring a signal calls no code of this process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn run() -> Result<ExitCode> {
    completions::answer();
    match Cli::parse().command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Accept(arguments) => accept::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Runs(arguments) => runs::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Sql(arguments) => sql::run(&arguments),
        Command::Ui(arguments) => ui::run(&arguments),
        Command::Flight(arguments) => flight::run(&arguments),
        Command::Kinds(arguments) => kinds::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Gc(arguments) => gc::run(&arguments),
        Command::Remote(arguments) => remote::run(&arguments),
        Command::Track(arguments) => track::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Pin(arguments) => pin::pin(&arguments),
        Command::Unpin(arguments) => pin::unpin(&arguments),
        Command::Du(arguments) => du::run(&arguments),
        Command::Digest(arguments) => digest::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Job(arguments) => job::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    }
}

/// Whether the reader of standard output, such as `head`, closed the pipe.
fn is_closed_pipe(error: &raisin_base::error::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Prints a text for people, with control characters as escapes.
fn print(text: &str) -> Result<()> {
    print_exactly(&raisin_base::printable::printable(text))
}

/// Prints a text for programs, such as JSON, in which no character may change.
fn print_exactly(text: &str) -> Result<()> {
    use std::io::Write as _;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}
