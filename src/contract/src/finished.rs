//! What a long stage has finished, part by part, in its work folder: a stage that is started again after a kill takes it
//! up. It knows nothing of what the parts mean; they come in the same order in every run of an action.
//!
//! Each part is a [sealed](raisin_base::sealed) record. A part counts if its record and all before it are whole, so nothing
//! is synced: what a kill or a loss of power tears is computed again.

use std::collections::VecDeque;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Context;
use raisin_base::error::Result;
use raisin_base::sealed::Records;

/// The parts of one phase of a stage.
pub struct Finished<T> {
    records: Records,
    earlier: VecDeque<T>,
    kind: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Finished<T> {
    /// What earlier attempts have left of this phase.
    pub fn open(context: &Context, phase: &str) -> Result<Self> {
        let path = context.work()?.join(format!("{phase}.parts"));
        let (records, earlier) = Records::open(&path, &|text| context.note(text), |record| {
            serde_json::from_slice(&record.read(0).ok()?).ok()
        })?;
        Ok(Self { records, earlier: earlier.into(), kind: PhantomData })
    }

    /// The next part, from an earlier attempt or else from `make`, and then put aside.
    pub fn next(&mut self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(part) = self.earlier.pop_front() {
            return Ok(part);
        }
        let part = make()?;
        self.records.append(&[&serde_json::to_vec(&part)?])?;
        Ok(part)
    }
}
