//! The memory pool of a query. The pool also notes whether the memory was ever short: operators then write rows to the
//! disk or pass groups on early, and the order of rows that no ORDER BY orders can depend on the limit.

use std::fmt::{self, Display};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::error::Result;
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
};

#[derive(Debug)]
pub struct QueryPool {
    pool: TrackConsumersPool<FairSpillPool>,
    was_short: AtomicBool,
}

impl QueryPool {
    /// A pool of this many bytes.
    pub fn new(bytes: usize) -> Self {
        let pool = TrackConsumersPool::new(FairSpillPool::new(bytes), NonZeroUsize::MIN);
        Self { pool, was_short: AtomicBool::new(false) }
    }

    /// Whether the pool has refused memory to an operator.
    pub fn was_short(&self) -> bool {
        self.was_short.load(Ordering::Relaxed)
    }
}

impl Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pool.fmt(f)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        self.pool.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.pool.try_grow(reservation, additional).inspect_err(|_| self.was_short.store(true, Ordering::Relaxed))
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}
