//! The fine-tuning loop: batches, optimizer, evaluation, checkpoints, and the episodes of the selector. The crate takes
//! a model and token sequences; it uses neither pipelines nor the store nor Parquet.
//!
//! | file | concern |
//! |---|---|
//! | [`trainer`] | one step: micro-batches, gradients, clipping, update |
//! | [`adamw`] | the optimizer over one flat buffer; its state can be saved |
//! | [`look_ahead`] | the effect of each row on the validation loss |
//! | [`pool`] | the rows that can be trained on, encoded once, with the hidden states of a frozen prefix |
//! | [`row_gradient`] | gradients of single rows, scaled as Adam scales them |
//! | [`validation`] | the loss of a fixed set of sequences |
//! | [`episode`] | the learners of one episode or of several |
//! | [`checkpoint`] | tensors and counters in one sealed file |
//! | [`account`] | tokens, FLOPs, time and memory of training |
//! | [`meter`] | time and peak memory of one phase |
//! | [`scoring`] | the scores of multiple choice and of generated answers |

pub mod account;
pub mod adamw;
pub mod checkpoint;
pub mod episode;
pub mod look_ahead;
pub mod meter;
pub mod pool;
pub mod row_gradient;
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
pub use row_gradient::AdamScale;
pub use trainer::{ParameterState, Snapshot, StepOutcome, Trainer, TrainerConfig, TrainingRows};
pub use validation::ValidationSet;
