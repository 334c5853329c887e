//! The selection policy pi(D_t | S_t) and the critic V(S_t): the networks, and the sets of candidates that compete with
//! each other (docs/method.md, section 3). [`super::scoring`] applies the policy to a state.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::network::{Mlp, STAGE_PART_WIDTH, Scorer};
use super::state::Candidates;
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Deployment, PolicyForm, PpoSettings, StatePart};

/// The width of the critic's input without its F static columns; see [`super::scoring::DrawnBatch::pooled`].
pub const POOLED: usize = STAGE_PART_WIDTH + 6;

/// The parts of a policy that are not weights: the content of `policy.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    pub form: PolicyForm,
    pub clusters_per_step: usize,
    /// The names of the F static columns that the policy reads, in order.
    pub columns: Vec<String>,
    pub state: Vec<StatePart>,
    pub actor_widths: Vec<usize>,
    pub critic_widths: Vec<usize>,
    pub reuse_penalty: f64,
    pub deployment: Deployment,
    /// The unit of the performance in the stage part, which is (P(M_t) - P(M_0)) / `performance_scale`: the largest
    /// abs(P(M_t) - P(M_0)) of the first round, and 1 during this round. Because P(M_0) belongs to the same run, the
    /// number means the same for a proxy and its target.
    pub performance_scale: f64,
}

pub struct Policy {
    pub constants: Constants,
    /// Scores a cluster by the mean state of its candidates; hierarchical form only.
    pub clusters: Option<Scorer>,
    pub candidates: Scorer,
    pub critic: Mlp,
}

impl Policy {
    pub fn new(config: &PpoSettings, columns: Vec<String>, seed: &Seed) -> Self {
        Self::untrained(
            Constants {
                form: config.policy,
                clusters_per_step: config.clusters_per_step,
                columns,
                state: config.state.clone(),
                actor_widths: config.actor_widths.clone(),
                critic_widths: config.critic_widths.clone(),
                reuse_penalty: config.reuse_penalty,
                deployment: config.deployment,
                performance_scale: 1.0,
            },
            seed,
        )
    }

    pub(crate) fn untrained(constants: Constants, seed: &Seed) -> Self {
        let features = constants.columns.len();
        let clusters = (constants.form == PolicyForm::Hierarchical)
            .then(|| Scorer::new(features, &constants.actor_widths, &seed.at("clusters")));
        let candidates = Scorer::new(features, &constants.actor_widths, &seed.at("items"));
        let critic = Mlp::new(POOLED + features, &constants.critic_widths, 1.0, &seed.at("critic"));
        let policy = Self { constants, clusters, candidates, critic };
        for (_, mut weight) in policy.actor_parameters().into_iter().chain(policy.critic_parameters()) {
            let _ = weight.requires_grad_(true);
        }
        policy
    }

    pub fn actor_parameters(&self) -> Vec<(String, Tensor)> {
        let mut named = self.candidates.named("items");
        if let Some(clusters) = &self.clusters {
            named.extend(clusters.named("clusters"));
        }
        named
    }

    pub fn critic_parameters(&self) -> Vec<(String, Tensor)> {
        self.critic.named("critic")
    }

    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.actor_parameters().into_iter().chain(self.critic_parameters()).collect()
    }

    /// The stage part of the state before step `step`. `improvement` is P(M_t) - P(M_0).
    pub fn stage(&self, improvement: f64, step: usize, total_steps: usize) -> [f32; STAGE_PART_WIDTH] {
        if !self.constants.state.contains(&StatePart::Stage) {
            return [0.0; STAGE_PART_WIDTH];
        }
        let performance = (improvement / self.constants.performance_scale).clamp(-10.0, 10.0);
        [performance as f32, (step as f64 / total_steps.max(1) as f64) as f32]
    }

    /// The critic's V(S_t) of [pooled states](super::scoring::DrawnBatch::pooled): `[m, POOLED + F]` -> `[m]`.
    pub fn values(&self, pooled: &Tensor) -> Tensor {
        self.critic.forward(pooled)
    }

    /// The counts of earlier selections, which the scorers read; zeros if the state lacks the part `availability`.
    pub(crate) fn counts_or_zeros(&self, counts: &Tensor) -> Tensor {
        counts * if self.constants.state.contains(&StatePart::Availability) { 1.0 } else { 0.0 }
    }

    /// The sets of positions whose candidates compete with each other.
    pub fn sets(&self, candidates: &Candidates) -> Vec<Range<usize>> {
        match self.constants.form {
            PolicyForm::Flat => std::iter::once(0..candidates.len()).collect(),
            PolicyForm::PerCluster | PolicyForm::Hierarchical => {
                candidates.ranges.iter().filter(|range| !range.is_empty()).cloned().collect()
            }
        }
    }

    /// # Errors
    /// The candidates have other columns than the policy, or there are fewer candidates than a batch needs.
    pub fn check(&self, candidates: &Candidates, batch_size: usize) -> Result<()> {
        if self.constants.columns != candidates.columns {
            return Err(Problem::new("the candidates have other state columns than the policy")
                .hint("train and deploy a policy with the same clusters stage")
                .into());
        }
        if candidates.len() < batch_size {
            return Err(Problem::new(format!(
                "there are {} candidates, fewer than one batch of {batch_size}",
                candidates.len()
            ))
            .hint("a larger pool, or a smaller batch")
            .into());
        }
        Ok(())
    }
}

/// The number of candidates that each set gives to a batch. The first `share_among` sets share the batch equally; the
/// first of them give one more if the batch size is not divisible. The candidates that a set lacks come from the other
/// sharing sets and then from the sets after them, in order.
pub fn budgets(sizes: &[usize], batch_size: usize, share_among: usize) -> Vec<usize> {
    let sharing = share_among.clamp(1, sizes.len().max(1));
    let mut budgets: Vec<usize> = sizes
        .iter()
        .enumerate()
        .map(|(place, &size)| {
            let share = batch_size / sharing + usize::from(place < batch_size % sharing);
            if place < sharing { share.min(size) } else { 0 }
        })
        .collect();
    let mut left = batch_size - budgets.iter().sum::<usize>();
    for (budget, &size) in budgets.iter_mut().zip(sizes) {
        let more = left.min(size - *budget);
        *budget += more;
        left -= more;
    }
    budgets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sets_fill_the_batch_if_a_set_is_too_small() {
        assert_eq!(budgets(&[9, 9, 9], 8, 3), [3, 3, 2]);
        assert_eq!(budgets(&[9, 9, 9], 8, 2), [4, 4, 0]);
        assert_eq!(budgets(&[2, 9, 9], 8, 2), [2, 6, 0]);
        assert_eq!(budgets(&[2, 3, 9], 8, 2), [2, 3, 3]);
        assert_eq!(budgets(&[5], 4, 4), [4]);
    }
}
