//! What each stage kind declares: parameters, inputs, checks and schema, one file a kind. `raisin` knows every kind from
//! here and contains none of the work. How a kind runs is a function `run` in `src/data`, `src/worker` or `src/query`,
//! whichever [`Kind::PROCESS`] names.

pub mod clusters;
pub mod evaluate;
pub mod features;
pub mod finetune;
pub mod generate;
pub mod ingest;
pub mod model;
pub mod overlap;
pub mod pretrain;
pub mod report;
pub mod selector;
pub mod sql;
pub mod syntax;
pub mod task;

pub use raisin_contract::Kind;
use raisin_contract::{Declaration, Process};

/// Every kind there is, those without tensors first.
pub static KINDS: &[Declaration] = &[
    Declaration::of::<ingest::Ingest>(),
    Declaration::of::<generate::Generate>(),
    Declaration::of::<task::Task>(),
    Declaration::of::<overlap::Overlap>(),
    Declaration::of::<sql::Sql>(),
    Declaration::of::<report::Report>(),
    Declaration::of::<model::Model>(),
    Declaration::of::<pretrain::Pretrain>(),
    Declaration::of::<features::Features>(),
    Declaration::of::<clusters::Clusters>(),
    Declaration::of::<selector::Selector>(),
    Declaration::of::<finetune::Finetune>(),
    Declaration::of::<evaluate::Evaluate>(),
];

/// The kind of this name.
pub fn declaration(name: &str) -> Option<&'static Declaration> {
    KINDS.iter().find(|declaration| declaration.name == name)
}

/// The names of the kinds that an executable runs: its registry must have exactly these.
pub fn kinds_of(process: Process) -> Vec<&'static str> {
    KINDS.iter().filter(|declaration| declaration.process == process).map(|declaration| declaration.name).collect()
}

/// For serde: a switch that is off is not written, so that keys from before the switch existed stay as they were.
pub(crate) fn is_off(switch: &bool) -> bool {
    !switch
}
