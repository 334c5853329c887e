//! Runs a `selector` stage. Leaves the learning itself to raisin-selector.

mod run;
mod tables;
#[cfg(test)]
mod tests;

pub use run::run;
