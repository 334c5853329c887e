//! The record of a played episode, from which the policy is updated.

use super::{DrawnBatch, EpisodeSelectionRow, EpisodeStepRow};
use crate::credit::{ObservedStep, StepCovariates};
use crate::network::STAGE_PART_WIDTH;
use crate::state::{Candidates, SelectionHistory, State};
use raisin_base::error::Result;
use raisin_base::learner::{RowEffect, StepReport};
use raisin_base::seed::Seed;

/// Step t of an episode.
pub(super) struct Step {
    /// The stage part of the state S_t.
    pub stage: [f32; STAGE_PART_WIDTH],
    /// The batch D_t as the policy drew it.
    pub action: DrawnBatch,
    /// D_t as positions of candidates: `[B]`.
    pub positions: Vec<usize>,
    /// V(S_t), R_t and the report of the training on D_t.
    pub row: EpisodeStepRow,
    /// The advantage of each draw, at each [level](DrawnBatch::levels) of the action.
    pub advantages: [Vec<f64>; 2],
    /// G_t
    pub returns: f64,
}

/// The effects of some candidates before a step of an episode.
pub(super) struct EffectMeasurement {
    /// t
    pub step: usize,
    /// The candidates of the batch D_t, then the probes.
    pub positions: Vec<usize>,
    /// The number of candidates of the batch.
    pub drawn: usize,
    pub effects: Vec<RowEffect>,
    /// [`crate::posterior::weighted_effects`] of `effects`.
    pub weighted: Vec<f64>,
}

/// An episode, from M_0 to its newest step.
pub(super) struct Episode {
    pub round: usize,
    /// The number of the episode in its round.
    pub number: usize,
    pub seed: Seed,
    /// P(M_0)
    pub base_performance: f64,
    /// The last measured performance.
    pub last_performance: f64,
    /// The number of steps since the last measurement. They have no reward yet.
    steps_since_measurement: usize,
    pub history: SelectionHistory,
    pub steps: Vec<Step>,
    pub selection: Vec<EpisodeSelectionRow>,
    pub measurements: Vec<EffectMeasurement>,
}

impl Episode {
    pub fn new(round: usize, number: usize, seed: Seed, base_performance: f64, candidates: &Candidates) -> Self {
        Self {
            round,
            number,
            seed,
            base_performance,
            last_performance: base_performance,
            steps_since_measurement: 0,
            history: SelectionHistory::new(candidates),
            steps: Vec::new(),
            selection: Vec::new(),
            measurements: Vec::new(),
        }
    }

    /// Every step with its state S_t.
    pub fn steps_with_states(&self) -> impl Iterator<Item = (State<'_>, &Step)> {
        let draws = self.steps.iter().map(|step| step.positions.len()).sum();
        let state = move |step: &Step| State { stage: step.stage, history: &self.history, step: step.row.step, draws };
        self.steps.iter().map(move |step| (state(step), step))
    }

    /// Adds a step after the model was trained on its batch. [`Self::add_measurement`] sets the reward later.
    pub fn push(&mut self, mut step: Step, trained: &StepReport, candidates: &Candidates) -> Result<()> {
        let StepReport { loss, tokens, supervised_tokens, learning_rate, flops } = *trained;
        step.row = EpisodeStepRow { loss, learning_rate, tokens, supervised_tokens, flops, ..step.row };
        self.history.take(&step.positions, candidates)?;
        let Step { action, positions, row, .. } = &step;
        let drawn = action.candidate_picks.iter().flat_map(|picks| picks.scores.iter().zip(&picks.log_probs));
        for (slot, (&position, (&score, &log_prob))) in positions.iter().zip(drawn).enumerate() {
            self.selection.push(EpisodeSelectionRow {
                round: row.round,
                episode: row.episode,
                step: row.step,
                slot,
                id: candidates.ids[position],
                cluster: candidates.clusters[position],
                score: f64::from(score),
                log_prob: f64::from(log_prob),
                times_selected: self.history.count(position, row.step) as u32,
            });
        }
        self.steps.push(step);
        self.steps_since_measurement += 1;
        Ok(())
    }

    /// Sets the rewards of the steps since the last measurement: R_t = P(M_{t+1}) - P(M_t) (section 1). Several such
    /// steps share the change of the performance equally.
    pub fn add_measurement(&mut self, performance: f64) {
        let reward = (performance - self.last_performance) / self.steps_since_measurement as f64;
        let first = self.steps.len() - self.steps_since_measurement;
        self.steps[first..].iter_mut().for_each(|step| step.row.reward = reward);
        if let Some(step) = self.steps.last_mut() {
            step.row.performance = Some(performance);
        }
        (self.last_performance, self.steps_since_measurement) = (performance, 0);
    }

    /// P(M_0) plus all rewards, which is P(M_T). After the last step, `last_performance` is the same except for
    /// rounding.
    pub fn final_performance(&self) -> f64 {
        self.base_performance + self.steps.iter().map(|step| step.row.reward).sum::<f64>()
    }

    /// The number by which policies are compared: the mean performance over the last quarter of the steps. The last
    /// measurement alone is too noisy: with it, luck decided between policies that were nearly equal.
    pub fn late_performance(&self) -> f64 {
        let last = self.steps[self.steps.len() * 3 / 4..].iter().filter_map(|step| step.row.performance);
        let (sum, count) = last.fold((0.0, 0), |(sum, count), performance| (sum + performance, count + 1));
        sum / f64::from(count.max(1))
    }

    /// P(M_t) - P(M_0) for t = 0, ..., T: the sum of the rewards before step t. `[T + 1]`
    pub fn improvements(&self) -> Vec<f64> {
        let mut improvements = vec![0.0];
        let mut sum = 0.0;
        for step in &self.steps {
            sum += step.row.reward;
            improvements.push(sum);
        }
        improvements
    }

    /// The steps as the regression of [`crate::credit`] sees them. `scale` is the unit of the performance.
    pub fn observed_steps(&self, scale: f64) -> impl Iterator<Item = ObservedStep<'_>> {
        self.steps.iter().zip(self.improvements()).enumerate().map(move |(t, (step, improvement))| {
            let reuse = |&position: &usize| (self.history.count(position, t) as f64).ln_1p();
            let covariates = StepCovariates {
                time: t as f64 / self.steps.len() as f64,
                improvement: improvement / scale,
                reuse: step.positions.iter().map(reuse).sum::<f64>() / step.positions.len() as f64,
            };
            ObservedStep { covariates, reward: step.row.reward, batch: &step.positions }
        })
    }
}
