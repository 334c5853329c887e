//! `raisin completions`: prints the script that completes the command line of raisin in a shell. The script asks this
//! executable at each press of the Tab key, so it also completes names of stages, parameters, tables and columns.
//!
//! | module | concern |
//! |---|---|
//! | [`values`] | pipeline files, names of stages, parameters, pipelines and kinds |
//! | [`query`] | the last word of an SQL query |
//!
//! The shell's side and the reading of a half-typed command line are those of clap_complete.

mod query;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory as _, ValueEnum, ValueHint};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, PathCompleter};
use clap_complete::env::Shells;

use raisin_base::error::{Result, anyhow};

/// If this variable names a shell, the process prints completions and ends.
const VARIABLE: &str = "RAISIN_COMPLETE";

/// Print the script that completes raisin's commands, stages, parameters and tables in a shell.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[arg(value_enum)]
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  source <(raisin completions bash)                             in ~/.bashrc
  source <(raisin completions zsh)                              in ~/.zshrc, after compinit
  raisin completions fish | source                              in ~/.config/fish/config.fish";

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let name = match arguments.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(|| anyhow!("clap_complete does not know {name}"))?;
    let mut script = Vec::new();
    // The script starts the `raisin` that is first on PATH when the person presses the Tab key.
    shell.write_registration(VARIABLE, "raisin", "raisin", "raisin", &mut script)?;
    super::print_exactly(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

/// If a shell asks for completions, prints them and ends the process.
pub fn answer() {
    // Most commands are no question, and the test of the variable is cheaper than the description of all commands.
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(command).var(VARIABLE).complete();
    }
}

/// The command line, with what completes the values of its arguments.
fn command() -> Command {
    super::Cli::command().mut_subcommands(|subcommand| {
        let of = subcommand.get_name().to_owned();
        subcommand.mut_args(|argument| match (of.as_str(), argument.get_id().as_str()) {
            ("build", "file") => argument.add(pipeline_file(&["toml", "json"])),
            (of, "file") if of != "sql" => argument.add(pipeline_file(&["toml"])),
            ("pin" | "unpin", "stages") => argument.add(ArgValueCandidates::new(values::built_stages)),
            (_, "stage" | "only" | "force") => argument.add(ArgValueCandidates::new(values::stages)),
            (_, "set") => argument.add(ArgValueCandidates::new(|| values::parameters("="))),
            (_, "sweep") => argument.add(ArgValueCandidates::new(|| values::parameters("=["))),
            (_, "pipeline") => argument.add(ArgValueCandidates::new(values::pipelines)),
            ("kinds", "name") => argument.add(ArgValueCandidates::new(values::kinds)),
            ("sql", "query") => argument.add(ArgValueCompleter::new(query::complete)),
            (_, "cache" | "out" | "pages") => argument.value_hint(ValueHint::DirPath),
            _ => argument,
        })
    })
}

fn pipeline_file(endings: &'static [&'static str]) -> ArgValueCompleter {
    let fits = |path: &std::path::Path| path.extension().is_some_and(|ending| endings.iter().any(|end| ending == *end));
    ArgValueCompleter::new(PathCompleter::file().filter(fits))
}

/// The words of the command line that is completed, without the name of the executable: the shell passes them after
/// `--`.
fn words() -> Vec<OsString> {
    std::env::args_os().skip_while(|word| word != "--").skip(2).collect()
}

/// The value of a flag, such as `--cache DIR` or `--cache=DIR`, on the command line that is completed.
fn flag(name: &str) -> Option<OsString> {
    let words = words();
    let joined = format!("{name}=");
    let mut found = words.iter().enumerate().filter_map(|(place, word)| match word.to_str() {
        Some(word) if word == name => words.get(place + 1).cloned(),
        Some(word) => word.strip_prefix(&joined).map(OsString::from),
        None => None,
    });
    found.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_that_are_completed_exist() {
        let command = super::super::Cli::command();
        let exists = |of: &str, id: &str| {
            let subcommand = command.find_subcommand(of).unwrap_or_else(|| panic!("no command {of}"));
            assert!(subcommand.get_arguments().any(|argument| argument.get_id() == id), "{of} has no {id}");
        };
        for (of, id) in [
            ("build", "file"),
            ("plan", "file"),
            ("pin", "stages"),
            ("why", "stage"),
            ("build", "only"),
            ("build", "force"),
            ("build", "set"),
            ("build", "sweep"),
            ("sql", "pipeline"),
            ("kinds", "name"),
            ("sql", "query"),
            ("gc", "cache"),
            ("build", "out"),
        ] {
            exists(of, id);
        }
        super::command().debug_assert();
    }
}
