//! Changes of a statement between the parser and the planner: the values of parameters, the minus before an expression
//! (see [`super::arithmetic`]), samples (see [`super::sample`]), and names for columns that would have the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::parser::{ExplainStatement, Statement as AnyStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Select,
    SelectItem, SelectItemQualifiedWildcardKind, Statement, TableFactor, UnaryOperator, Value, ValueWithSpan, Visit,
    VisitMut, Visitor, VisitorMut,
};

use super::arithmetic::NEGATIVE;
use super::sample::replace_sample;
use raisin_base::error::{Problem, nearest};

/// The values of `$name`, as they were given.
pub type Values = BTreeMap<String, String>;

/// # Errors
/// The statement has a parameter without a value, or a clause behind a function that would be ignored.
pub fn prepare(statement: &mut AnyStatement, values: &Values, is_scalar: &dyn Fn(&str) -> bool) -> Result<(), Problem> {
    match statement {
        AnyStatement::Statement(statement) => prepare_syntax(statement, values, is_scalar),
        AnyStatement::Explain(ExplainStatement { statement, .. }) => prepare(statement, values, is_scalar),
        _ => Ok(()),
    }
}

fn prepare_syntax(statement: &mut Statement, values: &Values, is_scalar: &dyn Fn(&str) -> bool) -> Result<(), Problem> {
    if let ControlFlow::Break(problem) = Visit::visit(statement, &mut Scalars { is_scalar }) {
        return Err(problem);
    }
    match VisitMut::visit(statement, &mut Changes { values }) {
        ControlFlow::Break(problem) => Err(problem),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The names of the parameters of a statement.
pub fn parameters(statement: &AnyStatement) -> BTreeSet<String> {
    struct ParameterNames(BTreeSet<String>);
    impl Visitor for ParameterNames {
        type Break = ();

        fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<()> {
            if let Value::Placeholder(name) = &value.value {
                self.0.insert(name.trim_start_matches('$').to_owned());
            }
            ControlFlow::Continue(())
        }
    }
    let mut names = ParameterNames(BTreeSet::new());
    if let AnyStatement::Statement(statement) = statement {
        let _ = statement.visit(&mut names);
    }
    names.0
}

/// Refuses clauses of aggregates behind a function of single values. The planner would ignore them.
struct Scalars<'a> {
    is_scalar: &'a dyn Fn(&str) -> bool,
}

impl Visitor for Scalars<'_> {
    type Break = Problem;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Problem> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        if !(self.is_scalar)(&name) {
            return ControlFlow::Continue(());
        }
        let list = match &function.args {
            FunctionArguments::List(list) => Some(list),
            FunctionArguments::None | FunctionArguments::Subquery(_) => None,
        };
        let clause = [
            (list.is_some_and(|list| list.duplicate_treatment.is_some()), "DISTINCT or ALL"),
            (list.is_some_and(|list| !list.clauses.is_empty()), "ORDER BY"),
            (function.filter.is_some(), "FILTER"),
            (function.null_treatment.is_some(), "IGNORE NULLS or RESPECT NULLS"),
            (function.over.is_some(), "OVER"),
            (!function.within_group.is_empty(), "WITHIN GROUP"),
        ];
        match clause.iter().find(|(is_there, _)| *is_there) {
            Some((_, clause)) => {
                let message = format!("`{name}` is calculated for each row by itself, so that {clause} has no meaning");
                ControlFlow::Break(Problem::usage(message).hint("leave the clause out, or use an aggregate function"))
            }
            None => ControlFlow::Continue(()),
        }
    }
}

struct Changes<'a> {
    values: &'a Values,
}

impl VisitorMut for Changes<'_> {
    type Break = Problem;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Problem> {
        if let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = expr {
            let name = name.trim_start_matches('$');
            let Some(value) = self.values.get(name) else {
                return ControlFlow::Break(no_value(name, self.values));
            };
            *expr = literal(value);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Problem> {
        if let Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand } = expr
            && !is_a_constant(operand)
        {
            let operand = std::mem::replace(operand.as_mut(), Expr::value(Value::Null));
            *expr = call(NEGATIVE, operand);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Problem> {
        match replace_sample(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(problem) => ControlFlow::Break(problem),
        }
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Problem> {
        name_apart(select);
        ControlFlow::Continue(())
    }
}

/// Whether the planner itself calculates the minus before the expression.
fn is_a_constant(operand: &Expr) -> bool {
    matches!(operand, Expr::Value(ValueWithSpan { value: Value::Number(..), .. }) | Expr::Interval(_))
}

fn call(name: &str, argument: Expr) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))],
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

fn no_value(name: &str, values: &Values) -> Problem {
    let problem = Problem::usage(format!("there is no value for ${name}"));
    match nearest(name, values.keys().map(String::as_str)) {
        Some(near) => problem.hint(format!("did you mean ${near}?")),
        None => problem.hint(format!("give one: -p {name}=VALUE")),
    }
}

/// A value as SQL: a number, true, false, null, or text.
fn literal(text: &str) -> Expr {
    let is_number = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_digit() || first == '.') && text.parse::<f64>().is_ok()
    };
    match (text, text.strip_prefix('-')) {
        ("true", _) => Expr::value(Value::Boolean(true)),
        ("false", _) => Expr::value(Value::Boolean(false)),
        ("null", _) => Expr::value(Value::Null),
        (number, _) if is_number(number) => Expr::value(Value::Number(number.to_owned(), false)),
        (_, Some(number)) if is_number(number) => Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr: Box::new(Expr::value(Value::Number(number.to_owned(), false))),
        },
        _ => Expr::value(Value::SingleQuotedString(text.to_owned())),
    }
}

