//! Torture tests: harm a cache on purpose in every way that can happen. A short form runs with the other tests; `just
//! torture` runs the full counts and prints them. docs/reliability.md has the results.
//!
//! All tests use the real executables. Random choices are seeded: another RAISIN_TORTURE_SEED gives other instants and
//! bytes.

mod checkpoints;
mod faults;
mod golden_digests;
mod journal;
mod kills;
mod machines;
mod many;
mod memory;
mod model;
mod opens;
mod panics;
mod release;
mod repair;
mod rights;
mod space;
mod world;
mod wrong;
