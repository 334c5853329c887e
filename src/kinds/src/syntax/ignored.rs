//! Clauses that the parser reads and the planner would ignore without a word, such as FOR UPDATE or FETCH. A
//! query that has one is refused. Each struct of the syntax tree is taken apart completely, so that a new field in a
//! later version of the parser does not compile until somebody has decided about the field.

use std::ops::ControlFlow;

use raisin_base::error::Problem;
use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArguments, GroupByExpr, GroupByWithModifier, NamedWindowDefinition,
    NamedWindowExpr, OrderBy, Query, Select, SetExpr, SetOperator, SetQuantifier, Statement, TableAlias, TableFactor,
    TableFunctionArgs, TableSampleKind, Visit, Visitor, WindowType,
};

use super::sample::sample_of;

/// The problem of the first clause that would be ignored.
pub fn ignored_clause(statement: &Statement) -> Option<Problem> {
    match statement.visit(&mut Ignored) {
        ControlFlow::Break((clause, hint)) => {
            let problem = Problem::usage(format!("the query has {clause}, which raisin cannot answer"));
            Some(match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            })
        }
        ControlFlow::Continue(()) => None,
    }
}

/// A clause, and what to write instead.
pub type Clause = (&'static str, Option<&'static str>);

struct Ignored;

/// The first clause of which the condition holds.
fn first(clauses: &[(bool, Clause)]) -> ControlFlow<Clause> {
    match clauses.iter().find(|(is_there, _)| *is_there) {
        Some((_, clause)) => ControlFlow::Break(*clause),
        None => ControlFlow::Continue(()),
    }
}

/// The planner would take the frame, and forget the named window.
const INHERITED: Clause = (
    "a window that adds to a named one",
    Some("write `over w` alone, or PARTITION BY and ORDER BY in the parentheses"),
);
const ORDINALITY: Clause = ("WITH ORDINALITY", Some("number the rows with `row_number() over ()`"));