/// Gives columns that would have the same name different ones: `a.id, b.id` becomes `id` and `id_1`. The planner
/// refuses equal names.
fn name_apart(select: &mut Select) {
    let is_whole = |item: &SelectItem| matches!(item, SelectItem::Wildcard(options) if options.opt_exclude.is_none());
    let all_columns = select.projection.iter().any(is_whole);
    let tables: Vec<String> = select
        .projection
        .iter()
        .filter_map(|item| match item {
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                Some(name.to_string())
            }
            _ => None,
        })
        .collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for item in &mut select.projection {
        let (name, is_in_a_star) = match item {
            SelectItem::UnnamedExpr(expr) => (heading(expr), is_in_a_star(expr, all_columns, &tables)),
            SelectItem::ExprWithAlias { alias, .. } => (normal(alias), false),
            _ => continue,
        };
        if !is_in_a_star && taken.insert(name.clone()) {
            continue;
        }
        let mut number = 1;
        while !taken.insert(format!("{name}_{number}")) {
            number += 1;
        }
        let other = format!("{name}_{number}");
        let alias = Ident::with_quote('"', other);
        match item {
            SelectItem::UnnamedExpr(expr) => {
                let expr = std::mem::replace(expr, Expr::value(Value::Null));
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
            SelectItem::ExprWithAlias { alias: old, .. } => *old = alias,
            _ => {}
        }
    }
}

/// Whether a column is also one of `*` or of `table.*` in the same list.
fn is_in_a_star(expr: &Expr, all_columns: bool, tables: &[String]) -> bool {
    match expr {
        Expr::Identifier(_) => all_columns,
        Expr::CompoundIdentifier(parts) => {
            let (_, table) = parts.split_last().unwrap_or((&parts[0], &[]));
            let table = table.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
            all_columns || tables.contains(&table)
        }
        _ => false,
    }
}

fn heading(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(name) => normal(name),
        Expr::CompoundIdentifier(parts) => parts.last().map(normal).unwrap_or_default(),
        other => other.to_string(),
    }
}

fn normal(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::parser::DFParser;
    use raisin_kinds::syntax::DIALECT;

    fn prepared(sql: &str, values: &[(&str, &str)]) -> Result<String, Problem> {
        let mut statement = DFParser::parse_sql_with_dialect(sql, &DIALECT).unwrap().pop_front().unwrap();
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        prepare(&mut statement, &values, &|name| name == "abs")?;
        Ok(statement.to_string())
    }

    #[test]
    fn parameters_become_values_of_their_own_types() {
        let values = [("n", "-5"), ("f", "1.5e3"), ("t", "it's"), ("b", "true"), ("z", "null")];
        let sql = prepared("SELECT $n, $f, $t, $b, $z WHERE x > $n", &values).unwrap();
        assert_eq!(sql, "SELECT -5, 1.5e3, 'it''s', true, NULL WHERE x > -5");
        let problem = prepared("SELECT $nn", &values).unwrap_err();
        assert_eq!(problem.message, "there is no value for $nn");
        assert_eq!(problem.hint.as_deref(), Some("did you mean $n?"));
        assert_eq!(prepared("SELECT $first", &[]).unwrap_err().hint.as_deref(), Some("give one: -p first=VALUE"));
    }

    #[test]
    fn columns_of_one_name_are_named_apart() {
        for (sql, expected) in [
            ("SELECT a.id, b.id FROM a", "SELECT a.id, b.id AS \"id_1\" FROM a"),
            ("SELECT id, ID, \"ID\", id_1 FROM a", "SELECT id, ID AS \"id_1\", \"ID\", id_1 AS \"id_1_1\" FROM a"),
            ("SELECT x AS a, y AS a FROM t", "SELECT x AS a, y AS \"a_1\" FROM t"),
            ("SELECT 1, 1, 1", "SELECT 1, 1 AS \"1_1\", 1 AS \"1_2\""),
            ("SELECT *, id FROM a", "SELECT *, id AS \"id_1\" FROM a"),
            ("SELECT * EXCLUDE (id), id FROM a", "SELECT * EXCLUDE (id), id FROM a"),
            ("SELECT a.*, id FROM a", "SELECT a.*, id FROM a"),
            ("SELECT a.*, a.id, b.id FROM a", "SELECT a.*, a.id AS \"id_1\", b.id FROM a"),
            ("SELECT * FROM (SELECT x, x FROM t) AS u", "SELECT * FROM (SELECT x, x AS \"x_1\" FROM t) AS u"),
        ] {
            assert_eq!(prepared(sql, &[]).unwrap(), expected);
        }
    }

    #[test]
    fn the_minus_before_an_expression_is_a_function_and_the_minus_of_a_number_is_not() {
        assert_eq!(prepared("SELECT -x, -5, -(-x)", &[]).unwrap(), "SELECT negative(x), -5, negative((negative(x)))");
    }

    #[test]
    fn a_clause_of_aggregates_behind_a_function_of_rows_is_refused() {
        for clause in ["abs(DISTINCT x)", "abs(x) FILTER (WHERE true)", "abs(x) OVER ()", "ABS(x) IGNORE NULLS"] {
            let problem = prepared(&format!("SELECT {clause}"), &[]).unwrap_err();
            assert!(problem.message.starts_with("`abs` is calculated for each row by itself"), "{clause}: {problem}");
        }
        assert!(prepared("SELECT sum(DISTINCT x) FILTER (WHERE true), abs(x)", &[]).is_ok());
    }
}
