//! Encodes the rows of a pool while the next ones are read.
//!
//! The rows come in parts. Each row group takes its parts in their order, in a task that runs as long as there are any, so
//! that rows are encoded while they are still in the cache of the processor. Several groups are encoded side by side if
//! rows come faster than one task encodes them. The bytes do not depend on how the tasks run.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_array::UInt32Array;
use rayon::{Scope, Yield};

use raisin_base::error::{Error, Result};
use raisin_contract::Context;
use raisin_corpus::pool::{BuiltRow, PoolBuilder, built_part};
use raisin_table::{EncodedGroup, GroupEncoder, LateWriter, PART, ROW_GROUP, RunningGroup, WriteTable as _};

/// The number of row groups whose parts may wait for their encoding while more rows are read: as many as there are threads
/// to encode them, but few, because they are in memory.
const GROUPS: RangeInclusive<usize> = 2..=4;

/// Writes the table `instructions` of a pool that has given no rows away.
pub fn write_pool(pool: PoolBuilder, context: &Context) -> Result<()> {
    let (rows, copies) = pool.into_built();
    let mut writer = pool_writer(context)?;
    encoded(writer.encoder(), rows)?.into_iter().try_for_each(|group| writer.push(group))?;
    close(writer, &copies)
}

/// A writer of the table `instructions`, of which the numbers of copies are known at the end.
pub fn pool_writer(context: &Context) -> Result<LateWriter> {
    context.late_writer("instructions", built_part(0, Vec::new())?.schema(), "duplicates")
}

/// Writes the table with the number of copies of each row.
pub fn close(writer: LateWriter, copies: &[u32]) -> Result<()> {
    writer.close(|rows| Arc::new(UInt32Array::from_iter_values(copies[rows].iter().copied())))
}

/// Encodes the rows of a whole pool.
pub fn encoded(encoder: GroupEncoder, rows: Vec<BuiltRow>) -> Result<Vec<EncodedGroup>> {
    let encoding = PoolEncoding::new(encoder);
    let mut rows = rows.into_iter();
    rayon::in_place_scope(|scope| {
        for first in (0..rows.len()).step_by(PART) {
            encoding.take(scope, first, rows.by_ref().take(PART).collect())?;
        }
        Ok::<_, Error>(())
    })?;
    encoding.finish()
}

pub struct PoolEncoding<'w> {
    encoder: GroupEncoder<'w>,
    groups: Mutex<BTreeMap<usize, Arc<Mutex<WaitingGroup>>>>,
    waiting: AtomicUsize,
    failure: Mutex<Option<Error>>,
}

#[derive(Default)]
struct WaitingGroup {
    /// The parts that are not encoded yet, each with the number of its first row.
    parts: VecDeque<(usize, Vec<BuiltRow>)>,
    is_running: bool,
    /// Missing before the first part, while a part is encoded, and at the end.
    running: Option<RunningGroup>,
    rows: usize,
    encoded: Option<EncodedGroup>,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'w> PoolEncoding<'w> {
    pub fn new(encoder: GroupEncoder<'w>) -> Self {
        Self { encoder, groups: Mutex::default(), waiting: AtomicUsize::new(0), failure: Mutex::default() }
    }

    /// Takes the next part, of which the first row has the number `first`. Waits if too many parts are not encoded yet.
    ///
    /// # Errors
    /// A part before could not be encoded.
    pub fn take<'s>(&'s self, scope: &Scope<'s>, first: usize, rows: Vec<BuiltRow>) -> Result<()> {
        let most = rayon::current_num_threads().clamp(*GROUPS.start(), *GROUPS.end()) * (ROW_GROUP / PART);
        while self.waiting.load(Ordering::Acquire) >= most {
            // This thread may be the only one, so that it has to encode.
            if rayon::yield_now() != Some(Yield::Executed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if let Some(failure) = locked(&self.failure).take() {
            return Err(failure);
        }
        let place = first / ROW_GROUP;
        let group = Arc::clone(locked(&self.groups).entry(place).or_default());
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let mut state = locked(&group);
        state.parts.push_back((first, rows));
        if !std::mem::replace(&mut state.is_running, true) {
            drop(state);
            scope.spawn(move |_| self.encode(place, &group));
        }
        Ok(())
    }

    /// Encodes the parts of a group until there is none. No other task may begin in the midst of it: that task could wait
    /// for this one.
    fn encode(&self, place: usize, group: &Mutex<WaitingGroup>) {
        loop {
            let mut state = locked(group);
            let Some((first, rows)) = state.parts.pop_front() else {
                state.is_running = false;
                return;
            };
            let running = state.running.take();
            state.rows += rows.len();
            let is_full = state.rows == ROW_GROUP;
            drop(state);
            let encoded = self.encode_part(place, running, first, rows, is_full);
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            match encoded {
                Ok((running, encoded)) => {
                    let mut state = locked(group);
                    (state.running, state.encoded) = (running, encoded);
                }
                Err(error) => {
                    locked(&self.failure).get_or_insert(error);
                }
            }
        }
    }

    fn encode_part(
        &self,
        place: usize,
        running: Option<RunningGroup>,
        first: usize,
        rows: Vec<BuiltRow>,
        is_full: bool,
    ) -> Result<(Option<RunningGroup>, Option<EncodedGroup>)> {
        let mut running = running.map_or_else(|| self.encoder.begin(place), Ok)?;
        running.add(&built_part(first, rows)?)?;
        Ok(if is_full { (None, Some(running.finish()?)) } else { (Some(running), None) })
    }

    /// The encoded groups in their order, after all tasks have ended.
    ///
    /// # Errors
    /// A part could not be encoded.
    pub fn finish(self) -> Result<Vec<EncodedGroup>> {
        if let Some(failure) = self.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(failure);
        }
        let groups = self.groups.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut encoded = Vec::with_capacity(groups.len());
        for group in groups.into_values() {
            let mut state = locked(&group);
            if let Some(running) = state.running.take() {
                encoded.push(running.finish()?);
            }
            encoded.extend(state.encoded.take());
        }
        Ok(encoded)
    }
}
