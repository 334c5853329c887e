//! RAISE: the algorithm from end to end (docs/method.md; the comments give its sections).
//!
//! ```text
//! for each of K rounds                                      round
//!     restore M_0 and measure P(M_0)                        play                section 1
//!     for each of T steps, in each episode of the round
//!         score S_t, draw D_t, value V(S_t)                 choose              sections 2 and 3
//!         train M_t on D_t to M_{t+1}
//!         R_t = P(M_{t+1}) - P(M_t)                         play                section 1
//!     keep the policy if it is the best so far              keep_best           section 4
//!     R_t minus its baseline; advantages A_t; returns G_t   compute_advantages  section 4
//!     the credit of each draw, from A_t and contributions   credit_draws        section 4
//!     for each epoch, for each minibatch                    update              section 4
//!         clipped surrogate of the actor, squared error of the critic, one step of Adam for each
//!     the mean of the weights of the last half of the rounds  average_weights   section 4
//! ```
//!
//! [`ppo`] has the formulas, [`super::scoring`] the scores and probabilities, [`super::step_baseline`] the baseline of
//! a step, [`super::credit`] the regression behind credit, and episode/played.rs the record of an episode. A stage
//! saves [`PolicyTraining`] between two rounds; an interrupted round is played again.

use tch::Tensor;

use super::adam::Adam;
use super::credit::{CandidateEffects, Contributions, ObservedStep};
use super::policy::Policy;
use super::posterior::EffectRegression;
use super::ppo::{self, RewardSums};
pub(crate) use effects::SELECTION_UNIT;

pub use super::rows::{EffectRow, EpisodeSelectionRow, EpisodeStepRow, RoundResult, RoundRow};
use super::sampling::DrawMode;
use super::scoring::{DrawnBatch, Scoring};
use super::state::{Candidates, State};
use super::step_baseline::StepBaseline;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::learner::Ensemble;
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Baseline, Credit, Keep, PolicyLearner, PpoSettings};

mod effects;
mod played;
mod update;

use played::{Episode, Step};

/// The most candidates that are scored at once in an update. A minibatch with more candidates is computed in parts.
const CANDIDATES_AT_ONCE: usize = 1 << 18;

/// Called after every step with the round, the newest step of each episode, and the last measured performance minus
/// P(M_0), as a mean over the episodes.
pub type OnStep<'a> = &'a mut dyn FnMut(usize, &[&EpisodeStepRow], f64);

/// Policy, optimizers and statistics between two rounds.
pub struct PolicyTraining {
    pub config: PpoSettings,
    pub policy: Policy,
    /// The policy with the highest late performance: the mean performance over the last quarter of the steps of its
    /// round.
    pub best: Option<Policy>,
    /// The mean of the weights after each update of the last half of the rounds; with `keep = "average"` only.
    pub(super) average: Option<Policy>,
    /// The number of updates in `average`.
    pub(super) averaged: usize,
    /// The late performance of `best`.
    pub(super) best_late_performance: f64,
    pub(super) actor: Adam,
    pub(super) critic: Adam,
    pub(super) step_baseline: StepBaseline,
    pub(super) contributions: Contributions,
    pub(super) effects: EffectRegression,
    pub(super) reward_sums: RewardSums,
    pub(super) rounds_done: usize,
    pub(super) seed: Seed,
}

impl PolicyTraining {
    /// # Errors
    /// See [`Policy::check`].
    pub fn new(candidates: &Candidates, config: PpoSettings, seed: Seed) -> Result<Self> {
        let policy = Policy::new(&config, candidates, &seed.at("policy"));
        policy.check(candidates, config.batch_size)?;
        Ok(Self {
            actor: Adam::new(&policy.actor_parameters()),
            critic: Adam::new(&policy.critic_parameters()),
            config,
            policy,
            best: None,
            average: None,
            averaged: 0,
            best_late_performance: f64::NEG_INFINITY,
            step_baseline: StepBaseline::default(),
            contributions: Contributions::default(),
            effects: EffectRegression::new(effects::is_one_of_many(candidates)),
            reward_sums: RewardSums::default(),
            rounds_done: 0,
            seed,
        })
    }

    pub fn rounds_done(&self) -> usize {
        self.rounds_done
    }

