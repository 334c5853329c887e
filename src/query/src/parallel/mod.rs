//! Runs the plan of a query on all cores without a change of its result.
//!
//! DataFusion plans each query in one partition, in which rows keep their order and floating-point sums their digits.
//! Here the plan is divided: the scan of Parquet files into parts of consecutive row groups (see [`chunks`]), and with
//! it the operators that treat each row by itself. The parts depend on the files alone. [`InOrderExec`] joins them in
//! their order. Groups and the first rows of an order are calculated for each part, and then of the parts' results.
//! Whatever is not named here runs in one partition, over rows that come from all cores.

mod aggregate;
mod chunks;
mod division;
mod exchange;
mod first;
mod texts;
mod top;
mod windows;

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::JoinType;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::unnest::UnnestExec;

use self::aggregate::{in_parts, is_in_parts, is_of_any_order, of_groups, side_by_side};
use self::chunks::{divided, is_divided};
use self::exchange::InOrderExec;
use self::top::TopExec;
use self::windows::below;

pub use self::chunks::RowGroups;

/// The most parts of a scan whose rows go on as they are.
const MOST_PARTS: usize = 256;

/// The most parts that are grouped by themselves.
const MOST_GROUPED: usize = 32;

/// The memory of a query for each of several sorts that end at the same time. One of them can take what another one needs
/// to give its rows, so that a query with little memory has one sort.
const MEMORY_OF_A_SORT: u64 = 256 << 20;

/// The parts that are sorted by themselves. They are in memory at the same time.
const MOST_SORTED: usize = 4;

/// The places side by side in which rows are put together. Their numbers do not change the result.
#[derive(Clone, Copy, Debug)]
pub struct Sides {
    of_groups: usize,
    of_windows: usize,
}

impl Sides {
    /// As many as there are threads, and as fit a memory of so many bytes.
    pub fn of(threads: usize, memory: Option<u64>) -> Self {
        let fit = memory.map_or(usize::MAX, |bytes| usize::try_from(bytes / MEMORY_OF_A_SORT).unwrap_or(usize::MAX));
        Self { of_groups: threads, of_windows: threads.min(fit).max(1) }
    }
}

/// The plan on as many cores as there are, in one partition.
pub fn on_all_cores(plan: Arc<dyn ExecutionPlan>, outputs: Sides) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && is_in_parts(aggregate)
    {
        if let Some(input) = in_several(aggregate.input(), MOST_GROUPED, outputs)? {
            return in_parts(aggregate, input, outputs.of_groups);
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
fn on_each_side(plan: Arc<dyn ExecutionPlan>, outputs: Sides) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs = plan.children().into_iter().cloned().collect::<Vec<_>>();
    if inputs.is_empty() {
        return Ok(plan);
    }
    let inputs = inputs.into_iter().map(|input| on_all_cores(input, outputs)).collect::<Result<Vec<_>>>()?;
    over(&plan, inputs)
}

/// The first `count` columns of a plan.
fn first_columns(plan: Arc<dyn ExecutionPlan>, count: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    let columns: Vec<ProjectionExpr> = (0..count).map(|place| column(schema.field(place).name(), place)).collect();
    Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
}

fn column(name: &str, place: usize) -> ProjectionExpr {
    ProjectionExpr { expr: Arc::new(Column::new(name, place)), alias: name.to_owned() }
}

/// The rows in batches of at most `size` rows.
fn slices(rows: &RecordBatch, size: usize) -> Vec<RecordBatch> {
    let slice = |start| rows.slice(start, size.min(rows.num_rows() - start));
    (0..rows.num_rows()).step_by(size).map(slice).collect()
}

/// The new input of an operator that has one.
fn only_child(mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    children.pop().ok_or_else(|| DataFusionError::Internal("an operator without an input".to_owned()))
}

/// The same operator over other inputs.
fn over(plan: &Arc<dyn ExecutionPlan>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.clone().replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

fn sorted(plan: &Arc<dyn ExecutionPlan>, sort: &SortExec, outputs: Sides) -> Result<Arc<dyn ExecutionPlan>> {
    let order = sort.expr().clone();
    if is_by_all_keys(&order, sort.input())
        && let Some(groups) = groups_of_any_order(sort.input(), outputs)?
    {
        // No two groups are equal in this order, so that it does not matter in which order they come here.
        return Ok(match sort.fetch() {
            Some(count) => {
                let first = Arc::new(TopExec::new(groups, order.clone(), count));
                let first = Arc::new(InOrderExec::joined_at_once(first));
                Arc::new(SortExec::new(order, first).with_fetch(Some(count)))
            }
            None => {
                let sorted = Arc::new(SortExec::new(order.clone(), groups).with_preserve_partitioning(true));
                Arc::new(SortPreservingMergeExec::new(order, sorted).with_round_robin_repartition(false))
            }
        });
    }
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
fn in_several(plan: &Arc<dyn ExecutionPlan>, most: usize, outputs: Sides) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if plan.fetch().is_some() { Ok(None) } else { several_parts(plan, most, outputs) }
}

/// The plan in at most `most` partitions, whose rows one after the other are the rows of the plan. `None` if the plan is
/// not one of operators that treat each row by itself over a scan, or if the scan is small.
fn several_parts(plan: &Arc<dyn ExecutionPlan>, most: usize, outputs: Sides) -> Result<Option<Arc<dyn ExecutionPlan>>> {
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

/// Whether the order has all keys of the groups that a plan gives.
fn is_by_all_keys(order: &LexOrdering, plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut columns: Vec<usize> =
        order.iter().filter_map(|key| Some(key.expr.downcast_ref::<Column>()?.index())).collect();
    let mut plan = plan;
    loop {
        if let Some(groups) = plan.downcast_ref::<AggregateExec>() {
            return (0..groups.group_expr().num_group_exprs()).all(|key| columns.contains(&key));
        }
        let [input] = plan.children()[..] else { return false };
        columns = columns.into_iter().filter_map(|column| below(plan, column)).collect();
        plan = input;
    }
}

/// Groups in several partitions, for an operator that does not depend on their order. `None` if the plan is not one of
/// groups over a scan, or if the scan is small.
fn groups_of_any_order(plan: &Arc<dyn ExecutionPlan>, outputs: Sides) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let is_filter = plan.downcast_ref::<FilterExec>().is_some_and(|filter| filter.fetch().is_none());
    if (is_filter || plan.downcast_ref::<ProjectionExec>().is_some())
        && let [input] = plan.children()[..]
    {
        let input = groups_of_any_order(input, outputs)?;
        return input.map(|input| over(plan, vec![input])).transpose();
    }
    let Some(groups) = plan.downcast_ref::<AggregateExec>() else { return Ok(None) };
    if outputs.of_groups == 1 || !is_in_parts(groups) || groups.group_expr().is_true_no_grouping() {
        return Ok(None);
    }
    let input = in_several(groups.input(), MOST_GROUPED, outputs)?;
    input.map(|input| side_by_side(groups, input, outputs.of_groups)).transpose()
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
