//! The syntax of queries: whether a text is one SELECT, and which tables it names. With this, `raisin` refuses a wrong
//! query before any stage runs. raisin-query answers queries.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use raisin_base::error::Problem;
use sqlparser::ast::{ObjectName, Query, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};

/// PostgreSQL's dialect. The generic dialect reads `id, cluster from ...` as a list with a superfluous comma.
pub const DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// The schema and the table of each table name in a query, in alphabetical order. If a name has no schema, the schema
/// is empty. Names of common table expressions and of `information_schema` are left out.
///
/// # Errors
/// The text is not one statement of SQL.
pub fn references(sql: &str) -> Result<Vec<(String, String)>, Problem> {
    let statements = Parser::parse_sql(&DIALECT, sql).map_err(|error| not_sql(&error, sql))?;
    let statement = match statements.as_slice() {
        [statement] => statement,
        [] => return Err(Problem::usage("the query is empty")),
        several => return Err(Problem::usage(several_statements(several.len()))),
    };
    let mut relations = Relations::default();
    let _ = statement.visit(&mut relations);
    Ok(relations.found.into_iter().filter(|(schema, _)| schema != "information_schema").collect())
}

pub fn several_statements(count: usize) -> String {
    format!("one query at a time: there are {count} statements")
}

/// The problem of a text that is not SQL, with the position that the parser reports.
pub fn not_sql(error: &ParserError, sql: &str) -> Problem {
    let message = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => "the query is nested too deeply",
    };
    let message = message.strip_prefix("sql parser error: ").unwrap_or(message);
    let problem = Problem::usage(format!("the query is not SQL that raisin understands: {message}"));
    match excerpt(message, sql) {
        Some(excerpt) => problem.hint(excerpt),
        None => problem,
    }
}

/// The text at the position that the parser reports as `Line: 1, Column: 8`.
fn excerpt(message: &str, sql: &str) -> Option<String> {
    let (_, place) = message.rsplit_once("at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    let line = sql.lines().nth(line.trim().parse::<usize>().ok()?.checked_sub(1)?)?;
    let before: String = line.chars().take(column.trim().parse::<usize>().ok()?.checked_sub(1)?).collect();
    let rest: String = line.chars().skip(before.chars().count()).take(30).collect();
    (!rest.is_empty()).then(|| format!("look at `{rest}`"))
}

/// Collects the tables of a statement. A common table expression is in scope in the rest of the query that declares it.
#[derive(Default)]
struct Relations {
    found: BTreeSet<(String, String)>,
    /// Names of the common table expressions in scope.
    expressions: Vec<String>,
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let parts: Vec<String> = relation.0.iter().filter_map(|part| part.as_ident()).map(name_of).collect();
        if let Some((table, before)) = parts.split_last() {
            let is_expression = before.is_empty() && self.expressions.contains(table);
            if !is_expression {
                self.found.insert((before.last().cloned().unwrap_or_default(), table.clone()));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = &query.with {
            for expression in &with.cte_tables {
                // Only a recursive expression sees its own name.
                if !with.recursive {
                    let _ = expression.visit(self);
                }
                self.expressions.push(name_of(&expression.alias.name));
                if with.recursive {
                    let _ = expression.visit(self);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = &query.with {
            self.expressions.truncate(self.expressions.len().saturating_sub(with.cte_tables.len()));
        }
        ControlFlow::Continue(())
    }
}

/// A name as SQL reads it: in lower case unless it is quoted.
fn name_of(name: &sqlparser::ast::Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(sql: &str) -> Vec<String> {
        let found = references(sql).expect("SQL");
        found.into_iter().map(|(schema, table)| format!("{schema}.{table}")).collect()
    }

    #[test]
    fn the_tables_of_a_query_are_found_everywhere_in_it() {
        assert_eq!(tables("select 1"), Vec::<String>::new());
        assert_eq!(tables("select * from a.b join C.\"D\" using (x)"), ["a.b", "c.D"]);
        assert_eq!(
            tables("select * from a.b where x in (select y from c.d union select z from other.e.f)"),
            ["a.b", "c.d", "e.f"]
        );
        assert_eq!(tables("select * from information_schema.tables"), Vec::<String>::new());
    }

    #[test]
    fn a_common_table_expression_is_a_name_only_in_its_own_query() {
        assert_eq!(tables("with t as (select * from a.b) select * from t, u"), [".u", "a.b"]);
        let joined = tables("with a as (select 1) select * from tuned.selection join a on true, pool.instructions");
        assert_eq!(joined, ["pool.instructions", "tuned.selection"]);
        assert_eq!(tables("with t as (select * from t) select * from t"), [".t"]);
        assert_eq!(
            tables("with recursive t as (select * from a.b union all select * from t) select * from t"),
            ["a.b"]
        );
        assert_eq!(tables("select * from (with t as (select 1) select * from t) x, t"), [".t"]);
    }

    #[test]
    fn a_text_that_is_not_one_query_is_refused_with_the_position() {
        assert_eq!(references("").unwrap_err().message, "the query is empty");
        assert_eq!(
            references("select 1; select 2").unwrap_err().message,
            "one query at a time: there are 2 statements"
        );
        let problem = references("select * form a.b").unwrap_err();
        assert!(problem.message.starts_with("the query is not SQL that raisin understands"), "{problem}");
        assert!(problem.hint.is_some_and(|hint| hint.starts_with("look at `")), "no excerpt");
    }
}
