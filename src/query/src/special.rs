//! Statements that raisin answers itself, because DataFusion has no such statement, reads the tables of every pipeline
//! for it, or would change the catalog: `show tables`, `show schemas`, `show columns`, `summarize`, and temporary
//! tables and views.

use datafusion::sql::parser::{DFParser, Statement as AnyStatement};
use datafusion::sql::sqlparser::ast::{
    CreateTable, CreateTableOptions, CreateView, Expr, ObjectName, ObjectType, Query, Statement, Value,
};

use super::problems::of_syntax;
use super::script::{behind_first_word, words};
use raisin_base::error::{Problem, Result};
use raisin_kinds::syntax::{DIALECT, check_size, several_statements};

/// A statement, and who answers it.
pub enum Asked {
    Tables,
    Schemas,
    /// The columns of the table of this name.
    Columns(String),
    /// Statistics of each column of this table or query.
    Summary(String),
    /// Keep the rows of a query (a table), or the query (a view), under a name.
    Create {
        name: String,
        query: Box<Query>,
        columns: Vec<String>,
        or_replace: bool,
        is_view: bool,
    },
    Drop {
        names: Vec<String>,
        if_exists: bool,
    },
    /// DataFusion answers.
    Other(AnyStatement),
}

/// # Errors
/// The text is not one statement.
pub fn asked(sql: &str) -> Result<Asked> {
    if let Some(special) = by_words(sql)? {
        return Ok(special);
    }
    match parse(sql)? {
        AnyStatement::Statement(statement) => of_statement(*statement),
        other => Ok(Asked::Other(other)),
    }
}

pub fn parse(sql: &str) -> Result<AnyStatement> {
    check_size(sql)?;
    let mut statements = DFParser::parse_sql_with_dialect(sql, &DIALECT).map_err(|error| of_syntax(&error, sql))?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(Problem::usage("the query is empty").into()),
        (Some(_), more) => Err(Problem::usage(several_statements(more + 1)).into()),
    }
}

/// The statements that the parser does not know, or reads in another way.
fn by_words(sql: &str) -> Result<Option<Asked>> {
    let words = words(sql);
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let name = |from: usize| words[from..].concat();
    Ok(match lower.as_slice() {
        ["show", "tables"] => Some(Asked::Tables),
        ["show", "schemas" | "databases"] => Some(Asked::Schemas),
        ["show", "columns", "from" | "in", _, ..] => Some(Asked::Columns(name(3))),
        ["describe" | "desc", first, ..] if !["select", "with", "values", "table", "from"].contains(first) => {
            Some(Asked::Columns(name(1)))
        }
        ["summarize"] => {
            let problem = Problem::usage("`summarize` needs a table or a query");
            return Err(problem.hint("such as: summarize tuned.selection").into());
        }
        ["summarize", ..] => Some(Asked::Summary(behind_first_word(sql).trim_end_matches(';').to_owned())),
        _ => None,
    })
}

fn of_statement(statement: Statement) -> Result<Asked> {
    match statement {
        Statement::CreateView(view) => of_view(view),
        Statement::CreateTable(table) => of_table(table),
        Statement::Drop {
            object_type: ObjectType::Table | ObjectType::View,
            if_exists,
            names,
            cascade,
            restrict,
            purge,
            temporary: _,
            table,
        } => {
            if cascade || restrict || purge || table.is_some() {
                return Err(Problem::usage("DROP takes names alone, without CASCADE, RESTRICT or PURGE").into());
            }
            let names = names.iter().map(one_name).collect::<Result<Vec<_>>>()?;
            Ok(Asked::Drop { names, if_exists })
        }
        other => Ok(Asked::Other(AnyStatement::Statement(Box::new(other)))),
    }
}

/// The name of a temporary table, which has no schema.
fn one_name(name: &ObjectName) -> Result<String> {
    let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    match parts.as_slice() {
        [name] if name.quote_style.is_some() => Ok(name.value.clone()),
        [name] => Ok(name.value.to_lowercase()),
        _ => {
            let problem = Problem::usage(format!("`{name}` is not the name of a temporary table or view"));
            Err(problem.hint("such a name has one part; the tables of stages do not change").into())
        }
    }
}

fn not_temporary(what: &str) -> Problem {
    Problem::usage(format!("CREATE {what} without TEMP: a query reads, and changes nothing that stays"))
        .hint(format!("write `create temp {}`: it lasts until the end of the session", what.to_lowercase()))
}

fn only(what: &str, form: &str) -> Problem {
    Problem::usage(format!("CREATE TEMP {what} has a clause that raisin does not know")).hint(format!("write {form}"))
}

fn of_view(view: CreateView) -> Result<Asked> {
    if !view.temporary {
        return Err(not_temporary("VIEW").into());
    }
    // What is not taken from the statement has to be empty: the statement is put together again without it.
    let names: Vec<String> = view.columns.iter().map(|column| column.name.value.clone()).collect();
    let plain = CreateView {
        or_alter: false,
        materialized: false,
        secure: false,
        name_before_not_exists: false,
        cluster_by: vec![],
        comment: None,
        with_no_schema_binding: false,
        if_not_exists: false,
        copy_grants: false,
        to: None,
        params: None,
        options: CreateTableOptions::None,
        ..view.clone()
    };
    if plain != view || view.columns.iter().any(|column| column.data_type.is_some() || column.options.is_some()) {
        return Err(only("VIEW", "`create [or replace] temp view NAME [(COLUMNS)] as select ...`").into());
    }
    let name = one_name(&view.name)?;
    Ok(Asked::Create { name, query: view.query, columns: names, or_replace: view.or_replace, is_view: true })
}

fn of_table(table: CreateTable) -> Result<Asked> {
    if !table.temporary {
        return Err(not_temporary("TABLE").into());
    }
    let form = "`create [or replace] temp table NAME as select ...`";
    let Some(query) = table.query.clone() else { return Err(only("TABLE", form).into()) };
    let written = Statement::CreateTable(table.clone()).to_string();
    let plain = format!(
        "CREATE {}TEMPORARY TABLE {} AS {query}",
        if table.or_replace { "OR REPLACE " } else { "" },
        table.name
    );
    if written != plain {
        return Err(only("TABLE", form).into());
    }
    let name = one_name(&table.name)?;
    Ok(Asked::Create { name, query, columns: Vec::new(), or_replace: table.or_replace, is_view: false })
}

/// The name as an SQL identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The text as an SQL literal.
pub fn literal(text: &str) -> String {
    Expr::value(Value::SingleQuotedString(text.to_owned())).to_string()
}
