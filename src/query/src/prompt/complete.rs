//! Completes keywords, tables, columns and functions at the prompt, and the names of files behind `\i` and `\o`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::commands::NAMES;
use super::editor::Completions;
use super::format_names;
use crate::session::{Session, block_on};

const KEYWORDS: [&str; 64] = [
    "all",
    "and",
    "as",
    "asc",
    "between",
    "by",
    "case",
    "cast",
    "columns",
    "create",
    "cross",
    "desc",
    "describe",
    "distinct",
    "drop",
    "else",
    "end",
    "except",
    "exclude",
    "exists",
    "explain",
    "false",
    "filter",
    "from",
    "full",
    "group",
    "having",
    "ilike",
    "in",
    "inner",
    "intersect",
    "is",
    "join",
    "left",
    "like",
    "limit",
    "not",
    "null",
    "nulls",
    "offset",
    "on",
    "or",
    "order",
    "over",
    "partition",
    "qualify",
    "replace",
    "right",
    "schemas",
    "select",
    "show",
    "summarize",
    "table",
    "tables",
    "temp",
    "then",
    "true",
    "union",
    "using",
    "values",
    "view",
    "when",
    "where",
    "with",
];

/// The names that can be completed.
pub struct CompletedNames<'s> {
    session: &'s Session,
    /// The tables of each schema of the default pipeline.
    tables: BTreeMap<String, Vec<String>>,
    functions: Vec<String>,
    /// The temporary tables and views.
    pub created: Vec<String>,
    /// The lines of the statement before the one that is being written.
    pub before: String,
    /// The columns of the tables that were looked at.
    columns: RefCell<BTreeMap<String, Vec<String>>>,
}

impl<'s> CompletedNames<'s> {
    pub fn of(session: &'s Session) -> Self {
        let schemas = session.catalogs.default_catalog().map(|catalog| &catalog.schemas);
        let tables = schemas.into_iter().flatten().map(|(name, schema)| (name.clone(), schema.names())).collect();
        let (created, before, columns) = (Vec::new(), String::new(), RefCell::default());
        Self { session, tables, functions: session.function_names(), created, before, columns }
    }

    /// The columns of a table; none if the table cannot be read.
    fn columns(&self, table: &str) -> Vec<String> {
        if let Some(known) = self.columns.borrow().get(table) {
            return known.clone();
        }
        let found = block_on(self.session.column_names(table)).and_then(|names| names).unwrap_or_default();
        self.columns.borrow_mut().insert(table.to_owned(), found.clone());
        found
    }

    /// The tables that a statement names.
    fn named(&self, statement: &str) -> Vec<String> {
        let words: BTreeSet<&str> = statement.split(|letter: char| !is_of_a_name(letter)).collect();
        let whole = |(schema, tables): (&String, &Vec<String>)| {
            tables.iter().map(|table| format!("{schema}.{table}")).collect::<Vec<_>>()
        };
        let all = self.tables.iter().flat_map(whole).chain(self.created.iter().cloned());
        all.filter(|table| words.contains(table.as_str())).collect()
    }

    /// What the word can become. `statement` is the whole text so far.
    fn candidates(&self, word: &str, statement: &str) -> Vec<String> {
        let begins = |name: &str| name.to_lowercase().starts_with(&word.to_lowercase());
        let mut found: Vec<String> = if let Some((before, _)) = word.rsplit_once('.') {
            let tables = self.tables.get(before).into_iter().flatten().cloned().collect::<Vec<_>>();
            let names = if tables.is_empty() { self.columns(&self.aliased(before, statement)) } else { tables };
            names.into_iter().map(|name| format!("{before}.{name}")).collect()
        } else {
            let columns = self.named(statement).iter().flat_map(|table| self.columns(table)).collect::<Vec<_>>();
            let schemas = self.tables.keys().map(|schema| format!("{schema}."));
            let keywords = KEYWORDS.iter().map(|word| (*word).to_owned());
            let functions = self.functions.iter().map(|name| format!("{name}("));
            let names = columns.into_iter().chain(self.created.iter().cloned()).chain(schemas).chain(keywords);
            // Without a letter, hundreds of functions would hide everything else.
            names.chain(functions.filter(|_| !word.is_empty())).collect()
        };
        found.retain(|name| begins(name));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The table of which the name is an alias, as in `from tuned.selection s`; else the name.
    fn aliased(&self, name: &str, statement: &str) -> String {
        let words: Vec<&str> =
            statement.split(|letter: char| !is_of_a_name(letter)).filter(|word| !word.is_empty()).collect();
        let tables = self.named(statement);
        let is_alias = |place: usize| {
            let before = words[..place].iter().rev().find(|word| !word.eq_ignore_ascii_case("as"));
            words[place] == name && before.is_some_and(|before| tables.iter().any(|table| table == before))
        };
        let place = (1..words.len()).find(|place| is_alias(*place));
        let table = place.and_then(|place| words[..place].iter().rev().find(|word| !word.eq_ignore_ascii_case("as")));
        table.map_or(name, |table| *table).to_owned()
    }
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '.')
}

