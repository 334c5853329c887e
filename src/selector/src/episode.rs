//! RAISE's training from end to end: play, credit, update (docs/method.md; its sections are named at each step).
//!
//! ```text
//! for each of K rounds                                      round
//!     restore M_0 and measure P(M_0)                        play        section 1
//!     for each of T steps, in each of the round's episodes
//!         score S_t, draw D_t, value V(S_t)                 choose      sections 2 and 3
//!         train M_t on D_t to M_{t+1}
//!         R_t = P(M_{t+1}) - P(M_t)                         record      section 1
//!     keep the policy if it is the best so far              keep_best   section 4
//!     R_t less a baseline; GAE; returns G_t                 advantages  section 4
//!     each draw's own contribution to R_t                   credit      section 4
//!     for each epoch, for each minibatch                    update      section 4
//!         clipped surrogate of the actor, squared error of the critic, one step of Adam for each
//! ```
//!
//! The formulas are in [`ppo`], the scores and probabilities in [`super::scoring`], the estimates behind credit in
//! [`super::credit`]. A [`PolicyTraining`] stands between two rounds; an unfinished round is played again.

use tch::{Kind as TensorKind, Tensor};

use super::adam::Adam;
use super::credit::{Contributions, StepBaseline, When, features};
use super::policy::Policy;
use super::ppo;
pub use super::rows::{EpisodeSelectionRow, EpisodeStepRow, RoundResult, RoundRow};
use super::sampling::DrawMode;
use super::scoring::{DrawnBatch, Picks, Scoring};
use super::state::{Candidates, State};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::learner::Ensemble;
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Baseline, Credit, PpoSettings, Ratio};

mod played;

use played::{Episode, PolicyChoice, Step};

/// Candidates scored at once at most; a minibatch of more steps than that is taken in parts.
const ROWS: usize = 1 << 18;

/// Told after every step: the round, the step as each episode made it, and the newest mean performance relative to the
/// start.
pub type OnStep<'a> = &'a mut dyn FnMut(usize, &[&EpisodeStepRow], f64);

/// PPO between two rounds.
pub struct PolicyTraining {
    pub config: PpoSettings,
    pub policy: Policy,
    /// The policy of the best round, by the mean standing of its episodes.
    pub best: Option<Policy>,
    pub(super) best_performance: f64,
    pub(super) actor: Adam,
    pub(super) critic: Adam,
    pub(super) step_baseline: StepBaseline,
    pub(super) contributions: Contributions,
    /// Number, sum and sum of squares of the rewards so far.
    pub(super) rewards: [f64; 3],
    pub(super) rounds_done: usize,
    pub(super) seed: Seed,
}

/// What an update did; CleanRL's names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Statistics {
    policy_loss: f64,
    value_loss: f64,
    entropy: f64,
    approx_kl: f64,
    clipfrac: f64,
    epochs: usize,
}

impl PolicyTraining {
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

    /// One round: plays the learners' episodes and learns from them.
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
        let statistics = self
            .update(&episodes, candidates, rate, &seed.at("update"))
            .with_context(|| format!("cannot update the policy after round {round}"))?;
        self.rounds_done += 1;

