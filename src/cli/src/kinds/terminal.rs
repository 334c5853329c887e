//! A kind as text for a terminal.

use std::fmt::Write as _;

use super::page::{KindPage, ParameterRow};
use super::words::{about_column, about_file, about_table, demand, facts, said_before, state, type_and_range};

/// The most characters of a line of a description.
const WIDTH: usize = 94;

pub fn describe(page: &KindPage) -> String {
    let kind = page.kind;
    let mut text = format!("{}: {}\n", kind.name, kind.about);
    for fact in facts(kind) {
        push(&mut text, 2, &fact);
    }
    text.push_str("\nparameters:\n");
    parameters(page, "", &mut text);
    if !page.inputs.is_empty() {
        text.push_str("\ninputs:\n");
        let width = page.inputs.iter().map(|input| input.parameter.len()).max().unwrap_or(0);
        for input in &page.inputs {
            entry(&mut text, 2, &input.parameter, width, &demand(input));
        }
    }
    if !kind.outputs.tables.is_empty() {
        text.push_str("\ntables:\n");
    }
    for table in kind.outputs.tables {
        let _ = writeln!(text, "\n  {}", table.name);
        push(&mut text, 6, &about_table(table));
        let width = table.columns().map(|column| column.name.len()).max().unwrap_or(0);
        for column in table.columns() {
            let about = format!("{}: {}", column.column_type.name(), about_column(column));
            entry(&mut text, 6, column.name, width, &about);
        }
    }
    let width = kind.outputs.files().map(|file| file.name.len()).max().unwrap_or(0);
    if width > 0 {
        text.push_str("\nfiles:\n");
    }
    for file in kind.outputs.files() {
        entry(&mut text, 2, file.name, width, &about_file(file));
    }
    for example in kind.examples {
        let _ = writeln!(text, "\nexample: {}\n", example.title);
        for line in example.text.lines() {
            let _ = writeln!(text, "{}", if line.is_empty() { String::new() } else { format!("    {line}") });
        }
    }
    text
}

/// The parameters of the table at `path`; each table in them follows the parameter that holds it.
fn parameters(page: &KindPage, path: &str, text: &mut String) {
    for parameter in page.group(path).into_iter().flat_map(|group| &group.parameters) {
        let ParameterRow { path, about, words, .. } = parameter;
        text.push('\n');
        entry(text, 2, path, path.len(), &format!("({}; {})", type_and_range(parameter), state(parameter)));
        push(text, 6, about);
        let width = words.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
        if let Some(before) = said_before(page, parameter) {
            push(text, 8, &format!("The words are those of `{}`.", before.path));
        } else {
            words.iter().for_each(|(word, about)| entry(text, 8, word, width, about));
        }
        for group in &parameter.groups {
            parameters(page, group, text);
        }
    }
}

/// Adds a name and its meaning. The lines of the meaning begin in one column.
fn entry(text: &mut String, indent: usize, name: &str, width: usize, about: &str) {
    let mut lines = wrapped(about, WIDTH.saturating_sub(width).max(40)).into_iter();
    let first = format!("{:indent$}{name:width$}  {}", "", lines.next().unwrap_or_default());
    let _ = writeln!(text, "{}", first.trim_end());
    for line in lines {
        let _ = writeln!(text, "{:column$}{line}", "", column = indent + width + 2);
    }
}

fn push(text: &mut String, indent: usize, paragraph: &str) {
    for line in wrapped(paragraph, WIDTH).into_iter().filter(|line| !line.is_empty()) {
        let _ = writeln!(text, "{:indent$}{line}", "");
    }
}

/// A paragraph as lines of at most `width` characters, unless a word is longer.
fn wrapped(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in paragraph.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
