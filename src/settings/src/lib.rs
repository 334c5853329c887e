//! The settings that a person writes, as plain data with documented defaults. The libraries that do the work take these very
//! structs, and the stage kinds have them among their parameters: each setting is described once. No work, no tensors.

pub mod adaptation;
pub mod corpus;
pub mod ppo;
pub mod schedule;
pub mod selection;

pub use adaptation::{AdaptationMethod, AdaptationSettings};
pub use corpus::{Extract, Family, Format, Scored, Split, Style, TaskFormat};
pub use schedule::Schedule;
pub use selection::{Method, Third};
