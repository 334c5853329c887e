//! The contract between engine and stages. The engine knows a kind only by its [`Declaration`], and a running stage
//! knows its environment only by its [`Context`]. The kinds themselves are in src/kinds.
//!
//! | module | concern |
//! |---|---|
//! | [`action`] | the action of a stage; the action key is its digest |
//! | [`cluster`] | what `raisin cluster` passes to `raisin-cluster` |
//! | [`declaration`] | the declaration of a kind: parameters, needs, checks |
//! | [`diff`] | what `raisin diff` asks about pairs of artifacts |
//! | [`context`] | the context of a running stage: inputs, folders, seed, events |
//! | [`outputs`] | what a kind declares about its tables and files, and examples |
//! | [`serve`] | the loop of a worker |
//! | [`finished`] | finished parts of a long stage, which survive a kill |
//! | [`live`] | what a running stage has told, for another process |
//! | [`look`] | what `raisin init` asks about files of data and models |
//! | [`memory`] | the limit of the memory of a running stage |
//! | [`pointer`] | JSON pointers to parameters |
//! | [`query`] | the query that `raisin` passes to `raisin-sql` |
//! | [`remote`] | what `raisin` and `raisin-remote` say to each other |
//! | [`results`] | what a stage measured, for the end of a build |
//! | [`threads`] | the thread pool of a stage |
//! | [`ui`] | the question of `raisin ui`, and graphs of stages |

pub mod action;
pub mod cluster;
pub mod context;
pub mod declaration;
pub mod diff;
pub mod explain;
pub mod finished;
pub mod flight;
pub mod live;
pub mod look;
pub mod memory;
pub mod outputs;
pub mod pointer;
pub mod query;
pub mod remote;
pub mod results;
pub mod serve;
mod setup;
pub mod threads;
pub mod track;
pub mod ui;

pub use action::{ACTION_FORMAT, Action, GatheredArtifact, Input, NumericEnvironment, Part};
pub use context::{
    Assignment, Context, Cost, DType, DeviceKind, Environment, Event, InputArtifact, MeasuredValues, Progress,
    REFERENCES, referenced, references,
};
pub use declaration::{
    Declaration, FileNeed, Kind, Needs, ParameterProblem, PrintedNeed, Process, RefusedFile, ResolvedParameters,
    StageMention, StageNeed,
};
pub use serve::KindRunner;
pub use setup::{PipelineSetup, SETUP, StageSetup};
