//! Windows with PARTITION BY, side by side: the rows are divided by the hash of the keys, sorted and calculated in each
//! place by themselves, and merged into the order of the keys. Rows of equal keys stay in their order, so that the
//! answer does not depend on the number of places. Conditions above the windows are applied before the merge, and if
//! they keep the first rows of each group, each part of the scan leaves out the others before the sort.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{Operator, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal, lit};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::windows::{
    BoundedWindowAggExec, StandardWindowExpr, WindowAggExec, WindowExpr, WindowUDFExpr,
};
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode};

use super::division::{Division, PLACE};
use super::exchange::InOrderExec;
use super::first::{First, FirstExec, Ties};
use super::{MOST_PARTS, Sides, column, first_columns, in_several, on_all_cores, over};

/// The name of a column that is carried along because the rows are merged by it.
const CARRIED: &str = "a key of the merge";

/// Windows over a sort, and the operators above them that treat each row by itself.
struct Windows<'a> {
    /// Filters and projections, the highest first.
    above: Vec<&'a Arc<dyn ExecutionPlan>>,
    /// The highest first.
    over: Vec<&'a Arc<dyn ExecutionPlan>>,
    sort: &'a SortExec,
    /// The keys by which rows are divided: each function has them among its own.
    keys: &'a [Arc<dyn PhysicalExpr>],
}

/// The plan with its windows side by side, in one partition. `None` if the plan is not one of such windows.
pub fn side_by_side(plan: &Arc<dyn ExecutionPlan>, outputs: Sides) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(found) = Windows::of(plan) else { return Ok(None) };
    let mut rows = match in_several(found.sort.input(), MOST_PARTS, outputs)? {
        Some(several) => several,
        None => on_all_cores(found.sort.input().clone(), outputs)?,
    };
    if let Some(first) = found.first() {
        rows = Arc::new(FirstExec::new(rows, first));
    }
    let division = Division::new(found.keys.to_vec(), outputs.of_windows);
    let division = Division { has_places: true, has_own_texts: true, ..division };
    let divided: Arc<dyn ExecutionPlan> = Arc::new(InOrderExec::divided(rows, division));
    let place: Arc<dyn PhysicalExpr> = Arc::new(Column::new(PLACE, divided.schema().fields().len() - 1));
    let by_place = PhysicalSortExpr::new(place, SortOptions::default());
    let mut order = found.sort.expr().clone();
    let total = LexOrdering::new(order.iter().cloned().chain([by_place])).unwrap_or_else(|| order.clone());
    let sorted = Arc::new(SortExec::new(total, divided).with_preserve_partitioning(true));
    let columns = found.sort.schema().fields().len();
    let mut side = first_columns(sorted, columns)?;
    for window in found.over.iter().rev() {
        side = over(window, vec![side])?;
    }
    for operator in found.above.iter().rev() {
        (side, order) = carrying(operator, side, order)?;
    }
    let merged = Arc::new(SortPreservingMergeExec::new(order, side).with_round_robin_repartition(false));
    let columns = plan.schema().fields().len();
    Ok(Some(if merged.schema().fields().len() > columns { first_columns(merged, columns)? } else { merged }))
}

/// A filter or projection over another input, which keeps the columns of an order; and these columns above it.
fn carrying(
    operator: &Arc<dyn ExecutionPlan>,
    input: Arc<dyn ExecutionPlan>,
    order: LexOrdering,
) -> Result<(Arc<dyn ExecutionPlan>, LexOrdering)> {
    let (input, mut columns) = if let Some(projection) = operator.downcast_ref::<ProjectionExec>() {
        (input, projection.expr().to_vec())
    } else if let Some(filter) = operator.downcast_ref::<FilterExec>() {
        let kept = FilterExecBuilder::new(filter.predicate().clone(), input).with_batch_size(filter.batch_size());
        let kept: Arc<dyn ExecutionPlan> = Arc::new(kept.build()?);
        let Some(places) = filter.projection() else { return Ok((kept, order)) };
        let schema = kept.schema();
        (kept, places.iter().map(|place| column(schema.field(*place).name(), *place)).collect())
    } else {
        return Ok((over(operator, vec![input])?, order));
    };
    let mut above = Vec::new();
    for key in order {
        let place = columns.iter().position(|column| column.expr.eq(&key.expr)).unwrap_or_else(|| {
            columns.push(ProjectionExpr { expr: key.expr.clone(), alias: format!("{CARRIED} {}", above.len()) });
            columns.len() - 1
        });
        above.push(PhysicalSortExpr::new(Arc::new(Column::new(&columns[place].alias, place)), key.options));
    }
    let order = LexOrdering::new(above);
    let projected = Arc::new(ProjectionExec::try_new(columns, input)?);
    let order = order.ok_or_else(|| datafusion::error::DataFusionError::Internal("a sort without keys".to_owned()))?;
    Ok((projected, order))
}

