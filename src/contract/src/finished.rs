//! Finished parts of a long stage, saved in the work folder. If a stage starts again after a kill, the stage continues
//! after the last saved part. This file does not know the meaning of the parts; every run of an action must make its
//! parts in the same order.
//!
//! Each part is a [sealed](raisin_base::sealed) record. A part is used if its record and all records before it are
//! whole. Therefore nothing is synced: a part that a kill or a power failure tears is computed again.

use std::collections::VecDeque;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Context;
use raisin_base::error::Result;
use raisin_base::sealed::Records;

/// The parts of one phase of a stage.
pub struct FinishedParts<T> {
    records: Records,
    earlier: VecDeque<T>,
    kind: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> FinishedParts<T> {
    /// Opens the saved parts of a phase.
    pub fn open(context: &Context, phase: &str) -> Result<Self> {
        let path = context.work()?.join(format!("{phase}.parts"));
        let (records, earlier) = Records::open(&path, &|text| context.note(text), |record| {
            serde_json::from_slice(&record.read(0).ok()?).ok()
        })?;
        Ok(Self { records, earlier: earlier.into(), kind: PhantomData })
    }

    /// The next part. If an earlier run saved it, the saved part is returned; otherwise `make` computes the part, and
    /// the part is saved.
    pub fn next(&mut self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(part) = self.earlier.pop_front() {
            return Ok(part);
        }
        let part = make()?;
        self.records.append(&[&serde_json::to_vec(&part)?])?;
        Ok(part)
    }
}
