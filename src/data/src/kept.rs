//! A pool without some of its rows.

use std::path::Path;

use arrow_array::{BooleanArray, UInt32Array};
use arrow_select::filter::filter_record_batch;

use raisin_base::error::{Result, ensure};
use raisin_contract::Context;
use raisin_corpus::artifact::{copy_sources, renumbered};
use raisin_table::{self as table, WriteTable as _};

/// Writes the kept instructions of the pool in `folder`, and its table `sources`, to which their column `source` refers.
/// The pool is read and written in parts.
pub fn write_kept(folder: &Path, kept: &BooleanArray, context: &Context) -> Result<()> {
    let path = folder.join("instructions.parquet");
    let (mut writer, mut read, mut written) = (None, 0, 0);
    for rows in table::batches(&path)? {
        let rows = rows?;
        ensure!(read + rows.num_rows() <= kept.len(), "{} has more rows than were looked at", path.display());
        let rows_kept = filter_record_batch(&rows, &kept.slice(read, rows.num_rows()))?;
        read += rows.num_rows();
        let ids = UInt32Array::from_iter_values(written..written + rows_kept.num_rows() as u32);
        written += rows_kept.num_rows() as u32;
        let part = renumbered(rows_kept, ids)?;
        if writer.is_none() {
            writer = Some(context.table_writer("instructions", part.schema())?);
        }
        if let Some(writer) = &mut writer {
            writer.write(&part)?;
        }
    }
    ensure!(read == kept.len(), "{} has fewer rows than were looked at", path.display());
    match writer {
        Some(writer) => writer.close()?,
        // A pool without a row.
        None => {
            let rows = table::read(&path)?;
            context.write_table("instructions", &renumbered(rows, UInt32Array::from(Vec::<u32>::new()))?)?;
        }
    }
    copy_sources(folder, &context.out())
}
