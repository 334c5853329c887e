//! The light door: parses, plans, caches, schedules and answers SQL. Never loads libtorch.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | a stage failed, or the machine did: the message says which |
//! | 2 | the command line, the pipeline, or a file that it names is wrong: nothing ran |
//! | 130 | interrupted |

fn main() -> std::process::ExitCode {
    raisin::cli::main()
}
