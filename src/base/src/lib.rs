//! Types that every crate of raisin shares: errors, digests, seeds, the report on the machine, and the traits of the
//! learning model. The crates above this crate do the work.

pub mod allocator;
pub mod cache_only;
pub mod columns;
pub mod digest;
pub mod error;
pub mod files;
pub mod learner;
pub mod machine;
pub mod memory;
pub mod number;
pub mod panics;
pub mod printable;
pub mod random;
pub mod say;
pub mod sealed;
pub mod seed;
pub mod shell;
pub mod size;
pub mod stack;
