//! One PPO update: several epochs over the steps of a round's episodes, for the actor and for the critic.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::actor::{Action, Picks};
use super::adam::Adam;
use super::network::STAGE;
use super::policy::{Level, Policy, set_means};
use super::ppo;
use super::sampling::{entropy, plackett_luce, shuffle};
use super::state::Candidates;
use raisin_base::error::{Problem, Result};
use raisin_base::seed::Seed;
use raisin_settings::ppo::{Config, Form, Ratio};

/// Candidates scored at once at most; a minibatch of more steps than that is taken in parts.
const ROWS: usize = 1 << 18;

/// One step of an episode, as the update sees it.
pub struct Transition {
    pub stage: [f32; STAGE],
    pub action: Action,
    /// Of each draw of sets (hierarchical form), then of each draw of items, in order.
    pub advantages: Vec<f64>,
    /// G_t
    pub returns: f64,
}

/// What one step drew from one set: the step's place among those scored, the picks, and where their advantages begin.
type Drawn<'a> = (usize, &'a Picks, usize);

/// What an update did; CleanRL's names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    pub policy_loss: f64,
    pub value_loss: f64,
    pub entropy: f64,
    pub approx_kl: f64,
    pub clipfrac: f64,
    pub epochs: usize,
}

pub struct Optimizers {
    pub actor: Adam,
    pub critic: Adam,
}

impl Optimizers {
    pub fn new(policy: &Policy) -> Self {
        Self { actor: Adam::new(&policy.actor_parameters()), critic: Adam::new(&policy.critic_parameters()) }
    }
}

/// Several epochs over `episode`: the steps of one episode or of several, one after the other. `rate` scales both
/// learning rates.
pub fn update(
    policy: &Policy,
    optimizers: &mut Optimizers,
    candidates: &Candidates,
    episode: &[Transition],
    config: &Config,
    rate: f64,
    seed: &Seed,
) -> Result<Statistics> {
    let (actor, critic) = (policy.actor_parameters(), policy.critic_parameters());
    let scene = Scene::new(policy, candidates, episode, config.steps);
    let mut statistics = Statistics::default();
    for epoch in 0..config.epochs {
        let mut order: Vec<usize> = (0..episode.len()).collect();
        shuffle(&mut order, &mut seed.at("epoch").at(epoch).rng());
        let mut batches = 0.0;
        let mut sums = Statistics::default();
        for minibatch in order.chunks(order.len().div_ceil(config.minibatches.max(1)).max(1)) {
            let outcome = scene.actor_gradients(minibatch, config)?;
            let (decay, clip) = (config.weight_decay, config.gradient_clip);
            optimizers.actor.step(&actor, rate * config.actor_learning_rate, decay, clip).map_err(|error| {
                let hint = match config.ratio {
                    Ratio::Product => "a lower actor_learning_rate, or ratio = \"mean\"",
                    Ratio::Item | Ratio::Mean => "a lower actor_learning_rate",
                };
                Problem::new(format!("the policy has diverged: {error}")).hint(hint)
            })?;
            let value_loss = critic_loss(policy, episode, minibatch);
            value_loss.backward();
            optimizers.critic.step(&critic, rate * config.critic_learning_rate, decay, clip).map_err(|error| {
                Problem::new(format!("the critic has diverged: {error}")).hint("a lower critic_learning_rate")
            })?;
            batches += 1.0;
            sums.policy_loss += outcome.policy_loss;
            sums.value_loss += value_loss.double_value(&[]);
            sums.entropy += outcome.entropy;
            sums.approx_kl += outcome.approx_kl;
            sums.clipfrac += outcome.clipfrac;
        }
        statistics = Statistics {
            policy_loss: sums.policy_loss / batches,
            value_loss: sums.value_loss / batches,
            entropy: sums.entropy / batches,
            approx_kl: sums.approx_kl / batches,
            clipfrac: sums.clipfrac / batches,
            epochs: epoch + 1,
        };
        if config.target_kl > 0.0 && statistics.approx_kl > config.target_kl {
            break;
        }
    }
    Ok(statistics)
}

fn critic_loss(policy: &Policy, episode: &[Transition], minibatch: &[usize]) -> Tensor {
    let pooled: Vec<f32> = minibatch.iter().flat_map(|&step| episode[step].action.pooled.clone()).collect();
    let returns: Vec<f32> = minibatch.iter().map(|&step| episode[step].returns as f32).collect();
    let values = policy.critic.forward(&Tensor::from_slice(&pooled).view([minibatch.len() as i64, -1]));
    ppo::value_loss(&values, &Tensor::from_slice(&returns))
}

