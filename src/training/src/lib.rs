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
//! | [`episode`] | the learner that PPO plays with |
//! | [`side_by_side`] | the same for several episodes at once |
//! | [`checkpoint`] | tensors and a JSON state in one file, replaced whole |
//! | [`memory`] | what the phases of the work take |
//! | [`scoring`] | multiple choice and match by generation |

pub mod adamw;
pub mod checkpoint;
pub mod episode;
pub mod memory;
pub mod pool;
pub mod scoring;
pub mod side_by_side;
pub mod trainer;
pub mod validation;

pub use adamw::{AdamW, AdamWConfig};
pub use checkpoint::Checkpoints;
pub use episode::EpisodeLearner;
pub use memory::{Meter, Phase};
pub use pool::Pool;
pub use raisin_settings::Schedule;
pub use side_by_side::SideBySide;
pub use trainer::{ParameterState, Phases, Snapshot, StepOutcome, Trainer, TrainerConfig};
pub use validation::ValidationSet;
