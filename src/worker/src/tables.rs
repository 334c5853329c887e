//! The tables that every kind which trains writes: `steps` and `selection`. One row type and one writer each, whether the
//! rows are of a run or of the episodes of a selector.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use serde::{Deserialize, Serialize};

use raisin_base::error::Result;
use raisin_corpus::Instruction;
use raisin_table as table;
use raisin_training::StepOutcome;

/// Characters of a prompt that stand in `selection`.
const EXCERPT: usize = 120;

/// Whose rows a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// One run: rows belong to no episode.
    Run,
    /// The episodes of a selector.
    Episodes,
}

/// Which episode of which round a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpisodeNumber {
    pub round: u32,
    pub episode: u32,
}

/// One row of the `steps` table, as a checkpoint keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainingStepRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<EpisodeNumber>,
    pub step: u32,
    #[serde(with = "bits")]
    pub loss: f64,
    /// P after the step; none where it was not measured.
    #[serde(with = "optional_bits")]
    pub performance: Option<f64>,
    #[serde(with = "optional_bits")]
    pub reward: Option<f64>,
    /// What the critic expected.
    #[serde(with = "optional_bits")]
    pub value: Option<f64>,
    #[serde(with = "bits")]
    pub learning_rate: f64,
    pub tokens: u64,
    pub supervised_tokens: u64,
    #[serde(with = "bits")]
    pub flops: f64,
}

impl TrainingStepRow {
    /// The row of a run's step, which did this.
    pub fn of_run(step: u32, outcome: &StepOutcome) -> Self {
        Self {
            of: None,
            step,
            loss: outcome.loss,
            performance: None,
            reward: None,
            value: None,
            learning_rate: outcome.learning_rate,
            tokens: outcome.tokens as u64,
            supervised_tokens: outcome.supervised_tokens as u64,
            flops: outcome.flops,
        }
    }
}

/// One row of the `selection` table: a selected instruction, as a checkpoint keeps it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SelectionRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<EpisodeNumber>,
    pub step: u32,
    pub slot: u32,
    pub id: u32,
    pub cluster: Option<u32>,
    #[serde(with = "optional_bits")]
    pub score: Option<f64>,
    #[serde(with = "optional_bits")]
    pub log_prob: Option<f64>,
    /// How often the run or the episode had selected the instruction before the step.
    pub times_selected: u32,
}

fn floats<T>(rows: &[T], of: impl Fn(&T) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(of).collect::<Float64Array>())
}

fn numbers<T>(rows: &[T], of: impl Fn(&T) -> Option<u32>) -> ArrayRef {
    Arc::new(rows.iter().map(of).collect::<UInt32Array>())
}

fn counts<T>(rows: &[T], of: impl Fn(&T) -> u64) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(rows.iter().map(of)))
}

/// The `steps` table.
pub fn steps(rows: &[TrainingStepRow], of: Of) -> Result<RecordBatch> {
    let mut columns = Vec::new();
    if of == Of::Episodes {
        columns.push(("round", numbers(rows, |row| row.of.map(|of| of.round))));
        columns.push(("episode", numbers(rows, |row| row.of.map(|of| of.episode))));
    }
    columns.extend([
        ("step", numbers(rows, |row| Some(row.step))),
        ("loss", floats(rows, |row| Some(row.loss))),
        ("performance", floats(rows, |row| row.performance)),
        ("reward", floats(rows, |row| row.reward)),
        ("value", floats(rows, |row| row.value)),
        ("learning_rate", floats(rows, |row| Some(row.learning_rate))),
        ("tokens", counts(rows, |row| row.tokens)),
        ("supervised_tokens", counts(rows, |row| row.supervised_tokens)),
        ("flops", floats(rows, |row| Some(row.flops))),
    ]);
    table::batch(columns)
}

/// The `selection` table: the schedule, complete enough to be replayed elsewhere.
pub fn selection(rows: &[SelectionRow], instructions: &[Instruction], of: Of) -> Result<RecordBatch> {
    let instruction = |row: &SelectionRow| instructions.get(row.id as usize);
    let labels = rows.iter().map(|row| instruction(row)?.label.as_deref());
    let excerpts = rows.iter().map(|row| instruction(row).map(|found| excerpt(found.prompt(), EXCERPT)));
    let mut columns = vec![("round", numbers(rows, |row| row.of.map(|of| of.round)))];
    if of == Of::Episodes {
        columns.push(("episode", numbers(rows, |row| row.of.map(|of| of.episode))));
    }
    columns.extend([
        ("step", numbers(rows, |row| Some(row.step))),
        ("slot", numbers(rows, |row| Some(row.slot))),
        ("id", numbers(rows, |row| Some(row.id))),
        ("cluster", numbers(rows, |row| row.cluster)),
        ("score", floats(rows, |row| row.score)),
        ("log_prob", floats(rows, |row| row.log_prob)),
        ("times_selected", numbers(rows, |row| Some(row.times_selected))),
        ("label", Arc::new(labels.collect::<StringArray>())),
        ("instruction", Arc::new(excerpts.collect::<StringArray>())),
    ]);
    table::batch(columns)
}

/// The first characters of a text, on one line: for tables that people read.
fn excerpt(text: &str, characters: usize) -> String {
    text.chars().take(characters).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// An f64 in a checkpoint, as its bits: reading a decimal number back may miss by the last one.
pub mod bits {
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(f64::from_bits(u64::deserialize(deserializer)?))
    }
}

/// The same for an f64 that may be missing.
pub mod optional_bits {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "serde gives a reference")]
    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(f64::to_bits).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(f64::from_bits))
    }
}
