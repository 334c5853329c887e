//! The settings that a user writes, as plain data with documented defaults. The parameters of the stage kinds contain
//! these types, and the libraries that do the work take these types. So each setting is described once. This crate does
//! no work and uses no tensors.

pub mod adaptation;
pub mod corpus;
pub mod fields;
pub mod ppo;
pub mod schedule;
pub mod selection;
pub mod sequence;

pub use adaptation::{AdaptationMethod, AdaptationSettings, TARGETS};
pub use corpus::{ChoiceStyle, Extract, Family, Mix, RecordFormat, Scored, Split, TaskFormat};
pub use fields::{FieldNames, Mapping, Role};
pub use schedule::LearningRateSchedule;
pub use selection::{SelectionMethod, Third};
pub use sequence::{Overlong, SequenceLimit, default_max_tokens};
