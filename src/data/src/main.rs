//! `raisin-data`: runs the stages that need neither tensors nor queries: `ingest`, `generate`, `task`, `overlap`,
//! `report`. `raisin build` starts it.

#[cfg(test)]
mod fixture;
mod generate;
mod ingest;
mod overlap;
mod report;
mod task;

use std::io::Write as _;
use std::process::ExitCode;

use raisin_base::error::anyhow;
use raisin_contract::KindRunner;
use raisin_contract::serve::{run_executable, run_one_of};

/// The memory that a worker may keep between stages, in bytes. There may be one worker for each core, and the scheduler
/// does not count this memory.
const MOST_KEPT: u64 = 200_000_000;

fn main() -> ExitCode {
    let runners = runners();
    run_executable(
        |assignment| run_one_of(&runners, assignment),
        |_| MOST_KEPT,
        |arguments| match arguments {
            // Prints the number of rows of each table on a line, or `?` for a file that is not a table.
            [command, paths @ ..] if command == "rows" => {
                let mut stdout = std::io::stdout().lock();
                for path in paths {
                    let rows = raisin_table::rows(path.as_ref());
                    writeln!(stdout, "{}", rows.map_or("?".to_owned(), |rows| rows.to_string()))?;
                }
                Ok(())
            }
            _ => Err(anyhow!("usage: raisin-data run-stages, which `raisin build` starts")),
        },
    )
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

#[cfg(test)]
mod tests {
    #[test]
    fn every_kind_of_this_executable_has_its_run() {
        let kinds: Vec<&str> = super::runners().iter().map(|runner| runner.kind).collect();
        assert_eq!(kinds, raisin_kinds::kinds_of(raisin_contract::Process::Data));
    }
}