    /// Plays one round and updates the policy from it.
    ///
    /// # Errors
    /// A learner fails, or the performance or a gradient is not finite.
    pub fn round(
        &mut self,
        learners: &mut dyn Ensemble,
        candidates: &Candidates,
        on_step: OnStep,
    ) -> Result<RoundResult> {
        let round = self.rounds_done;
        let seed = self.seed.at("round").at(round);
        let mut episodes = self.play(learners, candidates, &seed, on_step)?;
        self.record_improvements(&episodes);
        let kept = self.keep_best(&episodes)?;
        if round == 0 {
            self.set_performance_scale(&episodes);
        }
        let explained_variance = self.compute_advantages(&mut episodes);
        let learned = match self.config.credit {
            Credit::Effect => Some(self.learn_effects(&episodes, candidates)?),
            Credit::Shared | Credit::Contribution => None,
        };
        let (statistics, credit_reliability) = match (&learned, self.config.learner) {
            (Some(learned), PolicyLearner::Posterior) => {
                (self.follow_posterior(&episodes, candidates, learned)?, Some(learned.reliability))
            }
            (learned, _) => {
                let contributed = match (learned, self.config.credit) {
                    (Some(learned), _) => Some((self.candidate_effects(candidates, learned), learned.reliability)),
                    (None, Credit::Contribution) => Some(self.contributions_of(&episodes, candidates)?),
                    (None, _) => None,
                };
                if let Some((contributions, reliability)) = &contributed {
                    self.credit_draws(&mut episodes, candidates, contributions, *reliability)?;
                }
                let statistics = self
                    .update(&episodes, candidates, &seed.at("update"))
                    .with_context(|| format!("cannot update the policy after round {round}"))?;
                (statistics, contributed.map(|(_, reliability)| reliability))
            }
        };
        self.average_weights()?;
        let posterior = learned.as_ref().and_then(|learned| learned.posterior.as_ref());
        let prior = self.policy.constants.prior.as_ref().and(posterior);
        self.rounds_done += 1;
        let final_performance = mean(&episodes, Episode::final_performance);
        let row = RoundRow {
            round,
            episode_reward: final_performance - mean(&episodes, |episode| episode.base_performance),
            final_performance,
            explained_variance: explained_variance.filter(|_| self.policy.critic.is_some()),
            credit_reliability,
            measured_effects: learned.as_ref().map(|_| self.effects.count()),
            explained_by_prior: prior.map(|posterior| posterior.explained_by_prior),
            kept,
            ..statistics
        };
        let selection = episodes.iter().flat_map(|episode| episode.selection.iter().copied()).collect();
        let effects = Self::effect_rows(&episodes, candidates);
        let steps = episodes.into_iter().flat_map(|episode| episode.steps).map(|step| step.row).collect();
        Ok(RoundResult { row, steps, selection, effects })
    }

    /// Sections 1 to 3: restores M_0 in every episode and trains it for T steps on the batches that the policy draws.
    fn play(
        &self,
        learners: &mut dyn Ensemble,
        candidates: &Candidates,
        seed: &Seed,
        on_step: OnStep,
    ) -> Result<Vec<Episode>> {
        let (config, round) = (&self.config, self.rounds_done);
        let base_performance = learners.restore_all()?; // P(M_0)
        if !base_performance.is_finite() {
            return Err(Problem::new(format!(
                "the performance of the model is {base_performance} before any training"
            ))
            .hint("the stage that made the model may have diverged: look at its `steps`")
            .into());
        }
        let episode = |number| {
            // The seed of episode 0 does not depend on whether the round has more episodes.
            let seed = if number == 0 { *seed } else { seed.at("episode").at(number) };
            Episode::new(round, number, seed, base_performance, candidates)
        };
        let mut episodes: Vec<Episode> = (0..learners.episodes()).map(episode).collect();
        let scoring = Scoring::without_gradients(&self.policy, candidates);
        for t in 0..config.steps {
            let choose = |episode: &Episode| self.choose(&scoring, episode);
            let new_steps = episodes.iter().map(choose).collect::<Result<Vec<Step>>>()?;
            let ids = |step: &Step| step.positions.iter().map(|&position| candidates.ids[position]).collect();
            self.measure_effects(learners, &mut episodes, &new_steps, candidates)?;
            let reports = learners.step_all(&new_steps.iter().map(ids).collect::<Vec<_>>())?;
            for ((episode, step), report) in episodes.iter_mut().zip(new_steps).zip(&reports) {
                episode.push(step, report, candidates)?;
            }
            if (t + 1) % config.evaluate_every.max(1) == 0 || t + 1 == config.steps {
                for (episode, performance) in episodes.iter_mut().zip(learners.performances()?) {
                    if !performance.is_finite() {
                        return Err(Problem::new(format!(
                            "the performance of the model became {performance} after step {t} of round {round}"
                        ))
                        .hint("a lower learning rate of the model")
                        .into());
                    }
                    episode.add_measurement(performance);
                }
            }
            let rows: Vec<&EpisodeStepRow> = episodes.iter().map(|episode| &episode.steps[t].row).collect();
            on_step(round, &rows, mean(&episodes, |episode| episode.last_performance - base_performance));
        }
        Ok(episodes)
    }

