//! What may happen to a cache, done to it on purpose. A short form runs with the other tests; `just torture` runs the
//! full counts and prints them. docs/reliability.md has the results.
//!
//! Everything goes through the real executables. Chance is seeded: RAISIN_TORTURE_SEED gives other instants.

mod faults;
mod kills;
mod many;
mod pinned;
mod rights;
mod space;
mod world;
mod wrong;
