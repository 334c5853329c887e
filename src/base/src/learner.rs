//! The traits through which the selector reaches the model that learns: restore, step on a batch, evaluate. The crate
//! training implements the traits.
//!
//! The traits are small, so the tests train PPO against a toy learner with a known optimum, in milliseconds. An
//! [`Ensemble`] plays several episodes together: every episode takes step t before an episode takes step t + 1. A
//! single learner is an ensemble of one.

use crate::error::Result;

/// A model with which episodes are played.
///
/// # Contract
/// After [`restore`](Learner::restore), equal batches give equal performances. On the CPU, the performances are equal
/// bit for bit.
pub trait Learner {
    /// Restores the base model M_0 and returns its performance P(M_0).
    fn restore(&mut self) -> Result<f64>;

    /// Trains one step on the instructions with these ids.
    fn step(&mut self, batch: &[u32]) -> Result<StepReport>;

    /// The effect of each of these rows at the present state. The state of the learner does not change.
    fn effects(&mut self, rows: &[u32]) -> Result<Vec<RowEffect>>;

    /// P(M_t) on the validation set; higher is better. By default, P is minus the mean loss per response token.
    fn performance(&mut self) -> Result<f64>;
}

/// Learners of several episodes that are played together, step by step. Each episode has batches of its own.
///
/// # Contract
/// The contract of [`Learner`] holds for every episode. No episode learns from the batches of another episode.
pub trait Ensemble {
    fn episodes(&self) -> usize;

    /// Restores M_0 in every episode and returns P(M_0).
    fn restore_all(&mut self) -> Result<f64>;

    /// One step of every episode. `batches` has one batch for each episode.
    fn step_all(&mut self, batches: &[Vec<u32>]) -> Result<Vec<StepReport>>;

    /// The effects of rows in every episode; see [`Learner::effects`]. `rows` has the rows of each episode.
    fn effects(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<RowEffect>>>;

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

    fn step_all(&mut self, batches: &[Vec<u32>]) -> Result<Vec<StepReport>> {
        batches.iter().map(|batch| self.step(batch)).collect()
    }

    fn effects(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<RowEffect>>> {
        rows.iter().map(|rows| Learner::effects(self, rows)).collect()
    }

    fn performances(&mut self) -> Result<Vec<f64>> {
        Ok(vec![self.performance()?])
    }
}

/// What training on a row would do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowEffect {
    /// By how much a step on the mean loss of the row would raise P(M_t), to first order and in a common unit.
    pub effect: f64,
    /// The supervised tokens of the row: its weight in the loss of a batch, which is a mean over tokens.
    pub tokens: usize,
}

/// The report of one training step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Mean loss per supervised token, before the step.
    pub loss: f64,
    pub tokens: u64,
    pub supervised_tokens: u64,
    pub learning_rate: f64,
    pub flops: f64,
}