/// Episodes with what the actor's loss needs beside them.
struct Scene<'a> {
    policy: &'a Policy,
    candidates: &'a Candidates,
    episode: &'a [Transition],
    sets: Vec<std::ops::Range<usize>>,
    set_state: Option<Tensor>,
    /// How many steps an episode has: selections of one do not count in the next.
    length: usize,
    /// At which steps each position was selected.
    selected_at: BTreeMap<usize, Vec<usize>>,
}

/// The draws of one level of some steps, with their new log-probabilities.
#[derive(Default)]
struct Draws {
    log_probs: Vec<Tensor>,
    old: Vec<f32>,
    advantages: Vec<f32>,
    step_of: Vec<i64>,
}

impl<'a> Scene<'a> {
    fn new(policy: &'a Policy, candidates: &'a Candidates, episode: &'a [Transition], length: usize) -> Self {
        let sets = policy.sets(candidates);
        let set_state = policy.clusters.as_ref().map(|_| set_means(&candidates.state, &sets));
        let mut selected_at: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (step, transition) in episode.iter().enumerate() {
            for picks in &transition.action.items {
                for drawn in &picks.drawn {
                    selected_at.entry(sets[picks.set].start + drawn).or_default().push(step);
                }
            }
        }
        Self { policy, candidates, episode, sets, set_state, length: length.max(1), selected_at }
    }

    /// How many of these steps lie before `step` in the same episode.
    fn earlier(&self, steps: &[usize], step: usize) -> usize {
        let first = step - step % self.length;
        steps.partition_point(|&at| at < step) - steps.partition_point(|&at| at < first)
    }

    /// Times that each position of a set had been selected before a step.
    fn counts(&self, set: usize, step: usize) -> Vec<f32> {
        let range = self.sets[set].clone();
        let mut counts = vec![0.0; range.len()];
        for (position, steps) in self.selected_at.range(range.clone()) {
            counts[position - range.start] = self.earlier(steps, step) as f32;
        }
        counts
    }

    fn mean_count(&self, set: usize, step: usize) -> f32 {
        let range = self.sets[set].clone();
        let selected = self.selected_at.range(range.clone());
        let sum: usize = selected.map(|(_, steps)| self.earlier(steps, step)).sum();
        sum as f32 / range.len() as f32
    }

    /// Adds the gradients of the actor's loss over a minibatch to its parameters.
    fn actor_gradients(&self, minibatch: &[usize], config: &Config) -> Result<Statistics> {
        // The static part of the first layer is computed once; the parts of the minibatch add up its gradient.
        let items_fixed = self.policy.items.fixed_part(&self.candidates.state);
        let items_leaf = items_fixed.detach().set_requires_grad(true);
        let rows_a_step =
            |step: usize| self.episode[step].action.items.iter().map(|picks| self.sets[picks.set].len()).sum::<usize>();
        let mut sums = Statistics::default();
        let mut start = 0;
        while start < minibatch.len() {
            let mut end = start;
            let mut rows = 0;
            while end < minibatch.len() && (end == start || rows + rows_a_step(minibatch[end]) <= ROWS) {
                rows += rows_a_step(minibatch[end]);
                end += 1;
            }
            let part = &minibatch[start..end];
            let share = part.len() as f64 / minibatch.len() as f64;
            let (loss, statistics) = self.part_loss(part, &items_leaf, config)?;
            (loss * share).backward();
            sums.policy_loss += share * statistics.policy_loss;
            sums.entropy += share * statistics.entropy;
            sums.approx_kl += share * statistics.approx_kl;
            sums.clipfrac += share * statistics.clipfrac;
            start = end;
        }
        let gradient = items_leaf.grad();
        if gradient.defined() {
            (items_fixed * gradient).sum(None).backward();
        }
        Ok(sums)
    }

