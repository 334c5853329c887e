//! Refuses queries whose rows would be others on a cluster than in one process, by the name of the function: those that
//! depend on the order in which rows come, where no ORDER BY gives one, and approximations by parts. Also joins of which no
//! task can know alone which rows have no partner.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction};
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};

use raisin_base::error::Problem;

/// Aggregates whose result depends on the order of the rows.
const ORDERED: [&str; 5] = ["array_agg", "first_value", "last_value", "nth_value", "string_agg"];

/// Functions of a window whose result depends on the order of the rows.
const ORDERED_IN_A_WINDOW: [&str; 8] =
    ["cume_dist", "first_value", "lag", "last_value", "lead", "nth_value", "ntile", "row_number"];

/// Aggregates whose result depends on how the rows are divided, each with the exact one.
const BY_PARTS: [(&str, &str); 3] = [
    ("approx_median", "median"),
    ("approx_percentile_cont", "percentile_cont"),
    ("approx_percentile_cont_with_weight", "percentile_cont"),
];

/// # Errors
/// The plan has such a function, or is EXPLAIN ANALYZE.
pub fn check(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        if matches!(node, LogicalPlan::Analyze(_)) {
            let problem = Problem::usage("EXPLAIN ANALYZE measures the processes of a cluster one by one");
            return refused(problem.hint("leave out ANALYZE, or leave out --remote"));
        }
        if matches!(node, LogicalPlan::RecursiveQuery(_)) {
            return refused(of_this_process("a recursive query"));
        }
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                match part {
                    Expr::AggregateFunction(function) => check_aggregate(function)?,
                    Expr::WindowFunction(function) => check_window(function)?,
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

fn check_aggregate(function: &AggregateFunction) -> Result<()> {
    let name = function.func.name();
    if let Some((_, exact)) = BY_PARTS.iter().find(|(other, _)| *other == name) {
        let message = format!("`{name}` gives another approximation when several processes read parts of the rows");
        return refused(Problem::usage(message).hint(format!("use `{exact}`, or leave out --remote")));
    }
    if ORDERED.contains(&name) && function.params.order_by.is_empty() {
        let hint = format!("give an order, such as `{name}(x order by id)`, or leave out --remote");
        return refused(of_the_order(name).hint(hint));
    }
    Ok(())
}

fn check_window(function: &WindowFunction) -> Result<()> {
    if !function.params.order_by.is_empty() {
        return Ok(());
    }
    let name = function.fun.name();
    if ORDERED_IN_A_WINDOW.contains(&name) || ORDERED.contains(&name) || is_of_some_rows(&function.params.window_frame)
    {
        let hint = format!("give an order, such as `{name}(...) over (order by id)`, or leave out --remote");
        return refused(of_the_order(name).hint(hint));
    }
    Ok(())
}

/// Every task of such a join has all rows of the left side and a part of the right one. In one process the tasks count
/// together which rows on the left have a partner; on a cluster each would give the others once more.
///
/// # Errors
/// The plan has such a join with several tasks.
pub fn check_joins(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    plan.apply(|node| {
        let joined = if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            Some((*join.join_type(), join.right()))
        } else {
            let join = node.downcast_ref::<HashJoinExec>();
            join.filter(|join| *join.partition_mode() == PartitionMode::CollectLeft)
                .map(|join| (join.join_type, &join.right))
        };
        let Some((kind, right)) = joined else { return Ok(TreeNodeRecursion::Continue) };
        let keeps_left = matches!(
            kind,
            JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
        );
        if keeps_left && right.output_partitioning().partition_count() > 1 {
            let message = format!("a cluster cannot divide a join of the type {kind} that is not by equal columns");
            return refused(Problem::usage(message).hint("join by equal columns, or leave out --remote"));
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(|_| ())
}

/// Whether the frame has only some of the rows of its partition.
fn is_of_some_rows(frame: &WindowFrame) -> bool {
    let is_whole = |bound: &WindowFrameBound| bound.is_unbounded();
    frame.units == WindowFrameUnits::Rows && !(is_whole(&frame.start_bound) && is_whole(&frame.end_bound))
}

fn of_the_order(name: &str) -> Problem {
    Problem::usage(format!("`{name}` without ORDER BY depends on the order of the rows, and a cluster gives none"))
}

/// The problem of what no plan of a cluster can hold.
pub fn of_this_process(what: &str) -> Problem {
    Problem::usage(format!("{what} cannot be sent to a cluster")).hint("leave out --remote")
}

fn refused<T>(problem: Problem) -> Result<T> {
    Err(DataFusionError::External(Box::new(problem)))
}
