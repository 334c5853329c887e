//! `raisin-sql`: answers the queries of `raisin sql`, serves the page of `raisin ui`, answers the statements of `raisin-flight`, and runs the stages of the kinds `filter` and `sql`. No other executable contains
//! DataFusion.

use std::process::ExitCode;

use raisin_base::allocator::keep_freed_memory;
use raisin_base::error::{Problem, render};
use raisin_base::say;
use raisin_base::stack::on_large_stack;
use raisin_contract::KindRunner;
use raisin_contract::serve::{run_executable, run_one_of};
use raisin_query::{filter, kind};

/// The memory that a worker may keep between stages, in bytes.
const MOST_KEPT: u64 = 200_000_000;

fn main() -> ExitCode {
    keep_freed_memory();
    // The tree of a query with many terms is deep, and so are the calls that plan and evaluate the tree.
    on_large_stack(serve).unwrap_or_else(|error| {
        say!("{}", render(&error));
        ExitCode::FAILURE
    })
}

fn serve() -> ExitCode {
    let runners = runners();
    run_executable(
        |assignment| run_one_of(&runners, assignment),
        |_| MOST_KEPT,
        |arguments| {
            match arguments {
            [command, options] if command == "answer" => {
                raisin_query::run(&serde_json::from_slice(options.as_encoded_bytes())?, None)
            }
            [command, options] if command == "ui" => {
                raisin_query::ui::run(serde_json::from_slice(options.as_encoded_bytes())?)
            }
            [command] if command == "flight" => raisin_query::flight::run(),
            _ => Err(Problem::usage(
                "usage: raisin-sql run-stages | answer OPTIONS | ui OPTIONS | flight, which `raisin` starts; ask with `raisin sql`",
            )
            .into()),
        }
        },
    )
}

fn runners() -> Vec<KindRunner> {
    vec![
        KindRunner::of::<raisin_kinds::filter::FilterKind>(filter::run),
        KindRunner::of::<raisin_kinds::sql::SqlKind>(kind::run),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_kind_of_this_executable_has_its_run() {
        let kinds: Vec<&str> = super::runners().iter().map(|runner| runner.kind).collect();
        assert_eq!(kinds, raisin_kinds::kinds_of(raisin_contract::Process::Sql));
    }
}
