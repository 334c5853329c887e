//! Runs the plan of a query on all cores without a change of its result.
//!
//! DataFusion plans each query in one partition, in which rows keep their order and floating-point sums their digits.
//! Here the plan is divided: the scan of Parquet files into parts of consecutive row groups (see [`chunks`]), and with
//! it the operators that treat each row by itself. The parts depend on the files alone. [`InOrderExec`] joins them in
//! their order. Groups and the first rows of an order are calculated for each part, and then of the parts' results.
//! Whatever is not named here runs in one partition, over rows that come from all cores.

mod aggregate;
mod chunks;
mod exchange;
mod first;
mod top;
mod windows;

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::unnest::UnnestExec;

use self::aggregate::{in_parts, is_in_parts, is_of_any_order, of_groups, side_by_side};
use self::chunks::{divided, is_divided};
use self::exchange::InOrderExec;
use self::top::TopExec;

pub use self::chunks::RowGroups;

/// The most parts of a scan whose rows go on as they are.
const MOST_PARTS: usize = 256;

/// The most parts that are grouped by themselves.
const MOST_GROUPED: usize = 32;

/// The parts that are sorted by themselves. They are in memory at the same time.
const MOST_SORTED: usize = 4;

/// The plan on as many cores as there are, in one partition. Groups are put together in `outputs` places side by side;
/// the number does not change the result.
pub fn on_all_cores(plan: Arc<dyn ExecutionPlan>, outputs: usize) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && is_in_parts(aggregate)
    {
        if let Some(input) = in_several(aggregate.input(), MOST_GROUPED, outputs)? {
            return in_parts(aggregate, input, outputs);
        }
        if is_of_any_order(aggregate)
            && let Some(groups) = groups_of_any_order(aggregate.input(), outputs)?
        {
            return of_groups(aggregate, groups);
        }
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return sorted(&plan, sort, outputs);
    }
    if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() {
        let input = on_each_side(merge.input().clone(), outputs)?;
        let stable = SortPreservingMergeExec::new(merge.expr().clone(), input).with_fetch(merge.fetch());
        // Equal rows come in the order of the partitions.
        return Ok(Arc::new(stable.with_round_robin_repartition(false)));
    }
    if let Some(joined) = plan.downcast_ref::<CoalescePartitionsExec>() {
        let input = joined.input();
        return match in_several(input, MOST_PARTS, outputs)? {
            Some(input) => Ok(in_order(input, joined.fetch())),
            None => on_each_side(plan, outputs),
        };
    }
    if let Some(windows) = windows::side_by_side(&plan, outputs)? {
        return Ok(windows);
    }
    match several_parts(&plan, MOST_PARTS, outputs)? {
        Some(several) => Ok(in_order(several, plan.fetch())),
        None => on_each_side(plan, outputs),
    }
}

/// The rows of all partitions in one, in their order.
fn in_order(several: Arc<dyn ExecutionPlan>, most: Option<usize>) -> Arc<dyn ExecutionPlan> {
    let joined: Arc<dyn ExecutionPlan> = Arc::new(InOrderExec::joined(several));
    match most {
        Some(_) => Arc::new(GlobalLimitExec::new(joined, 0, most)),
        None => joined,
    }
}

/// The same operator over inputs that run on all cores.
fn on_each_side(plan: Arc<dyn ExecutionPlan>, outputs: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs = plan.children().into_iter().cloned().collect::<Vec<_>>();
    if inputs.is_empty() {
        return Ok(plan);
    }
    let inputs = inputs.into_iter().map(|input| on_all_cores(input, outputs)).collect::<Result<Vec<_>>>()?;
    over(&plan, inputs)
}

/// The new input of an operator that has one.
fn only_child(mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    children.pop().ok_or_else(|| DataFusionError::Internal("an operator without an input".to_owned()))
}

