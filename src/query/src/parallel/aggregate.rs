//! Groups in parts: each part of the scan is grouped by itself, and the groups of all parts are put together in the order
//! of the parts. So sums of floating-point numbers are added in an order that depends on the files alone, and groups
//! come in the order of their first rows, as on one core.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::error::Result;
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode};

use super::division::{Division, PLACE};
use super::exchange::InOrderExec;
use super::texts::{TextsExec, are_texts};

/// Aggregates whose result for all rows follows from their results for parts, and whose state is of a fixed size or a
/// collection in the order of the rows.
const IN_PARTS: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "median",
    "min",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];

/// Whether the groups can be made in parts. `first_value`, `array_agg` and functions with an ORDER BY need all rows in
/// one place.
pub fn is_in_parts(aggregate: &AggregateExec) -> bool {
    let of_one = |function: &Arc<AggregateFunctionExpr>| {
        IN_PARTS.contains(&function.fun().name()) && function.order_bys().is_empty() && !function.ignore_nulls()
    };
    matches!(aggregate.mode(), AggregateMode::Single | AggregateMode::SinglePartitioned)
        && *aggregate.input_order_mode() == InputOrderMode::Linear
        && aggregate.limit_options().is_none()
        && !aggregate.group_expr().has_grouping_set()
        && aggregate.aggr_expr().iter().all(of_one)
}

/// Whether the aggregate is one row that does not depend on the order of its input in any digit.
pub fn is_of_any_order(aggregate: &AggregateExec) -> bool {
    const FUNCTIONS: [&str; 8] = ["bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "count", "max", "min"];
    aggregate.group_expr().is_true_no_grouping()
        && is_in_parts(aggregate)
        && aggregate.aggr_expr().iter().all(|function| FUNCTIONS.contains(&function.fun().name()))
}

/// The aggregate over an input of several partitions, with one partition.
pub fn in_parts(
    whole: &AggregateExec,
    input: Arc<dyn ExecutionPlan>,
    outputs: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    if whole.group_expr().is_true_no_grouping() || outputs == 1 {
        let joined = Arc::new(InOrderExec::joined(of_parts(whole, input)?));
        return of_all(whole, AggregateMode::Final, joined, None);
    }
    // Groups that are put together side by side come out with the place of their first row, by which they are merged.
    let divided = by_groups(whole, input, outputs, true)?;
    let place = Arc::new(Column::new_with_schema(PLACE, &divided.schema())?);
    let first = AggregateExprBuilder::new(min_udaf(), vec![place]).schema(divided.schema()).alias(PLACE).build()?;
    let all = of_all(whole, AggregateMode::FinalPartitioned, divided, Some(Arc::new(first)))?;
    let columns = all.schema().fields().len() - 1;
    let by_place = PhysicalSortExpr::new(Arc::new(Column::new(PLACE, columns)), SortOptions::default());
    let merged = SortPreservingMergeExec::new(LexOrdering::from([by_place]), all.clone());
    let names = all.schema().fields().iter().take(columns).map(|field| field.name().clone()).collect::<Vec<_>>();
    let without_place = names.into_iter().enumerate().map(|(place, name)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&name, place));
        (column, name)
    });
    Ok(Arc::new(ProjectionExec::try_new(without_place.collect::<Vec<_>>(), Arc::new(merged))?))
}

/// An aggregate of any order over groups of [`side_by_side`].
pub fn of_groups(whole: &AggregateExec, groups: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let joined = Arc::new(InOrderExec::joined_at_once(of_parts(whole, groups)?));
    of_all(whole, AggregateMode::Final, joined, None)
}

/// The groups over an input of several partitions, in `outputs` partitions and without an order.
pub fn side_by_side(
    whole: &AggregateExec,
    input: Arc<dyn ExecutionPlan>,
    outputs: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    of_all(whole, AggregateMode::FinalPartitioned, by_groups(whole, input, outputs, false)?, None)
}

/// The groups of each partition.
fn of_parts(whole: &AggregateExec, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let (functions, filters) = (whole.aggr_expr().to_vec(), whole.filter_expr().to_vec());
    let (mode, groups, schema) = (AggregateMode::Partial, whole.group_expr().clone(), whole.input_schema());
    Ok(Arc::new(AggregateExec::try_new(mode, groups, functions, filters, input, schema)?))
}

/// The groups of each partition, divided by their keys, with their places if these are asked for.
fn by_groups(
    whole: &AggregateExec,
    input: Arc<dyn ExecutionPlan>,
    outputs: usize,
    has_places: bool,
) -> Result<Arc<dyn ExecutionPlan>> {
    let division = Division::new(whole.group_expr().output_exprs(), outputs);
    let division = Division { has_places, has_hashes: are_texts(whole), ..division };
    Ok(Arc::new(InOrderExec::divided(of_parts(whole, input)?, division)))
}

/// The groups of all partitions, put together, and one more function of them.
fn of_all(
    whole: &AggregateExec,
    mode: AggregateMode,
    input: Arc<dyn ExecutionPlan>,
    more: Option<Arc<AggregateFunctionExpr>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let filters = whole.filter_expr().iter().cloned().chain(more.iter().map(|_| None)).collect();
    let functions = whole.aggr_expr().iter().cloned().chain(more).collect();
    let (groups, schema) = (whole.group_expr().as_final(), whole.input_schema());
    if mode == AggregateMode::FinalPartitioned && are_texts(whole) {
        let of = |input| AggregateExec::try_new(mode, groups, functions, filters, input, schema);
        return Ok(Arc::new(TextsExec::new(input, of)?));
    }
    Ok(Arc::new(AggregateExec::try_new(mode, groups, functions, filters, input, schema)?))
}
