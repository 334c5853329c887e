//! Removes from a task the test or validation examples that overlap a pool, as an `overlap` artifact lists them.

use std::collections::BTreeSet;
use std::path::Path;

use arrow_array::{StringArray, UInt32Array};

use raisin_base::digest::Digest;
use raisin_base::error::{Problem, Result};
use raisin_settings::Split;
use raisin_table as table;

use crate::digests::content_digest;
use crate::{Example, Task};

/// The digest of the conversations of examples: it tells the examples of one task from those of another.
pub fn digest_of(examples: &[Example]) -> Digest {
    Digest::of_json(
        &examples.iter().map(|example| content_digest(&example.messages, &example.tools).to_hex()).collect(),
    )
}

/// Removes the examples that overlap the pool from a task, and returns their number.
///
/// # Errors
/// The overlap was found with other examples, or all examples overlap.
pub fn leave_out(artifact: &Path, split: Split, task: &mut Task) -> Result<usize> {
    let examples = task.examples_mut(split);
    let summary = table::read(&artifact.join("overlap_summary.parquet"))?;
    let (names, digests): (&StringArray, &StringArray) =
        (table::column(&summary, "split")?, table::column(&summary, "examples_digest")?);
    let digest = names.iter().zip(digests).find(|(name, _)| *name == Some(split.name())).and_then(|(_, digest)| digest);
    if digest != Some(digest_of(examples).to_hex().as_str()) {
        let problem = Problem::new(format!("the overlap was found with other {} examples than these", split.name()));
        return Err(problem.hint("name the same `task` here and in the overlap stage").into());
    }
    let rows = table::read(&artifact.join("overlap.parquet"))?;
    let (splits, ids): (&StringArray, &UInt32Array) =
        (table::column(&rows, "split")?, table::column(&rows, "example")?);
    let pairs = splits.iter().zip(ids.values());
    let overlapping: BTreeSet<u32> = pairs.filter(|(name, _)| *name == Some(split.name())).map(|(_, id)| *id).collect();
    let before = examples.len();
    examples.retain(|example| !overlapping.contains(&example.id));
    if examples.is_empty() && before > 0 {
        let problem = Problem::new(format!("every {} example overlaps the pool: none is left", split.name()));
        return Err(problem.hint("leave `overlap` out here, or give the overlap stage a larger `ngram`").into());
    }
    Ok(before - examples.len())
}
