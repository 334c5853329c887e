//! What the query of a `filter` sets for the rows of a pool: weight, source and tags.

use std::path::Path;

use arrow_array::{Array as _, Float64Array, StringArray};
use arrow_schema::DataType;

use raisin_base::error::Result;
use raisin_table as table;

/// The columns of the table `instructions` that a `filter` can set, as [`table::with_column`] adds them. A pool has those
/// that a `filter` before it set.
pub const SET: [&str; 3] = ["weight", "source_name", "tags"];

/// The type of a column of [`SET`].
pub fn set_type(name: &str) -> DataType {
    match name {
        "weight" => DataType::Float64,
        "source_name" => DataType::Utf8,
        _ => table::texts_type(),
    }
}

/// The columns of [`SET`] that a pool has.
pub fn set_columns(artifact: &Path) -> Result<Vec<&'static str>> {
    let schema = table::schema(&artifact.join("instructions.parquet"))?;
    Ok(SET.into_iter().filter(|name| schema.index_of(name).is_ok()).collect())
}

/// The weight of each row of a pool; `None` if no row has one. A row without a weight has 1.
pub fn read_weights(artifact: &Path) -> Result<Option<Vec<f64>>> {
    if !set_columns(artifact)?.contains(&"weight") {
        return Ok(None);
    }
    let rows = table::read_columns(&artifact.join("instructions.parquet"), &["weight"])?;
    let weights: &Float64Array = table::column(&rows, "weight")?;
    let has_weights = weights.null_count() < weights.len();
    Ok(has_weights.then(|| weights.iter().map(|weight| weight.unwrap_or(1.0)).collect()))
}

/// The name that a `filter` gave as the source of each row of a pool; `None` if no row has one.
pub fn read_source_names(artifact: &Path) -> Result<Option<StringArray>> {
    if !set_columns(artifact)?.contains(&"source_name") {
        return Ok(None);
    }
    let rows = table::read_columns(&artifact.join("instructions.parquet"), &["source_name"])?;
    let names: &StringArray = table::column(&rows, "source_name")?;
    Ok((names.null_count() < names.len()).then(|| names.clone()))
}
