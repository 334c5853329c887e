//! The selection policy pi(D_t | S_t) and the critic V(S_t): the networks, and the sets of candidates that compete with
//! each other (docs/method.md, section 3). [`super::scoring`] applies the policy to a state.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::network::{Mlp, MlpScorer, STAGE_PART_WIDTH};
use super::scorer::{LinearScorer, Scorer};
use super::state::Candidates;
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Concentration, Deployment, PolicyForm, PolicyLearner, PpoSettings, Prior, StatePart};

/// The width of the critic's input without its F static columns; see [`super::scoring::DrawnBatch::pooled`].
pub const POOLED: usize = STAGE_PART_WIDTH + 6;

/// The column of the state that the prior `similarity` reads.
pub const SIMILARITY: &str = "target.similarity_mean";

/// The part of a score that is not learned: the column of the state, times the weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorScore {
    pub column: String,
    pub weight: f64,
}

/// The parts of a policy that are not weights: the content of `policy.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    pub learner: PolicyLearner,
    /// `None` if the policy starts with equal scores.
    pub prior: Option<PriorScore>,
    pub form: PolicyForm,
    pub clusters_per_step: usize,
    /// The names of the F static columns that the policy reads, in order.
    pub columns: Vec<String>,
    /// C: the number of clusters of the candidates.
    pub clusters: usize,
    /// [`Candidates::basis`] of the candidates that the policy was trained with.
    #[serde(default)]
    pub basis: Option<String>,
    pub state: Vec<StatePart>,
    pub actor_widths: Vec<usize>,
    pub critic_widths: Vec<usize>,
    pub reuse_penalty: f64,
    /// See [`PpoSettings::repeats`]; 0 if the scores are not scaled.
    pub repeats: f64,
    /// `scale` for a policy that takes the highest scores, because the candidates within a limit have equal scores. Policies of
    /// versions before 14 do not have this field, and scale.
    #[serde(default)]
    pub concentration: Concentration,
    pub deployment: Deployment,
    /// The unit of the performance in the stage part, which is (P(M_t) - P(M_0)) / `performance_scale`: the largest
    /// abs(P(M_t) - P(M_0)) of the first round, and 1 during this round. Because P(M_0) belongs to the same run, the
    /// number means the same for a proxy and its target.
    pub performance_scale: f64,
    /// The smallest and the largest improvement P(M_t) - P(M_0) in the states of the training. `None` before the first
    /// round.
    #[serde(default)]
    pub improvement_range: Option<[f64; 2]>,
    /// How the episodes were played. `None` while the policy is trained.
    #[serde(default)]
    pub conditions: Option<Conditions>,
}

/// What a policy may have adapted to: the model and the batches that it is trained with, or deployed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// The largest number of tokens in a sequence.
    pub max_tokens: usize,
    /// T
    pub steps: usize,
    /// B
    pub batch_size: usize,
    pub model: ModelRole,
    /// The number of parameters of the model, without adapters.
    pub parameters: u64,
}

/// The model that is trained on the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelRole {
    /// A base with a frozen prefix.
    FrozenPrefix,
    /// A model whose layers all run.
    Whole,
}

impl Conditions {
    /// One sentence for each difference between the conditions of the training and those of a deployment.
    pub fn differences(&self, deployed: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let numbers = [
            ("max_tokens", self.max_tokens as u64, deployed.max_tokens as u64),
            ("steps", self.steps as u64, deployed.steps as u64),
            ("batch_size", self.batch_size as u64, deployed.batch_size as u64),
        ];
        for (name, trained, here) in numbers.into_iter().filter(|(_, trained, here)| trained != here) {
            all.push(format!(
                "the policy was trained with {name} = {trained}, and it selects here with {name} = {here}"
            ));
        }
        if self.model != deployed.model {
            let [trained, here] = [self.model, deployed.model].map(|role| match role {
                ModelRole::FrozenPrefix => "a proxy with a frozen prefix",
                ModelRole::Whole => "a model without a frozen prefix",
            });
            all.push(format!("the policy was trained on {trained}, and it selects here for {here}"));
        }
        if self.parameters != deployed.parameters {
            let (trained, here) = (self.parameters, deployed.parameters);
            all.push(format!(
                "the policy was trained on a model of {trained} parameters, and it selects here for one of {here}"
            ));
        }
        all
    }
}

