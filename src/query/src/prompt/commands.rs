//! The commands of the prompt, which begin with a backslash.

use std::path::PathBuf;

use raisin_base::error::{Problem, nearest};
use raisin_contract::query::{MostRows, OutputFormat};

use super::format_names;

pub const HELP: &str = "\
\\d              all tables              \\x              one line for each column, or for each row
\\d TABLE        the columns of a table  \\timing         show how long each statement takes, or not
\\i FILE         run the statements of a file
\\o FILE         write the result of each statement to FILE (.parquet, .csv, .json, ...); \\o alone shows results again
\\format FORMAT  table, box, csv, json, jsonl, markdown or html
\\rows N         show at most N rows, or `all`
\\pager          show what does not fit the terminal with $PAGER (`less -S`), or not
\\?              this help               \\q              leave; so does Ctrl-D
Ctrl-C gives up the statement that is being written, or stops the query that runs. Tab completes names.
Also: show tables; show schemas; summarize TABLE; select * from 'file.parquet'; create temp table t as select ...;";

#[derive(Debug, PartialEq, Eq)]
pub enum PromptCommand {
    Quit,
    Help,
    Tables,
    Columns(String),
    Timing,
    Pager,
    Expanded,
    Format(OutputFormat),
    Rows(MostRows),
    Output(Option<PathBuf>),
    Include(PathBuf),
}

/// The names of the commands, for the completion.
pub const NAMES: [&str; 10] = ["\\?", "\\d", "\\format", "\\i", "\\o", "\\pager", "\\q", "\\rows", "\\timing", "\\x"];

impl PromptCommand {
    /// # Errors
    /// There is no such command, or its argument is missing or superfluous.
    pub fn of(line: &str) -> Result<Self, Problem> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        let alone = |command: Self| {
            if argument.is_empty() { Ok(command) } else { Err(Problem::usage(format!("`{name}` stands alone"))) }
        };
        let needs = |what: &str| Problem::usage(format!("`{name}` needs {what}")).hint("\\? lists the commands");
        match name {
            "\\q" | "\\quit" => alone(Self::Quit),
            "\\?" | "\\h" | "\\help" => alone(Self::Help),
            "\\d" | "\\dt" if argument.is_empty() => Ok(Self::Tables),
            "\\d" => Ok(Self::Columns(argument.to_owned())),
            "\\timing" => alone(Self::Timing),
            "\\pager" => alone(Self::Pager),
            "\\x" => alone(Self::Expanded),
            "\\format" => OutputFormat::named(argument)
                .map(Self::Format)
                .ok_or_else(|| needs("a format").hint(format!("one of: {}", format_names().join(", ")))),
            "\\rows" if argument == "all" => Ok(Self::Rows(MostRows::All)),
            "\\rows" => {
                argument.parse().map(|most| Self::Rows(MostRows::At(most))).map_err(|_| needs("a number, or `all`"))
            }
            "\\o" => Ok(Self::Output((!argument.is_empty()).then(|| PathBuf::from(argument)))),
            "\\i" if argument.is_empty() => Err(needs("a file")),
            "\\i" => Ok(Self::Include(PathBuf::from(argument))),
            other => {
                let problem = Problem::usage(format!("there is no command `{other}`"));
                Err(problem.hint(match nearest(other, NAMES) {
                    Some(near) => format!("did you mean `{near}`? \\? lists the commands"),
                    None => "\\? lists the commands".to_owned(),
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_the_argument_that_it_needs() {
        for (line, command) in [
            ("\\q", PromptCommand::Quit),
            (" \\? ", PromptCommand::Help),
            ("\\d", PromptCommand::Tables),
            ("\\d tuned.selection;", PromptCommand::Columns("tuned.selection".to_owned())),
            ("\\x", PromptCommand::Expanded),
            ("\\timing", PromptCommand::Timing),
            ("\\pager", PromptCommand::Pager),
            ("\\o my rows.csv", PromptCommand::Output(Some("my rows.csv".into()))),
            ("\\o", PromptCommand::Output(None)),
            ("\\i a.sql", PromptCommand::Include("a.sql".into())),
            ("\\rows all", PromptCommand::Rows(MostRows::All)),
            ("\\rows 5", PromptCommand::Rows(MostRows::At(5))),
            ("\\format box", PromptCommand::Format(OutputFormat::Box)),
        ] {
            assert_eq!(PromptCommand::of(line), Ok(command), "{line}");
        }
        for line in ["\\q now", "\\i", "\\rows some", "\\format xls", "\\timming"] {
            assert!(PromptCommand::of(line).is_err(), "{line}");
        }
        let problem = PromptCommand::of("\\timming").unwrap_err();
        assert_eq!(problem.hint.as_deref(), Some("did you mean `\\timing`? \\? lists the commands"));
    }
}
