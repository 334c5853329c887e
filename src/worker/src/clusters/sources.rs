//! The source that a candidate comes from, as columns of the state: 1 for the rows of the source, 0 for the others. A source
//! is a file, or the name that a `filter` gave to rows.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{Array as _, RecordBatch, UInt32Array};

use super::StateColumn;
use crate::encoding::source_files;
use raisin_base::error::{Problem, Result};
use raisin_contract::Context;
use raisin_corpus::set::read_source_names;
use raisin_table as table;

/// The first letters of the names of these columns.
pub const PREFIX: &str = "source.";

/// With more sources, such as the parts of one large data set, a source says little about its rows.
const MOST_SOURCES: usize = 32;

/// One column for each name of a source of the pool. No columns, and a note, if all rows come from one source or from very
/// many. With `like`, there is a column for every source, because the other stage decides which sources matter.
///
/// # Errors
/// The features are not those of this pool.
pub fn columns(rows: &RecordBatch, features: usize, like: bool, context: &Context) -> Result<Vec<StateColumn>> {
    let pool = context.input("/instructions")?;
    let files = source_files(pool)?;
    let all = table::read_columns(&pool.join("instructions.parquet"), &["id", "source"])?;
    if all.num_rows() != features {
        let (of_pool, problem) = (all.num_rows(), "the features are not those of the pool that `instructions` names");
        return Err(Problem::new(format!("{problem}: it has {of_pool} rows, and the features have {features}"))
            .hint("name the same `instructions` as in the features stage")
            .into());
    }
    let (ids, sources): (&UInt32Array, &UInt32Array) = (table::column(&all, "id")?, table::column(&all, "source")?);
    let source_of: BTreeMap<u32, u32> = ids.values().iter().copied().zip(sources.values().iter().copied()).collect();
    let given = read_source_names(pool)?;
    let name_of = |id: &u32| -> Result<Option<&str>> {
        let source = source_of.get(id).ok_or_else(|| {
            Problem::new(format!(
                "the features have a row for instruction {id}, and the pool of `instructions` does not"
            ))
            .hint("name the same `instructions` as in the features stage")
        })?;
        let given = given.as_ref().filter(|names| names.is_valid(*id as usize)).map(|names| names.value(*id as usize));
        Ok(given.or_else(|| files.get(*source as usize).map(String::as_str)))
    };
    let ids: &UInt32Array = table::column(rows, "id")?;
    let name_of_row: Vec<Option<&str>> = ids.values().iter().map(name_of).collect::<Result<_>>()?;
    let names: BTreeSet<&str> = name_of_row.iter().flatten().copied().collect();
    let count = names.len();
    if !like && !(2..=MOST_SOURCES).contains(&count) {
        let what = if given.is_some() { "sources" } else { "files" };
        context.note(format!("the candidates come from {count} {what}, so the state has no part `source`"));
        return Ok(Vec::new());
    }
    let column = |name: &&str| StateColumn {
        name: format!("{PREFIX}{name}"),
        values: name_of_row.iter().map(|of_row| f64::from(u8::from(of_row.as_ref() == Some(name)))).collect(),
    };
    Ok(names.iter().map(column).collect())
}
