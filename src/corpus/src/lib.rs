//! Instructions and task examples: readers for each format, chat templates, tokens. This crate does not use models or
//! pipelines.
//!
//! A file is read as [`RawRecord`](records::RawRecord)s, a record as an [`Instruction`] or an [`Example`], and a [`Codec`]
//! encodes these as the token [`Sequence`]s on which a language model is trained. A wrong record becomes a
//! [`Reject`](intake::Reject), a row of the table `rejects`; it does not end the build.

pub mod artifact;
pub mod byte_tokenizer;
pub mod codec;
pub mod digests;
pub mod encoded;
pub mod finding;
pub mod fit;
pub mod formats;
pub mod frame;
pub mod intake;
pub mod left_out;
pub mod marks;
pub mod message;
pub mod near;
pub mod overlap;
pub mod placement;
pub mod pool;
mod python_json;
pub mod quality;
pub mod questions;
pub mod records;
pub mod replace;
pub mod seen;
pub mod set;
pub mod synthetic;
pub mod template;
mod template_size;

pub use artifact::{for_each_part, read_instructions, read_task};
pub use codec::{Codec, Sequence};
pub use encoded::SharedTokens;
pub use finding::{Encoded, Finding, FindingKind};
pub use message::{Example, Instruction, Message, ScoringRule, Task};
pub use raisin_settings::{Extract, Scored};
