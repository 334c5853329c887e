//! raisin: learn which instructions to fine-tune a language model on.
//!
//! The rooms, from the bottom up; each knows only the ones below it. docs/design.md tells why.
//!
//! | room | concern |
//! |---|---|
//! | [`error`], [`digest`], [`seed`], [`table`], [`machine`] | words that every room uses |
//! | [`corpus`] | instruction examples: readers, rendering, tokens |
//! | [`lm`] | the language model: config, weights, forward pass, LoRA, generation |
//! | [`training`] | the fine-tuning loop: optimizer, schedule, evaluation, checkpoints |
//! | [`selector`] | RAISE: state, policy, PPO, episodes; the baseline choosers |
//! | [`store`] | artifacts and action records on disk |
//! | [`stages`] | one file per stage kind |
//! | [`pipeline`] | what the user wrote, resolved and checked |
//! | [`engine`] | action keys, planning, scheduling, worker processes |
//! | [`query`], [`report`] | SQL over all of it; HTML |
//! | [`cli`] | one small file per command |

pub mod cli;
pub mod corpus;
pub mod digest;
pub mod engine;
pub mod error;
pub mod lm;
pub mod machine;
pub mod pipeline;
pub mod query;
pub mod report;
pub mod seed;
pub mod selector;
pub mod stages;
pub mod store;
pub mod table;
pub mod training;
