//! A pool without some of its rows.

use std::path::Path;

use arrow_array::{BooleanArray, UInt32Array};
use arrow_select::filter::filter_record_batch;

use raisin_base::error::Result;
use raisin_contract::Context;
use raisin_corpus::artifact::{copy_sources, renumbered};
use raisin_table::{self as table, WriteTable as _};

/// Writes the kept instructions of the pool in `folder`, and its table `sources`, to which their column `source` refers.
pub fn write_kept(folder: &Path, kept: &BooleanArray, context: &Context) -> Result<()> {
    let rows = filter_record_batch(&table::read(&folder.join("instructions.parquet"))?, kept)?;
    let ids = UInt32Array::from_iter_values(0..rows.num_rows() as u32);
    context.write_table("instructions", &renumbered(rows, ids)?)?;
    copy_sources(folder, &context.out())
}
