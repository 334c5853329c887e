//! Arithmetic of integers that never wraps. DataFusion's own `+`, `-` and `*` wrap around at the end of the type:
//! `min(id) - max(id)` over unsigned columns would be 4294964297.
//!
//! Here, operands of every integer type are calculated as signed 64-bit integers, so that a difference of unsigned
//! columns is negative where it has to be, and a result that does not fit 64 bits is an error that names the operation.
//! `sum` does the same (see [`sum`]). The planner replaces the operators before DataFusion derives any type from them.

mod calculate;
mod sum;

pub use sum::CheckedSum;

use std::fmt::{self, Display};
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::kernels::numeric::neg;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    AggregateUDF, BinaryExpr, ColumnarValue, Expr, ExprSchemable as _, LogicalPlan, Operator, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::BinaryOperator;

use raisin_base::error::Problem;

/// The function as which the minus before an expression is written into the statement.
pub const NEGATIVE: &str = "negative";

/// Makes the arithmetic of a session exact.
pub fn install(context: &mut SessionContext) -> Result<()> {
    context.register_expr_planner(Arc::new(CheckedPlanner))?;
    SessionContext::register_udf(context, negative());
    SessionContext::register_udaf(context, AggregateUDF::from(CheckedSum::default()));
    context.add_analyzer_rule(Arc::new(NothingUnchecked));
    Ok(())
}

fn negative() -> ScalarUDF {
    ScalarUDF::from(Negative { signature: Signature::user_defined(Volatility::Immutable) })
}

/// The functions of single rows that the planner writes into plans, each with its sign as its text.
pub fn functions() -> Vec<ScalarUDF> {
    let operations = Operation::ALL.into_iter().map(|operation| function(operation, operation.to_string()));
    operations.chain([negative()]).collect()
}

/// The operation of this name, as the user wrote it; `None` if there is none.
pub fn function_as_written(name: &str, text: &str) -> Option<ScalarUDF> {
    let operation = Operation::ALL.into_iter().find(|operation| operation.name() == name)?;
    Some(function(operation, text.to_owned()))
}

fn function(operation: Operation, text: String) -> ScalarUDF {
    ScalarUDF::from(Checked { operation, text, signature: Signature::user_defined(Volatility::Immutable) })
}

/// The error of a result that does not fit.
fn overflow(message: String) -> DataFusionError {
    let hint = "calculate in a wider type: cast an operand, cast(... as decimal(38, 0)) or cast(... as double)";
    DataFusionError::External(Box::new(Problem::usage(message).hint(hint)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    ShiftLeft,
    ShiftRight,
}

impl Operation {
    const ALL: [Self; 5] = [Self::Add, Self::Subtract, Self::Multiply, Self::ShiftLeft, Self::ShiftRight];

    /// The name of its function.
    fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Subtract => "subtract",
            Self::Multiply => "multiply",
            Self::ShiftLeft => "shift_left",
            Self::ShiftRight => "shift_right",
        }
    }

    fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            Operator::BitwiseShiftLeft => Some(Self::ShiftLeft),
            Operator::BitwiseShiftRight => Some(Self::ShiftRight),
            _ => None,
        }
    }

    fn of_syntax(operator: &BinaryOperator) -> Option<Self> {
        match operator {
            BinaryOperator::Plus => Some(Self::Add),
            BinaryOperator::Minus => Some(Self::Subtract),
            BinaryOperator::Multiply => Some(Self::Multiply),
            BinaryOperator::PGBitwiseShiftLeft => Some(Self::ShiftLeft),
            BinaryOperator::PGBitwiseShiftRight => Some(Self::ShiftRight),
            _ => None,
        }
    }
}

impl Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::ShiftLeft => "<<",
            Self::ShiftRight => ">>",
        })
    }
}

fn is_of_integers(left: &DataType, right: &DataType) -> bool {
    let is_one = |data_type: &DataType| data_type.is_integer() || data_type.is_null();
    is_one(left) && is_one(right) && !(left.is_null() && right.is_null())
}

/// Replaces the operators of the query.
#[derive(Debug)]
struct CheckedPlanner;

