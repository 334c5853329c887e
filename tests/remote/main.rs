//! Tests of the shared cache, through the real executables: two machines are two projects, each with a cache of its
//! own. folder.rs has a folder as the shared cache; store.rs has an S3 server on loopback that fails in many ways.

mod folder;
mod store;

use raisin_tests::{CommandOutput, Project};

/// Five stages without tensors, of three executables' kinds, in which a stage needs two others.
pub const SHARED: &str = r#"
[pipeline]
name = "shared"
seed = 3
[stage.pool]
kind = "generate"
size = 80
[stage.more]
kind = "generate"
size = 40
seed = 9
[stage.mixed]
kind = "mix"
pools = { a = { instructions = "pool" }, b = { instructions = "more" } }
[stage.unique]
kind = "dedup"
instructions = "mixed"
by = "exact"
[stage.counted]
kind = "sql"
of = ["unique"]
query = "select label, count(*) as n from unique.instructions group by label order by label"
"#;

/// A machine with an empty cache and the pipeline [`SHARED`] in `p.toml`.
pub fn machine() -> Project {
    Project::with_text(SHARED)
}

/// What a build says at its end: the number of stages that ran, that were fetched, and that were cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildCounts {
    pub ran: usize,
    pub fetched: usize,
    pub cached: usize,
}

pub fn counts(told: &str) -> BuildCounts {
    let line = told.lines().find(|line| line.starts_with("built ")).unwrap_or_else(|| panic!("no end:\n{told}"));
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let before = |name: &str| {
        let at = words.iter().position(|word| *word == name);
        at.map_or(0, |at| words[at - 1].parse().expect("a number"))
    };
    BuildCounts { ran: before("ran"), fetched: before("fetched"), cached: before("cached") }
}

/// Builds `p.toml` with these variables. The build must succeed.
pub fn build(machine: &Project, variables: &[(&str, &str)], arguments: &[&str]) -> (BuildCounts, String) {
    let output = ask(machine, variables, &[&["build", "p.toml"], arguments].concat());
    assert_eq!(output.code, 0, "{}", output.stderr);
    (counts(&output.stderr), output.stderr)
}

pub fn ask(machine: &Project, variables: &[(&str, &str)], arguments: &[&str]) -> CommandOutput {
    let mut command = machine.raisin(arguments);
    // A developer may have credentials and a profile of their own.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", machine.path("")).envs(variables.iter().copied());
    CommandOutput::of(&mut command)
}

pub fn verified(machine: &Project) {
    let output = machine.run(&["verify"]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
}
