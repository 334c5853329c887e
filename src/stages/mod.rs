//! The stage kinds: one file each, and one line each in the registry below.
//!
//! The registry has two halves, because `raisin` must never load libtorch: declarations of all kinds are in both
//! executables; the code that runs a tensor kind is reachable from `raisin-worker` only, and the linker leaves it
//! (and libtorch with it) out of `raisin`.

pub mod context;
pub mod finished;
#[cfg(test)]
pub mod fixture;
pub mod kind;
pub mod learning;
pub mod selecting;
pub mod threads;

use std::io::Write as _;

pub use context::{Assignment, Context, Cost, DType, DeviceKind, Environment, Event, Progress, Source, referenced};
pub use kind::{Declaration, FileNeed, Kind, Needs, ParameterProblem, Process, Resolved, StageNeed};

use crate::error::{Context as _, Error, Result, anyhow, render};

macro_rules! registry {
    (light: $($light:ident :: $LightKind:ident),* ; tensor: $($tensor:ident :: $TensorKind:ident),* $(;)?) => {
        $(pub mod $light;)*
        $(pub mod $tensor;)*

        /// Every kind there is.
        pub static KINDS: &[Declaration] = &[
            $(Declaration::of::<$light::$LightKind>(),)*
            $(Declaration::of::<$tensor::$TensorKind>(),)*
        ];

        /// Runs an assignment of a light kind.
        pub fn run_light(assignment: Assignment) -> Result<()> {
            match assignment.kind.as_str() {
                $($light::$LightKind::NAME => run_as::<$light::$LightKind>(assignment),)*
                other => Err(anyhow!("`{other}` is not a kind that runs without tensors")),
            }
        }

        /// Runs an assignment of a tensor kind. Not to be called from `raisin`: it needs libtorch.
        pub fn run_tensor(assignment: Assignment) -> Result<()> {
            match assignment.kind.as_str() {
                $($tensor::$TensorKind::NAME => run_as::<$tensor::$TensorKind>(assignment),)*
                other => Err(anyhow!("`{other}` is not a tensor kind")),
            }
        }
    };
}

registry! {
    light: ingest::Ingest, generate::Generate, task::Task, overlap::Overlap, sql::Sql, report::Report;
    tensor: model::Model, pretrain::Pretrain, features::Features, clusters::Clusters, selector::Selector, finetune::Finetune, evaluate::Evaluate;
}

/// The kind of this name.
pub fn declaration(name: &str) -> Option<&'static Declaration> {
    KINDS.iter().find(|declaration| declaration.name == name)
}

/// What a stage's process says before it ends in an error: on standard error, which is its log; where that takes nothing
/// any more, because the disk is full, as an event.
pub fn last_words(error: &Error) {
    let text = render(error);
    let told = writeln!(std::io::stderr(), "{text}");
    if told.is_err()
        && let Ok(event) = serde_json::to_string(&Event::Note { text })
    {
        let _ = writeln!(std::io::stdout(), "{event}");
    }
}

fn run_as<K: Kind>(assignment: Assignment) -> Result<()> {
    let stage = assignment.stage.clone();
    let parameters: K::Parameters = serde_json::from_value(assignment.parameters.clone())
        .with_context(|| format!("the assignment of stage `{stage}` has unreadable parameters"))?;
    K::run(parameters, &Context::new(assignment)?)
}