impl ExprPlanner for CheckedPlanner {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let Some(operation) = Operation::of_syntax(&expr.op) else { return Ok(PlannerResult::Original(expr)) };
        let types = (expr.left.get_type(schema), expr.right.get_type(schema));
        match types {
            (Ok(left), Ok(right)) if is_of_integers(&left, &right) => {
                Ok(PlannerResult::Planned(checked(operation, expr.left, expr.right)?))
            }
            _ => Ok(PlannerResult::Original(expr)),
        }
    }
}

fn checked(operation: Operation, left: Expr, right: Expr) -> Result<Expr> {
    let text = format!("{} {operation} {}", left.human_display(), right.human_display());
    Ok(function(operation, text).call(vec![left, right]))
}

/// Replaces operators that the planner could not type, or that DataFusion wrote itself. Their types are settled, and
/// stay.
#[derive(Debug)]
struct NothingUnchecked;

impl AnalyzerRule for NothingUnchecked {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let checked_node = |plan: LogicalPlan| {
            let mut schema = merge_schema(&plan.inputs());
            if let LogicalPlan::TableScan(scan) = &plan {
                schema.merge(&scan.projected_schema);
            }
            plan.map_expressions(|expr| expr.transform_up(|expr| checked_where_unchecked(expr, &schema)))
        };
        Ok(plan.transform_up_with_subqueries(checked_node)?.data)
    }

    fn name(&self) -> &'static str {
        "nothing_unchecked"
    }
}

fn checked_where_unchecked(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return Ok(Transformed::no(expr)) };
    if let Some(operation) = Operation::of(op)
        && let (Ok(left_type), Ok(right_type)) = (left.get_type(schema), right.get_type(schema))
        && is_of_integers(&left_type, &right_type)
    {
        let settled = BinaryExpr::new(left.clone(), op, right.clone());
        let data_type = Expr::BinaryExpr(settled).get_type(schema)?;
        let expr = checked(operation, *left, *right)?;
        let expr = if data_type == DataType::Int64 { expr } else { cast(expr, data_type) };
        return Ok(Transformed::yes(expr));
    }
    Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })))
}

/// An operator between two integers.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Checked {
    operation: Operation,
    /// The operation as the user wrote it, for the error.
    text: String,
    signature: Signature,
}

impl Checked {
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &'static str {
        self.operation.name()
    }

    /// As DataFusion names the operator, so that headings stay as they are written.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else { return Ok(self.text.clone()) };
        Ok(format!("{} {} {}", left.schema_name(), self.operation, right.schema_name()))
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else { return Ok(self.text.clone()) };
        Ok(format!("{left} {} {right}", self.operation))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let integer = |data_type: &DataType| if data_type.is_null() { DataType::Int64 } else { data_type.clone() };
        Ok(arg_types.iter().map(integer).collect())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return Err(DataFusionError::Internal(format!("{} takes two operands", self.operation)));
        };
        let answer = calculate::calculate(self.operation, left, right, args.number_rows)?;
        answer.map_err(|values| overflow(format!("`{}` does not fit 64 bits: {values}", self.text)))
    }
}

/// The minus before an expression.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Negative {
    signature: Signature,
}

impl ScalarUDFImpl for Negative {
    fn name(&self) -> &'static str {
        NEGATIVE
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map_or_else(String::new, |value| format!("(- {})", value.schema_name())))
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map_or_else(String::new, |value| format!("(- {value})")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.coerce_types(arg_types)?.remove(0))
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match arg_types {
            [integer] if integer.is_integer() || integer.is_null() => Ok(vec![DataType::Int64]),
            [other] if other.is_numeric() || matches!(other, DataType::Interval(_) | DataType::Duration(_)) => {
                Ok(vec![other.clone()])
            }
            [other] => Err(DataFusionError::Plan(format!("there is no minus before a value of type {other}"))),
            several => Err(DataFusionError::Plan(format!("{NEGATIVE} takes one value, not {}", several.len()))),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?;
        let [values] = arrays.as_slice() else {
            return Err(DataFusionError::Internal("a minus takes one operand".to_owned()));
        };
        let negated =
            neg(values).map_err(|error| overflow(format!("a negated value does not fit its type: {error}")))?;
        Ok(ColumnarValue::Array(negated))
    }
}
