//! Runs a stage of kind `overlap`: finds the instructions of a pool that share text with the examples of a task, and
//! writes the pool without them (docs/method.md, section 8). raisin-corpus compares the texts. `evaluate` can leave out
//! the examples.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt32Array};
use rayon::prelude::*;

use raisin_base::error::{Problem, Result};
use raisin_contract::{Context, Progress};
use raisin_corpus::intake::{counted, grouped};
use raisin_corpus::left_out::digest_of;
use raisin_corpus::overlap::{NgramIndex, OverlapHit};
use raisin_corpus::{Example, Instruction, Task, read_instructions, read_task};
use raisin_kinds::overlap::{LeftOut, Parameters};
use raisin_settings::Split;
use raisin_table::{self as table, WriteTable as _};

use crate::kept::write_kept;

/// The number of instructions between two progress events.
const CHUNK: usize = 4096;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let folder = context.input("/instructions")?;
    let pool = read_instructions(folder)?;
    let task = read_task(context.input("/task")?)?;
    let index = NgramIndex::new(task.validation.iter().chain(&task.test), parameters.ngram, parameters.common);
    let overlaps = Overlaps { hits: search(&index, &pool, context), task: &task };
    let kept: BooleanArray = (0..pool.len()).map(|row| Some(!overlaps.is_left_out(row, parameters.drop))).collect();
    let dropped = kept.values().len() - kept.true_count();
    if dropped == pool.len() && !pool.is_empty() {
        let problem = Problem::new("every instruction overlaps an example, so that none would be left");
        let hint =
            "`drop = \"none\"` reports the overlap alone; a larger `ngram`, or `common = 10`, finds less overlap";
        return Err(problem.hint(hint).into());
    }
    context.write_table("overlap", &overlaps.table(&pool)?)?;
    context.write_table("overlap_summary", &overlaps.summary()?)?;
    write_kept(folder, &kept, context)?;
    let overlapping = |split: Split| {
        let (overlapping, all) = (overlaps.overlapping(split), task.examples(split).len());
        format!("{} of {} {}", grouped(overlapping as u64), grouped(all as u64), split.name())
    };
    context.note(format!(
        "{} and {} examples overlap {} of {}, {} left out",
        overlapping(Split::Test),
        overlapping(Split::Validation),
        grouped(overlaps.rows(&[Split::Test, Split::Validation]) as u64),
        counted(pool.len() as u64, "instruction"),
        grouped(dropped as u64),
    ));
    Ok(())
}

/// The hits of each instruction, in the order of the pool.
fn search(index: &NgramIndex, pool: &[Instruction], context: &Context) -> Vec<Vec<OverlapHit>> {
    let mut hits = Vec::with_capacity(pool.len());
    for chunk in pool.chunks(CHUNK) {
        hits.par_extend(chunk.par_iter().map(|row| index.hits(&row.messages)));
        context.progress(Progress {
            phase: "comparing".to_owned(),
            done: hits.len() as u64,
            total: pool.len() as u64,
            unit: "instructions".to_owned(),
            ..Progress::default()
        });
    }
    hits
}

/// The hits of each row of the pool. `example` of a hit counts the validation examples of the task first, then the test
/// examples.
struct Overlaps<'a> {
    hits: Vec<Vec<OverlapHit>>,
    task: &'a Task,
}

impl Overlaps<'_> {
    /// The example of a hit and its split.
    fn place(&self, hit: &OverlapHit) -> (Split, &Example) {
        match hit.example.checked_sub(self.task.validation.len()) {
            Some(test) => (Split::Test, &self.task.test[test]),
            None => (Split::Validation, &self.task.validation[hit.example]),
        }
    }

    fn is_left_out(&self, row: usize, drop: LeftOut) -> bool {
        let mut splits = self.hits[row].iter().map(|hit| self.place(hit).0);
        match drop {
            LeftOut::None => false,
            LeftOut::Test => splits.any(|split| split == Split::Test),
            LeftOut::Both => splits.next().is_some(),
        }
    }

    /// The number of examples of a split that overlap the pool.
    fn overlapping(&self, split: Split) -> usize {
        let places = self.hits.iter().flatten().map(|hit| self.place(hit)).filter(|(of, _)| *of == split);
        places.map(|(_, example)| example.id).collect::<BTreeSet<u32>>().len()
    }

    /// The number of rows of the pool that overlap an example of these splits.
    fn rows(&self, splits: &[Split]) -> usize {
        self.hits.iter().filter(|hits| hits.iter().any(|hit| splits.contains(&self.place(hit).0))).count()
    }

    /// The `overlap` table: one row for each pair of an instruction and an example that overlap.
    fn table(&self, pool: &[Instruction]) -> Result<RecordBatch> {
        let pairs = pool.iter().zip(&self.hits).flat_map(|(row, hits)| hits.iter().map(move |hit| (row, hit)));
        let pairs: Vec<(&Instruction, &OverlapHit)> = pairs.collect();
        let numbers = |of: &dyn Fn(&Instruction, &OverlapHit) -> u32| -> ArrayRef {
            Arc::new(UInt32Array::from_iter_values(pairs.iter().map(|(row, hit)| of(row, hit))))
        };
        let splits = pairs.iter().map(|(_, hit)| self.place(hit).0.name());
        let texts = pairs.iter().map(|(_, hit)| hit.text.chars().take(300).collect::<String>());
        let shares = pairs.iter().map(|(_, hit)| hit.shared as f64 / hit.of as f64);
        table::batch(vec![
            ("pool_id", numbers(&|row, _| row.id)),
            ("split", Arc::new(StringArray::from_iter_values(splits))),
            ("example", numbers(&|_, hit| self.place(hit).1.id)),
            ("shared", numbers(&|_, hit| hit.shared as u32)),
            ("share", Arc::new(Float64Array::from_iter_values(shares))),
            ("text", Arc::new(StringArray::from_iter_values(texts))),
        ])
    }

    /// The `overlap_summary` table: one row for each split, and one for both splits together.
    fn summary(&self) -> Result<RecordBatch> {
        let splits: [(&str, &[Split]); 3] = [
            ("test", &[Split::Test]),
            ("validation", &[Split::Validation]),
            ("both", &[Split::Test, Split::Validation]),
        ];
        let sum = |count: &dyn Fn(Split) -> usize| {
            splits.map(|(_, splits)| splits.iter().map(|&split| count(split)).sum::<usize>() as u32)
        };
        let all = sum(&|split| self.task.examples(split).len());
        let overlapping = sum(&|split| self.overlapping(split));
        let shares =
            overlapping.iter().zip(all).map(|(&count, all)| (all > 0).then(|| f64::from(count) / f64::from(all)));
        let digests = splits.map(|(_, splits)| match splits {
            [split] => Some(digest_of(self.task.examples(*split)).to_hex()),
            _ => None,
        });
        let rows = splits.map(|(_, splits)| self.rows(splits) as u32);
        table::batch(vec![
            ("split", Arc::new(StringArray::from_iter_values(splits.map(|(name, _)| name))) as ArrayRef),
            ("examples", Arc::new(UInt32Array::from_iter_values(all))),
            ("overlapping", Arc::new(UInt32Array::from_iter_values(overlapping))),
            ("share", Arc::new(shares.collect::<Float64Array>())),
            ("pool_rows", Arc::new(UInt32Array::from_iter_values(rows))),
            ("examples_digest", Arc::new(digests.into_iter().collect::<StringArray>())),
        ])
    }
}

#[cfg(test)]
#[path = "overlap_tests.rs"]
mod tests;
