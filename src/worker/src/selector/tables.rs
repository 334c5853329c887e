//! The tables of a `selector` artifact: `rounds` and `effects`, and the rows of `steps` and `selection`.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StringArray};

use crate::tables::{EpisodeNumber, SelectionRow, TrainingStepRow, floats, numbers};
use raisin_base::error::Result;
use raisin_selector::episode::{EffectRow, EpisodeSelectionRow, EpisodeStepRow, RoundRow};
use raisin_selector::explanation::{AtPlaces, ColumnEffect, ExpectedEffect};
use raisin_table as table;

/// The table `rounds`.
pub fn rounds(rows: &[RoundRow]) -> Result<RecordBatch> {
    table::batch(vec![
        ("round", numbers(rows, |row| Some(row.round as u32))),
        ("episode_reward", floats(rows, |row| Some(row.episode_reward))),
        ("final_performance", floats(rows, |row| Some(row.final_performance))),
        ("policy_loss", floats(rows, |row| row.policy_loss)),
        ("value_loss", floats(rows, |row| row.value_loss)),
        ("entropy", floats(rows, |row| Some(row.entropy))),
        ("approx_kl", floats(rows, |row| row.approx_kl)),
        ("clipfrac", floats(rows, |row| row.clipfrac)),
        ("explained_variance", floats(rows, |row| row.explained_variance)),
        ("effective_candidates", floats(rows, |row| Some(row.effective_candidates))),
        ("actor_learning_rate", floats(rows, |row| row.actor_learning_rate)),
        ("epochs", numbers(rows, |row| row.epochs.map(|epochs| epochs as u32))),
        ("credit_reliability", floats(rows, |row| row.credit_reliability)),
        ("measured_effects", numbers(rows, |row| row.measured_effects.map(|count| count as u32))),
        ("explained_by_prior", floats(rows, |row| row.explained_by_prior)),
        ("kept", Arc::new(rows.iter().map(|row| Some(row.kept)).collect::<BooleanArray>())),
    ])
}

/// The number of a step in tables, which count from 1 in all kinds.
fn number_of(step: usize) -> u32 {
    step as u32 + 1
}

/// The table `effects`.
pub fn effects(rows: &[EffectRow]) -> Result<RecordBatch> {
    table::batch(vec![
        ("round", numbers(rows, |row| Some(row.round as u32))),
        ("episode", numbers(rows, |row| Some(row.episode as u32))),
        ("step", numbers(rows, |row| Some(number_of(row.step)))),
        ("id", numbers(rows, |row| Some(row.id))),
        ("effect", floats(rows, |row| Some(row.effect))),
        ("weighted_effect", floats(rows, |row| Some(row.weighted_effect))),
        ("drawn", Arc::new(rows.iter().map(|row| Some(row.drawn)).collect::<BooleanArray>())),
    ])
}

/// The table `column_effects`.
pub fn column_effects(rows: &[ColumnEffect]) -> Result<RecordBatch> {
    let names: StringArray = rows.iter().map(|row| Some(row.column.as_str())).collect();
    let mut columns = vec![("column", Arc::new(names) as ArrayRef)];
    columns.extend(at_places(rows, |row| (row.prior, row.effect, row.deviation)));
    table::batch(columns)
}

/// The table `expected`.
pub fn expected(rows: &[ExpectedEffect]) -> Result<RecordBatch> {
    let mut columns =
        vec![("id", numbers(rows, |row| Some(row.id))), ("cluster", numbers(rows, |row| Some(row.cluster)))];
    columns.extend(at_places(rows, |row| (row.prior, row.effect, row.deviation)));
    table::batch(columns)
}

/// The columns of an effect, its prior and its deviation at the places of a training.
fn at_places<T>(rows: &[T], of: fn(&T) -> (f64, AtPlaces, AtPlaces)) -> Vec<(&'static str, ArrayRef)> {
    let mut columns = vec![("prior", floats(rows, |row| Some(of(row).0)))];
    let names =
        [("at_start", "at_start_deviation"), ("in_middle", "in_middle_deviation"), ("at_end", "at_end_deviation")];
    for (place, (effect, deviation)) in names.into_iter().enumerate() {
        columns.push((effect, floats(rows, |row| Some(of(row).1[place]))));
        columns.push((deviation, floats(rows, |row| Some(of(row).2[place]))));
    }
    columns
}

/// The rows of the table `steps`.
pub fn step_rows(rows: &[EpisodeStepRow]) -> Vec<TrainingStepRow> {
    let row = |row: &EpisodeStepRow| TrainingStepRow {
        of: Some(EpisodeNumber { round: row.round as u32, episode: row.episode as u32 }),
        step: number_of(row.step),
        loss: row.loss,
        performance: row.performance,
        reward: Some(row.reward),
        value: Some(row.value),
        learning_rate: row.learning_rate,
        tokens: row.tokens,
        supervised_tokens: row.supervised_tokens,
        flops: row.flops,
    };
    rows.iter().map(row).collect()
}

/// The rows of the table `selection`.
pub fn selection_rows(rows: &[EpisodeSelectionRow]) -> Vec<SelectionRow> {
    let row = |row: &EpisodeSelectionRow| SelectionRow {
        of: Some(EpisodeNumber { round: row.round as u32, episode: row.episode as u32 }),
        step: number_of(row.step),
        slot: row.slot as u32,
        id: row.id,
        cluster: Some(row.cluster),
        score: Some(row.score),
        log_prob: Some(row.log_prob),
        times_selected: row.times_selected,
    };
    rows.iter().map(row).collect()
}
