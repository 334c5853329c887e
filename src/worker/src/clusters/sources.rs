//! The file that a candidate comes from, as columns of the state: 1 for the rows of the file, 0 for the others.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{RecordBatch, UInt32Array};

use super::StateColumn;
use crate::encoding::source_files;
use raisin_base::error::{Problem, Result};
use raisin_contract::Context;
use raisin_table as table;

/// The first letters of the names of these columns.
pub const PREFIX: &str = "source.";

/// With more files, such as the parts of one large data set, a file says little about its rows.
const MOST_FILES: usize = 32;

/// One column for each name of a file of the pool. No columns, and a note, if all rows come from one file or from very
/// many. With `like`, there is a column for every file, because the other stage decides which files matter.
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
    let file_of = |id: &u32| -> Result<Option<&String>> {
        let source = source_of.get(id).ok_or_else(|| {
            Problem::new(format!(
                "the features have a row for instruction {id}, and the pool of `instructions` does not"
            ))
            .hint("name the same `instructions` as in the features stage")
        })?;
        Ok(files.get(*source as usize))
    };
    let ids: &UInt32Array = table::column(rows, "id")?;
    let file_of_row: Vec<Option<&String>> = ids.values().iter().map(file_of).collect::<Result<_>>()?;
    let names: BTreeSet<&String> = file_of_row.iter().flatten().copied().collect();
    let count = names.len();
    if !like && !(2..=MOST_FILES).contains(&count) {
        context.note(format!("the candidates come from {count} files, so the state has no part `source`"));
        return Ok(Vec::new());
    }
    let column = |name: &&String| StateColumn {
        name: format!("{PREFIX}{name}"),
        values: file_of_row.iter().map(|file| f64::from(u8::from(file.as_ref() == Some(name)))).collect(),
    };
    Ok(names.iter().map(column).collect())
}