    /// The mean loss over some steps.
    #[expect(clippy::assign_op_pattern, reason = "on tensors `+=` works in place, which these sums do not")]
    fn part_loss(&self, part: &[usize], items_fixed: &Tensor, config: &Config) -> Result<(Tensor, Statistics)> {
        let steps = part.len() as i64;
        let stages: Vec<f32> = part.iter().flat_map(|&step| self.episode[step].stage).collect();
        let stages = Tensor::from_slice(&stages).view([steps, STAGE as i64]);
        // Entropy of the distribution of one slot of the batch: which set, and then which item of it.
        let mut slot_entropy = Tensor::zeros([steps], (Kind::Float, tch::Device::Cpu));
        let mut levels = Vec::new();

        if let (Some(scorer), Some(set_state)) = (&self.policy.clusters, &self.set_state) {
            let counts: Vec<f32> =
                part.iter().flat_map(|&step| (0..self.sets.len()).map(move |set| self.mean_count(set, step))).collect();
            let counts = Tensor::from_slice(&counts).view([steps, -1]);
            let logits = self.policy.logits(Level::Clusters, &scorer.fixed_part(set_state), &stages, &counts);
            slot_entropy = slot_entropy + entropy(&logits);
            let mut level = Draws::default();
            for (place, &step) in part.iter().enumerate() {
                let transition = &self.episode[step];
                if let Some(picks) = &transition.action.sets {
                    let index = index_of(picks).unsqueeze(0);
                    level.log_probs.push(plackett_luce(&logits.narrow(0, place as i64, 1), &index).view([-1]));
                    level.add(place, picks, &transition.advantages[..picks.drawn.len()]);
                }
            }
            levels.push(level);
        }

        // Steps that drew equally many items from the same set are scored together.
        let mut groups: BTreeMap<(usize, usize), Vec<Drawn<'_>>> = BTreeMap::new();
        for (place, &step) in part.iter().enumerate() {
            let action = &self.episode[step].action;
            let mut offset = action.sets.as_ref().map_or(0, |picks| picks.drawn.len());
            for picks in &action.items {
                groups.entry((picks.set, picks.drawn.len())).or_default().push((place, picks, offset));
                offset += picks.drawn.len();
            }
        }
        let mut level = Draws::default();
        for ((set, drawn), members) in groups {
            let range = &self.sets[set];
            let places: Vec<i64> = members.iter().map(|(place, _, _)| *place as i64).collect();
            let places = Tensor::from_slice(&places);
            let counts: Vec<f32> = members.iter().flat_map(|(place, _, _)| self.counts(set, part[*place])).collect();
            let counts = Tensor::from_slice(&counts).view([members.len() as i64, range.len() as i64]);
            let fixed = items_fixed.narrow(0, range.start as i64, range.len() as i64);
            let logits = self.policy.logits(Level::Items, &fixed, &stages.index_select(0, &places), &counts);
            let index: Vec<Tensor> = members.iter().map(|(_, picks, _)| index_of(picks)).collect();
            level.log_probs.push(plackett_luce(&logits, &Tensor::stack(&index, 0)).view([-1]));
            let share = drawn as f64 / config.batch_size as f64;
            let mut of_set = entropy(&logits) * share;
            if self.policy.constants.form == Form::PerCluster {
                of_set = of_set - share * share.ln();
            }
            slot_entropy = slot_entropy.index_add(0, &places, &of_set);
            for (place, picks, offset) in members {
                level.add(place, picks, &self.episode[part[place]].advantages[offset..offset + picks.drawn.len()]);
            }
        }
        levels.push(level);

        let mut loss = Tensor::zeros([steps], (Kind::Float, tch::Device::Cpu));
        let mut log_ratios = Vec::new();
        for level in levels {
            let log_ratio = Tensor::cat(&level.log_probs, 0) - Tensor::from_slice(&level.old);
            let advantages = Tensor::from_slice(&level.advantages);
            let step_of = Tensor::from_slice(&level.step_of);
            let (of_level, clipped) =
                ppo::reduce(config.ratio, &log_ratio, &advantages, &step_of, steps, config.epsilon);
            loss = loss + of_level;
            log_ratios.push(clipped.detach());
        }
        let log_ratios = Tensor::cat(&log_ratios, 0);
        let policy_loss = loss.mean(None);
        let mean_entropy = slot_entropy.mean(None);
        let statistics = Statistics {
            policy_loss: policy_loss.double_value(&[]),
            entropy: mean_entropy.double_value(&[]),
            approx_kl: ppo::approx_kl(&log_ratios),
            clipfrac: ppo::clipfrac(&log_ratios, config.epsilon),
            ..Statistics::default()
        };
        Ok((policy_loss - mean_entropy * config.entropy_bonus, statistics))
    }
}

impl Draws {
    fn add(&mut self, place: usize, picks: &Picks, advantages: &[f64]) {
        self.old.extend(&picks.log_probs);
        self.advantages.extend(advantages.iter().map(|&advantage| advantage as f32));
        self.step_of.extend(picks.drawn.iter().map(|_| place as i64));
    }
}

fn index_of(picks: &Picks) -> Tensor {
    let index: Vec<i64> = picks.drawn.iter().map(|&drawn| drawn as i64).collect();
    Tensor::from_slice(&index)
}
