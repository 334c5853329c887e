//! The tables of a `selector` artifact: `rounds`, and the rows of `steps` and `selection`.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};

use crate::tables::{EpisodeNumber, SelectionRow, TrainingStepRow, floats, numbers};
use raisin_base::error::Result;
use raisin_selector::episode::{EpisodeSelectionRow, EpisodeStepRow, RoundRow};
use raisin_table as table;

/// The table `rounds`.
pub fn rounds(rows: &[RoundRow]) -> Result<RecordBatch> {
    table::batch(vec![
        ("round", numbers(rows, |row| Some(row.round as u32))),
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
        ("epochs", numbers(rows, |row| Some(row.epochs as u32))),
        ("credit_reliability", floats(rows, |row| row.credit_reliability)),
        ("kept", Arc::new(rows.iter().map(|row| Some(row.kept)).collect::<BooleanArray>())),
    ])
}

/// The rows of the table `steps`.
pub fn step_rows(rows: &[EpisodeStepRow]) -> Vec<TrainingStepRow> {
    let row = |row: &EpisodeStepRow| TrainingStepRow {
        of: Some(EpisodeNumber { round: row.round as u32, episode: row.episode as u32 }),
        step: row.step as u32,
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
        step: row.step as u32,
        slot: row.slot as u32,
        id: row.id,
        cluster: Some(row.cluster),
        score: Some(row.score),
        log_prob: Some(row.log_prob),
        times_selected: row.times_selected,
    };
    rows.iter().map(row).collect()
}
