//! What a played episode has recorded for the update of the policy.

use super::{DrawnBatch, EpisodeSelectionRow, EpisodeStepRow};
use crate::network::STAGE_PART_WIDTH;
use crate::state::{Candidates, SelectionHistory, State};
use raisin_base::error::Result;
use raisin_base::learner::StepReport;

/// The decision of the policy at step t.
pub(super) struct PolicyChoice {
    /// The stage part of the state S_t.
    pub stage: [f32; STAGE_PART_WIDTH],
    /// The batch D_t as the policy drew it.
    pub action: DrawnBatch,
    /// D_t as positions of candidates: `[B]`.
    pub positions: Vec<usize>,
    /// V(S_t)
    pub value: f64,
}

/// Step t of an episode.
pub(super) struct Step {
    stage: [f32; STAGE_PART_WIDTH],
    pub action: DrawnBatch,
    pub positions: Vec<usize>,
    /// R_t, V(S_t) and the result of training on D_t.
    pub row: EpisodeStepRow,
    /// One number for each draw of a cluster (hierarchical form), then for each draw of a candidate: `[draws]`.
    pub advantages: Vec<f64>,
    /// G_t
    pub returns: f64,
}

/// An episode, from M_0 to the step that was made last.
pub(super) struct Episode {
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
    pub fn new(start: f64, candidates: &Candidates) -> Self {
        let history = SelectionHistory::new(candidates);
        Self { start, known: start, unrewarded: 0, history, steps: Vec::new(), selection: Vec::new() }
    }

    /// S_t of a step that was made.
    pub fn state(&self, t: usize) -> State<'_> {
        State { stage: self.steps[t].stage, history: &self.history, step: t }
    }

    /// Adds a step after the model was trained on its batch. [`Self::reward`] sets the reward later.
    pub fn push(
        &mut self,
        choice: PolicyChoice,
        round: usize,
        number: usize,
        trained: &StepReport,
        candidates: &Candidates,
    ) -> Result<()> {
        let PolicyChoice { stage, action, positions, value } = choice;
        self.history.take(&positions, candidates)?;
        let t = self.steps.len();
        let row = EpisodeStepRow::new(round, number, t, value, trained);
        self.steps.push(Step { stage, action, positions, row, advantages: Vec::new(), returns: 0.0 });
        let Step { action, positions, .. } = &self.steps[t];
        let rows = EpisodeSelectionRow::of_batch(round, number, self.state(t), action, positions, candidates);
        self.selection.extend(rows);
        self.unrewarded += 1;
        Ok(())
    }

    /// R_t = P(M_{t+1}) - P(M_t) (section 1). If several steps lie between two measurements, they share the gain equally.
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
    pub fn standing(&self) -> f64 {
        let last = self.steps[self.steps.len() * 3 / 4..].iter().filter_map(|step| step.row.performance);
        let (sum, count) = last.fold((0.0, 0), |(sum, count), performance| (sum + performance, count + 1));
        sum / f64::from(count.max(1))
    }
}
