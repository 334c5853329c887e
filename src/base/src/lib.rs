//! The words that every crate of raisin shares. Leaves everything that is done with them to the crates above.

pub mod digest;
pub mod error;
pub mod learner;
pub mod machine;
pub mod seed;
