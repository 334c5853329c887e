//! `raisin-data`: runs the stages that need neither tensors nor queries: `ingest`, `generate`, `task`, `overlap`, `report`.
//! `raisin build` starts it.

#[cfg(test)]
mod fixture;
mod generate;
mod ingest;
mod overlap;
mod report;
mod task;

use std::process::ExitCode;

use raisin_base::error::{Result, anyhow};
use raisin_contract::KindRunner;
use raisin_contract::serve::{report_failure, run_one_of, serve};

/// The memory that a worker may keep between stages, in bytes. There may be one worker for each core, and the scheduler
/// does not count this memory.
const MOST_KEPT: u64 = 200_000_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn runners() -> Vec<KindRunner> {
    vec![
        KindRunner::of::<raisin_kinds::ingest::IngestKind>(ingest::run),
        KindRunner::of::<raisin_kinds::generate::GenerateKind>(generate::run),
        KindRunner::of::<raisin_kinds::task::TaskKind>(task::run),
        KindRunner::of::<raisin_kinds::overlap::OverlapKind>(overlap::run),
        KindRunner::of::<raisin_kinds::report::ReportKind>(report::run),
    ]
}

fn run() -> Result<()> {
    let runners = runners();
    match std::env::args().nth(1).as_deref() {
        Some("run-stages") => serve(|assignment| run_one_of(&runners, assignment), |_| MOST_KEPT),
        // Prints the number of rows of each table on a line, or `?` for a file that is not a table.
        Some("rows") => {
            for path in std::env::args_os().skip(2) {
                match raisin_table::rows(path.as_ref()) {
                    Ok(rows) => println!("{rows}"),
                    Err(_) => println!("?"),
                }
            }
            Ok(())
        }
        _ => Err(anyhow!("usage: raisin-data run-stages, which `raisin build` starts")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_kind_of_this_executable_has_its_run() {
        let kinds: Vec<&str> = super::runners().iter().map(|runner| runner.kind).collect();
        assert_eq!(kinds, raisin_kinds::kinds_of(raisin_contract::Process::Data));
    }
}
