//! The values of parameters, as a client binds them: one row of a record batch.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use raisin_contract::flight::FlightValue;
use tonic::Status;

/// The values of the only row, each with the name of its column.
pub fn of_rows(batches: &[RecordBatch]) -> Result<Vec<(String, FlightValue)>, Status> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0).filter(|_| rows == 1) else {
        let message = format!("{rows} rows of parameters are bound, and a query takes one");
        return Err(Status::invalid_argument(message));
    };
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    fields.map(|(field, column)| Ok((field.name().clone(), value(field.name(), column)?))).collect()
}

fn value(name: &str, column: &dyn Array) -> Result<FlightValue, Status> {
    let number = |text: String| Ok(FlightValue::Number(text));
    // Debug, because it tells 1.0 from 1.
    let float = |value: f64| match value {
        value if value.is_finite() => Ok(FlightValue::Number(format!("{value:?}"))),
        value => {
            Err(Status::invalid_argument(format!("the parameter `{name}` is {value}, and SQL has no such number")))
        }
    };
    if column.is_null(0) {
        return Ok(FlightValue::Null);
    }
    match column.data_type() {
        DataType::Null => Ok(FlightValue::Null),
        DataType::Boolean => Ok(FlightValue::Bool(column.as_boolean().value(0))),
        DataType::Int8 => number(column.as_primitive::<Int8Type>().value(0).to_string()),
        DataType::Int16 => number(column.as_primitive::<Int16Type>().value(0).to_string()),
        DataType::Int32 => number(column.as_primitive::<Int32Type>().value(0).to_string()),
        DataType::Int64 => number(column.as_primitive::<Int64Type>().value(0).to_string()),
        DataType::UInt8 => number(column.as_primitive::<UInt8Type>().value(0).to_string()),
        DataType::UInt16 => number(column.as_primitive::<UInt16Type>().value(0).to_string()),
        DataType::UInt32 => number(column.as_primitive::<UInt32Type>().value(0).to_string()),
        DataType::UInt64 => number(column.as_primitive::<UInt64Type>().value(0).to_string()),
        DataType::Float16 => float(column.as_primitive::<Float16Type>().value(0).to_f64()),
        DataType::Float32 => float(f64::from(column.as_primitive::<Float32Type>().value(0))),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(0)),
        DataType::Utf8 => Ok(FlightValue::Text(column.as_string::<i32>().value(0).to_owned())),
        DataType::LargeUtf8 => Ok(FlightValue::Text(column.as_string::<i64>().value(0).to_owned())),
        DataType::Utf8View => Ok(FlightValue::Text(column.as_string_view().value(0).to_owned())),
        other => {
            let message =
                format!("the parameter `{name}` has the type {other}: bind a number, a text, true, false or null");
            Err(Status::invalid_argument(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow_array::{ArrayRef, BinaryArray, Float64Array, Int64Array, StringArray};

    #[test]
    fn one_row_of_plain_values_is_bound() {
        let columns: [(&str, ArrayRef); 4] = [
            ("0", Arc::new(Int64Array::from(vec![i64::MIN]))),
            ("1", Arc::new(Float64Array::from(vec![2.0]))),
            ("2", Arc::new(StringArray::from(vec!["5"]))),
            ("3", Arc::new(StringArray::from(vec![None::<&str>]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let found: Vec<FlightValue> =
            of_rows(&[batch.slice(0, 0), batch.clone()]).expect("values").into_iter().map(|(_, value)| value).collect();
        let number = |text: &str| FlightValue::Number(text.to_owned());
        let text = FlightValue::Text("5".to_owned());
        assert_eq!(found, [number("-9223372036854775808"), number("2.0"), text, FlightValue::Null]);
        let said = |batches: &[RecordBatch]| of_rows(batches).expect_err("refused").message().to_owned();
        assert!(said(&[batch.clone(), batch]).starts_with("2 rows of parameters"));
        let binary: ArrayRef = Arc::new(BinaryArray::from(vec![&b"x"[..]]));
        assert!(said(&[RecordBatch::try_from_iter([("b", binary)]).expect("a batch")]).contains("has the type Binary"));
        let infinite: ArrayRef = Arc::new(Float64Array::from(vec![f64::INFINITY]));
        assert!(said(&[RecordBatch::try_from_iter([("f", infinite)]).expect("a batch")]).contains("is inf"));
    }
}
