//! `raisin-remote`: everything that talks to servers. It reads and writes a shared cache on an object store: `raisin
//! build` starts it at the first stage that the local cache does not have, and `raisin remote` replaces itself by it. It
//! sends runs to MLflow: `raisin build` starts it at its end, and `raisin track` replaces itself by it.

use std::process::ExitCode;

use raisin_base::error::{Problem, Result, exit_code, render};
use raisin_base::say;
use raisin_remote::{command, serve, track};

fn main() -> ExitCode {
    let result = answer();
    let code = match &result {
        Ok(()) => 0,
        Err(error) => {
            say!("{}", render(error));
            exit_code(error)
        }
    };
    // A thread may still wait for a server, and nobody needs its answer.
    std::process::exit(i32::from(code))
}

fn answer() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [word] if word == "serve" => serve::run(serve::serve()),
        [word, question] if word == "answer" => {
            serve::run(command::answer(serde_json::from_slice(question.as_encoded_bytes())?))
        }
        [word, question] if word == "track" => track::push(&serde_json::from_slice(question.as_encoded_bytes())?),
        _ => Err(Problem::usage(
            "usage: raisin-remote serve | answer QUESTION | track QUESTION, which `raisin` starts; ask with `raisin remote` \
             and `raisin track`",
        )
        .into()),
    }
}
