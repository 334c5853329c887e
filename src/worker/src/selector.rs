//! Runs a stage of kind `selector`. The crate raisin-selector plays the episodes and updates the policy.

mod run;
mod tables;
#[cfg(test)]
mod tests;

pub use run::run;
