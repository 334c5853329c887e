//! Remembers walks over the same bytes, so that the time for damaged text grows with its size and not with its square.
//!
//! A walk that fails fails for all objects that are open there: a walk that begins at one of them is a part of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::scan::RecordWalk;

/// A smaller object is walked over again.
const SMALLEST: usize = 64;

/// The outcomes of walks, by the position at which an object begins. They hold for the same bytes and the same end.
#[derive(Default)]
pub struct Walks {
    known: RefCell<HashMap<usize, RecordWalk>>,
    /// The number of bytes of failing objects that may be walked over again for their fields.
    again: Cell<usize>,
}

impl Walks {
    pub fn of(bytes: &[u8]) -> Self {
        Self { known: RefCell::default(), again: Cell::new(bytes.len()) }
    }

    pub fn at(&self, start: usize) -> Option<RecordWalk> {
        self.known.borrow().get(&start).copied()
    }

    /// The outcome at `start`, if the fields of the object need not or cannot be looked at again.
    pub fn outcome(&self, start: usize, needs_fields: bool) -> Option<RecordWalk> {
        let known = self.at(start)?;
        let is_whole = matches!(known, RecordWalk::Whole(_));
        (!needs_fields || !is_whole && self.again.get() == 0).then_some(known)
    }

    /// Notes that a walk from `start` met a byte at `end` that ends it.
    pub fn failed(&self, open: &[usize], found: RecordWalk, start: usize, end: usize) {
        let mut known = self.known.borrow_mut();
        if known.contains_key(&start) {
            self.again.set(self.again.get().saturating_sub(end - start));
            return;
        }
        known.extend(open.iter().map(|at| (*at, found)));
    }

    pub fn ended(&self, start: usize, end: usize) {
        if end - start >= SMALLEST {
            self.known.borrow_mut().insert(start, RecordWalk::Whole(end));
        }
    }
}
