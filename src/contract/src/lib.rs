//! What the engine and the stages agree on. The engine knows stage kinds only through [`Declaration`], and a stage knows its
//! surroundings only through [`Context`].
//!
//! | module | concern |
//! |---|---|
//! | [`action`] | what a stage is made from: the value that an action key is the digest of |
//! | [`declaration`] | what a kind declares: parameters, inputs, checks |
//! | [`context`] | what a running stage sees: inputs, folders, seed; and what it tells: progress, notes, costs |
//! | [`serve`] | the loop of a worker process |
//! | [`finished`] | finished parts of a long stage, kept over a kill |
//! | [`query`] | what `raisin` asks `raisin-sql` |

pub mod action;
pub mod context;
pub mod declaration;
pub mod finished;
pub mod query;
pub mod serve;
pub mod threads;

pub use action::{ACTION_FORMAT, Action, Gathered, Input, NumericEnvironment, Part};
pub use context::{
    Assignment, Context, Cost, DType, DeviceKind, Environment, Event, InputArtifact, Progress, REFERENCES, referenced,
    references,
};
pub use declaration::{Declaration, FileNeed, Kind, Needs, ParameterProblem, Process, Resolved, StageNeed};
pub use serve::KindRunner;
