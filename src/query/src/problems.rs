//! The messages for queries that cannot be answered. They show the nearest name and the names that exist.

use datafusion::arrow::error::ArrowError;
use datafusion::common::{SchemaError, TableReference};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

use super::catalog::Catalogs;
use raisin_base::error::{Problem, anyhow, nearest};
use raisin_kinds::syntax::not_sql;
use raisin_store::no_cache;

/// The largest number of names in a hint.
const LISTED: usize = 40;

/// The error of a query that is not SQL.
pub fn of_syntax(error: &DataFusionError, sql: &str) -> raisin_base::error::Error {
    match error.find_root() {
        DataFusionError::SQL(error, _) => not_sql(error, sql).into(),
        other => not_sql(&ParserError::ParserError(other.strip_backtrace()), sql).into(),
    }
}

/// The error of a query that cannot be planned, for example because a name does not exist. A failure of the machine is
/// no problem of the query.
pub fn of_plan(error: &DataFusionError, sql: &str) -> raisin_base::error::Error {
    match error.find_root() {
        DataFusionError::SchemaError(schema_error, _) => of_columns(schema_error),
        DataFusionError::SQL(..) => of_syntax(error, sql),
        DataFusionError::External(inner) => match inner.downcast_ref::<Problem>() {
            Some(problem) => problem.clone().into(),
            None => anyhow!("{inner}"),
        },
        DataFusionError::Plan(message) => of_message(&in_plain_types(message)).into(),
        other => {
            let text = in_plain_types(&other.strip_backtrace());
            let text = text.strip_prefix("Error during planning: ").unwrap_or(&text).to_owned();
            if is_of_the_query(other) { Problem::usage(text).into() } else { anyhow!(text) }
        }
    }
}

/// Texts are views inside a query only; tables and `describe` call them Utf8.
fn in_plain_types(message: &str) -> String {
    message.replace("Utf8View", "Utf8")
}

/// Whether the query is the cause of the error, such as a division by zero, a text that is no number, or a function
/// that does not exist. A file that cannot be read and a lack of memory have another cause.
fn is_of_the_query(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::ArrowError(error, _) => arrow_is_of_the_query(error),
        DataFusionError::NotImplemented(_) | DataFusionError::Configuration(_) | DataFusionError::Execution(_) => true,
        _ => false,
    }
}

/// As [`is_of_the_query`], for an error of arrow.
pub fn arrow_is_of_the_query(error: &ArrowError) -> bool {
    !matches!(
        error,
        ArrowError::IoError(..) | ArrowError::ExternalError(_) | ArrowError::ParquetError(_) | ArrowError::IpcError(_)
    )
}

fn of_columns(error: &SchemaError) -> raisin_base::error::Error {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return Problem::usage(error.to_string()).into();
    };
    let problem = Problem::usage(format!("there is no column `{}`", field.flat_name()));
    let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
    let all = listed(names.iter().copied());
    let hint = match nearest(&field.name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? Columns: {all}"),
        None if names.is_empty() => "no table here has columns".to_owned(),
        None => format!("columns: {all}"),
    };
    problem.hint(hint).into()
}

/// The problem of a planning message. `Invalid function 'avgg'.\nDid you mean 'avg'?` is rephrased; other messages
/// stay.
fn of_message(message: &str) -> Problem {
    let (_, rest) = message.split_once('\n').unwrap_or((message, ""));
    if let Some(name) = unknown_function(message) {
        let problem = Problem::usage(format!("there is no function `{name}`"));
        let near = rest.split('\'').nth(1);
        return match near {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem,
        };
    }
    Problem::usage(message)
}

/// The name of the function that does not exist, if a planning message is about one.
pub fn unknown_function(message: &str) -> Option<&str> {
    message.strip_prefix("Invalid function '")?.split('\'').next()
}

/// The problem of a table that does not exist, with the nearest existing table.
pub fn not_a_table(table: &TableReference, catalogs: &Catalogs) -> Problem {
    let problem = Problem::usage(format!("there is no table `{table}`"));
    if let Some(cache) = &catalogs.without_cache {
        let none = no_cache(cache);
        return problem.hint(format!("{}; {}", none.message, none.hint.unwrap_or_default()));
    }
    if let Some(pipeline) = table.catalog()
        && !catalogs.by_name.contains_key(pipeline)
    {
        return problem.hint(format!("pipelines: {}", listed(catalogs.by_name.keys().map(String::as_str))));
    }
    let (pipeline, catalog) = match table.catalog() {
        Some(pipeline) => (pipeline, catalogs.by_name.get(pipeline).map(AsRef::as_ref)),
        None => (catalogs.default.as_str(), catalogs.default_catalog()),
    };
    let Some(catalog) = catalog else { return problem };
    let Some(schema) = table.schema() else {
        // Only stages are searched: the schema `history` would have to list all folders of the store.
        let stages = catalog.schemas.iter().filter(|(_, schema)| schema.is_of_a_stage());
        let owners: Vec<String> = stages
            .filter(|(_, schema)| schema.has(table.table()))
            .map(|(name, _)| format!("`{name}.{}`", table.table()))
            .collect();
        return match owners.as_slice() {
            [] => problem.hint(format!("tables are named stage.table; schemas: {}", schemas(catalog))),
            owners => problem.hint(format!("tables are named stage.table: {}", owners.join(", "))),
        };
    };
    if let Some(found) = catalog.schemas.get(schema) {
        let names = found.names();
        if names.is_empty() {
            return problem.hint(format!("`{schema}` has no tables"));
        }
        let near = nearest(table.table(), names.iter().map(String::as_str));
        let all = listed(names.iter().map(String::as_str));
        let near = near.map(|near| format!("did you mean `{schema}.{near}`? ")).unwrap_or_default();
        return problem.hint(format!("{near}Tables of `{schema}`: {all}"));
    }
    let elsewhere =
        catalogs.by_name.iter().find(|(name, other)| *name != pipeline && other.schemas.contains_key(schema));
    match (nearest(schema, catalog.schemas.keys().map(String::as_str)), elsewhere) {
        (Some(near), _) => {
            problem.hint(format!("did you mean `{near}.{}`? Schemas: {}", table.table(), schemas(catalog)))
        }
        (None, Some((other, _))) => {
            problem.hint(format!("pipeline `{other}` has a stage `{schema}`: choose it with --pipeline {other}"))
        }
        (None, None) => problem.hint(format!("schemas: {}", schemas(catalog))),
    }
}

fn schemas(catalog: &super::catalog::Catalog) -> String {
    listed(catalog.schemas.keys().map(String::as_str))
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    let mut text = all.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
    if all.len() > LISTED {
        text.push_str(&format!(" and {} more", all.len() - LISTED));
    }
    text
}
