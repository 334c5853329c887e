//! Runs the programs whose output is in the key of a stage, such as the `version_command` of a `command`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::asked::{Unanswered, ask};
use super::graph::Graph;
use super::inputs::problem;
use raisin_base::error::{Context as _, Result};
use raisin_base::printable::one_line;
use raisin_contract::pointer::dotted;
use raisin_contract::{Input, PrintedNeed};

/// The longest time for which such a program may run.
const PATIENCE: Duration = Duration::from_mins(1);

/// The most bytes that such a program may print. They are in every action record of the stage.
const MOST_BYTES: usize = 1 << 20;

/// What each program printed: a list of lines.
#[derive(Debug, Default)]
pub struct PrintedLines(BTreeMap<Vec<String>, Value>);

impl PrintedLines {
    /// Runs the programs of all stages of the graph, each once, side by side.
    ///
    /// # Errors
    /// A program fails, takes too long, or prints nothing. The error comes before any stage runs.
    pub fn of(graph: &Graph<'_>) -> Result<Self> {
        let mut wanted = BTreeMap::new();
        for node in &graph.nodes {
            for need in &node.stage.resolved.needs.printed {
                wanted.entry(need.command.clone()).or_insert((node.stage, need));
            }
        }
        let folder = &graph.pipeline.folder;
        let answers: Vec<Result<Value, String>> = std::thread::scope(|scope| {
            let run = |command| move || lines(command, folder);
            let threads: Vec<_> = wanted.keys().map(|command| scope.spawn(run(command))).collect();
            threads.into_iter().map(|it| it.join().unwrap_or_else(|_| Err("its thread ended".to_owned()))).collect()
        });
        let mut printed = BTreeMap::new();
        for ((command, (stage, need)), answer) in wanted.into_iter().zip(answers) {
            let lines = answer.map_err(|words| {
                let message = format!("stage `{}`, {}: {words}", stage.name, dotted(&need.pointer));
                problem(stage, &need.pointer, message)
                    .hint("it runs in the folder of the pipeline file, without a shell, before anything is built")
            })?;
            printed.insert(command, lines);
        }
        Ok(Self(printed))
    }

    /// What the action has in place of the program.
    pub fn input(&self, need: &PrintedNeed) -> Result<Input<'static>> {
        let lines = self.0.get(&need.command).with_context(|| format!("{:?} was not run", need.command))?;
        Ok(Input::Plain(Cow::Owned(lines.clone())))
    }
}

/// The lines that a program prints. An error is in words.
fn lines(command: &[String], folder: &Path) -> Result<Value, String> {
    let [program, arguments @ ..] = command else { return Err("there is no program to run".to_owned()) };
    // An empty path is the current directory.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let answer = match ask(Command::new(program).args(arguments).current_dir(folder), "", PATIENCE) {
        Ok(answer) => answer,
        Err(Unanswered::NotStarted(words) | Unanswered::Late(words)) => return Err(words),
    };
    let whole = command.join(" ");
    let shown = one_line(&whole);
    match answer.code {
        Some(0) => {}
        Some(code) => return Err(format!("`{shown}` ended with exit code {code}: {}", answer.words())),
        None => return Err(format!("a signal ended `{shown}`: {}", answer.words())),
    }
    if answer.stdout.len() > MOST_BYTES {
        return Err(format!("`{shown}` printed {} bytes; at most {MOST_BYTES} are taken", answer.stdout.len()));
    }
    let lines: Vec<&str> = answer.stdout.trim_end().lines().map(str::trim_end).collect();
    if lines.is_empty() {
        return Err(format!("`{shown}` printed nothing"));
    }
    Ok(json!(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str) -> Result<Value, String> {
        lines(&["sh".to_owned(), "-c".to_owned(), script.to_owned()], Path::new("/"))
    }

    #[test]
    fn the_lines_of_a_program_are_taken_and_its_failures_are_told() {
        assert_eq!(said("pwd; echo ' b  '; echo; echo warning >&2").unwrap(), json!(["/", " b"]));
        assert_eq!(
            said("echo lost >&2; exit 3").unwrap_err(),
            "`sh -c echo lost >&2; exit 3` ended with exit code 3: lost"
        );
        assert_eq!(said("true").unwrap_err(), "`sh -c true` printed nothing");
        assert!(said("kill -9 $$").unwrap_err().starts_with("a signal ended"));
        let much = said("head -c 1048577 /dev/zero | tr '\\0' x").unwrap_err();
        assert!(much.ends_with("printed 1048577 bytes; at most 1048576 are taken"), "{much}");
        assert!(lines(&["/nowhere".to_owned()], Path::new("")).unwrap_err().starts_with("cannot run `/nowhere`"));
    }
}
