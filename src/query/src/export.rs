//! Writes the tables as views for DuckDB, so that DuckDB and tools on top of it read the same rows from the same files.

use std::fmt::Write as _;
use std::path::Path;

use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::TableProvider as _;
use serde_json::Value;

use super::catalog::Catalogs;
use super::files::constant_columns;
use super::pivot::{WIDE, wide_table};
use super::quality::is_view;
use super::sources::TableFile;
use super::special::{literal, quoted};
use super::write::replace;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::say;
use raisin_contract::query::QueryOptions;
use raisin_store::no_cache;

/// Writes `CREATE VIEW` for every table of the stages of the chosen pipeline and of the schema `history`.
pub fn run(options: &QueryOptions, file: &Path, is_absolute: bool) -> Result<()> {
    let catalogs = Catalogs::open(&options.cache, &options.out, options.pipeline.as_deref())?;
    if catalogs.without_cache.is_some() {
        return Err(no_cache(&options.cache).into());
    }
    let (text, count) = views(&catalogs, is_absolute)?;
    catalogs.warnings.take().iter().for_each(|warning| say!("warning: {warning}"));
    replace(file, |to| Ok(std::io::Write::write_all(to, text.as_bytes())?))?;
    let place = if is_absolute { "in any folder" } else { "in this folder" };
    say!("{count} views of pipeline `{}`; run {place}: duckdb -init {}", catalogs.default, file.display());
    Ok(())
}

/// The statements, and the number of views.
fn views(catalogs: &Catalogs, is_absolute: bool) -> Result<(String, usize)> {
    let mut text = format!("-- The tables of pipeline `{}` as views for DuckDB.\n", catalogs.default);
    let mut count = 0;
    let Some(catalog) = catalogs.default_catalog() else { return Ok((text, 0)) };
    for (name, schema) in &catalog.schemas {
        if let Some(problem) = schema.elsewhere() {
            return Err(problem.clone().into());
        }
        // What raisin knows of its runs is in no Parquet file.
        let Some(tables) = schema.table_files() else { continue };
        if !tables.is_empty() {
            writeln!(text, "CREATE SCHEMA IF NOT EXISTS {};", quoted(name))?;
        }
        for (table, files) in tables {
            // Its functions are functions of raisin.
            if is_view(table, files) {
                continue;
            }
            let query = match (table == WIDE).then(|| wide_table(files)).transpose()?.flatten() {
                Some(wide) => of_metrics(files, &wide.schema(), is_absolute)?,
                None => format!("SELECT {}", of_files(files, is_absolute)?),
            };
            writeln!(text, "CREATE OR REPLACE VIEW {}.{} AS {query};", quoted(name), quoted(table))?;
            count += 1;
        }
    }
    Ok((text, count))
}

/// The column with the path of the file, which is no column of the view.
const FILE: &str = "raisin_file";

/// All columns of the files, and their constants: a list of columns and FROM.
fn of_files(files: &[TableFile], is_absolute: bool) -> Result<String> {
    let mut paths: Vec<String> = Vec::new();
    for file in files {
        let path = literal(&path_of(&file.path, is_absolute)?);
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    let paths = paths.join(", ");
    let constants = constant_columns(files)?;
    if constants.is_empty() {
        return Ok(format!("* FROM read_parquet([{paths}], union_by_name = true)"));
    }
    let names: Vec<String> = constants.iter().map(|(_, column)| quoted(column)).collect();
    let mut rows = Vec::new();
    for file in files {
        let value = |name: &String| file.constants.iter().find(|(other, _)| other == name).map(|(_, value)| value);
        let values: Vec<String> = constants.iter().map(|(name, _)| of_value(value(name))).collect();
        rows.push(format!("({}, {})", literal(&path_of(&file.path, is_absolute)?), values.join(", ")));
    }
    // A file that several variants share is read once, and its rows are joined with each of them.
    Ok(format!(
        "f.* EXCLUDE ({FILE}), c.* EXCLUDE ({FILE}) FROM read_parquet([{paths}], union_by_name = true, filename = \
         '{FILE}') f JOIN (VALUES {}) c({FILE}, {}) ON f.{FILE} = c.{FILE}",
        rows.join(", "),
        names.join(", ")
    ))
}

/// The wide form of the long table `metrics`, with the columns that raisin shows.
fn of_metrics(files: &[TableFile], wide: &Schema, is_absolute: bool) -> Result<String> {
    let constants: Vec<String> = constant_columns(files)?.into_iter().map(|(_, column)| column).collect();
    let names: Vec<&str> = wide.fields().iter().map(|field| field.name().as_str()).collect();
    let mut groups = Vec::new();
    let columns: Vec<String> = names
        .iter()
        .map(|name| {
            let of = |value: &str, metric: &str| {
                format!("max({value}) FILTER (WHERE metric = {}) AS {}", literal(metric), quoted(name))
            };
            let metric = |suffix: &str| name.strip_suffix(suffix).filter(|metric| names.contains(metric));
            if *name == "split" || constants.iter().any(|constant| constant == name) {
                groups.push(quoted(name));
                quoted(name)
            } else if *name == "n" {
                "min(n) AS n".to_owned()
            } else if let Some(metric) = metric("_standard_error") {
                of("standard_error", metric)
            } else if let Some(metric) = metric("_n") {
                of("n", metric)
            } else {
                of("value", name)
            }
        })
        .collect();
    let long = of_files(files, is_absolute)?;
    Ok(format!("SELECT {} FROM (SELECT {long}) GROUP BY {}", columns.join(", "), groups.join(", ")))
}

/// The path as DuckDB opens it: absolute, or below the folder in which raisin runs.
fn path_of(path: &Path, is_absolute: bool) -> Result<String> {
    let path = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    let path = match here {
        Ok(here) if !is_absolute => path.strip_prefix(&here).map(Path::to_owned).unwrap_or(path),
        _ => path,
    };
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Problem::new(format!("{} is not a name that DuckDB can read", path.display())).into()),
    }
}

fn of_value(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "NULL".to_owned(),
        Some(Value::String(text)) => literal(text),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        Some(other) => literal(&other.to_string()),
    }
}
