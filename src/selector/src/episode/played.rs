//! The record of a played episode, from which the policy is updated.

use super::{DrawnBatch, EpisodeSelectionRow, EpisodeStepRow};
use crate::network::STAGE_PART_WIDTH;
use crate::state::{Candidates, SelectionHistory, State};
use raisin_base::error::Result;
use raisin_base::learner::StepReport;
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
    /// One number for each draw, by the [levels](DrawnBatch::levels) of the action.
    pub advantages: [Vec<f64>; 2],
    /// G_t
    pub returns: f64,
}

/// An episode, from M_0 to its newest step.
pub(super) struct Episode {
    pub round: usize,
    /// The number of the episode in its round.
    pub number: usize,
    pub seed: Seed,
    /// P(M_0)
    pub start: f64,
    /// The last measured performance.
    pub known: f64,
    /// The number of steps since that measurement.
    unrewarded: usize,
    pub history: SelectionHistory,
    pub steps: Vec<Step>,
    pub selection: Vec<EpisodeSelectionRow>,
}

impl Episode {
    pub fn new(round: usize, number: usize, seed: Seed, start: f64, candidates: &Candidates) -> Self {
        let history = SelectionHistory::new(candidates);
        let (steps, selection) = (Vec::new(), Vec::new());
        Self { round, number, seed, start, known: start, unrewarded: 0, history, steps, selection }
    }

    /// Every step with its state S_t.
    pub fn steps_with_states(&self) -> impl Iterator<Item = (State<'_>, &Step)> {
        self.steps.iter().map(|step| (self.state_of(step), step))
    }

    fn state_of(&self, step: &Step) -> State<'_> {
        State { stage: step.stage, history: &self.history, step: step.row.step }
    }

    /// Adds a step after the model was trained on its batch. [`Self::reward`] sets the reward later.
    pub fn push(&mut self, mut step: Step, trained: &StepReport, candidates: &Candidates) -> Result<()> {
        let StepReport { loss, tokens, supervised_tokens, learning_rate, flops } = *trained;
        step.row = EpisodeStepRow { loss, learning_rate, tokens, supervised_tokens, flops, ..step.row };
        self.history.take(&step.positions, candidates)?;
        let Step { action, positions, row, .. } = &step;
        let drawn = action.candidates.iter().flat_map(|picks| picks.scores.iter().zip(&picks.log_probs));
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
        self.unrewarded += 1;
        Ok(())
    }

    /// R_t = P(M_{t+1}) - P(M_t) (section 1). If several steps lie between two measurements, they share the gain
    /// equally.
    pub fn reward(&mut self, performance: f64) {
        let reward = (performance - self.known) / self.unrewarded as f64;
        let first = self.steps.len() - self.unrewarded;
        self.steps[first..].iter_mut().for_each(|step| step.row.reward = reward);
        if let Some(step) = self.steps.last_mut() {
            step.row.performance = Some(performance);
        }
        (self.known, self.unrewarded) = (performance, 0);
    }

    /// The number by which policies are compared: the mean performance over the last quarter of the steps. The last
    /// measurement alone is too noisy: with it, luck decided between policies that were nearly equal.
    pub fn late_performance(&self) -> f64 {
        let last = self.steps[self.steps.len() * 3 / 4..].iter().filter_map(|step| step.row.performance);
        let (sum, count) = last.fold((0.0, 0), |(sum, count), performance| (sum + performance, count + 1));
        sum / f64::from(count.max(1))
    }
}
