//! What training tells of itself: the rows of the tables `rounds`, `steps` and `selection`.

use super::scoring::DrawnBatch;
use super::state::{Candidates, State};
use raisin_base::learner::StepReport;

/// One row of the table `rounds`.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundRow {
    pub round: usize,
    /// Sum of the rewards: P(M_T) - P(M_0). With several episodes in a round, this and what follows are means.
    pub episode_reward: f64,
    pub final_performance: f64,
    pub policy_loss: f64,
    pub value_loss: f64,
    pub entropy: f64,
    pub approx_kl: f64,
    pub clipfrac: f64,
    /// `None` where the returns do not vary.
    pub explained_variance: Option<f64>,
    /// exp(entropy): over how many candidates one slot of a batch is spread.
    pub effective_candidates: f64,
    pub actor_learning_rate: f64,
    pub epochs: usize,
    /// Reliability of the contribution estimate, where it is used.
    pub credit_reliability: Option<f64>,
    /// Whether the policy that played this round is the best so far.
    pub kept: bool,
}

/// One row of the table `steps`.
#[derive(Clone, Debug, PartialEq)]
pub struct EpisodeStepRow {
    pub round: usize,
    pub episode: usize,
    pub step: usize,
    pub loss: f64,
    /// P(M_{t+1}), where it was measured.
    pub performance: Option<f64>,
    /// R_t
    pub reward: f64,
    /// V(S_t)
    pub value: f64,
    pub learning_rate: f64,
    pub tokens: u64,
    pub supervised_tokens: u64,
    pub flops: f64,
}

impl EpisodeStepRow {
    /// A step whose batch was trained on. Its reward is known once the performance is measured.
    pub fn new(round: usize, episode: usize, step: usize, value: f64, trained: &StepReport) -> Self {
        let StepReport { loss, tokens, supervised_tokens, learning_rate, flops } = *trained;
        let (performance, reward) = (None, 0.0);
        Self { round, episode, step, loss, performance, reward, value, learning_rate, tokens, supervised_tokens, flops }
    }
}

/// One row of the table `selection`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpisodeSelectionRow {
    pub round: usize,
    pub episode: usize,
    pub step: usize,
    pub slot: usize,
    pub id: u32,
    pub cluster: u32,
    pub score: f64,
    pub log_prob: f64,
    pub times_selected: u32,
}

impl EpisodeSelectionRow {
    /// The rows of a batch, one a slot.
    pub fn of_batch(
        round: usize,
        episode: usize,
        state: State,
        action: &DrawnBatch,
        positions: &[usize],
        candidates: &Candidates,
    ) -> Vec<Self> {
        let drawn = action.candidates.iter().flat_map(|picks| picks.scores.iter().zip(&picks.log_probs));
        let row = |(slot, (&position, (&score, &log_prob))): (usize, (&usize, (&f32, &f32)))| Self {
            round,
            episode,
            step: state.step,
            slot,
            id: candidates.ids[position],
            cluster: candidates.clusters[position],
            score: f64::from(score),
            log_prob: f64::from(log_prob),
            times_selected: state.history.count(position, state.step) as u32,
        };
        positions.iter().zip(drawn).enumerate().map(row).collect()
    }
}

/// Everything that one round has to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundResult {
    pub row: RoundRow,
    pub steps: Vec<EpisodeStepRow>,
    pub selection: Vec<EpisodeSelectionRow>,
}
