//! The declaration of each stage kind: parameters, inputs, checks and schema, one file for each kind. `raisin` knows
//! the kinds from this crate only. The function `run` of a kind lies in the crate of its executable
//! ([`Kind::PROCESS`]): `src/data`, `src/worker` or `src/query`.

pub mod clusters;
pub mod command;
pub mod dedup;
pub mod evaluate;
pub mod export;
pub mod features;
pub mod filter;
pub mod finetune;
pub mod generate;
pub mod influence;
pub mod ingest;
pub mod mix;
pub mod model;
mod numbers;
pub mod outputs;
pub mod overlap;
pub mod pretrain;
mod queried;
pub mod report;
pub mod selector;
pub mod sql;
pub mod syntax;
pub mod task;
pub mod track;

use raisin_base::error::Context as _;
pub use raisin_contract::Kind;
use raisin_contract::outputs::TableDeclaration;
use raisin_contract::{Assignment, Context, Declaration, Needs, ParameterProblem, Process};

/// All kinds, first those that need no tensors.
pub static KINDS: &[Declaration] = &[
    Declaration::of::<ingest::IngestKind>(),
    Declaration::of::<generate::GenerateKind>(),
    Declaration::of::<task::TaskKind>(),
    Declaration::of::<overlap::OverlapKind>(),
    Declaration::of::<mix::MixKind>(),
    Declaration::of::<dedup::DedupKind>(),
    Declaration::of::<filter::FilterKind>(),
    Declaration::of::<command::CommandKind>(),
    Declaration::of::<export::ExportKind>(),
    Declaration::of::<sql::SqlKind>(),
    Declaration::of::<report::ReportKind>(),
    Declaration::of::<track::TrackKind>(),
    Declaration::of::<model::ModelKind>(),
    Declaration::of::<pretrain::PretrainKind>(),
    Declaration::of::<features::FeaturesKind>(),
    Declaration::of::<influence::InfluenceKind>(),
    Declaration::of::<clusters::ClustersKind>(),
    Declaration::of::<selector::SelectorKind>(),
    Declaration::of::<finetune::FinetuneKind>(),
    Declaration::of::<evaluate::EvaluateKind>(),
];

/// The declaration of the kind with this name.
pub fn declaration(name: &str) -> Option<&'static Declaration> {
    KINDS.iter().find(|declaration| declaration.name == name)
}

/// The meaning of a column of a table of a kind, with when it is null; `None` if the kind declares no such column.
pub fn meaning(kind: &str, table: &str, column: &str) -> Option<String> {
    let tables = declaration(kind)?.outputs.tables.iter().filter(|declared| declared.name == table);
    let mut columns = tables.flat_map(TableDeclaration::columns);
    Some(columns.find(|declared| declared.name == column)?.sentence())
}

/// The names of the kinds that an executable runs. The registry of the executable must contain exactly these kinds.
pub fn kinds_of(process: Process) -> Vec<&'static str> {
    KINDS.iter().filter(|declaration| declaration.process == process).map(|declaration| declaration.name).collect()
}

/// For tests: a silent context that holds the stage to the tables that its kind declares.
///
/// # Errors
/// There is no such kind, or the folder of the stage cannot be written.
#[doc(hidden)]
pub fn context_for_test(assignment: Assignment) -> raisin_base::error::Result<Context> {
    let kind = declaration(&assignment.kind).with_context(|| format!("there is no kind `{}`", assignment.kind))?;
    Ok(Context::silent(assignment)?.held_to(kind.outputs))
}

/// For serde: the default of a count or a size.
pub(crate) fn number<const N: usize>() -> usize {
    N
}

/// For serde: a switch that is off is not written. The keys of actions from before the switch existed therefore stay
/// valid.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_off(switch: &bool) -> bool {
    !switch
}

/// Refuses a list that names an entry twice; `name` is how the user writes an entry.
///
/// # Errors
/// The problem points at the second mention.
pub(crate) fn check_distinct<T: PartialEq>(
    at: &str,
    entries: &[T],
    name: impl Fn(&T) -> String,
) -> Result<(), ParameterProblem> {
    match (1..entries.len()).find(|&place| entries[..place].contains(&entries[place])) {
        None => Ok(()),
        Some(place) => {
            let message = format!("`{}` is named twice", name(&entries[place]));
            Err(ParameterProblem::new(format!("{at}/{place}"), message).hint("name each entry once"))
        }
    }
}

/// Adds the stages that a gathering kind names in its parameter `of`. `by_name`: whether the result depends on the name
/// of a stage.
pub(crate) fn need_all(of: &[String], needs: &mut Needs, by_name: impl Fn(&str) -> bool) {
    for (place, stage) in of.iter().enumerate() {
        needs.stage_of_query(format!("/of/{place}"), stage, None, by_name(stage));
    }
}

/// Refuses a parameter `of` without a stage, and a stage that is named twice: its rows would count twice.
pub(crate) fn check_of(of: &[String], message: &str, hint: &str) -> Result<(), ParameterProblem> {
    if of.is_empty() {
        return Err(ParameterProblem::new("/of", message).hint(hint));
    }
    check_distinct("/of", of, String::clone)
}

/// The word by which a pipeline file names a value of an enumeration.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
