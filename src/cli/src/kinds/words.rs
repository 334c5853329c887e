//! The sentences about a kind that the terminal and the pages have in common.

use serde_json::Value;

use raisin_contract::outputs::{ColumnDeclaration, FileDeclaration, TableDeclaration};
use raisin_contract::{Declaration, Process};

use super::page::{KindPage, PageState, ParameterRow, providers};
use super::sample::{InputType, SampleInput};

/// The facts about a kind, one sentence each.
pub fn facts(kind: &Declaration) -> Vec<String> {
    let tensors = match kind.process {
        Process::Tensor => "with tensors, on a GPU if there is one",
        Process::Data | Process::Sql => "without tensors",
    };
    let seed = match (kind.seeded, kind.seeded_if) {
        (true, None) => "Draws random numbers: depends on `pipeline.seed`, or on a `seed` of the stage.".to_owned(),
        (true, Some(when)) => format!("Depends on `pipeline.seed`, or on a `seed` of the stage, only {when}."),
        (false, _) => "Does not depend on `pipeline.seed`.".to_owned(),
    };
    let runs = if kind.gathers {
        "Runs once for the pipeline, and reads its inputs from every variant of a sweep."
    } else {
        "Runs once for each variant of a sweep that differs in its parameters or inputs."
    };
    let provides = match kind.provides {
        [] => "Provides nothing that another kind demands.".to_owned(),
        provides => format!("Provides {}.", list(provides.iter().map(|provided| code(provided)), "and")),
    };
    vec![format!("Runs in `{}`, {tensors}.", kind.process.executable()), seed, runs.to_owned(), provides]
}

/// What an input must be, as a phrase.
pub fn demand(input: &SampleInput) -> String {
    let mut text = match input.names {
        InputType::Stage(None) => "a stage of any kind".to_owned(),
        InputType::Stage(Some(provided)) => {
            let kinds = list(providers(provided).into_iter().map(code), "or");
            format!("a stage that provides `{provided}`: {kinds}")
        }
        InputType::File => "a file or a folder".to_owned(),
        InputType::Files => "a file, a folder, a pattern or an address".to_owned(),
    };
    for (parameter, words) in &input.only {
        text += &format!("; only with `{parameter}` {}", list(words.iter().map(|word| code(word)), "or"));
    }
    text
}

/// The type of a parameter with its range.
pub fn type_and_range(parameter: &ParameterRow) -> String {
    match &parameter.range {
        Some(range) => format!("{}, {range}", parameter.type_name),
        None => parameter.type_name.clone(),
    }
}

/// Whether a pipeline file must give the parameter.
pub fn state(parameter: &ParameterRow) -> String {
    match &parameter.state {
        PageState::Required => "required".to_owned(),
        PageState::Optional => "optional".to_owned(),
        PageState::Default(default) => format!("default {}", shown(default)),
    }
}

/// A default as a pipeline file writes it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The parameter before this one, in the order of the page, that can be the same words. The words are said there.
pub fn said_before<'a>(page: &'a KindPage, parameter: &ParameterRow) -> Option<&'a ParameterRow> {
    let all = page.groups.iter().flat_map(|group| &group.parameters);
    let mut before = all.take_while(|other| other.path != parameter.path);
    before.find(|other| !other.words.is_empty() && other.words == parameter.words)
}

/// The sentences about a table.
pub fn about_table(table: &TableDeclaration) -> String {
    let mut text = table.about.to_owned();
    if let Some(when) = table.when {
        text += &format!(" The artifact has the table only {when}.");
    }
    if let Some(parameter) = table.named_by {
        text += &format!(" The parameter `{parameter}` gives the name of the table.");
    }
    if let Some(further) = table.further {
        text += &format!(" {further}");
    }
    text
}

/// The meaning of a column.
pub fn about_column(column: &ColumnDeclaration) -> String {
    let mut text = column.about.to_owned();
    if let Some(when) = column.when {
        text += &format!(". The column exists only {when}");
    }
    if let Some(null) = column.null {
        text += &format!(". Null {null}");
    }
    text
}

pub fn about_file(file: &FileDeclaration) -> String {
    match file.when {
        Some(when) => format!("{}; only {when}", file.about),
        None => file.about.to_owned(),
    }
}

pub fn code(text: &str) -> String {
    format!("`{text}`")
}

/// `a, b and c`.
pub fn list(items: impl IntoIterator<Item = String>, last: &str) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    match items.pop() {
        Some(end) if items.is_empty() => end,
        Some(end) => format!("{} {last} {end}", items.join(", ")),
        None => String::new(),
    }
}