impl Constants {
    /// Extends the range of the improvements that the training has seen.
    pub fn add_improvement(&mut self, improvement: f64) {
        let [low, high] = self.improvement_range.unwrap_or([improvement; 2]);
        self.improvement_range = Some([low.min(improvement), high.max(improvement)]);
    }

    /// The nearest improvement that the training has seen.
    pub fn seen_improvement(&self, improvement: f64) -> f64 {
        self.improvement_range.map_or(improvement, |[low, high]| improvement.clamp(low, high))
    }
}

pub struct Policy {
    pub constants: Constants,
    /// Scores a cluster by the mean state of its candidates; hierarchical form only.
    pub clusters: Option<Scorer>,
    pub candidates: Scorer,
    /// `None` for a policy that is not trained by PPO.
    pub critic: Option<Mlp>,
}

impl Policy {
    /// The prior of the candidates must be set ([`Candidates::with_prior`]), if they have one.
    pub fn new(config: &PpoSettings, candidates: &Candidates, seed: &Seed) -> Self {
        let column = match config.prior {
            Prior::Similarity => candidates.prior.as_ref().map(|_| SIMILARITY.to_owned()),
            Prior::None => None,
        };
        let columns = candidates.columns.clone();
        Self::untrained(
            Constants {
                learner: config.learner,
                prior: column.map(|column| PriorScore { column, weight: config.prior_weight }),
                form: config.policy,
                clusters_per_step: config.clusters_per_step,
                columns,
                clusters: candidates.ranges.len(),
                basis: candidates.basis.clone(),
                state: config.state.clone(),
                actor_widths: config.actor_widths.clone(),
                critic_widths: config.critic_widths.clone(),
                reuse_penalty: config.reuse_penalty,
                repeats: if config.policy == PolicyForm::Flat { config.repeats } else { 0.0 },
                concentration: match config.deployment {
                    Deployment::Sample if config.explore => config.concentration,
                    Deployment::Sample | Deployment::Top => Concentration::Scale,
                },
                deployment: config.deployment,
                performance_scale: 1.0,
                improvement_range: None,
                conditions: None,
            },
            seed,
        )
    }

    pub(crate) fn untrained(constants: Constants, seed: &Seed) -> Self {
        let features = constants.columns.len();
        let scorer = |seed: &Seed| match constants.learner {
            PolicyLearner::Ppo => Scorer::Mlp(MlpScorer::new(features, &constants.actor_widths, seed)),
            PolicyLearner::Posterior => Scorer::Linear(LinearScorer::zero(features, constants.clusters)),
        };
        let clusters = (constants.form == PolicyForm::Hierarchical).then(|| scorer(&seed.at("clusters")));
        let candidates = scorer(&seed.at("items"));
        let critic = (constants.learner == PolicyLearner::Ppo)
            .then(|| Mlp::new(POOLED + features, &constants.critic_widths, 1.0, &seed.at("critic")));
        let policy = Self { constants, clusters, candidates, critic };
        if policy.constants.learner == PolicyLearner::Ppo {
            for (_, mut weight) in policy.parameters() {
                let _ = weight.requires_grad_(true);
            }
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
        self.critic.as_ref().map(|critic| critic.named("critic")).unwrap_or_default()
    }

    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.actor_parameters().into_iter().chain(self.critic_parameters()).collect()
    }

    /// The number of candidates on which a linear policy concentrates a training of this number of draws; `None` if it draws
    /// by its scores alone.
    pub fn aimed_candidates(&self, draws: usize) -> Option<f64> {
        let repeats = self.constants.repeats;
        (self.constants.learner == PolicyLearner::Posterior && repeats > 0.0).then(|| draws as f64 / repeats)
    }

    /// Whether the scores depend on the performance. A linear policy reads t/T only.
    pub fn reads_performance(&self) -> bool {
        self.constants.learner == PolicyLearner::Ppo && self.constants.state.contains(&StatePart::Stage)
    }

