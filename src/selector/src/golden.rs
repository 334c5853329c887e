//! For tests: numbers recorded from a reference implementation (tests/golden, made by tests/python).

use serde_json::Value;

/// One number of a golden file.
pub fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// Numbers of a golden file, nested lists row-major.
pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        value => vec![number(value)],
    }
}

pub fn assert_close(ours: &[f64], theirs: &[f64], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (place, (one, two)) in ours.iter().zip(theirs).enumerate() {
        assert!((one - two).abs() <= tolerance * (1.0 + two.abs()), "{what}[{place}]: {one} is not {two}");
    }
}