    /// Sections 2 and 3: draws D_t by the policy's scores of S_t, and takes the critic's value V(S_t).
    fn choose(&self, scoring: &Scoring, episode: &Episode) -> Result<Step> {
        let t = episode.steps.len();
        let improvement = episode.last_performance - episode.base_performance;
        let stage = self.policy.stage(improvement, t, self.config.steps);
        let mut rng = episode.seed.at("step").at(t).rng();
        let mode = if self.config.explore { DrawMode::Sample(&mut rng) } else { DrawMode::Top };
        let state =
            State { stage, history: &episode.history, step: t, draws: self.config.steps * self.config.batch_size };
        let action = scoring.act(&self.policy, state, self.config.batch_size, mode)?;
        let value = match self.config.baseline {
            Baseline::Step => 0.0,
            Baseline::Critic | Baseline::Both => {
                let pooled = Tensor::from_slice(&action.pooled); // [POOLED + F]
                tch::no_grad(|| self.policy.values(&pooled)).double_value(&[])
            }
        };
        let row =
            EpisodeStepRow { round: episode.round, episode: episode.number, step: t, value, ..Default::default() };
        let positions = scoring.positions(&action);
        Ok(Step { stage, action, positions, row, advantages: Default::default(), returns: 0.0 })
    }

    /// Section 4: keeps the policy that played if its late performance is the highest so far.
    fn keep_best(&mut self, episodes: &[Episode]) -> Result<bool> {
        let late_performance = mean(episodes, Episode::late_performance);
        let kept = late_performance > self.best_late_performance;
        if kept {
            self.best_late_performance = late_performance;
            self.best = Some(self.policy.duplicate()?);
        }
        Ok(kept)
    }

    /// The policy that is the result of the training; `None` before the first round.
    pub fn kept(&self) -> Option<&Policy> {
        if self.config.learner == PolicyLearner::Posterior {
            return self.best.as_ref();
        }
        match self.config.keep {
            Keep::Best => self.best.as_ref(),
            Keep::Last => Some(&self.policy).filter(|_| self.rounds_done > 0),
            Keep::Average => self.average.as_ref(),
        }
    }

    /// Section 4, `keep = "average"`: after an update of the last half of the rounds, adds the weights to their mean.
    fn average_weights(&mut self) -> Result<()> {
        let is_averaged = self.config.keep == Keep::Average && self.config.learner == PolicyLearner::Ppo;
        if !is_averaged || self.rounds_done < self.config.rounds / 2 {
            return Ok(());
        }
        self.averaged += 1;
        let Some(average) = &mut self.average else {
            self.average = Some(self.policy.duplicate()?);
            return Ok(());
        };
        average.constants = self.policy.constants.clone();
        let share = 1.0 / self.averaged as f64;
        tch::no_grad(|| {
            for ((_, mut mean), (_, weight)) in average.parameters().into_iter().zip(self.policy.parameters()) {
                let _ = mean.g_add_(&((weight - &mean) * share));
            }
        });
        Ok(())
    }

    /// Section 2: extends the range of the improvements P(M_t) - P(M_0) in the states of the training by those of the
    /// round. In deployment, [`super::Raise`] limits the improvement to this range.
    fn record_improvements(&mut self, episodes: &[Episode]) {
        for episode in episodes {
            for improvement in episode.improvements().into_iter().take(episode.steps.len()) {
                self.policy.constants.add_improvement(improvement);
            }
        }
    }

    /// After the first round, sets the unit s of the performance in the state: the largest abs(P(M_t) - P(M_0)) of this
    /// round.
    ///
    /// [`Self::keep_best`] comes before, because its copy of the policy played with s = 1. [`Self::credit_draws`] comes
    /// after, because its regression needs one unit for all rounds. The recorded states keep s = 1: the policy drew the
    /// batches in these states.
    fn set_performance_scale(&mut self, episodes: &[Episode]) {
        let largest = episodes.iter().flat_map(Episode::improvements).map(f64::abs).fold(0.0, f64::max);
        if largest > 0.0 {
            self.policy.constants.performance_scale = largest;
        }
    }

