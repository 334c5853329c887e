//! A pool without some of its rows.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow_select::filter::filter_record_batch;

use raisin_base::error::{Context as _, Result};
use raisin_contract::Context;
use raisin_table::{self as table, WriteTable as _};

/// Writes the kept instructions of the pool in `folder`, and its table `sources`, to which their column `source` refers.
pub fn write_kept(folder: &Path, kept: &BooleanArray, context: &Context) -> Result<()> {
    context.write_table("instructions", &kept_rows(&folder.join("instructions.parquet"), kept)?)?;
    let sources = folder.join("sources.parquet");
    if sources.is_file() {
        let target = context.out().join("sources.parquet");
        std::fs::copy(&sources, &target).with_context(|| format!("cannot copy {}", sources.display()))?;
    }
    Ok(())
}

/// The kept instructions. They get new ids, because an id is always the position of a row. `pool_id` is the id in the
/// whole pool.
fn kept_rows(path: &Path, kept: &BooleanArray) -> Result<RecordBatch> {
    let rows = filter_record_batch(&table::read(path)?, kept)?;
    let schema = rows.schema();
    let mut columns: Vec<(&str, ArrayRef)> =
        schema.fields().iter().map(|field| field.name().as_str()).zip(rows.columns().iter().cloned()).collect();
    let ids: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..rows.num_rows() as u32));
    let before = columns.iter_mut().find(|(name, _)| *name == "id").map(|(_, column)| std::mem::replace(column, ids));
    // The pool may itself be a part of a pool, or a mix, and have this column.
    columns.retain(|(name, _)| *name != "pool_id");
    columns.extend(before.map(|before| ("pool_id", before)));
    table::batch(columns)
}