impl Visitor for Ignored {
    type Break = Clause;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Clause> {
        let Query {
            with,
            body,
            order_by,
            limit_clause: _,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators: _,
        } = query;
        let is_interpolated = |OrderBy { kind: _, interpolate }: &OrderBy| interpolate.is_some();
        first(&[
            (!locks.is_empty(), ("FOR UPDATE or FOR SHARE", Some("a query only reads, and needs no locks"))),
            (for_clause.is_some(), ("FOR XML or FOR JSON", Some("choose the form of the answer with --format"))),
            (settings.is_some(), ("SETTINGS", None)),
            (format_clause.is_some(), ("FORMAT", Some("choose the form of the answer with --format"))),
            (fetch.is_some(), ("FETCH", Some("write `limit N`"))),
            (order_by.as_ref().is_some_and(is_interpolated), ("INTERPOLATE", None)),
        ])?;
        of_set_operations(body)?;
        for expression in with.iter().flat_map(|with| &with.cte_tables) {
            of_alias(Some(&expression.alias))?;
            first(&[(expression.from.is_some(), ("FROM behind a common table expression", None))])?;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Clause> {
        let Select {
            select_token: _,
            optimizer_hints,
            distinct: _,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection: _,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection: _,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having: _,
            named_window,
            qualify: _,
            window_before_qualify: _,
            value_table_mode,
            flavor: _,
        } = select;
        let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group_by;
        let rollup = modifiers.iter().any(|modifier| !matches!(modifier, GroupByWithModifier::GroupingSets(_)));
        let inherits = |NamedWindowDefinition(_, window): &NamedWindowDefinition| match window {
            NamedWindowExpr::NamedWindow(_) => false,
            NamedWindowExpr::WindowSpec(spec) => spec.window_name.is_some(),
        };
        let is_global = from.iter().flat_map(|from| &from.joins).any(|join| join.global);
        first(&[
            (!optimizer_hints.is_empty(), ("an optimizer hint", Some("write a plain comment: `/* ... */`"))),
            (select_modifiers.is_some(), ("a modifier behind SELECT", None)),
            (top.is_some(), ("TOP", Some("write `limit N` at the end"))),
            (exclude.is_some(), ("EXCLUDE", Some("write EXCLUDE directly behind the star: `* exclude (a)`"))),
            (into.is_some(), ("INTO", Some("to keep a result, use --output, or `create temp table t as select ...`"))),
            (!lateral_views.is_empty(), ("LATERAL VIEW", Some("write `unnest(...)`"))),
            (prewhere.is_some(), ("PREWHERE", Some("write WHERE"))),
            (!connect_by.is_empty(), ("CONNECT BY", Some("write `with recursive`"))),
            (
                rollup,
                ("a modifier behind GROUP BY", Some("write `group by rollup (a, b)`, `cube (...)` or `grouping sets`")),
            ),
            (!modifiers.is_empty(), ("a modifier behind GROUP BY", Some("write `group by grouping sets (...)` alone"))),
            (!cluster_by.is_empty(), ("CLUSTER BY", Some("write ORDER BY"))),
            (!distribute_by.is_empty(), ("DISTRIBUTE BY", None)),
            (!sort_by.is_empty(), ("SORT BY", Some("write ORDER BY"))),
            (value_table_mode.is_some(), ("AS VALUE or AS STRUCT", None)),
            (is_global, ("GLOBAL", None)),
            (named_window.iter().any(inherits), INHERITED),
        ])
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Clause> {
        match factor {
            TableFactor::Table {
                name: _,
                alias,
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                of_alias(alias.as_ref())?;
                of_sample(sample.as_ref())?;
                let has_settings = |TableFunctionArgs { args: _, settings }: &TableFunctionArgs| settings.is_some();
                first(&[
                    (*with_ordinality, ORDINALITY),
                    (!with_hints.is_empty() || !index_hints.is_empty(), ("hints behind a table", None)),
                    (version.is_some(), ("a version behind a table", None)),
                    (!partitions.is_empty(), ("PARTITION", Some("choose rows with WHERE"))),
                    (json_path.is_some(), ("a path behind a table", None)),
                    (args.as_ref().is_some_and(has_settings), ("SETTINGS", None)),
                ])
            }
            TableFactor::Derived { lateral: _, subquery: _, alias, sample } => {
                of_alias(alias.as_ref())?;
                of_sample(sample.as_ref())
            }
            TableFactor::Function { lateral: _, name: _, args, with_ordinality, alias } => {
                of_alias(alias.as_ref())?;
                let is_named = |argument: &FunctionArg| !matches!(argument, FunctionArg::Unnamed(_));
                first(&[
                    (*with_ordinality, ORDINALITY),
                    (args.iter().any(is_named), ("the name of an argument", Some("give the arguments in their order"))),
                ])
            }
            TableFactor::UNNEST { alias, .. } | TableFactor::NestedJoin { alias, .. } => of_alias(alias.as_ref()),
            // The planner refuses all others.
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Clause> {
        let Expr::Function(Function {
            name,
            uses_odbc_syntax: _,
            parameters,
            args,
            filter: _,
            null_treatment,
            over,
            within_group: _,
        }) = expr
        else {
            return ControlFlow::Continue(());
        };
        let name = name.to_string().to_lowercase();
        let ignores_nulls = null_treatment.is_some() && !WITHOUT_NULLS.contains(&name.as_str());
        first(&[
            (matches!(over, Some(WindowType::WindowSpec(spec)) if spec.window_name.is_some()), INHERITED),
            (
                ignores_nulls,
                (
                    "IGNORE NULLS or RESPECT NULLS behind a function that has no such choice",
                    Some(
                        "first_value, last_value, nth_value, lag and lead have it; elsewhere write `filter (where x is not null)`",
                    ),
                ),
            ),
            (!matches!(parameters, FunctionArguments::None), ("parameters before the arguments of a function", None)),
            (matches!(args, FunctionArguments::Subquery(_)), ("a query as the arguments of a function", None)),
        ])
    }
}

fn of_alias(alias: Option<&TableAlias>) -> ControlFlow<Clause> {
    let Some(TableAlias { explicit: _, name: _, columns, at }) = alias else { return ControlFlow::Continue(()) };
    first(&[
        (at.is_some(), ("AT behind an alias", None)),
        (
            columns.iter().any(|column| column.data_type.is_some()),
            ("a type in the columns of an alias", Some("cast the columns: `select a::int from ...`")),
        ),
    ])
}

/// EXCEPT ALL and INTERSECT ALL count how often a row is there; the planner only asks whether it is there.
fn of_set_operations(body: &SetExpr) -> ControlFlow<Clause> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return ControlFlow::Continue(()) };
    let counts = *op != SetOperator::Union && matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
    first(&[(counts, ("EXCEPT ALL or INTERSECT ALL", Some("leave ALL out: then each row counts once")))])?;
    of_set_operations(left)?;
    of_set_operations(right)
}

/// The functions that can leave out nulls.
const WITHOUT_NULLS: [&str; 7] = ["any_value", "array_agg", "first_value", "last_value", "nth_value", "lag", "lead"];

fn of_sample(sample: Option<&TableSampleKind>) -> ControlFlow<Clause> {
    match sample.map(sample_of) {
        Some(Err(clause)) => ControlFlow::Break(clause),
        Some(Ok(_)) | None => ControlFlow::Continue(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::DIALECT;
    use sqlparser::parser::Parser;

    fn refused(sql: &str) -> Option<String> {
        let statements = Parser::parse_sql(&DIALECT, sql).expect(sql);
        ignored_clause(&statements[0]).map(|problem| problem.to_string())
    }

    #[test]
    fn a_clause_that_the_planner_would_ignore_is_refused() {
        for (sql, clause) in [
            ("select * from a.b for update", "FOR UPDATE"),
            ("select * from a.b for share skip locked", "FOR UPDATE or FOR SHARE"),
            ("select * from a.b tablesample (10)", "a sample without PERCENT or ROWS"),
            ("select * from a.b where x in (select y from c.d tablesample block (1))", "ROW or BLOCK"),
            ("select * from (select 1) t tablesample bernoulli (101)", "more than 100 percent"),
            ("select * from a.b fetch first 3 rows only", "FETCH"),
            ("select * into x from a.b", "INTO"),
            ("select x from generate_series(1, 3) with ordinality t(x)", "WITH ORDINALITY"),
            ("select x from a.b except all select 1", "EXCEPT ALL"),
            ("select 1 union (select x from a.b intersect all select 1)", "INTERSECT ALL"),
            ("select row_number() ignore nulls over (order by x) from a.b", "IGNORE NULLS or RESPECT NULLS"),
            ("select sum(x) respect nulls over () from a.b", "IGNORE NULLS or RESPECT NULLS"),
            ("select sum(x) over (w rows 2 preceding) from a.b window w as (order by x)", "adds to a named one"),
            (
                "select sum(x) over v from a.b window w as (order by x), v as (w rows 2 preceding)",
                "adds to a named one",
            ),
            ("select x from a.b t(x int)", "a type in the columns of an alias"),
        ] {
            let said = refused(sql).unwrap_or_else(|| panic!("{sql} is not refused"));
            assert!(said.contains(clause) && said.contains("which raisin cannot answer"), "{sql}: {said}");
        }
    }

    #[test]
    fn a_clause_that_the_planner_answers_is_not_refused() {
        for sql in [
            "select * exclude (x) from a.b",
            "select * replace (x + 1 as x) from a.b",
            "select /*+ a comment */ * from a.b",
            "from a.b",
            "from a.b select x",
            "select distinct on (x) x, y from a.b order by x, y",
            "select x, row_number() over (order by x) as n from a.b qualify n = 1",
            "select x, count(*) filter (where y > 1) from a.b group by rollup (x)",
            "select x from a.b group by grouping sets ((x), ())",
            "with t(x) as materialized (select 1) select * from t limit 3 offset 1",
            "select array_agg(x order by y) from a.b t(x, y)",
            "select * from a.b, lateral (select 1) t",
            "select x from a.b except select 1 union all select 2",
            "select sum(x) over w, max(x) over (order by x) from a.b window w as (partition by x order by x)",
            "select lag(x) ignore nulls over (order by x), first_value(x) respect nulls over () from a.b",
            "select * from a.b tablesample bernoulli (10)",
            "select * from (select 1) t tablesample system (10) repeatable (7)",
        ] {
            assert_eq!(refused(sql), None, "{sql}");
        }
    }
}