    /// The stage part of the state before step `step`. `improvement` is P(M_t) - P(M_0).
    pub fn stage(&self, improvement: f64, step: usize, total_steps: usize) -> [f32; STAGE_PART_WIDTH] {
        if !self.constants.state.contains(&StatePart::Stage) {
            // At the middle of a training, the change of the weights of a linear policy has no influence.
            let time = if self.constants.learner == PolicyLearner::Posterior { 0.5 } else { 0.0 };
            return [0.0, time];
        }
        let performance = (improvement / self.constants.performance_scale).clamp(-10.0, 10.0);
        [performance as f32, (step as f64 / total_steps.max(1) as f64) as f32]
    }

    /// Sets the weights of a linear policy, for candidates and for clusters: `[F + C, 2]`.
    pub fn set_linear(&mut self, weights: &Tensor) {
        for scorer in self.clusters.iter_mut().chain([&mut self.candidates]) {
            *scorer = Scorer::Linear(LinearScorer { weights: weights.copy() });
        }
    }

    /// The critic's V(S_t) of [pooled states](super::scoring::DrawnBatch::pooled): `[m, POOLED + F]` -> `[m]`. Zeros
    /// without a critic.
    pub fn values(&self, pooled: &Tensor) -> Tensor {
        match &self.critic {
            Some(critic) => critic.forward(pooled),
            None => pooled.select(-1, 0).zeros_like(),
        }
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
    /// The candidates have other columns than the policy, or numbers of another meaning in them, or there are fewer
    /// candidates than a batch needs.
    pub fn check(&self, candidates: &Candidates, batch_size: usize) -> Result<()> {
        if self.constants.columns != candidates.columns {
            return Err(Problem::new("the candidates have other state columns than the policy")
                .hint("train and deploy a policy with the same clusters stage")
                .into());
        }
        if self.constants.basis.is_some() && self.constants.basis != candidates.basis {
            return Err(Problem::new(
                "the policy was trained with the states of another clusters stage, whose numbers mean something else",
            )
            .hint("name the clusters stage of the policy as `like` in the clusters stage of these candidates")
            .into());
        }
        if let Some(prior) = self.constants.prior.as_ref().filter(|_| candidates.prior.is_none()) {
            return Err(Problem::new(format!(
                "the candidates have no column `{}` for the policy's prior",
                prior.column
            ))
            .hint("give the features stage the task, and train and deploy a policy with the same clusters stage")
            .into());
        }
        if candidates.ranges.len() > self.constants.clusters {
            let (found, known) = (candidates.ranges.len(), self.constants.clusters);
            return Err(Problem::new(format!("the candidates have {found} clusters, and the policy knows {known}"))
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
    let mut wanted = shares(batch_size, sharing);
    wanted.resize(sizes.len(), 0);
    filled(&wanted, sizes, batch_size)
}

/// A batch divided into `count` equal shares; the first of them have one more if the batch size is not divisible.
pub fn shares(batch_size: usize, count: usize) -> Vec<usize> {
    (0..count).map(|place| batch_size / count + usize::from(place < batch_size % count)).collect()
}

/// The number of candidates that each set gives to a batch: the wanted number, if the set has so many. The candidates
/// that a set lacks come from the other sets, in order.
pub fn filled(wanted: &[usize], sizes: &[usize], batch_size: usize) -> Vec<usize> {
    let mut budgets: Vec<usize> = wanted.iter().zip(sizes).map(|(&wanted, &size)| wanted.min(size)).collect();
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

    #[test]
    fn each_difference_between_training_and_deployment_is_one_sentence() {
        let trained =
            Conditions { max_tokens: 512, steps: 10, batch_size: 8, model: ModelRole::FrozenPrefix, parameters: 1000 };
        assert!(trained.differences(&trained).is_empty());
        let here = Conditions { max_tokens: 384, steps: 2, model: ModelRole::Whole, ..trained.clone() };
        assert_eq!(
            trained.differences(&here),
            [
                "the policy was trained with max_tokens = 512, and it selects here with max_tokens = 384",
                "the policy was trained with steps = 10, and it selects here with steps = 2",
                "the policy was trained on a proxy with a frozen prefix, and it selects here for a model without a \
                 frozen prefix",
            ]
        );
        let larger = Conditions { batch_size: 16, parameters: 9000, ..trained.clone() };
        assert_eq!(
            trained.differences(&larger),
            [
                "the policy was trained with batch_size = 8, and it selects here with batch_size = 16",
                "the policy was trained on a model of 1000 parameters, and it selects here for one of 9000",
            ]
        );
    }
}
