//! The tables of a `selector` artifact: `rounds`, `steps`, `selection`.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};

use crate::learning::excerpt;
use raisin_base::error::Result;
use raisin_corpus::Instruction;
use raisin_selector::episode::{RoundRow, SelectionRow, StepRow};
use raisin_table as table;

/// Characters of a prompt that stand in `selection`.
const EXCERPT: usize = 120;

fn floats<T>(rows: &[T], of: impl Fn(&T) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(of).collect::<Float64Array>())
}

fn counts<T>(rows: &[T], of: impl Fn(&T) -> usize) -> ArrayRef {
    Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| of(row) as u32)))
}

pub fn rounds(rows: &[RoundRow]) -> Result<RecordBatch> {
    table::batch(vec![
        ("round", counts(rows, |row| row.round)),
        ("episode_reward", floats(rows, |row| Some(row.episode_reward))),
        ("final_performance", floats(rows, |row| Some(row.final_performance))),
        ("policy_loss", floats(rows, |row| Some(row.policy_loss))),
        ("value_loss", floats(rows, |row| Some(row.value_loss))),
        ("entropy", floats(rows, |row| Some(row.entropy))),
        ("approx_kl", floats(rows, |row| Some(row.approx_kl))),
        ("clipfrac", floats(rows, |row| Some(row.clipfrac))),
        ("explained_variance", floats(rows, |row| row.explained_variance)),
        ("effective_candidates", floats(rows, |row| Some(row.effective_candidates))),
        ("actor_learning_rate", floats(rows, |row| Some(row.actor_learning_rate))),
        ("epochs", counts(rows, |row| row.epochs)),
        ("credit_reliability", floats(rows, |row| row.credit_reliability)),
        ("kept", Arc::new(rows.iter().map(|row| Some(row.kept)).collect::<BooleanArray>())),
    ])
}

pub fn steps(rows: &[StepRow]) -> Result<RecordBatch> {
    let numbers = |of: fn(&StepRow) -> u64| Arc::new(UInt64Array::from_iter_values(rows.iter().map(of))) as ArrayRef;
    table::batch(vec![
        ("round", counts(rows, |row| row.round)),
        ("episode", counts(rows, |row| row.episode)),
        ("step", counts(rows, |row| row.step)),
        ("loss", floats(rows, |row| Some(row.loss))),
        ("performance", floats(rows, |row| row.performance)),
        ("reward", floats(rows, |row| Some(row.reward))),
        ("value", floats(rows, |row| Some(row.value))),
        ("learning_rate", floats(rows, |row| Some(row.learning_rate))),
        ("tokens", numbers(|row| row.tokens)),
        ("supervised_tokens", numbers(|row| row.supervised_tokens)),
        ("flops", floats(rows, |row| Some(row.flops))),
    ])
}

pub fn selection(rows: &[SelectionRow], instructions: &[Instruction]) -> Result<RecordBatch> {
    let instruction = |row: &SelectionRow| instructions.get(row.id as usize);
    let labels = rows.iter().map(|row| instruction(row).and_then(|found| found.label.clone()));
    let excerpts = rows.iter().map(|row| instruction(row).map(|found| excerpt(found.prompt(), EXCERPT)));
    table::batch(vec![
        ("round", counts(rows, |row| row.round)),
        ("episode", counts(rows, |row| row.episode)),
        ("step", counts(rows, |row| row.step)),
        ("slot", counts(rows, |row| row.slot)),
        ("id", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.id)))),
        ("cluster", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.cluster)))),
        ("score", floats(rows, |row| Some(row.score))),
        ("log_prob", floats(rows, |row| Some(row.log_prob))),
        ("times_selected", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.times_selected)))),
        ("label", Arc::new(labels.collect::<StringArray>())),
        ("instruction", Arc::new(excerpts.collect::<StringArray>())),
    ])
}
