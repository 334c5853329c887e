//! The tables that all training kinds write: `steps` and `selection`, each with one row type and one writer. Also the
//! columns that several tables have: numbers and vectors.

use std::sync::Arc;

use arrow_array::{
    Array as _, ArrayRef, FixedSizeListArray, Float32Array, Float64Array, LargeStringArray, RecordBatch, StringArray,
    UInt32Array, UInt64Array,
};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

use raisin_base::allocator::give_back_freed_memory;
use raisin_base::error::{Result, anyhow};
use raisin_corpus::Instruction;
use raisin_table as table;
use raisin_training::StepOutcome;

/// The number of characters of a prompt in the table `selection`.
const EXCERPT: usize = 120;

/// The owner of the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// One fine-tuning or pre-training run, without episodes.
    Run,
    /// The episodes of a selector; each row has an [`EpisodeNumber`].
    Episodes,
}

/// The round and the episode of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpisodeNumber {
    pub round: u32,
    pub episode: u32,
}

/// One row of the table `steps`. Checkpoints hold it as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainingStepRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<EpisodeNumber>,
    pub step: u32,
    #[serde(with = "bits")]
    pub loss: f64,
    /// P after the step, if it was measured.
    #[serde(with = "optional_bits")]
    pub performance: Option<f64>,
    #[serde(with = "optional_bits")]
    pub reward: Option<f64>,
    /// The value that the critic estimated.
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
    /// The row of a step of a run.
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

/// One row of the table `selection`: a selected instruction. Checkpoints hold it as JSON.
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
    /// How often the run or the episode selected the instruction before the step.
    pub times_selected: u32,
}

pub fn floats<T>(rows: &[T], of: impl Fn(&T) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(of).collect::<Float64Array>())
}

pub fn numbers<T>(rows: &[T], of: impl Fn(&T) -> Option<u32>) -> ArrayRef {
    Arc::new(rows.iter().map(of).collect::<UInt32Array>())
}

fn counts<T>(rows: &[T], of: impl Fn(&T) -> u64) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(rows.iter().map(of)))
}

/// A column of vectors from their numbers, row by row, with `width` numbers in a row. `is_valid` says which rows are
/// not null; without `is_valid`, no row is null.
///
/// # Errors
/// The numbers are not a multiple of `width`.
pub fn vector_column(values: Vec<f32>, width: usize, is_valid: Option<Vec<bool>>) -> Result<ArrayRef> {
    let DataType::FixedSizeList(field, length) = table::vector_type(width) else {
        return Err(anyhow!("a vector column is a list of fixed size"));
    };
    let values = Arc::new(Float32Array::from(values));
    Ok(Arc::new(FixedSizeListArray::try_new(field, length, values, is_valid.map(Into::into))?))
}

/// The numbers of a column of vectors, row by row, and the length of a vector. The numbers of a null row mean nothing.
///
/// # Errors
/// The table has no such column, or the column does not hold f32 vectors.
pub fn vectors<'a>(rows: &'a RecordBatch, name: &str) -> Result<(&'a [f32], usize)> {
    let lists: &FixedSizeListArray = table::column(rows, name)?;
    let values: Option<&Float32Array> = lists.values().as_any().downcast_ref();
    let values = values.ok_or_else(|| anyhow!("column `{name}` does not hold f32 vectors"))?.values();
    let width = lists.value_length() as usize;
    let start = lists.value_offset(0) as usize;
    Ok((&values[start..start + lists.len() * width], width))
}

/// The table `steps`.
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

/// What the table `selection` says of each instruction of a pool: its label, and the start of its prompt. A training
/// holds these instead of the whole texts, which are most of the memory of a large pool.
pub struct Excerpts {
    labels: LargeStringArray,
    prompts: LargeStringArray,
}

impl Excerpts {
    /// Takes the excerpts, and gives the memory of the instructions back to the system.
    pub fn of(instructions: Vec<Instruction>) -> Self {
        let labels = instructions.iter().map(|row| row.label.as_deref()).collect();
        let prompts = instructions.iter().map(|row| Some(excerpt(row.prompt(), EXCERPT))).collect();
        drop(instructions);
        give_back_freed_memory();
        Self { labels, prompts }
    }

    /// The number of instructions in the pool.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// The label of an instruction. `None` if it has no label, or if there is no such instruction.
    pub fn label(&self, id: u32) -> Option<&str> {
        text_at(&self.labels, id)
    }

    fn prompt(&self, id: u32) -> Option<&str> {
        text_at(&self.prompts, id)
    }
}

fn text_at(texts: &LargeStringArray, id: u32) -> Option<&str> {
    let place = id as usize;
    (place < texts.len() && texts.is_valid(place)).then(|| texts.value(place))
}

/// The table `selection`. It has all that another program needs to train on the same batches.
pub fn selection(rows: &[SelectionRow], pool: &Excerpts, of: Of) -> Result<RecordBatch> {
    let labels = rows.iter().map(|row| pool.label(row.id));
    let excerpts = rows.iter().map(|row| pool.prompt(row.id));
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

/// The first characters of a text, without line breaks and other control characters.
fn excerpt(text: &str, characters: usize) -> String {
    text.chars().take(characters).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// Serializes an f64 as its bits. An f64 that is written in decimal digits may be read back as another number.
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

/// Serializes an optional f64 as its bits.
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
