//! RAISE: the algorithm from end to end (docs/method.md; the comments give its sections).
//!
//! ```text
//! for each of K rounds                                      round
//!     restore M_0 and measure P(M_0)                        play        section 1
//!     for each of T steps, in each episode of the round
//!         score S_t, draw D_t, value V(S_t)                 choose      sections 2 and 3
//!         train M_t on D_t to M_{t+1}
//!         R_t = P(M_{t+1}) - P(M_t)                         play        section 1
//!     keep the policy if it is the best so far              keep_best   section 4
//!     R_t minus its baseline; GAE; returns G_t              advantages  section 4
//!     the contribution of each draw to R_t                  credit      section 4
//!     for each epoch, for each minibatch                    update      section 4
//!         clipped surrogate of the actor, squared error of the critic, one step of Adam for each
//! ```
//!
//! [`ppo`] has the formulas, [`super::scoring`] the scores and probabilities, [`super::step_baseline`] the baseline of
//! a step, and [`super::credit`] the regression behind credit. A stage saves [`PolicyTraining`] between two rounds; an
//! interrupted round is played again.

use tch::{Device, Kind as TensorKind, Tensor};

use super::adam::Adam;
use super::credit::{Contributions, StepCovariates, features};
use super::policy::Policy;
use super::ppo;
pub use super::rows::{EpisodeSelectionRow, EpisodeStepRow, RoundResult, RoundRow};
use super::sampling::DrawMode;
use super::scoring::{DrawnBatch, Scoring};
use super::state::{Candidates, State};
use super::step_baseline::StepBaseline;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::learner::Ensemble;
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Baseline, Credit, PpoSettings, Ratio};

mod played;

use played::{Episode, Step};

/// The most candidates that are scored at once in an update. A minibatch with more candidates is computed in parts.
const ROWS: usize = 1 << 18;

/// Called after every step with the round, the newest step of each episode, and the mean of P - P(M_0) over the
/// episodes at the last measurement.
pub type OnStep<'a> = &'a mut dyn FnMut(usize, &[&EpisodeStepRow], f64);

