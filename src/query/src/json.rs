//! JSON in SQL: the functions of datafusion-functions-json, and the operators `->` and `->>` as DuckDB has them: JSON in,
//! and JSON or text out. The operators of that library give a union of all types, which can neither be grouped nor
//! written.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::expr::{Alias, ScalarFunction};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs::{json_as_text_udf, json_get_json_udf, json_union_to_text_udf};
use datafusion_functions_json::{JSON_UNION_DATA_TYPE, register_all};

use super::session::projection;

pub fn install(context: &mut SessionContext) -> Result<()> {
    // The first planner that knows an operator plans it.
    context.register_expr_planner(Arc::new(JsonOperators))?;
    register_all(context)
}

#[derive(Debug)]
struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let (operator, function) = match expr.op {
            BinaryOperator::Arrow => ("->", json_get_json_udf()),
            BinaryOperator::LongArrow => ("->>", json_as_text_udf()),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let heading = format!("{} {operator} {}", words(&expr.left), words(&expr.right));
        // `a -> 'b' -> 'c'` is one path, so that the text is read once.
        let mut args = match unaliased(&expr.left) {
            Expr::ScalarFunction(inner) if inner.func.name() == json_get_json_udf().name() => inner.args.clone(),
            _ => vec![expr.left],
        };
        args.push(expr.right);
        let call = Expr::ScalarFunction(ScalarFunction { func: function, args });
        Ok(PlannerResult::Planned(Expr::Alias(Alias::new(call, None::<&str>, heading))))
    }
}

/// An operand in a heading: as it is written in the query.
fn words(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => column.name.clone(),
        Expr::Alias(alias) => alias.name.clone(),
        Expr::Literal(value, _) => match value.try_as_str().flatten() {
            Some(text) => format!("'{text}'"),
            None => value.to_string(),
        },
        other => other.human_display().to_string(),
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// The plan with JSON text in place of values of any JSON type, which `json_get` gives and no format can write.
pub fn with_json_as_text(plan: LogicalPlan) -> Result<LogicalPlan> {
    let is_any = |field: &datafusion::arrow::datatypes::Field| field.data_type() == &*JSON_UNION_DATA_TYPE;
    if !plan.schema().fields().iter().any(|field| is_any(field)) {
        return Ok(plan);
    }
    let columns = plan.schema().iter().map(|(table, field)| {
        let column = Expr::from((table, field));
        if is_any(field) {
            json_union_to_text_udf().call(vec![column]).alias_qualified(table.cloned(), field.name())
        } else {
            column
        }
    });
    let columns: Vec<Expr> = columns.collect();
    projection(plan, columns.into_iter())
}