/// The same operator over other inputs.
fn over(plan: &Arc<dyn ExecutionPlan>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.clone().replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

fn sorted(plan: &Arc<dyn ExecutionPlan>, sort: &SortExec, outputs: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let order = sort.expr().clone();
    match sort.fetch() {
        Some(count) => {
            let Some(input) = in_several(sort.input(), MOST_PARTS, outputs)? else {
                return on_each_side(plan.clone(), outputs);
            };
            let of_parts = Arc::new(InOrderExec::joined(Arc::new(TopExec::new(input, order.clone(), count))));
            Ok(Arc::new(SortExec::new(order, of_parts).with_fetch(Some(count))))
        }
        None => {
            let Some(input) = in_several(sort.input(), MOST_SORTED, outputs)? else {
                return on_each_side(plan.clone(), outputs);
            };
            let of_parts = Arc::new(SortExec::new(order.clone(), input).with_preserve_partitioning(true));
            Ok(Arc::new(SortPreservingMergeExec::new(order, of_parts).with_round_robin_repartition(false)))
        }
    }
}

/// As [`several_parts`]; `None` also if the plan gives a limited number of rows, which is not that of each part.
fn in_several(plan: &Arc<dyn ExecutionPlan>, most: usize, outputs: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if plan.fetch().is_some() { Ok(None) } else { several_parts(plan, most, outputs) }
}

/// The plan in at most `most` partitions, whose rows one after the other are the rows of the plan. `None` if the plan is
/// not one of operators that treat each row by itself over a scan, or if the scan is small.
fn several_parts(plan: &Arc<dyn ExecutionPlan>, most: usize, outputs: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(parts) = divided(plan, most) {
        return Ok(Some(parts));
    }
    if is_of_single_rows(plan) {
        let [input] = plan.children()[..] else { return Ok(None) };
        return in_several(input, most, outputs)?.map(|input| over(plan, vec![input])).transpose();
    }
    if is_a_join_by_the_right(plan) {
        let [left, right] = plan.children()[..] else { return Ok(None) };
        let Some(right) = in_several(right, most, outputs)? else { return Ok(None) };
        let left = on_all_cores(left.clone(), outputs)?;
        return over(plan, vec![left, right]).map(Some);
    }
    if plan.downcast_ref::<UnionExec>().is_some() {
        let inputs = plan.children().into_iter().map(|input| match in_several(input, most, outputs)? {
            Some(several) => Ok(several),
            None => on_all_cores(input.clone(), outputs),
        });
        return over(plan, inputs.collect::<Result<Vec<_>>>()?).map(Some);
    }
    if is_divided(plan) {
        // Somebody else divided it.
        return on_each_side(plan.clone(), outputs).map(Some);
    }
    Ok(None)
}

/// Groups in several partitions, for an aggregate that does not depend on their order. `None` if the plan is not one of
/// groups over a scan, or if the scan is small.
fn groups_of_any_order(plan: &Arc<dyn ExecutionPlan>, outputs: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let input = groups_of_any_order(projection.input(), outputs)?;
        return input.map(|input| over(plan, vec![input])).transpose();
    }
    let Some(groups) = plan.downcast_ref::<AggregateExec>() else { return Ok(None) };
    if outputs == 1 || !is_in_parts(groups) || groups.group_expr().is_true_no_grouping() {
        return Ok(None);
    }
    let input = in_several(groups.input(), MOST_GROUPED, outputs)?;
    input.map(|input| side_by_side(groups, input, outputs)).transpose()
}

fn is_of_single_rows(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<FilterExec>().is_some()
        || plan.downcast_ref::<ProjectionExec>().is_some()
        || plan.downcast_ref::<UnnestExec>().is_some()
}

/// Whether a join reads its left side at once, and then treats each row of the right side by itself.
fn is_a_join_by_the_right(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let by_the_right = |join_type: &JoinType| {
        use JoinType::{Inner, Right, RightAnti, RightMark, RightSemi};
        matches!(join_type, Inner | Right | RightSemi | RightAnti | RightMark)
    };
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return *join.partition_mode() == PartitionMode::CollectLeft
            && !join.null_aware
            && by_the_right(join.join_type());
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        return by_the_right(join.join_type());
    }
    plan.downcast_ref::<CrossJoinExec>().is_some()
}
