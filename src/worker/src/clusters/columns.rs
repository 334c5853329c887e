//! Joins the columns of other stages, such as `influence` stages, to the features of the rows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Float32Array, RecordBatch, UInt32Array};
use arrow_schema::DataType;
use serde_json::Value;

use super::StateColumn;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::Context;
use raisin_kinds::clusters::Parameters;
use raisin_table as table;

use crate::selecting::columns_of;

/// The rows of the features with the columns of each stage of `columns`, and the names of these columns, such as
/// `influence.loss`. The artifact gets a reference to each stage. A row without a number gets a null, which is counted in
/// a note.
///
/// # Errors
/// Two stages give columns of the same name, or the columns belong to another pool.
pub fn join(features: RecordBatch, parameters: &Parameters, context: &Context) -> Result<(RecordBatch, Vec<String>)> {
    let mut joined = Vec::new();
    let mut all: Vec<(String, ArrayRef)> = Vec::new();
    for (place, stage) in parameters.columns.iter().enumerate() {
        let pointer = format!("/columns/{place}");
        let folder = context.input(&pointer)?;
        let rows = table::read(&columns_of(folder, stage)?)?;
        let prefix = prefix(folder)?;
        if prefix == "filter" && parameters.instructions.is_some() && folder != context.input("/instructions")? {
            let problem = format!("`{stage}` gives columns of its own rows, and `instructions` names another pool");
            return Err(Problem::new(problem).hint(format!("set instructions = \"{stage}\" in all stages")).into());
        }
        let placed = ColumnPlaces::find(&features, &rows, stage)?;
        for (field, values) in rows.schema().fields().iter().zip(rows.columns()) {
            let Some(values) = values.as_any().downcast_ref().filter(|_| *field.data_type() == DataType::Float32)
            else {
                continue;
            };
            let name = format!("{prefix}.{}", field.name());
            if joined.contains(&name) {
                let problem = format!("two stages of `columns` give the column `{name}`; the second is `{stage}`");
                return Err(Problem::new(problem).hint("name one stage of each kind").into());
            }
            let values = placed.values(values);
            if values.null_count() > 0 {
                let (missing, of) = (values.null_count(), values.len());
                context.note(format!("{missing} of {of} instructions have no `{name}`, and are no candidates"));
            }
            all.push((name.clone(), Arc::new(values)));
            joined.push(name);
        }
        context.add_reference(&prefix, folder)?;
    }
    if joined.is_empty() {
        return Ok((features, joined));
    }
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    let schema = features.schema();
    columns
        .extend(schema.fields().iter().zip(features.columns()).map(|(field, it)| (field.name().as_str(), it.clone())));
    columns.extend(all.iter().map(|(name, values)| (name.as_str(), values.clone())));
    Ok((table::batch(columns)?, joined))
}

/// The joined columns of the candidates, for the state. `rows` has no null in them.
pub fn of_state(rows: &RecordBatch, joined: Vec<String>) -> Result<Vec<StateColumn>> {
    let column = |name: String| -> Result<StateColumn> {
        let values: &Float32Array = table::column(rows, &name)?;
        let values = values.values().iter().copied().map(f64::from).collect();
        Ok(StateColumn { name, values })
    };
    joined.into_iter().map(column).collect()
}

/// The name of the kind that made an artifact with columns: the `pass` of its summary.
fn prefix(folder: &Path) -> Result<String> {
    let path = folder.join("summary.json");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let summary: Value = serde_json::from_slice(&bytes).with_context(|| format!("cannot read {}", path.display()))?;
    let pass = summary["pass"].as_str().with_context(|| format!("{} does not name its `pass`", path.display()))?;
    Ok(pass.to_owned())
}

/// The place of each row of the features in a table of columns.
struct ColumnPlaces(Vec<Option<usize>>);

impl ColumnPlaces {
    fn find(features: &RecordBatch, columns: &RecordBatch, stage: &str) -> Result<Self> {
        let (wanted, ids): (&UInt32Array, &UInt32Array) =
            (table::column(features, "id")?, table::column(columns, "id")?);
        let places: BTreeMap<u32, usize> = ids.values().iter().copied().zip(0..).collect();
        if places.len() != wanted.len() || wanted.values().iter().any(|id| !places.contains_key(id)) {
            let problem = format!(
                "`{stage}` has columns of {} instructions, but the features are of {} instructions",
                places.len(),
                wanted.len()
            );
            return Err(Problem::new(problem).hint("name the same `instructions` in both stages").into());
        }
        Ok(Self(wanted.values().iter().map(|id| places.get(id).copied()).collect()))
    }

    fn values(&self, column: &Float32Array) -> Float32Array {
        // A query can give an infinite number; no state can hold it.
        let value = |row: usize| column.is_valid(row).then(|| column.value(row)).filter(|value| value.is_finite());
        self.0.iter().map(|place| place.and_then(value)).collect()
    }
}
