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
//! ```
//!
//! [`ppo`] has the formulas, [`super::scoring`] the scores and probabilities, [`super::step_baseline`] the baseline of
//! a step, [`super::credit`] the regression behind credit, and episode/played.rs the record of an episode. A stage
//! saves [`PolicyTraining`] between two rounds; an interrupted round is played again.

use tch::{Device, Kind as TensorKind, Tensor};

use super::adam::Adam;
use super::credit::{Contributions, ObservedStep, features};
use super::policy::Policy;
use super::ppo::{self, RewardSums};
pub use super::rows::{EpisodeSelectionRow, EpisodeStepRow, RoundResult, RoundRow};
use super::sampling::DrawMode;
use super::scoring::{DrawnBatch, Picks, Scoring};
use super::state::{Candidates, State};
use super::step_baseline::StepBaseline;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::learner::Ensemble;
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Baseline, Credit, PpoSettings, Ratio};

mod played;

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
    /// The late performance of `best`.
    pub(super) best_late_performance: f64,
    pub(super) actor: Adam,
    pub(super) critic: Adam,
    pub(super) step_baseline: StepBaseline,
    pub(super) contributions: Contributions,
    pub(super) reward_sums: RewardSums,
    pub(super) rounds_done: usize,
    pub(super) seed: Seed,
}

