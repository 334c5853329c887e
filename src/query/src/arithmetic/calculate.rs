//! The arithmetic of two columns of integers: first with the fast kernels of arrow, and value by value where these
//! report that something does not fit.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, Int64Array, Scalar};
use datafusion::arrow::compute::kernels::numeric::{add, mul, sub};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Int64Type, UInt64Type};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::Operation;

/// The result as signed 64-bit integers, or the values of the first row whose result does not fit.
pub fn calculate(
    operation: Operation,
    left: &ColumnarValue,
    right: &ColumnarValue,
    rows: usize,
) -> Result<std::result::Result<ColumnarValue, String>> {
    let are_scalars = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
    let rows = if are_scalars { 1 } else { rows };
    if let Some(answer) = with_kernels(operation, left, right)? {
        return Ok(Ok(ColumnarValue::Array(answer)));
    }
    let (left, right) = (left.to_array(rows)?, right.to_array(rows)?);
    Ok(value_by_value(operation, &left, &right)?.map(|values| ColumnarValue::Array(Arc::new(values))))
}

/// `None` if a value or a result does not fit, or if there is no kernel.
fn with_kernels(operation: Operation, left: &ColumnarValue, right: &ColumnarValue) -> Result<Option<ArrayRef>> {
    let kernel = match operation {
        Operation::Add => add,
        Operation::Subtract => sub,
        Operation::Multiply => mul,
        Operation::ShiftLeft | Operation::ShiftRight => return Ok(None),
    };
    let (Some(one), Some(other)) = (signed(left)?, signed(right)?) else { return Ok(None) };
    let answer = match (left, right) {
        (ColumnarValue::Scalar(_), ColumnarValue::Array(_)) => kernel(&Scalar::new(one), &other),
        (ColumnarValue::Array(_), ColumnarValue::Scalar(_)) => kernel(&one, &Scalar::new(other)),
        _ => kernel(&one, &other),
    };
    Ok(answer.ok())
}

/// The values as signed 64-bit integers; `None` if one of them does not fit.
fn signed(values: &ColumnarValue) -> Result<Option<ArrayRef>> {
    let values = values.to_array(1)?;
    let exactly = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(&values, &DataType::Int64, &exactly).ok())
}

fn value_by_value(
    operation: Operation,
    left: &ArrayRef,
    right: &ArrayRef,
) -> Result<std::result::Result<Int64Array, String>> {
    let (left, right) = (wide(left)?, wide(right)?);
    let mut answer = Vec::with_capacity(left.len());
    for pair in left.into_iter().zip(right) {
        let (Some(one), Some(other)) = pair else {
            answer.push(None);
            continue;
        };
        match of_pair(operation, one, other) {
            Some(value) => answer.push(Some(value)),
            None => return Ok(Err(format!("{one} {operation} {other}"))),
        }
    }
    Ok(Ok(Int64Array::from(answer)))
}

fn of_pair(operation: Operation, one: i128, other: i128) -> Option<i64> {
    let value = match operation {
        Operation::Add => one.checked_add(other)?,
        Operation::Subtract => one.checked_sub(other)?,
        Operation::Multiply => one.checked_mul(other)?,
        // A shift by more bits than there are loses all of them; a negative number of bits means nothing.
        Operation::ShiftLeft => {
            let bits = u32::try_from(other).ok()?;
            if one == 0 { 0 } else { (bits < 64).then(|| one.checked_mul(1 << bits))?? }
        }
        Operation::ShiftRight => one >> u32::try_from(other).ok()?.min(127),
    };
    i64::try_from(value).ok()
}

/// Every value of an integer type, without loss.
fn wide(values: &ArrayRef) -> Result<Vec<Option<i128>>> {
    if values.data_type() == &DataType::UInt64 {
        return Ok(values.as_primitive::<UInt64Type>().iter().map(|value| value.map(i128::from)).collect());
    }
    let values = cast(values, &DataType::Int64)?;
    Ok(values.as_primitive::<Int64Type>().iter().map(|value| value.map(i128::from)).collect())
}
