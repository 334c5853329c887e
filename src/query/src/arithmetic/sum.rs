//! `sum` of integers and decimals that does not wrap: a sum that does not fit its type is an error. Other types are
//! left to DataFusion's own `sum`.

use std::fmt::{self, Debug};
use std::mem::size_of_val;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::array::{
    Array as _, ArrayRef, ArrowNativeTypeOp as _, ArrowNumericType, AsArray as _, BooleanArray,
};
use datafusion::arrow::compute::sum_checked;
use datafusion::arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, FieldRef, Int64Type, UInt64Type,
};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use super::overflow;

#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct CheckedSum {
    /// DataFusion's own, for types that do not wrap.
    of_other_types: Sum,
}

/// Calls a macro with the arrow type of a sum that could wrap; evaluates the other expression for all other types.
macro_rules! by_type {
    ($data_type:expr, $exact:ident, $other:expr) => {
        match $data_type {
            DataType::Int64 => $exact!(Int64Type),
            DataType::UInt64 => $exact!(UInt64Type),
            DataType::Decimal32(..) => $exact!(Decimal32Type),
            DataType::Decimal64(..) => $exact!(Decimal64Type),
            DataType::Decimal128(..) => $exact!(Decimal128Type),
            DataType::Decimal256(..) => $exact!(Decimal256Type),
            _ => $other,
        }
    };
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.of_other_types.name()
    }

    fn signature(&self) -> &Signature {
        self.of_other_types.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.of_other_types.return_type(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let (name, data_type) = (args.name.to_owned(), args.return_field.data_type().clone());
        if args.is_distinct {
            let values = self.of_other_types.accumulator(args)?;
            macro_rules! exact {
                ($of:ty) => {
                    Ok(Box::new(DistinctSum { values, sum: RunningSum::<$of>::new(name, data_type.clone()) }))
                };
            }
            return by_type!(data_type, exact, Ok(values));
        }
        macro_rules! exact {
            ($of:ty) => {
                Ok(Box::new(RunningSum::<$of>::new(name, data_type.clone())))
            };
        }
        by_type!(data_type, exact, self.of_other_types.accumulator(args))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.of_other_types.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.of_other_types.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let (name, data_type) = (args.name.to_owned(), args.return_field.data_type().clone());
        macro_rules! exact {
            ($of:ty) => {{
                let overflowed = Arc::new(AtomicBool::new(false));
                let flag = overflowed.clone();
                let sums = PrimitiveGroupsAccumulator::<$of, _>::new(&data_type, move |sum, value| {
                    match sum.add_checked(value) {
                        Ok(larger) => *sum = larger,
                        Err(_) => flag.store(true, Ordering::Relaxed),
                    }
                });
                Ok(Box::new(GroupSums { sums, overflowed, name }))
            }};
        }
        by_type!(data_type, exact, self.of_other_types.create_groups_accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return exec_err!("sum(distinct ...) over a sliding window frame cannot be answered");
        }
        let (name, data_type) = (args.name.to_owned(), args.return_field.data_type().clone());
        macro_rules! exact {
            ($of:ty) => {
                Ok(Box::new(RunningSum::<$of>::new(name, data_type.clone())))
            };
        }
        by_type!(data_type, exact, self.of_other_types.create_sliding_accumulator(args))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.of_other_types.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.of_other_types.order_sensitivity()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.of_other_types.set_monotonicity(data_type)
    }
}

fn too_large(name: &str, data_type: &DataType) -> datafusion::error::DataFusionError {
    overflow(match data_type {
        DataType::Int64 | DataType::UInt64 => format!("`{name}` does not fit 64 bits"),
        other => format!("`{name}` does not fit {other}"),
    })
}

/// The sum of one group, or of the rows of a window frame.
struct RunningSum<T: ArrowNumericType> {
    name: String,
    data_type: DataType,
    sum: T::Native,
    /// The number of values; without any, the sum is null.
    count: u64,
}

impl<T: ArrowNumericType> RunningSum<T> {
    fn new(name: String, data_type: DataType) -> Self {
        Self { name, data_type, sum: T::default_value(), count: 0 }
    }

    fn of(&self, values: &ArrayRef) -> Result<(T::Native, u64)> {
        let values = values.as_primitive::<T>();
        let count = (values.len() - values.null_count()) as u64;
        let sum = sum_checked(values).map_err(|_| too_large(&self.name, &self.data_type))?;
        Ok((sum.unwrap_or_else(T::default_value), count))
    }
}

impl<T: ArrowNumericType> Debug for RunningSum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunningSum({})", self.data_type)
    }
}

impl<T: ArrowNumericType> Accumulator for RunningSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = self.of(&values[0])?;
        self.sum = self.sum.add_checked(sum).map_err(|_| too_large(&self.name, &self.data_type))?;
        self.count += count;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = self.of(&values[0])?;
        self.sum = self.sum.sub_checked(sum).map_err(|_| too_large(&self.name, &self.data_type))?;
        self.count -= count;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::new_primitive::<T>((self.count > 0).then_some(self.sum), &self.data_type)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.name.capacity()
    }
}

/// DataFusion keeps the distinct values; this adds them.
struct DistinctSum<T: ArrowNumericType> {
    values: Box<dyn Accumulator>,
    sum: RunningSum<T>,
}

impl<T: ArrowNumericType> Debug for DistinctSum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DistinctSum({})", self.sum.data_type)
    }
}

impl<T: ArrowNumericType> Accumulator for DistinctSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = RunningSum::<T>::new(self.sum.name.clone(), self.sum.data_type.clone());
        for state in self.values.state()? {
            if let ScalarValue::List(lists) = state {
                sum.update_batch(&[lists.value(0)])?;
            }
        }
        sum.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn size(&self) -> usize {
        self.values.size()
    }
}

/// DataFusion's sums of many groups, with an addition that sets a flag when a sum does not fit.
struct GroupSums<A> {
    sums: A,
    overflowed: Arc<AtomicBool>,
    name: String,
}

impl<A: GroupsAccumulator> GroupSums<A> {
    fn check(&self) -> Result<()> {
        if self.overflowed.load(Ordering::Relaxed) {
            return Err(overflow(format!("`{}` of a group does not fit its type", self.name)));
        }
        Ok(())
    }
}

impl<A: GroupsAccumulator> GroupsAccumulator for GroupSums<A> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.sums.update_batch(values, group_indices, filter, groups)?;
        self.check()
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.sums.evaluate(emit_to)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.sums.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        self.sums.merge_batch(values, group_indices, groups)?;
        self.check()
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.sums.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.sums.size()
    }
}