impl PolicyTraining {
    /// # Errors
    /// See [`Policy::check`].
    pub fn new(candidates: &Candidates, config: PpoSettings, seed: Seed) -> Result<Self> {
        let policy = Policy::new(&config, candidates.columns.clone(), &seed.at("policy"));
        policy.check(candidates, config.batch_size)?;
        Ok(Self {
            actor: Adam::new(&policy.actor_parameters()),
            critic: Adam::new(&policy.critic_parameters()),
            config,
            policy,
            best: None,
            best_late_performance: f64::NEG_INFINITY,
            step_baseline: StepBaseline::default(),
            contributions: Contributions::default(),
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
        let kept = self.keep_best(&episodes)?;
        if round == 0 {
            self.set_performance_scale(&episodes);
        }
        let explained_variance = self.compute_advantages(&mut episodes);
        let credit_reliability = match self.config.credit {
            Credit::Shared => None,
            Credit::Contribution => Some(self.credit_draws(&mut episodes, candidates)?),
        };
        let rate_factor =
            if self.config.decay_learning_rate { 1.0 - round as f64 / self.config.rounds as f64 } else { 1.0 };
        let statistics = self
            .update(&episodes, candidates, rate_factor, &seed.at("update"))
            .with_context(|| format!("cannot update the policy after round {round}"))?;
        self.rounds_done += 1;
        let final_performance = mean(&episodes, Episode::final_performance);
        let row = RoundRow {
            round,
            episode_reward: final_performance - mean(&episodes, |episode| episode.base_performance),
            final_performance,
            explained_variance,
            actor_learning_rate: rate_factor * self.config.actor_learning_rate,
            credit_reliability,
            kept,
            ..statistics
        };
        let selection = episodes.iter().flat_map(|episode| episode.selection.iter().copied()).collect();
        let steps = episodes.into_iter().flat_map(|episode| episode.steps).map(|step| step.row).collect();
        Ok(RoundResult { row, steps, selection })
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
        let state = State { stage, history: &episode.history, step: t };
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

    /// Section 4: replaces the advantage A of each draw by its credit (1 - r) A + r c. c is the contribution of the
    /// drawn candidate ([`super::credit`]); for a drawn cluster, the mean contribution of the candidates that were
    /// drawn from this cluster. r is the reliability of the estimate, from 0 to 1. Returns r.
    fn credit_draws(&mut self, episodes: &mut [Episode], candidates: &Candidates) -> Result<f64> {
        let scale = self.policy.constants.performance_scale;
        let observed: Vec<ObservedStep> = episodes.iter().flat_map(|episode| episode.observed_steps(scale)).collect();
        let (contributions, reliability) = self.contributions.add_round(&features(candidates), &observed)?;
        let steps = episodes.iter_mut().flat_map(|episode| &mut episode.steps);
        for (step, of_candidates) in steps.zip(contributions) {
            let mut rest = of_candidates.as_slice(); // [B]
            let mean_of_cluster = |picks: &Picks| {
                let (drawn, others) = rest.split_at(picks.drawn.len());
                rest = others;
                drawn.iter().sum::<f64>() / drawn.len().max(1) as f64
            };
            let of_clusters = step.action.candidate_picks.iter().map(mean_of_cluster).collect();
            // If the policy does not draw clusters, `advantages[0]` is empty, and `of_clusters` has no effect.
            for (advantages, contributions) in step.advantages.iter_mut().zip([of_clusters, of_candidates]) {
                for (advantage, contribution) in advantages.iter_mut().zip(contributions) {
                    *advantage = (1.0 - reliability) * *advantage + reliability * contribution;
                }
            }
        }
        Ok(reliability)
    }

    /// Section 4: several epochs over all steps of the round, in minibatches. `rate_factor` multiplies both learning
    /// rates. Returns a row with only the statistics of the last epoch.
    fn update(
        &mut self,
        episodes: &[Episode],
        candidates: &Candidates,
        rate_factor: f64,
        seed: &Seed,
    ) -> Result<RoundRow> {
        let config = &self.config;
        let (actor, critic) = (self.policy.actor_parameters(), self.policy.critic_parameters());
        let (decay, clip) = (config.weight_decay, config.gradient_clip);
        let steps: Vec<(State, &Step)> = episodes.iter().flat_map(Episode::steps_with_states).collect();
        let minibatch_size = steps.len().div_ceil(config.minibatches.max(1)).max(1);
        let mut statistics = RoundRow::default();
        for epoch in 0..config.epochs {
            statistics = RoundRow { epochs: epoch + 1, ..RoundRow::default() };
            let order = seed.at("epoch").at(epoch).rng().order(steps.len());
            let minibatches = order.chunks(minibatch_size);
            let share = 1.0 / minibatches.len() as f64; // of a minibatch in the statistics
            for minibatch in minibatches {
                let minibatch: Vec<(State, &Step)> = minibatch.iter().map(|&step| steps[step]).collect();
                self.actor_gradients(&minibatch, candidates, share, &mut statistics);
                self.actor.step(&actor, rate_factor * config.actor_learning_rate, decay, clip).map_err(|error| {
                    let hint = match config.ratio {
                        Ratio::Product => "a lower actor_learning_rate, or ratio = \"mean\"",
                        Ratio::Item | Ratio::Mean => "a lower actor_learning_rate",
                    };
                    Problem::new(format!("the policy has diverged: {error}")).hint(hint)
                })?;
                let value_loss = self.critic_loss(&minibatch);
                value_loss.backward();
                self.critic.step(&critic, rate_factor * config.critic_learning_rate, decay, clip).map_err(|error| {
                    Problem::new(format!("the critic has diverged: {error}")).hint("a lower critic_learning_rate")
                })?;
                statistics.value_loss += share * value_loss.double_value(&[]);
            }
            if config.target_kl > 0.0 && statistics.approx_kl > config.target_kl {
                break;
            }
        }
        statistics.effective_candidates = statistics.entropy.exp();
        Ok(statistics)
    }

    /// Computes the gradients of the actor's loss over a minibatch, in parts of at most [`CANDIDATES_AT_ONCE`]
    /// candidates, or of one step. Adds `share` of each statistic of the minibatch to `statistics`.
    fn actor_gradients(
        &self,
        minibatch: &[(State, &Step)],
        candidates: &Candidates,
        share: f64,
        statistics: &mut RoundRow,
    ) {
        let scoring = Scoring::new(&self.policy, candidates);
        let leaf = scoring.leaf();
        let mut rest = minibatch;
        while !rest.is_empty() {
            let mut scored = 0;
            let fits = |(_, step): &&(State, &Step)| {
                scored += scoring.replay_cost(&step.action);
                scored <= CANDIDATES_AT_ONCE
            };
            let (part, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = others;
            let part_share = part.len() as f64 / minibatch.len() as f64; // of the part in the minibatch
            (self.actor_loss(&leaf, part, share * part_share, statistics) * part_share).backward();
        }
        scoring.backward(&leaf);
    }

    /// The loss of the clipped surrogate minus the entropy bonus, as a mean over some steps. Adds `share` of each
    /// statistic of these steps to `statistics`; the loss itself is not multiplied by `share`.
    fn actor_loss(&self, scoring: &Scoring, steps: &[(State, &Step)], share: f64, statistics: &mut RoundRow) -> Tensor {
        let config = &self.config;
        let (states, steps): (Vec<State>, Vec<&Step>) = steps.iter().copied().unzip();
        let actions: Vec<&DrawnBatch> = steps.iter().map(|step| &step.action).collect();
        let replay = scoring.replay(&self.policy, &states, &actions);
        let mut losses = Tensor::zeros([steps.len() as i64], (TensorKind::Float, Device::Cpu)); // [steps]
        let mut log_ratios = Vec::new();
        // Draws of clusters and draws of candidates have ratios of their own, and their losses add up.
        for (level, log_probs) in replay.levels.iter().enumerate() {
            let Some(log_probs) = log_probs else { continue }; // [draws]
            let mut old_log_probs: Vec<f32> = Vec::new(); // [draws]
            let mut advantages: Vec<f32> = Vec::new(); // [draws]
            let mut step_of: Vec<i64> = Vec::new(); // [draws]
            for (index, step) in (0..).zip(&steps) {
                old_log_probs.extend(step.action.levels()[level].iter().flat_map(|picks| &picks.log_probs));
                advantages.extend(step.advantages[level].iter().map(|&advantage| advantage as f32));
                step_of.resize(old_log_probs.len(), index);
            }
            let (level_losses, level_log_ratios) = ppo::step_losses(
                config.ratio,
                &(log_probs - Tensor::from_slice(&old_log_probs)),
                &Tensor::from_slice(&advantages),
                &Tensor::from_slice(&step_of),
                steps.len() as i64,
                config.epsilon,
            );
            losses = &losses + level_losses;
            log_ratios.push(level_log_ratios.detach());
        }
        let log_ratios = Tensor::cat(&log_ratios, 0);
        let (loss, entropy) = (losses.mean(None), replay.entropy.mean(None));
        statistics.policy_loss += share * loss.double_value(&[]);
        statistics.entropy += share * entropy.double_value(&[]);
        statistics.approx_kl += share * ppo::approx_kl(&log_ratios);
        statistics.clipfrac += share * ppo::clipfrac(&log_ratios, config.epsilon);
        loss - entropy * config.entropy_bonus
    }

    /// Half the mean of (V(S_t) - G_t)^2 over some steps.
    fn critic_loss(&self, steps: &[(State, &Step)]) -> Tensor {
        let pooled: Vec<f32> = steps.iter().flat_map(|(_, step)| step.action.pooled.iter().copied()).collect();
        let pooled = Tensor::from_slice(&pooled).view([steps.len() as i64, -1]); // [steps, POOLED + F]
        let returns: Vec<f32> = steps.iter().map(|(_, step)| step.returns as f32).collect();
        ppo::value_loss(&self.policy.values(&pooled), &Tensor::from_slice(&returns)) // both [steps]
    }
}

fn mean(episodes: &[Episode], of: impl Fn(&Episode) -> f64) -> f64 {
    episodes.iter().map(of).sum::<f64>() / episodes.len() as f64
}

#[cfg(test)]
mod tests;