        let gained = |episode: &Episode| episode.steps.iter().map(|step| step.row.reward).sum::<f64>();
        let row = RoundRow {
            round,
            episode_reward: mean(&episodes, |episode| episode.start + gained(episode))
                - mean(&episodes, |episode| episode.start),
            final_performance: mean(&episodes, |episode| episode.start + gained(episode)),
            policy_loss: statistics.policy_loss,
            value_loss: statistics.value_loss,
            entropy: statistics.entropy,
            approx_kl: statistics.approx_kl,
            clipfrac: statistics.clipfrac,
            explained_variance,
            effective_candidates: statistics.entropy.exp(),
            actor_learning_rate: rate * self.config.actor_learning_rate,
            epochs: statistics.epochs,
            credit_reliability,
            kept,
        };
        let (mut steps, mut selection) = (vec![], vec![]);
        for episode in episodes {
            steps.extend(episode.steps.into_iter().map(|step| step.row));
            selection.extend(episode.selection);
        }
        Ok(RoundResult { row, steps, selection })
    }

    /// Sections 1 to 3: restores M_0 and trains it for T steps on what the policy draws, in several episodes at once.
    fn play(
        &self,
        learners: &mut dyn Ensemble,
        candidates: &Candidates,
        seed: &Seed,
        on_step: OnStep,
    ) -> Result<Vec<Episode>> {
        let (config, round) = (&self.config, self.rounds_done);
        let start = learners.restore_all()?;
        if !start.is_finite() {
            return Err(Problem::new(format!("the performance of the model is {start} before any training"))
                .hint("the stage that made the model may have diverged: look at its `steps`")
                .into());
        }
        // The first episode of a round draws as the only one would.
        let seed_of = |number: usize| if number == 0 { *seed } else { seed.at("episode").at(number) };
        let mut episodes: Vec<Episode> = (0..learners.episodes()).map(|_| Episode::new(start, candidates)).collect();
        let scoring = Scoring::without_gradients(&self.policy, candidates);
        for step in 0..config.steps {
            let mut chosen = Vec::with_capacity(episodes.len());
            for (number, episode) in episodes.iter().enumerate() {
                chosen.push(self.choose(&scoring, episode, &seed_of(number).at("step").at(step), step)?);
            }
            let ids = |positions: &[usize]| positions.iter().map(|&position| candidates.ids[position]).collect();
            let batches: Vec<Vec<u32>> = chosen.iter().map(|choice| ids(&choice.positions)).collect();
            let trained = learners.step_all(&batches)?;
            for (number, (episode, (choice, trained))) in
                episodes.iter_mut().zip(chosen.into_iter().zip(&trained)).enumerate()
            {
                episode.push(choice, round, number, trained, candidates)?;
            }
            if (step + 1) % config.evaluate_every.max(1) == 0 || step + 1 == config.steps {
                for (episode, performance) in episodes.iter_mut().zip(learners.performances()?) {
                    if !performance.is_finite() {
                        return Err(Problem::new(format!(
                            "the model's performance became {performance} after step {step} of round {round}"
                        ))
                        .hint("a lower learning rate of the model")
                        .into());
                    }
                    episode.reward(performance);
                }
            }
            let rows: Vec<&EpisodeStepRow> =
                episodes.iter().filter_map(|episode| Some(&episode.steps.last()?.row)).collect();
            on_step(round, &rows, mean(&episodes, |episode| episode.known - start));
        }
        Ok(episodes)
    }

    /// Sections 2 and 3: the state S_t, the batch D_t drawn from the policy's scores of it, and the critic's V(S_t).
    fn choose(&self, scoring: &Scoring, episode: &Episode, seed: &Seed, step: usize) -> Result<PolicyChoice> {
        let stage = self.policy.stage(episode.known - episode.start, step, self.config.steps);
        let mut rng = seed.rng();
        let draw = if self.config.explore { DrawMode::Sample(&mut rng) } else { DrawMode::Top };
        let state = State { stage, history: &episode.history, step };
        let action = scoring.act(&self.policy, state, self.config.batch_size, draw)?;
        let value = match self.config.baseline {
            Baseline::Step => 0.0,
            Baseline::Critic | Baseline::Both => {
                let pooled = Tensor::from_slice(&action.pooled); // [POOLED + F]
                tch::no_grad(|| self.policy.values(&pooled)).double_value(&[])
            }
        };
        Ok(PolicyChoice { stage, positions: scoring.positions(&action), action, value })
    }

    /// Section 4: the policy that played is kept if no earlier one stands higher.
    fn keep_best(&mut self, episodes: &[Episode]) -> Result<bool> {
        let standing = mean(episodes, Episode::standing);
        let kept = standing > self.best_performance;
        if kept {
            self.best_performance = standing;
            self.best = Some(self.policy.duplicate()?);
        }
        Ok(kept)
    }

    /// From now on performances are in units of the largest improvement of the first round. A policy from before stays
    /// as it was judged.
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

    /// Section 4: rewards less the step baseline, advantages by GAE, returns. All draws of a step have its advantage, until
    /// credit tells them apart. Returns explained_variance and the reliability of credit.
    fn advantages(&mut self, episodes: &mut [Episode], candidates: &Candidates) -> Result<(Option<f64>, Option<f64>)> {
        let config = &self.config;
        let rewards: Vec<Vec<f64>> =
            episodes.iter().map(|episode| episode.steps.iter().map(|step| step.row.reward).collect()).collect();
        let scale = if config.normalise_reward { reward_scale(&mut self.rewards, &rewards.concat()) } else { 1.0 };
        let baselines = self.step_baseline.absorb(&rewards, config.evaluate_every);
        let (mut all_values, mut all_advantages, mut all_returns) = (vec![], vec![], vec![]); // [episodes x T]
        for (episode, (rewards, baselines)) in episodes.iter().zip(rewards.iter().zip(&baselines)) {
            let rewards: Vec<f64> = match config.baseline {
                Baseline::Critic => rewards.iter().map(|reward| reward / scale).collect(),
                Baseline::Step | Baseline::Both => {
                    rewards.iter().zip(baselines).map(|(reward, baseline)| (reward - baseline) / scale).collect()
                }
            };
            let values: Vec<f64> = episode.steps.iter().map(|step| step.row.value).collect();
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
        for (step, (advantage, of_return)) in steps.zip(all_advantages.into_iter().zip(all_returns)) {
            let draws: usize =
                step.action.sets.iter().chain(&step.action.candidates).map(|picks| picks.drawn.len()).sum();
            step.advantages = vec![advantage; draws];
            step.returns = of_return;
        }
        let reliability = match config.credit {
            Credit::Shared => None,
            Credit::Contribution => Some(self.credit(episodes, candidates)?),
        };
        Ok((explained_variance, reliability))
    }

    /// Section 4: credits every draw with what its candidate is estimated to have contributed, as far as the estimate
    /// can be trusted, which it returns. A cluster is credited with the mean of the candidates that were drawn from it.
    fn credit(&mut self, episodes: &mut [Episode], candidates: &Candidates) -> Result<f64> {
        let mut seen = Vec::new();
        for episode in episodes.iter() {
            let mut gained = 0.0;
            for (t, step) in episode.steps.iter().enumerate() {
                let reuse = |&position: &usize| (episode.history.count(position, t) as f64).ln_1p();
                let when = When {
                    time: t as f64 / self.config.steps as f64,
                    improvement: gained / self.policy.constants.performance_scale,
                    reuse: step.positions.iter().map(reuse).sum::<f64>() / step.positions.len() as f64,
                };
                seen.push((when, step.row.reward, step.positions.as_slice()));
                gained += step.row.reward;
            }
        }
        let (credits, trust) = self.contributions.credits(&features(candidates), &seen)?; // [steps][B]
        for (step, credits) in episodes.iter_mut().flat_map(|episode| &mut episode.steps).zip(&credits) {
            let mut own: Vec<f64> = Vec::with_capacity(step.advantages.len()); // [draws]
            if step.action.sets.is_some() {
                let mut rest = credits.as_slice();
                for picks in &step.action.candidates {
                    let (of_set, others) = rest.split_at(picks.drawn.len());
                    own.push(of_set.iter().sum::<f64>() / of_set.len().max(1) as f64);
                    rest = others;
                }
            }
            own.extend(credits);
            for (advantage, own) in step.advantages.iter_mut().zip(own) {
                *advantage = (1.0 - trust) * *advantage + trust * own;
            }
        }
        Ok(trust)
    }

    /// Section 4: several epochs over all steps of a round, in minibatches. `rate` scales both learning rates.
    fn update(&mut self, episodes: &[Episode], candidates: &Candidates, rate: f64, seed: &Seed) -> Result<Statistics> {
        let config = &self.config;
        let (actor, critic) = (self.policy.actor_parameters(), self.policy.critic_parameters());
        let (decay, clip) = (config.weight_decay, config.gradient_clip);
        let steps: Vec<(&Episode, usize)> =
            episodes.iter().flat_map(|episode| (0..episode.steps.len()).map(move |step| (episode, step))).collect();
        let mut statistics = Statistics::default();
        for epoch in 0..config.epochs {
            let order = seed.at("epoch").at(epoch).rng().order(steps.len());
            statistics = Statistics { epochs: epoch + 1, ..Statistics::default() };
            let size = steps.len().div_ceil(config.minibatches.max(1)).max(1);
            let share = 1.0 / order.chunks(size).len() as f64;
            for minibatch in order.chunks(size) {
                let minibatch: Vec<(&Episode, usize)> = minibatch.iter().map(|&step| steps[step]).collect();
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
        Ok(statistics)
    }

    /// Adds the gradients of the actor's loss over a minibatch to its weights, in parts that fit in memory.
    fn actor_gradients(
        &self,
        minibatch: &[(&Episode, usize)],
        candidates: &Candidates,
        share: f64,
        statistics: &mut Statistics,
    ) {
        let scoring = Scoring::new(&self.policy, candidates);
        let leaf = scoring.leaf();
        let mut rest = minibatch;
        while !rest.is_empty() {
            let mut rows = 0;
            let fits = |(episode, step): &&(&Episode, usize)| {
                rows += scoring.candidates_of(&episode.steps[*step].action);
                rows <= ROWS
            };
            let (part, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = others;
            let weight = part.len() as f64 / minibatch.len() as f64;
            (self.actor_loss(&leaf, part, share * weight, statistics) * weight).backward();
        }
        scoring.backward(&leaf);
    }

    /// The clipped surrogate less the entropy bonus, as a mean over some steps. Statistics grow by `share` of theirs.
    fn actor_loss(
        &self,
        scoring: &Scoring,
        steps: &[(&Episode, usize)],
        share: f64,
        statistics: &mut Statistics,
    ) -> Tensor {
        let config = &self.config;
        let states: Vec<State> = steps.iter().map(|(episode, step)| episode.state(*step)).collect();
        let actions: Vec<&DrawnBatch> = steps.iter().map(|(episode, step)| &episode.steps[*step].action).collect();
        let replay = scoring.replay(&self.policy, &states, &actions);
        let mut loss = Tensor::zeros([steps.len() as i64], (TensorKind::Float, tch::Device::Cpu)); // [steps]
        let mut log_ratios = Vec::new();
        // The draws of clusters, then those of candidates: each level has a ratio, or one for each of its draws.
        for (log_probs, of_candidates) in
            replay.sets.iter().map(|sets| (sets, false)).chain([(&replay.candidates, true)])
        {
            let (mut old, mut advantages, mut step_of): (Vec<f32>, Vec<f32>, Vec<i64>) = (vec![], vec![], vec![]);
            for (place, (episode, step)) in steps.iter().enumerate() {
                let step = &episode.steps[*step];
                let sets = step.action.sets.as_ref().map_or(0, |picks| picks.drawn.len());
                let picks: Vec<&Picks> = if of_candidates {
                    step.action.candidates.iter().collect()
                } else {
                    step.action.sets.iter().collect()
                };
                let own = if of_candidates { &step.advantages[sets..] } else { &step.advantages[..sets] };
                old.extend(picks.iter().flat_map(|picks| &picks.log_probs));
                advantages.extend(own.iter().map(|&advantage| advantage as f32));
                step_of.resize(old.len(), place as i64);
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

    /// Half the mean squared error of V(S_t) to G_t.
    fn critic_loss(&self, steps: &[(&Episode, usize)]) -> Tensor {
        let steps: Vec<&Step> = steps.iter().map(|(episode, step)| &episode.steps[*step]).collect();
        let pooled: Vec<f32> = steps.iter().flat_map(|step| step.action.pooled.iter().copied()).collect();
        let pooled = Tensor::from_slice(&pooled).view([steps.len() as i64, -1]); // [steps, POOLED + F]
        let returns: Vec<f32> = steps.iter().map(|step| step.returns as f32).collect();
        ppo::value_loss(&self.policy.values(&pooled), &Tensor::from_slice(&returns)) // both [steps]
    }
}

fn mean(episodes: &[Episode], of: impl Fn(&Episode) -> f64) -> f64 {
    episodes.iter().map(of).sum::<f64>() / episodes.len() as f64
}

/// The standard deviation of all rewards so far, of which `sums` has number, sum and sum of squares.
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
