//! The finished parts of a block of rows in the work folder, so that a killed pass continues after the last of them.

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::interleave::interleave_record_batch;
use serde::{Deserialize, Serialize};

use raisin_base::error::Result;
use raisin_base::sealed::Records;
use raisin_contract::Context;
use raisin_table as table;

/// The position of a part: a saved table with the rows of several batches.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Done {
    /// The first batch after the part.
    pub next: usize,
    /// The number of tokens of a forward pass after the part. Passes of another size would round differently.
    pub fits: usize,
}

/// Opens the saved parts of a block in the work folder, and reads the parts of earlier attempts.
pub fn open_parts(context: &Context, phase: &str, block: usize) -> Result<(Records, Vec<(Done, RecordBatch)>)> {
    let path = context.work()?.join(format!("{phase}-{block}.parts"));
    Records::open(&path, &|text| context.note(text), |record| {
        let done: Done = serde_json::from_slice(&record.read(0).ok()?).ok()?;
        Some((done, table::from_bytes(record.read(1).ok()?).ok()?))
    })
}

/// Saves a part.
pub fn save_part(records: &mut Records, done: Done, part: &RecordBatch) -> Result<()> {
    records.append(&[&serde_json::to_vec(&done)?, &table::to_bytes(part)?])?;
    records.sync()
}

/// The rows of all parts in one table, in the order of their ids. The rows are copied once only, because they are large.
pub fn in_id_order(parts: &[RecordBatch]) -> Result<RecordBatch> {
    let mut places = Vec::with_capacity(parts.iter().map(RecordBatch::num_rows).sum());
    for (number, part) in parts.iter().enumerate() {
        let ids: &UInt32Array = table::column(part, "id")?;
        places.extend(ids.values().iter().enumerate().map(|(row, &id)| (id, (number, row))));
    }
    places.sort_by_key(|&(id, _)| id);
    let places: Vec<(usize, usize)> = places.into_iter().map(|(_, place)| place).collect();
    Ok(interleave_record_batch(&parts.iter().collect::<Vec<_>>(), &places)?)
}