impl<'a> Windows<'a> {
    fn of(plan: &'a Arc<dyn ExecutionPlan>) -> Option<Self> {
        let (mut above, mut windows, mut next) = (Vec::new(), Vec::new(), plan);
        let sort = loop {
            if next.fetch().is_some() {
                return None;
            }
            let is_of_single_rows =
                next.downcast_ref::<FilterExec>().is_some() || next.downcast_ref::<ProjectionExec>().is_some();
            if functions(next).is_some() {
                windows.push(next);
            } else if is_of_single_rows && windows.is_empty() {
                above.push(next);
            } else {
                break next.downcast_ref::<SortExec>()?;
            }
            next = next.children().first()?;
        };
        let all = || windows.iter().filter_map(|window| functions(window)).flatten();
        let keys = all().map(|function| function.partition_by()).min_by_key(|keys| keys.len())?;
        let has = |keys: &[Arc<dyn PhysicalExpr>], key: &Arc<dyn PhysicalExpr>| keys.iter().any(|it| it.eq(key));
        let sorted: Vec<Arc<dyn PhysicalExpr>> = sort.expr().iter().map(|key| key.expr.clone()).collect();
        let are_everywhere =
            keys.iter().all(|key| has(&sorted, key) && all().all(|function| has(function.partition_by(), key)));
        (!keys.is_empty() && are_everywhere).then_some(Self { above, over: windows, sort, keys })
    }

    /// All functions, in the order of their columns.
    fn functions(&self) -> impl Iterator<Item = &'a Arc<dyn WindowExpr>> {
        self.over.iter().rev().filter_map(|window| functions(window)).flatten()
    }

    /// The rows that the sort needs, if the filters keep the first rows of each group, and no value of a function
    /// depends on a row that comes later.
    fn first(&self) -> Option<First> {
        let (function, count) = self.limits().min_by_key(|(_, count)| *count)?;
        let ties = match ranking(function)? {
            "row_number" => Ties::InTheirOrder,
            "rank" => Ties::Together,
            "dense_rank" => Ties::AsOne,
            _ => return None,
        };
        let of_same = |other: &Arc<dyn WindowExpr>| {
            are_equal(other.partition_by(), function.partition_by()) && other.order_by() == function.order_by()
        };
        if !self.functions().all(|other| of_same(other) && depends_on_no_later_row(other)) {
            return None;
        }
        let sorted = &self.sort.expr()[..];
        let (groups, mut order) = sorted.split_at_checked(function.partition_by().len())?;
        let groups: Vec<_> = groups.iter().map(|key| key.expr.clone()).collect();
        if !function.partition_by().iter().all(|key| groups.iter().any(|it| it.eq(key))) {
            return None;
        }
        if ties != Ties::InTheirOrder {
            order = order.get(..function.order_by().len())?;
        }
        if !order.starts_with(function.order_by()) {
            return None;
        }
        let schema = self.sort.input().schema();
        let can_be_grouped = |key: &Arc<dyn PhysicalExpr>| key.data_type(&schema).is_ok_and(|it| is_of_equal_bits(&it));
        let can_be_ordered = |key: &PhysicalSortExpr| {
            key.expr.data_type(&schema).is_ok_and(|it| RowConverter::supports_fields(&[SortField::new(it)]))
        };
        if !groups.iter().all(can_be_grouped) || !order.iter().all(can_be_ordered) {
            return None;
        }
        let order = match order {
            // All rows are equal.
            [] => vec![PhysicalSortExpr::new(lit(true), SortOptions::default())],
            order => order.to_vec(),
        };
        Some(First { groups, order, count, ties })
    }

    /// The functions of which the filters keep only values up to a number.
    fn limits(&self) -> impl Iterator<Item = (&'a Arc<dyn WindowExpr>, usize)> {
        let functions: Vec<_> = self.functions().collect();
        let before = self.sort.schema().fields().len();
        let filters =
            self.above.iter().enumerate().filter_map(|(place, it)| Some((place, it.downcast_ref::<FilterExec>()?)));
        let conditions = filters.flat_map(|(place, filter)| {
            split_conjunction(filter.predicate()).into_iter().map(move |condition| (place, condition))
        });
        conditions.filter_map(move |(place, condition)| {
            let (column, most) = most(condition)?;
            let column = self.above[place + 1..].iter().try_fold(column, |column, operator| below(operator, column))?;
            Some((*functions.get(column.checked_sub(before)?)?, most))
        })
    }
}

