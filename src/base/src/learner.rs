//! The model that learns, as the selector sees it: restore, step on a batch, evaluate.
//!
//! So small that PPO is tested against a toy learner with a known optimum, in milliseconds. An [`Ensemble`] plays several
//! episodes in step with each other; a single learner is an ensemble of one.

use crate::error::Result;

/// A model that episodes are played with.
///
/// # Contract
/// After [`restore`](Learner::restore), the same batches give the same performances, on the CPU bit for bit.
pub trait Learner {
    /// Goes back to the base model M_0 and returns its performance P(M_0).
    fn restore(&mut self) -> Result<f64>;

    /// Trains one step on the instructions of these ids.
    fn step(&mut self, batch: &[u32]) -> Result<Trained>;

    /// P(M_t) on the validation set, higher is better; by default minus the mean loss per response token.
    fn performance(&mut self) -> Result<f64>;
}

/// Learners of several episodes that are played in step with each other, each on batches of its own.
///
/// # Contract
/// That of [`Learner`], for every episode. No episode learns from another's batches.
pub trait Ensemble {
    fn episodes(&self) -> usize;

    /// Puts every episode back to M_0 and returns P(M_0).
    fn restore_all(&mut self) -> Result<f64>;

    /// One step of every episode; `batches` has one batch for each.
    fn step_all(&mut self, batches: &[Vec<u32>]) -> Result<Vec<Trained>>;

    /// P(M_t) of every episode.
    fn performances(&mut self) -> Result<Vec<f64>>;
}

impl<L: Learner> Ensemble for L {
    fn episodes(&self) -> usize {
        1
    }

    fn restore_all(&mut self) -> Result<f64> {
        self.restore()
    }

    fn step_all(&mut self, batches: &[Vec<u32>]) -> Result<Vec<Trained>> {
        batches.iter().map(|batch| self.step(batch)).collect()
    }

    fn performances(&mut self) -> Result<Vec<f64>> {
        Ok(vec![self.performance()?])
    }
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