/// Policy, optimizers and statistics between two rounds.
pub struct PolicyTraining {
    pub config: PpoSettings,
    pub policy: Policy,
    /// The policy with the highest late performance of its round, as a mean over the episodes of the round.
    pub best: Option<Policy>,
    pub(super) best_performance: f64,
    pub(super) actor: Adam,
    pub(super) critic: Adam,
    pub(super) step_baseline: StepBaseline,
    pub(super) contributions: Contributions,
    /// The number of all rewards so far, their sum and their sum of squares.
    pub(super) rewards: [f64; 3],
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
            best_performance: f64::NEG_INFINITY,
            step_baseline: StepBaseline::default(),
            contributions: Contributions::default(),
            rewards: [0.0; 3],
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
        let (explained_variance, credit_reliability) = self.advantages(&mut episodes, candidates)?;
        let rate = if self.config.decay_learning_rate { 1.0 - round as f64 / self.config.rounds as f64 } else { 1.0 };
        let end = |episode: &Episode| episode.start + episode.steps.iter().map(|step| step.row.reward).sum::<f64>();
        let final_performance = mean(&episodes, end);
        let row = RoundRow {
            round,
            episode_reward: final_performance - mean(&episodes, |episode| episode.start),
            final_performance,
            explained_variance,
            actor_learning_rate: rate * self.config.actor_learning_rate,
            credit_reliability,
            kept,
            ..RoundRow::default()
        };
        let row = self
            .update(&episodes, candidates, rate, &seed.at("update"), row)
            .with_context(|| format!("cannot update the policy after round {round}"))?;
        self.rounds_done += 1;
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
        let start = learners.restore_all()?; // P(M_0)
        if !start.is_finite() {
            return Err(Problem::new(format!("the performance of the model is {start} before any training"))
                .hint("the stage that made the model may have diverged: look at its `steps`")
                .into());
        }
        let episode = |number| {
            // The first episode of several draws as a single episode does.
            let seed = if number == 0 { *seed } else { seed.at("episode").at(number) };
            Episode::new(round, number, seed, start, candidates)
        };
        let mut episodes: Vec<Episode> = (0..learners.episodes()).map(episode).collect();
        let scoring = Scoring::without_gradients(&self.policy, candidates);
        for t in 0..config.steps {
            let chosen =
                episodes.iter().map(|episode| self.choose(&scoring, episode)).collect::<Result<Vec<Step>>>()?;
            let ids = |step: &Step| step.positions.iter().map(|&position| candidates.ids[position]).collect();
            let trained = learners.step_all(&chosen.iter().map(ids).collect::<Vec<_>>())?;
            for ((episode, step), report) in episodes.iter_mut().zip(chosen).zip(&trained) {
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
                    episode.reward(performance);
                }
            }
            let rows: Vec<&EpisodeStepRow> = episodes.iter().map(|episode| &episode.steps[t].row).collect();
            on_step(round, &rows, mean(&episodes, |episode| episode.known - start));
        }
        Ok(episodes)
    }

    /// Sections 2 and 3: draws D_t by the policy's scores of S_t, and takes the critic's value V(S_t).
    fn choose(&self, scoring: &Scoring, episode: &Episode) -> Result<Step> {
        let t = episode.steps.len();
        let stage = self.policy.stage(episode.known - episode.start, t, self.config.steps);
        let mut rng = episode.seed.at("step").at(t).rng();
        let draw = if self.config.explore { DrawMode::Sample(&mut rng) } else { DrawMode::Top };
        let state = State { stage, history: &episode.history, step: t };
        let action = scoring.act(&self.policy, state, self.config.batch_size, draw)?;
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
        let performance = mean(episodes, Episode::late_performance);
        let kept = performance > self.best_performance;
        if kept {
            self.best_performance = performance;
            self.best = Some(self.policy.duplicate()?);
        }
        Ok(kept)
    }

    /// Sets the unit of the performance in the state: the largest |P(M_t) - P(M_0)| of the first round. The policy that
    /// played this round, a copy of which may be `best`, keeps the unit with which it played.
    fn set_performance_scale(&mut self, episodes: &[Episode]) {
        let mut largest = 0.0f64;
        for episode in episodes {
            let mut improvement = 0.0f64;
            for step in &episode.steps {
                improvement += step.row.reward;
                largest = largest.max(improvement.abs());
            }
        }
        if largest > 0.0 {
            self.policy.constants.performance_scale = largest;
        }
    }

    /// Section 4: subtracts the step baseline from the rewards, and computes advantages by GAE and returns. All draws
    /// of a step get the advantage of the step; then [`Self::credit`] adds the part of each draw.
    ///
    /// Returns `explained_variance` and the reliability of credit.
    fn advantages(&mut self, episodes: &mut [Episode], candidates: &Candidates) -> Result<(Option<f64>, Option<f64>)> {
        let config = &self.config;
        let rewards_of = |episode: &Episode| episode.steps.iter().map(|step| step.row.reward).collect();
        let rewards: Vec<Vec<f64>> = episodes.iter().map(rewards_of).collect(); // [episodes][T]
        let scale = if config.normalise_reward { reward_scale(&mut self.rewards, &rewards.concat()) } else { 1.0 };
        let baselines = self.step_baseline.absorb(&rewards, config.evaluate_every); // [episodes][T]
        let (mut all_values, mut all_advantages, mut all_returns) = (vec![], vec![], vec![]); // [episodes x T]
        for ((episode, rewards), baselines) in episodes.iter().zip(&rewards).zip(&baselines) {
            let without_baseline = |(reward, baseline)| match config.baseline {
                Baseline::Critic => reward / scale,
                Baseline::Step | Baseline::Both => (reward - baseline) / scale,
            };
            let rewards: Vec<f64> = rewards.iter().zip(baselines).map(without_baseline).collect(); // [T]
            let values: Vec<f64> = episode.steps.iter().map(|step| step.row.value).collect(); // [T]
            let (advantages, returns) = ppo::gae(&rewards, &values, config.gamma, config.lambda);
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
        let reliability = match config.credit {
            Credit::Shared => None,
            Credit::Contribution => Some(self.credit(episodes, candidates)?),
        };
        Ok((explained_variance, reliability))
    }

    /// Section 4: replaces the advantage A of each draw by (1 - r) A + r c. c is the estimated contribution of the
    /// drawn candidate; for a drawn cluster, the mean over the candidates that were drawn from this cluster. r is the
    /// reliability of the estimate, from 0 to 1. Returns r.
    fn credit(&mut self, episodes: &mut [Episode], candidates: &Candidates) -> Result<f64> {
        let mut observed = Vec::new(); // [episodes x T]
        for episode in episodes.iter() {
            let mut gained = 0.0;
            for (t, step) in episode.steps.iter().enumerate() {
                let reuse = |&position: &usize| (episode.history.count(position, t) as f64).ln_1p();
                let covariates = StepCovariates {
                    time: t as f64 / self.config.steps as f64,
                    improvement: gained / self.policy.constants.performance_scale,
                    reuse: step.positions.iter().map(reuse).sum::<f64>() / step.positions.len() as f64,
                };
                observed.push((covariates, step.row.reward, step.positions.as_slice()));
                gained += step.row.reward;
            }
        }
        let (credits, reliability) = self.contributions.credits(&features(candidates), &observed)?; // [episodes x T][B]
        for (step, of_candidates) in episodes.iter_mut().flat_map(|episode| &mut episode.steps).zip(credits) {
            let mut rest = of_candidates.as_slice();
            let of_cluster = |drawn: usize| {
                let (of_cluster, others) = rest.split_at(drawn);
                rest = others;
                of_cluster.iter().sum::<f64>() / of_cluster.len().max(1) as f64
            };
            let of_clusters = step.action.candidates.iter().map(|picks| picks.drawn.len()).map(of_cluster).collect();
            // Without draws of clusters, the first level has no advantages.
            for (advantages, credits) in step.advantages.iter_mut().zip([of_clusters, of_candidates]) {
                for (advantage, credit) in advantages.iter_mut().zip(credits) {
                    *advantage = (1.0 - reliability) * *advantage + reliability * credit;
                }
            }
        }
        Ok(reliability)
    }

    /// Section 4: several epochs over all steps of the round, in minibatches. `rate` multiplies both learning rates.
    /// Returns `row` with the statistics of the last epoch.
    fn update(
        &mut self,
        episodes: &[Episode],
        candidates: &Candidates,
        rate: f64,
        seed: &Seed,
        row: RoundRow,
    ) -> Result<RoundRow> {
        let config = &self.config;
        let (actor, critic) = (self.policy.actor_parameters(), self.policy.critic_parameters());
        let (decay, clip) = (config.weight_decay, config.gradient_clip);
        let steps: Vec<(State, &Step)> = episodes.iter().flat_map(Episode::steps_with_states).collect();
        let size = steps.len().div_ceil(config.minibatches.max(1)).max(1);
        let mut statistics = row.clone();
        for epoch in 0..config.epochs {
            statistics = RoundRow { epochs: epoch + 1, ..row.clone() };
            let order = seed.at("epoch").at(epoch).rng().order(steps.len());
            let share = 1.0 / order.chunks(size).len() as f64;
            for minibatch in order.chunks(size) {
                let minibatch: Vec<(State, &Step)> = minibatch.iter().map(|&step| steps[step]).collect();
                self.actor_gradients(&minibatch, candidates, share, &mut statistics);
                self.actor.step(&actor, rate * config.actor_learning_rate, decay, clip).map_err(|error| {
                    let hint = match config.ratio {
                        Ratio::Product => "a lower actor_learning_rate, or ratio = \"mean\"",
                        Ratio::Item | Ratio::Mean => "a lower actor_learning_rate",
                    };
                    Problem::new(format!("the policy has diverged: {error}")).hint(hint)
                })?;
                let value_loss = self.critic_loss(&minibatch);
                value_loss.backward();
                self.critic.step(&critic, rate * config.critic_learning_rate, decay, clip).map_err(|error| {
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

    /// Adds the gradients of the actor's loss over a minibatch to its weights. The minibatch is computed in parts of at
    /// most [`ROWS`] candidates, or of one step.
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
            let mut rows = 0;
            let fits = |(_, step): &&(State, &Step)| {
                rows += scoring.candidates_of(&step.action);
                rows <= ROWS
            };
            let (part, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = others;
            let weight = part.len() as f64 / minibatch.len() as f64;
            (self.actor_loss(&leaf, part, share * weight, statistics) * weight).backward();
        }
        scoring.backward(&leaf);
    }

    /// The loss of the clipped surrogate minus the entropy bonus, as a mean over some steps. Adds `share` of each
    /// statistic of these steps to `statistics`.
    fn actor_loss(&self, scoring: &Scoring, steps: &[(State, &Step)], share: f64, statistics: &mut RoundRow) -> Tensor {
        let config = &self.config;
        let (states, steps): (Vec<State>, Vec<&Step>) = steps.iter().copied().unzip();
        let actions: Vec<&DrawnBatch> = steps.iter().map(|step| &step.action).collect();
        let replay = scoring.replay(&self.policy, &states, &actions);
        let mut loss = Tensor::zeros([steps.len() as i64], (TensorKind::Float, Device::Cpu)); // [steps]
        let mut log_ratios = Vec::new();
        // Draws of clusters and draws of candidates have ratios of their own, and their losses add up.
        for (level, log_probs) in replay.levels.iter().enumerate() {
            let Some(log_probs) = log_probs else { continue };
            let (mut old, mut advantages, mut step_of): (Vec<f32>, Vec<f32>, Vec<i64>) = (vec![], vec![], vec![]);
            for (place, step) in (0..).zip(&steps) {
                old.extend(step.action.levels()[level].iter().flat_map(|picks| &picks.log_probs));
                advantages.extend(step.advantages[level].iter().map(|&advantage| advantage as f32));
                step_of.resize(old.len(), place);
            }
            let log_ratio = log_probs - Tensor::from_slice(&old); // [draws]
            let (advantages, step_of) = (Tensor::from_slice(&advantages), Tensor::from_slice(&step_of)); // [draws]
            let (of_level, clipped) =
                ppo::reduce(config.ratio, &log_ratio, &advantages, &step_of, steps.len() as i64, config.epsilon);
            loss = &loss + of_level;
            log_ratios.push(clipped.detach());
        }
        let log_ratios = Tensor::cat(&log_ratios, 0);
        let (loss, entropy) = (loss.mean(None), replay.entropy.mean(None));
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

/// The standard deviation of all rewards so far; 1 if the rewards do not vary. `sums` holds the number of the rewards,
/// their sum and their sum of squares, and takes in `rewards`.
fn reward_scale(sums: &mut [f64; 3], rewards: &[f64]) -> f64 {
    sums[0] += rewards.len() as f64;
    sums[1] += rewards.iter().sum::<f64>();
    sums[2] += rewards.iter().map(|reward| reward * reward).sum::<f64>();
    let [count, sum, squares] = *sums;
    let deviation = (squares / count - (sum / count).powi(2)).max(0.0).sqrt();
    if deviation > 0.0 { deviation } else { 1.0 }
}

#[cfg(test)]
mod tests;
