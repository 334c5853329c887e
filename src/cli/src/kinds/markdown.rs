//! The pages of docs/kinds: one Markdown page for each kind, and an index.

use std::fmt::Write as _;

use raisin_contract::Declaration;

use super::page::{KindPage, PageState, ParameterGroup};
use super::words::{
    about_column, about_file, about_table, code, demand, facts, list, said_before, shown, type_and_range,
};

/// The first line of each page.
const MADE: &str = "<!-- `raisin kinds --pages docs/kinds` writes this page from the declarations in src/kinds. -->\n";

/// The page README.md.
pub fn index(kinds: &[Declaration]) -> String {
    let mut text = format!(
        "{MADE}\n# The kinds of stages\n\nEach kind has a page with its parameters, its inputs, its tables and files, \
         and examples. `raisin kinds NAME` prints the same in a terminal.\n\n| kind | what a stage does | provides | runs \
         in |\n|---|---|---|---|\n"
    );
    for kind in kinds {
        let provides = list(kind.provides.iter().map(|provided| code(provided)), "and");
        let (name, about, executable) = (kind.name, cell(kind.about), kind.process.executable());
        let _ = writeln!(text, "| [`{name}`]({name}.md) | {about} | {provides} | `{executable}` |");
    }
    text += "\nEvery stage also has the parameter `resources`: the threads, memory and GPUs that the stage may use \
             ([docs/pipeline.md](../pipeline.md#resources)). A stage that draws random numbers also has the \
             parameter `seed`, in place of `pipeline.seed`. In SQL, a table is called `STAGE.TABLE`, with the name of \
             the stage.\n";
    text
}

/// The page of a kind.
pub fn page(page: &KindPage) -> String {
    let kind = page.kind;
    let mut text = format!("{MADE}\n# {}\n\n{}\n\n", code(kind.name), kind.about);
    for fact in facts(kind) {
        let _ = writeln!(text, "- {fact}");
    }
    if !page.inputs.is_empty() {
        text += "\n## Inputs\n\n| parameter | names |\n|---|---|\n";
    }
    for input in &page.inputs {
        let _ = writeln!(text, "| {} | {} |", code(&input.parameter), cell(&demand(input)));
    }
    text += "\n## Parameters\n";
    for group in &page.groups {
        parameters(page, group, &mut text);
    }
    outputs(kind, &mut text);
    text += if kind.examples.len() == 1 { "\n## Example\n" } else { "\n## Examples\n" };
    for example in kind.examples {
        let _ = write!(text, "\n{}:\n\n```toml\n{}\n```\n", example.title, example.text.trim_end());
    }
    text
}

fn parameters(page: &KindPage, group: &ParameterGroup, text: &mut String) {
    text.push('\n');
    if !group.path.is_empty() {
        let about = if group.about.is_empty() { String::new() } else { format!("{}\n\n", group.about) };
        let _ = write!(text, "### Keys of {}\n\n{about}", code(&group.path));
    }
    *text += "| parameter | type | default | meaning |\n|---|---|---|---|\n";
    for parameter in &group.parameters {
        let default = match &parameter.state {
            PageState::Required => "required".to_owned(),
            PageState::Optional => "–".to_owned(),
            PageState::Default(default) => code(&shown(default)),
        };
        let keys = parameter.groups.iter().map(|group| format!("[keys](#{})", anchor(group)));
        let types = std::iter::once(type_and_range(parameter)).chain(keys).collect::<Vec<_>>().join("; ");
        let about = cell(&parameter.about);
        let _ = writeln!(text, "| {} | {types} | {} | {about} |", code(&parameter.path), cell(&default));
    }
    for parameter in group.parameters.iter().filter(|parameter| !parameter.words.is_empty()) {
        let path = code(&parameter.path);
        if let Some(before) = said_before(page, parameter) {
            let _ = write!(text, "\nThe words of {path} are those of {}.\n", code(&before.path));
            continue;
        }
        let _ = write!(text, "\nThe words of {path}:\n\n");
        for (word, about) in &parameter.words {
            let _ = writeln!(text, "- {}: {about}", code(&format!("\"{word}\"")));
        }
    }
}

fn outputs(kind: &Declaration, text: &mut String) {
    if !kind.outputs.tables.is_empty() {
        *text += "\n## Tables\n";
    }
    for table in kind.outputs.tables {
        let _ = write!(text, "\n### Table {}\n\n{}\n", code(table.name), about_table(table));
        if table.columns().next().is_some() {
            *text += "\n| column | type | meaning |\n|---|---|---|\n";
        }
        for column in table.columns() {
            let (name, type_name) = (code(column.name), column.column_type.name());
            let _ = writeln!(text, "| {name} | {type_name} | {} |", cell(&about_column(column)));
        }
    }
    if kind.outputs.files().next().is_some() {
        *text += "\n## Files\n\n| file | content |\n|---|---|\n";
    }
    for file in kind.outputs.files() {
        let _ = writeln!(text, "| {} | {} |", code(file.name), cell(&about_file(file)));
    }
}

/// The anchor of the heading `Keys of PATH`, as GitHub makes it.
fn anchor(path: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || *letter == '_' || *letter == '-';
    format!("keys-of-{}", path.to_lowercase().chars().filter(kept).collect::<String>())
}

/// A text as one cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
