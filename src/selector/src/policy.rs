//! The selection policy pi(D_t | S_t) and the critic V(S_t): the networks, and which candidates compete with which
//! (docs/method.md, section 3). What the policy makes of a state is in [`super::scoring`].

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::network::{Mlp, STAGE_PART_WIDTH, Scorer};
use super::state::Candidates;
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Deployment, PolicyForm, PpoSettings, StatePart};

/// Numbers of the critic's pooled state beside the F columns; see [`super::scoring::DrawnBatch::pooled`].
pub const POOLED: usize = STAGE_PART_WIDTH + 6;

/// Everything of a policy but its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    pub form: PolicyForm,
    pub clusters_per_step: usize,
    /// The static columns that the policy reads, in order.
    pub columns: Vec<String>,
    pub state: Vec<StatePart>,
    pub actor_widths: Vec<usize>,
    pub critic_widths: Vec<usize>,
    pub reuse_penalty: f64,
    pub deployment: Deployment,
    /// The stage's performance is (P(M_t) - P(M_0)) / this: what the first episode gained. Relative to the run's own
    /// start, so that it means the same for a proxy and its target.
    pub performance_scale: f64,
}

pub struct Policy {
    pub constants: Constants,
    /// Scores clusters by the mean of their candidates' states; hierarchical form only.
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

    /// The stage scalars of a moment. `improvement` is P(M_t) - P(M_0).
    pub fn stage(&self, improvement: f64, step: usize, total_steps: usize) -> [f32; STAGE_PART_WIDTH] {
        if !self.constants.state.contains(&StatePart::Stage) {
            return [0.0; STAGE_PART_WIDTH];
        }
        let performance = (improvement / self.constants.performance_scale).clamp(-10.0, 10.0);
        [performance as f32, (step as f64 / total_steps.max(1) as f64) as f32]
    }

    /// The critic's V(S_t) of [pooled states](super::scoring::Action::pooled): `[m, POOLED + F]` -> `[m]`.
    pub fn values(&self, pooled: &Tensor) -> Tensor {
        self.critic.forward(pooled)
    }

    /// Times selected, as the scorers see them.
    pub(crate) fn seen(&self, counts: &Tensor) -> Tensor {
        counts * if self.constants.state.contains(&StatePart::Availability) { 1.0 } else { 0.0 }
    }

    /// Sets of positions of which each competes within itself.
    pub fn sets(&self, candidates: &Candidates) -> Vec<Range<usize>> {
        match self.constants.form {
            PolicyForm::Flat => std::iter::once(0..candidates.len()).collect(),
            PolicyForm::PerCluster | PolicyForm::Hierarchical => {
                candidates.ranges.iter().filter(|range| !range.is_empty()).cloned().collect()
            }
        }
    }

    /// # Errors
    /// Candidates with other columns than those that the policy was trained with, or fewer than one batch.
    pub fn check(&self, candidates: &Candidates, batch_size: usize) -> Result<()> {
        if self.constants.columns != candidates.columns {
            return Err(Problem::new(format!(
                "the policy was trained on {} state columns, these candidates have {} (or others)",
                self.constants.columns.len(),
                candidates.columns.len()
            ))
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

/// How many candidates each set gives to a batch, by form. `order` is the order of the sets: as drawn in the
/// hierarchical form, as they are otherwise. Sets that are too small pass their share on.
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
    // First what the sharing sets can still give, then the sets after them.
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
    fn every_batch_is_filled_and_small_sets_pass_their_share_on() {
        assert_eq!(budgets(&[9, 9, 9], 8, 3), [3, 3, 2]);
        assert_eq!(budgets(&[9, 9, 9], 8, 2), [4, 4, 0]);
        assert_eq!(budgets(&[2, 9, 9], 8, 2), [2, 6, 0]);
        assert_eq!(budgets(&[2, 3, 9], 8, 2), [2, 3, 3]);
        assert_eq!(budgets(&[5], 4, 4), [4]);
    }
}
