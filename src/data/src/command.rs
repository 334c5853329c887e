//! Runs a stage of kind `command`: any program. call.rs resolves what the program gets; program.rs runs it under
//! supervisor.rs; results.rs checks what it wrote, model.rs a model among it,
//! and features.rs embeddings.

mod call;
mod features;
mod model;
mod program;
mod progress;
mod results;
mod rows;
pub mod supervisor;
mod tree;

use raisin_base::error::{Problem, Result};
use raisin_contract::Context;
use raisin_kinds::command::Parameters;

use call::ProgramCall;
use supervisor::ProgramEnd;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let call = ProgramCall::of(&parameters, context)?;
    let end = program::run(&call, context)?;
    if end.left > 0 {
        let processes = if end.left == 1 { "1 process".to_owned() } else { format!("{} processes", end.left) };
        context.note(format!("the program ended and left {processes} at work: ended too"));
    }
    if let Some(problem) = failure(&call, &end) {
        return Err(problem.into());
    }
    results::take(&parameters, context)?;
    // The copies of the files are not needed any more; the engine removes what cannot be removed here.
    let _ = std::fs::remove_dir_all(context.temporary());
    Ok(())
}

/// Why the program failed; `None` if it succeeded.
fn failure(call: &ProgramCall, end: &ProgramEnd) -> Option<Problem> {
    let program = call.name();
    if let Some(reason) = &end.not_started {
        let problem = Problem::new(format!("the program `{program}` cannot be started: {reason}"));
        let is_path = program.contains('/');
        return Some(problem.hint(if is_path || end.is_missing && call.has_file(&program) {
            "list the file in `files`, write its path as it is there, such as ./train.sh, and make it executable"
        } else {
            "install the program, or correct the name: it is looked for in the folders of PATH"
        }));
    }
    match (end.code, end.signal) {
        (Some(0), _) => None,
        (Some(code), _) => {
            let problem = Problem::new(format!("the program `{program}` ended with exit code {code}"));
            Some(problem.hint("the lines above are the end of what it printed"))
        }
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let name = signal_name(signal);
            let problem = Problem::new(format!("the program `{program}` was ended by signal {signal}{name}"));
            Some(match signal {
                9 => problem.hint("another process killed it, perhaps because the memory of the machine ran out"),
                _ => problem.hint("the lines above are the end of what it printed"),
            })
        }
    }
}

/// The name of a usual signal, with a space and in brackets.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}
