//! Runs a stage of kind `export`: writes the selected instructions for other training programs. form.rs writes a
//! conversation in each form, settings.rs the settings of the programs.

mod form;
mod settings;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, ListArray, StringArray, UInt32Array};
use serde_json::{Map, Value};

use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::files::if_there;
use raisin_contract::Context;
use raisin_corpus::intake::counted;
use raisin_corpus::set::{read_source_names, set_columns};
use raisin_corpus::{Instruction, read_instructions};
use raisin_kinds::export::{ExportForm, Parameters};
use raisin_table::{self as table, WriteTable as _};

/// A row of the files.
struct ExportedRow {
    id: u32,
    step: u32,
    weight: u32,
}

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let folder = context.input("/selection")?;
    check_is_of_the_pool(folder)?;
    let choices = choices(folder)?;
    let rows = if parameters.repeat { repeated(&choices) } else { weighted(&choices) };
    let folder = context.input("/instructions")?;
    let pool = read_instructions(folder)?;
    let set = SetValues::read(folder)?;
    for form in &parameters.forms {
        write(*form, &rows, &pool, &set, context)?;
    }
    let column =
        |of: fn(&ExportedRow) -> u32| -> ArrayRef { Arc::new(UInt32Array::from_iter_values(rows.iter().map(of))) };
    let places: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..u32::try_from(rows.len())?));
    let columns = vec![
        ("place", places),
        ("id", column(|row| row.id)),
        ("step", column(|row| row.step)),
        ("weight", column(|row| row.weight)),
    ];
    context.write_table("exported", &table::batch(columns)?)?;
    settings::write(&parameters.forms, context)?;
    let (written, chosen) = (counted(rows.len() as u64, "row"), counted(choices.len() as u64, "choice"));
    context.note(format!("{written} from {chosen}"));
    Ok(())
}

/// A choice of a step: the step and the instruction.
type StepChoice = (u32, u32);

/// # Errors
/// The rows of the selection are not rows of the pool.
fn check_is_of_the_pool(folder: &Path) -> Result<()> {
    let summary =
        if_there(std::fs::read(folder.join("summary.json"))).context("cannot read the summary of the selection")?;
    let summary: Value = summary.map_or(Ok(Value::Null), |text| serde_json::from_slice(&text))?;
    if summary["method"] == "validation" {
        let problem =
            Problem::new("the method `validation` selects validation examples, which are no instructions of a pool");
        return Err(problem.hint("export the selection of another method").into());
    }
    Ok(())
}

/// The choices of a run in their order; of a selector, those of the first episode of the last round.
fn choices(folder: &Path) -> Result<Vec<StepChoice>> {
    let rows = table::read(&folder.join("selection.parquet"))?;
    let numbers = |name: &str| -> Result<Option<&UInt32Array>> {
        rows.column_by_name(name).map(|_| table::column(&rows, name)).transpose()
    };
    let (rounds, episodes) = (numbers("round")?, numbers("episode")?);
    let of = |numbers: Option<&UInt32Array>, row: usize| numbers.filter(|it| it.is_valid(row)).map(|it| it.value(row));
    let last = (0..rows.num_rows()).filter_map(|row| of(rounds, row)).max();
    let steps: &UInt32Array = table::column(&rows, "step")?;
    let slots: &UInt32Array = table::column(&rows, "slot")?;
    let ids: &UInt32Array = table::column(&rows, "id")?;
    let is_counted = |row: &usize| of(rounds, *row) == last && of(episodes, *row).unwrap_or_default() == 0;
    let mut choices: Vec<(u32, u32, u32)> = (0..rows.num_rows())
        .filter(is_counted)
        .map(|row| (steps.value(row), slots.value(row), ids.value(row)))
        .collect();
    choices.sort_unstable();
    if choices.is_empty() {
        return Err(Problem::new("the selection has no row").into());
    }
    Ok(choices.into_iter().map(|(step, _, id)| (step, id)).collect())
}

/// Each choice as a row.
fn repeated(choices: &[StepChoice]) -> Vec<ExportedRow> {
    choices.iter().map(|(step, id)| ExportedRow { id: *id, step: *step, weight: 1 }).collect()
}

/// Each instruction once, at its first place, with the number of its choices.
fn weighted(choices: &[StepChoice]) -> Vec<ExportedRow> {
    let mut places: BTreeMap<u32, usize> = BTreeMap::new();
    let mut rows: Vec<ExportedRow> = Vec::new();
    for (step, id) in choices {
        match places.entry(*id) {
            Entry::Occupied(place) => rows[*place.get()].weight += 1,
            Entry::Vacant(new) => {
                new.insert(rows.len());
                rows.push(ExportedRow { id: *id, step: *step, weight: 1 });
            }
        }
    }
    rows
}

/// What a `filter` gave to the rows of the pool.
struct SetValues {
    source_names: Option<StringArray>,
    tags: Option<ListArray>,
}

impl SetValues {
    fn read(folder: &Path) -> Result<Self> {
        let tags = set_columns(folder)?.contains(&"tags").then(|| -> Result<ListArray> {
            let rows = table::read_columns(&folder.join("instructions.parquet"), &["tags"])?;
            Ok(table::column::<ListArray>(&rows, "tags")?.clone())
        });
        Ok(Self { source_names: read_source_names(folder)?, tags: tags.transpose()? })
    }

    /// Adds what a row has. All records of a file have the same keys.
    fn add(&self, row: usize, record: &mut Map<String, Value>) {
        if let Some(names) = &self.source_names {
            record.insert("source".to_owned(), names.is_valid(row).then(|| names.value(row)).into());
        }
        if let Some(tags) = &self.tags {
            let of_row = tags.is_valid(row).then(|| tags.value(row));
            let texts = |tags: ArrayRef| tags.as_string::<i32>().iter().map(Value::from).collect::<Vec<_>>();
            record.insert("tags".to_owned(), of_row.map(texts).into());
        }
    }
}

/// Writes the file of a form.
fn write(
    form: ExportForm,
    rows: &[ExportedRow],
    pool: &[Instruction],
    set: &SetValues,
    context: &Context,
) -> Result<()> {
    let path = context.out().join(format!("{}.jsonl", form.name()));
    let cannot = || format!("cannot write {}", path.display());
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).with_context(cannot)?);
    let mut unfit: Vec<(u32, &'static str)> = Vec::new();
    for row in rows {
        let instruction = pool.get(row.id as usize).ok_or_else(|| {
            let message = format!("the selection names the instruction {}, and the pool has {}", row.id, pool.len());
            Problem::new(message).hint("name the pool of the stage that selected as `instructions`")
        })?;
        match form::of(form, instruction) {
            Ok(mut written) => {
                written.insert("id".to_owned(), row.id.into());
                written.insert("weight".to_owned(), row.weight.into());
                set.add(row.id as usize, &mut written);
                writeln!(file, "{}", Value::Object(written)).with_context(cannot)?;
            }
            Err(why) => unfit.push((row.id, why)),
        }
    }
    file.flush().with_context(cannot)?;
    let Some((id, why)) = unfit.first() else { return Ok(()) };
    let count = counted(unfit.len() as u64, "instruction");
    let message = format!(
        "the form `{}` does not hold {count} of {}, the first with the id {id}: {why}",
        form.name(),
        rows.len()
    );
    Err(Problem::new(message).hint("write forms = [\"messages\"], which holds every conversation").into())
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
