//! The syntax of queries: whether a text is one SELECT, and which tables it names. With this, `raisin` refuses a wrong
//! query before any stage runs. raisin-query answers queries.

mod dialect;
mod ignored;
mod sample;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use raisin_base::error::Problem;
use raisin_base::stack::on_large_stack;
use sqlparser::ast::{Expr, ObjectName, Query, SelectItem, SetExpr, Statement, Visit, Visitor};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Tokenizer};

use self::dialect::RaisinDialect;
pub use self::ignored::ignored_clause;
pub use self::sample::{Sample, SampleSize, sample_of};

pub const DIALECT: RaisinDialect = RaisinDialect;

/// The most dots in a name. With twice as many, the parser takes minutes: its time doubles with each dot.
const MOST_DOTS: usize = 8;

/// The largest number of operators and keywords in a query. Each of them can make the tree of the query one level
/// deeper, and a level takes stack in the parser, the planner and the evaluation: see [`on_large_stack`]. Values,
/// names, commas and parentheses do not count: a list behind `IN` can be of any length, and the parser itself limits
/// nesting.
const MOST_OPERATORS: usize = 20_000;

/// The nesting that the parser accepts: parentheses, subqueries and CASE inside one another.
const MOST_NESTED: usize = 50;

/// The schema and the table of each table name in a query, in alphabetical order. If a name has no schema, the schema
/// is empty. Names of common table expressions are left out.
///
/// # Errors
/// The text is not one SELECT.
pub fn references(sql: &str) -> Result<Vec<(String, String)>, Problem> {
    on_large_stack(|| references_here(sql)).map_err(|error| Problem::new(format!("{error:#}")))?
}

fn references_here(sql: &str) -> Result<Vec<(String, String)>, Problem> {
    let mut relations = Relations::default();
    let _ = select_of(sql)?.visit(&mut relations);
    Ok(relations.found.into_iter().collect())
}

/// The names of the columns of the answer, as far as the text tells them: `None` if it has a `*`, or is no plain SELECT.
///
/// # Errors
/// The text is not one SELECT.
pub fn answer_columns(sql: &str) -> Result<Option<Vec<String>>, Problem> {
    on_large_stack(|| Ok(columns_of(&select_of(sql)?.body))).map_err(|error| Problem::new(format!("{error:#}")))?
}

/// In a union, the first SELECT names the columns.
fn columns_of(body: &SetExpr) -> Option<Vec<String>> {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::Query(query) => return columns_of(&query.body),
        SetExpr::SetOperation { left, .. } => return columns_of(left),
        _ => return None,
    };
    let name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(name_of(alias)),
        SelectItem::UnnamedExpr(expression) => name_of_expression(expression),
        _ => None,
    };
    select.projection.iter().map(name).collect()
}

