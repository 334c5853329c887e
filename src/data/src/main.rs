//! `raisin-data`: runs the stages that need neither tensors nor queries: `ingest`, `generate`, `task`, `overlap`,
//! `mix`, `dedup`, `command`, `export`, `report`, `track`. `raisin build` starts it. `raisin explain`, `raisin diff` and
//! `raisin init` start it too: it reads the artifact of a selector, and looks at files of data.

mod command;
mod dedup;
mod encoding;
mod export;
#[cfg(test)]
mod fixture;
mod generate;
mod ingest;
mod kept;
mod look;
mod mix;
mod overlap;
mod report;
mod task;
mod track;

use std::io::Write as _;
use std::process::ExitCode;

use raisin_base::error::anyhow;
use raisin_base::printable::printable;
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
            [word, arguments @ ..] if word == command::supervisor::ARGUMENT => {
                command::supervisor::supervise(arguments)
            }
            [command, options] if command == "explain" => {
                let text = raisin_report::explain::answer(&serde_json::from_slice(options.as_encoded_bytes())?)?;
                match std::io::stdout().lock().write_all(printable(&text).as_bytes()) {
                    // The reader of a pipe, such as `head`, has read enough.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                    written => Ok(written?),
                }
            }
            [command, question] if command == "diff" => {
                let text = raisin_report::diff::answer(&serde_json::from_slice(question.as_encoded_bytes())?)?;
                match std::io::stdout().lock().write_all(printable(&text).as_bytes()) {
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                    written => Ok(written?),
                }
            }
            [command, question] if command == "look" => {
                let findings = look::look(&serde_json::from_slice(question.as_encoded_bytes())?)?;
                Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&findings)?)?)
            }
            _ => Err(anyhow!(
                "usage: raisin-data run-stages | explain OPTIONS, which `raisin` starts; ask with `raisin explain`"
            )),
        },
    )
}

fn runners() -> Vec<KindRunner> {
    vec![
        KindRunner::of::<raisin_kinds::ingest::IngestKind>(ingest::run),
        KindRunner::of::<raisin_kinds::generate::GenerateKind>(generate::run),
        KindRunner::of::<raisin_kinds::task::TaskKind>(task::run),
        KindRunner::of::<raisin_kinds::overlap::OverlapKind>(overlap::run),
        KindRunner::of::<raisin_kinds::mix::MixKind>(mix::run),
        KindRunner::of::<raisin_kinds::dedup::DedupKind>(dedup::run),
        KindRunner::of::<raisin_kinds::command::CommandKind>(command::run),
        KindRunner::of::<raisin_kinds::export::ExportKind>(export::run),
        KindRunner::of::<raisin_kinds::report::ReportKind>(report::run),
        KindRunner::of::<raisin_kinds::track::TrackKind>(track::run),
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