    /// Section 4: subtracts the step baseline from the rewards, and computes the returns and the advantages by GAE. At
    /// first, every draw of a step gets the advantage of the step. Returns `explained_variance`.
    fn compute_advantages(&mut self, episodes: &mut [Episode]) -> Option<f64> {
        let config = &self.config;
        let rewards_of = |episode: &Episode| episode.steps.iter().map(|step| step.row.reward).collect();
        let rewards: Vec<Vec<f64>> = episodes.iter().map(rewards_of).collect(); // [episodes][T]
        let mut scale = 1.0;
        if config.normalise_reward {
            self.reward_sums.add(&rewards.concat());
            scale = self.reward_sums.scale();
        }
        let baselines = self.step_baseline.absorb(&rewards, config.evaluate_every); // [episodes][T]
        let (mut all_values, mut all_advantages, mut all_returns) = (vec![], vec![], vec![]); // [episodes x T]
        for ((episode, rewards), baselines) in episodes.iter().zip(&rewards).zip(&baselines) {
            let shift_and_scale = |(reward, baseline)| match config.baseline {
                Baseline::Critic => reward / scale,
                Baseline::Step | Baseline::Both => (reward - baseline) / scale,
            };
            let scaled_rewards: Vec<f64> = rewards.iter().zip(baselines).map(shift_and_scale).collect(); // [T]
            let values: Vec<f64> = episode.steps.iter().map(|step| step.row.value).collect(); // [T]
            let (advantages, returns) = ppo::gae(&scaled_rewards, &values, config.gamma, config.lambda);
            all_values.extend(values);
            all_advantages.extend(advantages);
            all_returns.extend(returns);
        }
        let explained_variance = ppo::explained_variance(&all_values, &all_returns);
        if config.normalise_advantage {
            all_advantages = ppo::normalise(&all_advantages);
        }
        let steps = episodes.iter_mut().flat_map(|episode| &mut episode.steps);
        for ((step, advantage), returns) in steps.zip(all_advantages).zip(all_returns) {
            step.advantages = step.action.draws().map(|draws| vec![advantage; draws]);
            step.returns = returns;
        }
        explained_variance
    }

    /// Section 4: the contributions of all candidates ([`super::credit`]) and their reliability, after this round.
    fn contributions_of(&mut self, episodes: &[Episode], candidates: &Candidates) -> Result<(CandidateEffects, f64)> {
        let scale = self.policy.constants.performance_scale;
        let observed: Vec<ObservedStep> = episodes.iter().flat_map(|episode| episode.observed_steps(scale)).collect();
        self.contributions.add_round(candidates, &observed)
    }

    /// Section 4: replaces the advantage A of each draw by its credit (1 - r) A + r c. c is the contribution of the
    /// drawn candidate, or for a drawn cluster the mean contribution of the candidates that were drawn from this
    /// cluster, minus what the policy expected ([`Scoring::centred`]). r is the reliability of the contributions, from 0
    /// to 1.
    fn credit_draws(
        &self,
        episodes: &mut [Episode],
        candidates: &Candidates,
        contributions: &CandidateEffects,
        reliability: f64,
    ) -> Result<()> {
        if reliability <= 0.0 {
            return Ok(());
        }
        // The weights are still those that played the round.
        let scoring = Scoring::without_gradients(&self.policy, candidates);
        for episode in episodes.iter_mut() {
            let centred = |(state, step): (State, &Step)| {
                let contributions = contributions.at(step.row.step as f64 / self.config.steps.max(1) as f64);
                scoring.centred(&self.policy, state, &step.action, &contributions)
            };
            let of_steps = episode.steps_with_states().map(centred).collect::<Result<Vec<_>>>()?;
            for (step, of_step) in episode.steps.iter_mut().zip(of_steps) {
                for (advantages, contributions) in step.advantages.iter_mut().zip(of_step) {
                    for (advantage, contribution) in advantages.iter_mut().zip(contributions) {
                        *advantage = (1.0 - reliability) * *advantage + reliability * contribution;
                    }
                }
            }
        }
        Ok(())
    }
}

fn mean(episodes: &[Episode], of: impl Fn(&Episode) -> f64) -> f64 {
    episodes.iter().map(of).sum::<f64>() / episodes.len() as f64
}

#[cfg(test)]
mod tests;