fn name_of_expression(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Identifier(name) => Some(name_of(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(name_of),
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => name_of_expression(inner),
        // Another expression has a name of its own, which nobody can mean by `id`.
        _ => Some(String::new()),
    }
}

/// The one SELECT of a text.
fn select_of(sql: &str) -> Result<Query, Problem> {
    check_size(sql)?;
    let mut statements = Parser::new(&DIALECT)
        .with_recursion_limit(MOST_NESTED)
        .try_with_sql(sql)
        .and_then(|mut parser| {
            let statements = parser.parse_statements()?;
            // The parser stops at a word END and would ignore the rest of the text.
            parser.expect_token(&Token::EOF)?;
            Ok(statements)
        })
        .map_err(|error| not_sql(&error, sql))?;
    let statement = match statements.len() {
        0 => return Err(Problem::usage("the query is empty")),
        1 => statements.remove(0),
        several => return Err(Problem::usage(several_statements(several))),
    };
    if let Some(problem) = ignored_clause(&statement) {
        return Err(problem);
    }
    match statement {
        Statement::Query(query) => Ok(*query),
        _ => {
            let problem = Problem::usage("the query is not a SELECT, and its answer is not one of the tables alone");
            Err(problem.hint("a stage answers one SELECT; ask other questions with `raisin sql`"))
        }
    }
}

/// Refuses a query that is too large for the stack, before the query is parsed.
///
/// # Errors
/// The query has more than [`MOST_OPERATORS`] operators and keywords, or its text cannot be divided into tokens.
pub fn check_size(sql: &str) -> Result<(), Problem> {
    let tokens = Tokenizer::new(&DIALECT, sql).tokenize().map_err(|error| not_sql(&error.into(), sql))?;
    let tokens: Vec<&Token> = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let is_dot = |at: usize| matches!(tokens.get(at), Some(Token::Period));
    let is_long = |first: usize| (0..=MOST_DOTS).all(|dot| is_dot(first + 2 * dot));
    if (0..tokens.len()).any(is_long) {
        let problem = format!("a name in the query has more than {} parts between dots", MOST_DOTS + 1);
        return Err(Problem::usage(problem).hint("a column is named by variant, stage, table and column at most"));
    }
    // The minus of a negative value in a list makes no tree deeper.
    let is_sign = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        *tokens[at] == Token::Minus && before.is_some_and(|before| matches!(before, Token::Comma | Token::LParen))
    };
    let count = (0..tokens.len()).filter(|at| is_operator_or_keyword(tokens[*at]) && !is_sign(*at)).count();
    if count <= MOST_OPERATORS {
        return Ok(());
    }
    let problem = Problem::usage(format!(
        "the query has {count} operators and keywords, and raisin reads at most {MOST_OPERATORS} in one query"
    ));
    Err(problem.hint("compare with a list, `x in (1, 2, 3)`, instead of many terms, or join a table of the values"))
}

fn is_operator_or_keyword(token: &Token) -> bool {
    match token {
        Token::Word(word) => word.keyword != Keyword::NoKeyword && word.quote_style.is_none(),
        Token::EOF
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::Number(..)
        | Token::SingleQuotedString(_) => false,
        _ => true,
    }
}

/// Whether a query contains the name as a word, in whatever place. Without the word, the query cannot name the stage.
pub fn contains_name(sql: &str, name: &str) -> bool {
    let is_of_a_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let (sql, name) = (sql.to_lowercase(), name.to_lowercase());
    sql.match_indices(&name).any(|(at, _)| {
        let (before, after) = (sql[..at].chars().next_back(), sql[at + name.len()..].chars().next());
        !before.is_some_and(is_of_a_word) && !after.is_some_and(is_of_a_word)
    })
}

pub fn several_statements(count: usize) -> String {
    format!("one query at a time: there are {count} statements")
}

