//! Values as words that compare fast: if a value comes before another one in an order, its word is not the greater one.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray};
use arrow_schema::{DataType, SortOptions, TimeUnit};

/// The word after which no value comes.
pub const LAST: u64 = u64::MAX;

/// The sign of a 64-bit number.
const SIGN: u64 = 1 << 63;

/// The words of the values. Values of a type without words all have the word 0.
pub fn words(values: &ArrayRef, options: SortOptions, words: &mut Vec<u64>) {
    words.clear();
    ascending(values, words);
    if options.descending {
        words.iter_mut().for_each(|word| *word = !*word);
    }
    if let Some(nulls) = values.nulls() {
        let of_null = if options.nulls_first { 0 } else { LAST };
        words.iter_mut().zip(nulls).filter(|(_, is_valid)| !is_valid).for_each(|(word, _)| *word = of_null);
    }
}

fn ascending(values: &ArrayRef, words: &mut Vec<u64>) {
    let signed = |value: i64| value as u64 ^ SIGN;
    // The order of floating-point numbers is the total one, as in sorts.
    let of_f64 = |value: f64| {
        let bits = value.to_bits() as i64;
        signed(bits ^ ((bits >> 63) as u64 >> 1) as i64)
    };
    match values.data_type() {
        DataType::Int8 => of::<Int8Type>(values, words, |value| signed(value.into())),
        DataType::Int16 => of::<Int16Type>(values, words, |value| signed(value.into())),
        DataType::Int32 => of::<Int32Type>(values, words, |value| signed(value.into())),
        DataType::Int64 => of::<Int64Type>(values, words, signed),
        DataType::UInt8 => of::<UInt8Type>(values, words, u64::from),
        DataType::UInt16 => of::<UInt16Type>(values, words, u64::from),
        DataType::UInt32 => of::<UInt32Type>(values, words, u64::from),
        DataType::UInt64 => of::<UInt64Type>(values, words, u64::from),
        // A wider type keeps the order, also that of infinities and of the signs of zeros and NaN.
        DataType::Float32 => of::<Float32Type>(values, words, |value| {
            let bits = value.to_bits() as i32;
            signed((bits ^ ((bits >> 31) as u32 >> 1) as i32).into())
        }),
        DataType::Float64 => of::<Float64Type>(values, words, of_f64),
        DataType::Date32 => of::<Date32Type>(values, words, |value| signed(value.into())),
        DataType::Date64 => of::<Date64Type>(values, words, signed),
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => of::<TimestampSecondType>(values, words, signed),
            TimeUnit::Millisecond => of::<TimestampMillisecondType>(values, words, signed),
            TimeUnit::Microsecond => of::<TimestampMicrosecondType>(values, words, signed),
            TimeUnit::Nanosecond => of::<TimestampNanosecondType>(values, words, signed),
        },
        DataType::Duration(unit) => match unit {
            TimeUnit::Second => of::<DurationSecondType>(values, words, signed),
            TimeUnit::Millisecond => of::<DurationMillisecondType>(values, words, signed),
            TimeUnit::Microsecond => of::<DurationMicrosecondType>(values, words, signed),
            TimeUnit::Nanosecond => of::<DurationNanosecondType>(values, words, signed),
        },
        DataType::Utf8View => {
            // The first four bytes, after which a shorter text has zeros.
            let first = |view: &u128| u64::from(((view >> 32) as u32).swap_bytes());
            words.extend(values.as_string_view().views().iter().map(first));
        }
        _ => words.resize(values.len(), 0),
    }
}

fn of<T: ArrowPrimitiveType>(values: &ArrayRef, words: &mut Vec<u64>, word: impl Fn(T::Native) -> u64) {
    let values: &PrimitiveArray<T> = values.as_primitive();
    words.extend(values.values().iter().map(|value| word(*value)));
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;
    use std::sync::Arc;

    use arrow::array::make_comparator;
    use arrow_array::{Float32Array, Float64Array, Int64Array, StringViewArray, UInt64Array};

    use super::*;

    #[test]
    fn the_words_of_values_are_in_the_order_of_the_values() {
        let floats = [0.0, -0.0, 1.5, -1.5, 1e-300, -1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN];
        let texts = ["", "a", "a\0", "ab", "abcd", "abcde", "b", "zürich", "\u{10ffff}", "a text of many letters"];
        let arrays: [ArrayRef; 5] = [
            Arc::new(Int64Array::from(vec![Some(0), Some(i64::MIN), None, Some(i64::MAX), Some(-1), Some(7)])),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0), Some(9)])),
            Arc::new(floats.map(Some).into_iter().chain([None]).collect::<Float64Array>()),
            Arc::new(floats.map(|it| Some(it as f32)).into_iter().chain([None]).collect::<Float32Array>()),
            Arc::new(texts.map(Some).into_iter().chain([None]).collect::<StringViewArray>()),
        ];
        for values in &arrays {
            for (descending, nulls_first) in [(false, false), (false, true), (true, false), (true, true)] {
                let options = SortOptions { descending, nulls_first };
                let compare = make_comparator(values, values, options).unwrap();
                let mut found = Vec::new();
                words(values, options, &mut found);
                for one in 0..values.len() {
                    for other in 0..values.len() {
                        if compare(one, other) == Ordering::Less {
                            assert!(found[one] <= found[other], "{values:?} {options:?}: {one} {other}");
                        }
                    }
                }
            }
        }
    }
}
