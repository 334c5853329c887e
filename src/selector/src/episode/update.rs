//! The update of actor and critic from the episodes of a round (docs/method.md, section 4).

use tch::{Device, Kind as TensorKind, Tensor};

use super::played::{Episode, Step};
use super::{CANDIDATES_AT_ONCE, PolicyTraining};
use crate::ppo;
use crate::rows::RoundRow;
use crate::scoring::{DrawnBatch, Scoring};
use crate::state::{Candidates, State};
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::ppo::Ratio;

impl PolicyTraining {
    /// Section 4: several epochs over all steps of the round, in minibatches. Returns a row with only the statistics of
    /// the last epoch.
    pub(super) fn update(&mut self, episodes: &[Episode], candidates: &Candidates, seed: &Seed) -> Result<RoundRow> {
        let config = &self.config;
        // Multiplies both learning rates.
        let rate_factor =
            if config.decay_learning_rate { 1.0 - self.rounds_done as f64 / config.rounds as f64 } else { 1.0 };
        let (actor, critic) = (self.policy.actor_parameters(), self.policy.critic_parameters());
        let (decay, clip) = (config.weight_decay, config.gradient_clip);
        let steps: Vec<(State, &Step)> = episodes.iter().flat_map(Episode::steps_with_states).collect();
        let minibatch_size = steps.len().div_ceil(config.minibatches.max(1)).max(1);
        let (mut statistics, mut epochs) = (UpdateStatistics::default(), 0);
        for epoch in 0..config.epochs {
            (statistics, epochs) = (UpdateStatistics::default(), epoch + 1);
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
        Ok(RoundRow {
            policy_loss: Some(statistics.policy_loss),
            value_loss: Some(statistics.value_loss),
            entropy: statistics.entropy,
            effective_candidates: statistics.entropy.exp(),
            approx_kl: Some(statistics.approx_kl),
            clipfrac: Some(statistics.clipfrac),
            actor_learning_rate: Some(rate_factor * config.actor_learning_rate),
            epochs: Some(epochs),
            ..RoundRow::default()
        })
    }

    /// Computes the gradients of the actor's loss over a minibatch, in parts of at most [`CANDIDATES_AT_ONCE`]
    /// candidates, or of one step. Adds `share` of each statistic of the minibatch to `statistics`.
    fn actor_gradients(
        &self,
        minibatch: &[(State, &Step)],
        candidates: &Candidates,
        share: f64,
        statistics: &mut UpdateStatistics,
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
    fn actor_loss(
        &self,
        scoring: &Scoring,
        steps: &[(State, &Step)],
        share: f64,
        statistics: &mut UpdateStatistics,
    ) -> Tensor {
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

/// Means over the minibatches of an epoch; see [`RoundRow`].
#[derive(Default)]
struct UpdateStatistics {
    policy_loss: f64,
    value_loss: f64,
    entropy: f64,
    approx_kl: f64,
    clipfrac: f64,
}