/// The problem of a text that is not SQL, with the position that the parser reports.
pub fn not_sql(error: &ParserError, sql: &str) -> Problem {
    let message = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => {
            let message = format!("the query is nested more than {MOST_NESTED} levels deep");
            return Problem::usage(message).hint("name the inner queries: with a as (select ...) select ... from a");
        }
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
    fn a_name_of_many_parts_is_refused_before_the_parser_takes_minutes() {
        let query = |dots: usize| format!("select {}a from t", "a.".repeat(dots));
        assert!(references(&query(3)).is_ok());
        let said = references(&query(40)).expect_err("too many").to_string();
        assert!(said.contains("more than 9 parts between dots"), "{said}");
    }

    #[test]
    fn the_tables_of_a_query_are_found_everywhere_in_it() {
        assert_eq!(tables("select 1"), Vec::<String>::new());
        assert_eq!(tables("select * from a.b join C.\"D\" using (x)"), ["a.b", "c.D"]);
        assert_eq!(
            tables("select * from a.b where x in (select y from c.d union select z from other.e.f)"),
            ["a.b", "c.d", "e.f"]
        );
        assert_eq!(tables("select * from information_schema.tables"), ["information_schema.tables"]);
    }

    #[test]
    fn the_columns_of_an_answer_are_known_unless_there_is_a_star() {
        let columns = |sql: &str| answer_columns(sql).expect("SQL").map(|names| names.join(","));
        assert_eq!(columns("select p.id, length(x) as n, \"Big\", 1 + 1 from a.b p").as_deref(), Some("id,n,Big,"));
        assert_eq!(columns("(select ID from a.b) union select other from c.d").as_deref(), Some("id"));
        assert_eq!(columns("with t as (select * from a.b) select id from t order by 1").as_deref(), Some("id"));
        assert_eq!(columns("select distinct (id), n::bigint from a.b").as_deref(), Some("id,n"));
        assert_eq!(columns("select * from a.b"), None);
        assert_eq!(columns("select p.* from a.b p"), None);
        assert_eq!(columns("values (1)"), None);
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
    fn a_query_of_many_terms_is_read_or_refused_with_the_number_and_never_overflows_the_stack() {
        let terms = |count: usize, operator: &str| {
            let terms: Vec<String> = (0..count).map(|value| format!("x = {value}")).collect();
            format!("select * from a.b where {}", terms.join(operator))
        };
        for (count, operator) in [(500, " or "), (5000, " or "), (5000, " and ")] {
            assert_eq!(tables(&terms(count, operator)), ["a.b"], "{count}{operator}");
        }
        let values: Vec<String> = (0..100_000).map(|value| value.to_string()).collect();
        assert_eq!(tables(&format!("select * from a.b where x in ({})", values.join(", "))), ["a.b"]);
        assert_eq!(tables(&vec!["select x from a.b"; 5000].join(" union all ")), ["a.b"]);
        assert_eq!(tables(&format!("select {}1 from a.b", "1 + ".repeat(15_000))), ["a.b"]);
        assert_eq!(tables(&format!("select {} from a.b", "x".to_owned() + &"::int".repeat(9000))), ["a.b"]);
        assert_eq!(tables(&format!("select case {} end from a.b", "when x = 1 then 2 ".repeat(3000))), ["a.b"]);
        let problem = references(&terms(100_000, " or ")).unwrap_err();
        assert!(problem.message.starts_with("the query has 200003 operators and keywords"), "{problem}");
        assert!(problem.message.ends_with("at most 20000 in one query"), "{problem}");
        for nested in [
            format!("select {}1{} from a.b", "(".repeat(20_000), ")".repeat(20_000)),
            format!("select {}1{} from a.b", "abs(".repeat(15_000), ")".repeat(15_000)),
            format!("{}select x from a.b{}", "select x from (".repeat(5000), ") t".repeat(5000)),
        ] {
            let problem = references(&nested).expect_err(&nested[..40]);
            assert_eq!(problem.message, "the query is nested more than 50 levels deep", "{}", &nested[..40]);
        }
        // From the level that is too deep, the parser reads `case` as a name, and then does not know `end`.
        let cases = format!("select {}1{} from a.b", "case when true then ".repeat(3000), " end".repeat(3000));
        assert!(references(&cases).unwrap_err().message.contains("found: end"), "{}", references(&cases).unwrap_err());
        assert!(references(&format!("select {}true from a.b", "not ".repeat(15_000))).is_err());
        let rest = references("select x from a.b end where x = 1").unwrap_err();
        assert!(rest.message.contains("Expected: EOF, found: end"), "{rest}");
    }

    #[test]
    fn a_query_contains_a_name_only_as_a_whole_word() {
        for query in ["select * from pool.rows", "select * from POOL . rows", "select pool.x", "from \"pool\".rows"] {
            assert!(contains_name(query, "pool"), "{query}");
        }
        assert!(contains_name("select * from \"the-pool\".rows", "the-pool"));
        for query in ["select pool_id from other.rows", "select * from pools.rows", "select 1", "select carpool"] {
            assert!(!contains_name(query, "pool"), "{query}");
        }
    }

    #[test]
    fn a_text_that_is_not_one_query_is_refused_with_the_position() {
        assert_eq!(references("").unwrap_err().message, "the query is empty");
        assert_eq!(
            references("select 1; select 2").unwrap_err().message,
            "one query at a time: there are 2 statements"
        );
        for other in ["explain select 1", "show all", "create table t (x int)", "set x = 1", "delete from a.b"] {
            let problem = references(other).unwrap_err();
            assert!(problem.message.starts_with("the query is not a SELECT"), "{other}: {problem}");
        }
        let problem = references("select * form a.b").unwrap_err();
        assert!(problem.message.starts_with("the query is not SQL that raisin understands"), "{problem}");
        assert!(problem.hint.is_some_and(|hint| hint.starts_with("look at `")), "no excerpt");
    }
}
