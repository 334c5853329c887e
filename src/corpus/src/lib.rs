//! Instruction examples: readers for each format, rendering, tokens. Knows nothing of models or pipelines.
//!
//! Files become [`Record`](records::Record)s, records become [`Instruction`]s or [`Example`]s, and a [`Codec`] turns
//! those into the token [`Sequence`]s that a language model is trained on. What is wrong with a record is a
//! [`Reject`](pool::Reject): a row of a table, never the end of a build.

pub mod artifact;
pub mod byte_tokenizer;
pub mod codec;
pub mod draw;
pub mod formats;
pub mod left_out;
pub mod message;
pub mod overlap;
pub mod parquet_rows;
pub mod pool;
mod python_json;
pub mod questions;
pub mod records;
pub mod synthetic;
pub mod template;

pub use artifact::{read_instructions, read_task};
pub use codec::{Codec, Sequence};
pub use message::{Example, Instruction, Message, Scoring, Task};
pub use raisin_settings::{Extract, Scored};
