//! Completes the last word of an SQL query: a schema, a table, or a column of a table that the query names.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::{Command, Stdio};

use clap_complete::engine::CompletionCandidate;
use serde_json::Value;

use super::flag;

/// The columns of all tables, as `raisin sql` answers them.
const COLUMNS: &str = "select table_schema, table_name, column_name from information_schema.columns";

struct TableColumn {
    schema: String,
    table: String,
    name: String,
}

/// A shell passes the whole query, because the query is one word for the shell.
pub fn complete(query: &OsStr) -> Vec<CompletionCandidate> {
    let Some(query) = query.to_str() else { return Vec::new() };
    let candidates = endings(query, &columns());
    candidates.into_iter().map(CompletionCandidate::new).collect()
}

/// The query with each ending of its last word that fits.
fn endings(query: &str, columns: &[TableColumn]) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let word = query.len() - query.chars().rev().take_while(|c| is_part(*c)).map(char::len_utf8).sum::<usize>();
    let (before, word) = query.split_at(word);
    let names = match word.rsplit_once('.') {
        // The first word of a query is a keyword.
        None if before.trim().is_empty() => BTreeSet::new(),
        None => {
            let schemas = columns.iter().map(|column| format!("{}.", column.schema));
            let known = columns.iter().filter(|column| query.contains(&format!("{}.{}", column.schema, column.table)));
            schemas.chain(known.map(|column| column.name.clone())).collect()
        }
        Some((schema, _)) => {
            let tables = columns.iter().filter(|column| column.schema == schema);
            tables.map(|column| format!("{schema}.{}", column.table)).collect::<BTreeSet<_>>()
        }
    };
    names.into_iter().filter(|name| name.starts_with(word)).map(|name| format!("{before}{name}")).collect()
}

/// Asks `raisin sql`, which knows the tables of the chosen pipeline, of the history and of raisin itself.
fn columns() -> Vec<TableColumn> {
    let Ok(own) = std::env::current_exe() else { return Vec::new() };
    let mut command = Command::new(own);
    command.args(["sql", COLUMNS, "--format", "jsonl"]).stdin(Stdio::null()).stderr(Stdio::null());
    for name in ["--cache", "--out", "--pipeline"] {
        command.args(flag(name).into_iter().flat_map(|value| [name.into(), value]));
    }
    let Ok(output) = command.output() else { return Vec::new() };
    let rows = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let text = |row: &Value, name: &str| Some(row.get(name)?.as_str()?.to_owned());
    rows.filter_map(|row| {
        Some(TableColumn {
            schema: text(&row, "table_schema")?,
            table: text(&row, "table_name")?,
            name: text(&row, "column_name")?,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_query_becomes_a_schema_a_table_or_a_column() {
        let column = |schema: &str, table: &str, name: &str| TableColumn {
            schema: schema.to_owned(),
            table: table.to_owned(),
            name: name.to_owned(),
        };
        let columns = [
            column("pool", "instructions", "id"),
            column("pool", "instructions", "prompt"),
            column("pool", "rejects", "reason"),
            column("scores", "metrics", "loss"),
        ];
        for (query, completed) in [
            ("select * from po", &["select * from pool."][..]),
            ("select * from pool.", &["select * from pool.instructions", "select * from pool.rejects"]),
            (
                "select * from pool.instructions where p",
                &["select * from pool.instructions where pool.", "select * from pool.instructions where prompt"],
            ),
            ("select l", &[]),
            ("sel", &[]),
            ("select count(id", &[]),
            ("select max(pool.re", &["select max(pool.rejects"]),
        ] {
            assert_eq!(endings(query, &columns), completed, "{query}");
        }
    }
}
