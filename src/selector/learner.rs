//! The model that learns, as the selector sees it: restore, step on a batch, evaluate.
//!
//! So small that PPO is tested against a toy learner with a known optimum, in milliseconds.

use crate::error::Result;

/// A model that episodes are played with.
///
/// # Contract
/// After [`restore`](Learner::restore), the same batches give the same performances, bit for bit.
pub trait Learner {
    /// Goes back to the base model M_0 and returns its performance P(M_0).
    fn restore(&mut self) -> Result<f64>;

    /// Trains one step on the instructions of these ids.
    fn step(&mut self, batch: &[u32]) -> Result<Trained>;

    /// P(M_t) on the validation set, higher is better; by default minus the mean loss per response token.
    fn performance(&mut self) -> Result<f64>;
}

/// What one training step reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trained {
    /// Mean per supervised token, before the step.
    pub loss: f64,
    pub tokens: u64,
    pub supervised_tokens: u64,
    pub learning_rate: f64,
    pub flops: f64,
}