/// The functions of a window whose rows are sorted by its keys.
fn functions(plan: &Arc<dyn ExecutionPlan>) -> Option<&[Arc<dyn WindowExpr>]> {
    if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
        return (window.input_order_mode == InputOrderMode::Sorted).then(|| window.window_expr());
    }
    plan.downcast_ref::<WindowAggExec>().map(WindowAggExec::window_expr)
}

/// The name of a function that has no frame.
fn ranking(function: &Arc<dyn WindowExpr>) -> Option<&str> {
    let standard = function.as_any().downcast_ref::<StandardWindowExpr>()?;
    let function = standard.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>()?;
    Some(function.fun().name())
}

fn depends_on_no_later_row(function: &Arc<dyn WindowExpr>) -> bool {
    match ranking(function) {
        Some("row_number" | "rank" | "dense_rank" | "lag") => true,
        Some("first_value" | "last_value" | "nth_value") | None => {
            let frame = function.get_window_frame();
            let ends_in_time = matches!(frame.end_bound, WindowFrameBound::CurrentRow | WindowFrameBound::Preceding(_));
            frame.units == WindowFrameUnits::Rows && ends_in_time
        }
        Some(_) => false,
    }
}

fn are_equal(one: &[Arc<dyn PhysicalExpr>], other: &[Arc<dyn PhysicalExpr>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.eq(other))
}

/// Whether groups and windows take the same values as equal. They differ about the zeros of floating-point numbers.
fn is_of_equal_bits(data_type: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Boolean, Date32, Date64, Decimal128, LargeBinary, LargeUtf8, Timestamp, Utf8, Utf8View,
    };
    data_type.is_integer()
        || matches!(data_type, Boolean | Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView)
        || matches!(data_type, Date32 | Date64 | Timestamp(..) | Decimal128(..))
}

/// The column below a filter or projection; `None` if it is calculated there.
pub fn below(operator: &Arc<dyn ExecutionPlan>, column: usize) -> Option<usize> {
    if let Some(projection) = operator.downcast_ref::<ProjectionExec>() {
        return Some(projection.expr().get(column)?.expr.downcast_ref::<Column>()?.index());
    }
    match operator.downcast_ref::<FilterExec>()?.projection() {
        Some(places) => places.get(column).copied(),
        None => Some(column),
    }
}

/// The column that a condition limits, and its largest value; at least 1.
fn most(condition: &Arc<dyn PhysicalExpr>) -> Option<(usize, usize)> {
    let condition = condition.downcast_ref::<BinaryExpr>()?;
    let (column, operator, number) = match (column_of(condition.left()), column_of(condition.right())) {
        (Some(column), None) => (column, *condition.op(), condition.right()),
        (None, Some(column)) => (column, condition.op().swap()?, condition.left()),
        _ => return None,
    };
    let number = number.downcast_ref::<Literal>()?.value();
    if !number.data_type().is_integer() {
        return None;
    }
    let ScalarValue::Int64(Some(number)) = number.cast_to(&DataType::Int64).ok()? else { return None };
    let most = match operator {
        Operator::Lt => number.saturating_sub(1),
        Operator::LtEq | Operator::Eq => number,
        _ => return None,
    };
    Some((column, usize::try_from(most.max(1)).ok()?))
}

/// The column of an expression that is a column, or a column in another type of integers.
fn column_of(expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    match expression.downcast_ref::<CastExpr>() {
        Some(cast) if cast.cast_type().is_integer() => column_of(cast.expr()),
        Some(_) => None,
        None => Some(expression.downcast_ref::<Column>()?.index()),
    }
}