impl CompletedNames<'_> {
    /// The start of the word at the end of a line, and what it can become.
    pub fn complete(&self, text: &str) -> Completions {
        let start = text.char_indices().rev().take_while(|(_, letter)| is_of_a_name(*letter)).last();
        let start = start.map_or(text.len(), |(at, _)| at);
        let word = &text[start..];
        let Some(command) = text.trim_start().strip_prefix('\\') else {
            return (start, self.candidates(word, &format!("{}{text}", self.before)));
        };
        let Some((name, argument)) = command.split_once(char::is_whitespace) else {
            let name = text.trim_start();
            let known = NAMES.iter().filter(|known| known.starts_with(name)).map(|known| (*known).to_owned());
            return (text.len() - name.len(), known.collect());
        };
        let found: Vec<String> = match name {
            "format" => format_names().into_iter().map(str::to_owned).collect(),
            "d" if word.contains('.') => self.candidates(word, ""),
            "d" => {
                let schemas = self.tables.keys().map(|schema| format!("{schema}."));
                schemas.chain(self.created.iter().cloned()).collect()
            }
            "i" | "o" => return (text.len() - argument.len(), files(argument)),
            _ => Vec::new(),
        };
        (start, found.into_iter().filter(|name| name.starts_with(word)).collect())
    }
}

/// The files and folders whose paths begin so.
fn files(beginning: &str) -> Vec<String> {
    let (folder, name) = beginning
        .rsplit_once('/')
        .map_or(("", beginning), |(_, name)| (&beginning[..beginning.len() - name.len()], name));
    let place = if folder.is_empty() { Path::new(".") } else { Path::new(folder) };
    let mut found: Vec<String> = std::fs::read_dir(place)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path().is_dir())))
        .filter(|(other, _)| other.starts_with(name) && (!other.starts_with('.') || name.starts_with('.')))
        .map(|(other, is_folder)| format!("{folder}{other}{}", if is_folder { "/" } else { "" }))
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::session;
    use crate::tests::fixture::swept;
    use std::sync::Arc;

    #[test]
    fn tables_columns_and_keywords_are_completed() {
        let fixture = swept();
        let (session, _spill) = session(&fixture.options("", None), None, Arc::default()).unwrap();
        let mut names = CompletedNames::of(&session);
        names.created.push("mine".to_owned());
        let completed = |names: &CompletedNames, text: &str| names.complete(text).1;
        assert_eq!(completed(&names, "select * from tu"), ["tuned."]);
        assert_eq!(completed(&names, "select * from tuned.s"), ["tuned.selection"]);
        assert_eq!(completed(&names, "select * from tuned.selection where ins"), ["instr(", "instruction"]);
        assert_eq!(completed(&names, "select * from tuned.selection as s where s.ins"), ["s.instruction"]);
        assert_eq!(completed(&names, "select * from mi"), ["min(", "mine"]);
        assert_eq!(completed(&names, "summ"), ["summarize"]);
        assert_eq!(completed(&names, "\\tim"), ["\\timing"]);
        assert_eq!(completed(&names, "\\d scores."), ["scores.metrics", "scores.metrics_long"]);
        assert_eq!(completed(&names, "\\format j"), ["json", "jsonl"]);
        let folder = fixture.folder.path().display();
        assert_eq!(completed(&names, &format!("\\o {folder}/ca")), [format!("{folder}/cache/")]);
        names.before = "select 1 from tuned.selection\n".to_owned();
        assert_eq!(completed(&names, "where instr"), ["instr(", "instruction"]);
    }
}
