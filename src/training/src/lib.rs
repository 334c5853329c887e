//! The fine-tuning loop: optimizer, schedule, batches, evaluation, checkpoints, episodes.
//! Knows nothing of pipelines, store or Parquet: it takes a model and token sequences, and is usable as a library.
//!
//! | file | concern |
//! |---|---|
//! | [`adamw`] | the optimizer over one flat buffer, its state open to saving |
//! | [`schedule`] | the learning rate at a step |
//! | [`settings`] | what a person may set of all this |
//! | [`trainer`] | one update step: micro-batches, gradients, clipping, the update |
//! | [`pool`] | the rows that can be trained on, encoded once, with the hidden states of a frozen prefix |
//! | [`validation`] | a fixed set of sequences, laid out once, and its loss |
//! | [`episode`] | the learner that PPO plays with: one episode, or several side by side |
//! | [`checkpoint`] | tensors and what belongs to them in one sealed file, replaced whole |
//! | [`account`] | what training has taken |
//! | [`memory`] | how much a phase of the work took at its highest |
//! | [`scoring`] | multiple choice and match by generation |

pub mod account;
pub mod adamw;
pub mod checkpoint;
pub mod episode;
pub mod meter;
pub mod pool;
pub mod scoring;
pub mod trainer;
pub mod validation;

pub use account::{Account, CostCounter, Phases};
pub use adamw::{AdamW, AdamWConfig};
pub use checkpoint::Checkpoints;
pub use episode::Episodes;
pub use meter::{Meter, PhaseUse};
pub use pool::TrainingPool;
pub use raisin_settings::LearningRateSchedule;
pub use trainer::{ParameterState, Snapshot, StepOutcome, Trainer, TrainerConfig, TrainingRows};
pub use validation::ValidationSet;
