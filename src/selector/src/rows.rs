//! The rows of the tables `rounds`, `steps` and `selection` of a selector.

/// One row of the table `rounds`. A number of an episode is here the mean over the episodes of the round. The
/// statistics of the update have the names of CleanRL, and are means over the minibatches of the last epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundRow {
    pub round: usize,
    /// P(M_T) - P(M_0), the sum of the rewards.
    pub episode_reward: f64,
    /// P(M_T)
    pub final_performance: f64,
    /// `None`, like the other statistics of an update, if the policy is not trained by PPO.
    pub policy_loss: Option<f64>,
    pub value_loss: Option<f64>,
    /// In nats; see [`Replay::entropy`](super::scoring::Replay::entropy).
    pub entropy: f64,
    pub approx_kl: Option<f64>,
    pub clipfrac: Option<f64>,
    /// `None` if the returns do not vary.
    pub explained_variance: Option<f64>,
    /// exp(entropy): the number of candidates among which one slot of a batch is in effect drawn.
    pub effective_candidates: f64,
    pub actor_learning_rate: Option<f64>,
    pub epochs: Option<usize>,
    /// The reliability of the estimated contributions or effects; `None` with shared credit.
    pub credit_reliability: Option<f64>,
    /// The number of effects that were measured so far; `None` without credit by effect.
    pub measured_effects: Option<usize>,
    /// The share of the variance of the effects that the prior explains; `None` without a prior or without credit by
    /// effect.
    pub explained_by_prior: Option<f64>,
    /// Whether the policy that played this round is the best so far.
    pub kept: bool,
}

/// One row of the table `steps`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EpisodeStepRow {
    pub round: usize,
    pub episode: usize,
    /// t
    pub step: usize,
    /// The mean loss of M_t per supervised token of D_t.
    pub loss: f64,
    /// P(M_{t+1}), if it was measured after this step.
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
    /// In this episode, before this step.
    pub times_selected: u32,
}

/// One row of the table `effects`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EffectRow {
    pub round: usize,
    pub episode: usize,
    /// The step before which the effect was measured.
    pub step: usize,
    pub id: u32,
    /// In nats per token; see [`raisin_base::learner::RowEffect`].
    pub effect: f64,
    /// What the row would add to the effect of a batch; see [`crate::posterior::weighted_effects`].
    pub weighted_effect: f64,
    /// Whether the candidate belongs to the batch of the step. The other candidates are probes.
    pub drawn: bool,
}

/// The rows of one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundResult {
    pub row: RoundRow,
    pub steps: Vec<EpisodeStepRow>,
    pub selection: Vec<EpisodeSelectionRow>,
    pub effects: Vec<EffectRow>,
}
