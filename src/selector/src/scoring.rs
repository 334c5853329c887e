//! The policy applied to a state: the score of every candidate, a batch drawn by the scores, and the log-probability of
//! each draw (docs/method.md, section 3).
//!
//! [`Scoring::act`] draws a batch. [`Scoring::replay`] computes the log-probabilities of recorded batches, many at once
//! and with gradients. Both use the same logits ([`Scoring::cluster_logits`], [`Scoring::candidate_logits`]) and the
//! same log-probabilities ([`plackett_luce`]), so that PPO's ratio is 1 until the weights change.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::{Kind as TensorKind, Tensor};

use super::network::STAGE_PART_WIDTH;
use super::policy::{Policy, budgets};
use super::sampling::{DrawMode, entropy, plackett_luce};
use super::state::{Candidates, State};
use raisin_base::error::Result;
use raisin_settings::ppo::PolicyForm;

/// An ordered draw of candidates from one set, or of sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Picks {
    /// Index of the set from which the candidates were drawn; 0 for a draw of sets.
    pub set: usize,
    /// Indices within the set (or of the sets), in the order of the draw.
    pub drawn: Vec<usize>,
    pub scores: Vec<f32>,
    /// Each log-probability is conditional on the earlier draws.
    pub log_probs: Vec<f32>,
}

/// A batch D_t with the draws that gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnBatch {
    /// The draw of the sets that fill the batch; hierarchical form only.
    pub sets: Option<Picks>,
    /// For each set that gives candidates to the batch, the draw from this set.
    pub candidates: Vec<Picks>,
    /// The input of the critic in the state S_t, `[POOLED + F]`: the stage part (2), mean and deviation of availability
    /// (2), mean, deviation, lead and relative entropy of the scores (4), and the mean static state of the earlier
    /// selections (F). The mean over all candidates is left out, because it is the same at every step.
    pub pooled: Vec<f32>,
}

impl DrawnBatch {
    /// The two levels of the draw: first the sets (hierarchical form only, otherwise empty), then the candidates.
    pub fn levels(&self) -> [&[Picks]; 2] {
        [self.sets.as_slice(), &self.candidates]
    }

    /// The number of draws at each level.
    pub fn draws(&self) -> [usize; 2] {
        self.levels().map(|picks| picks.iter().map(|picks| picks.drawn.len()).sum())
    }
}

/// The place of a batch, its draw from one set, and the place of the first of these candidates among all drawn
/// candidates.
type GroupMember<'a> = (usize, &'a Picks, i64);

/// Log-probabilities of recorded batches under a policy.
pub struct Replay {
    /// At each [level](DrawnBatch::levels), the log-probabilities of all draws, in the order of the batches and of
    /// their draws: `[draws]`. `None` without draws of sets.
    pub levels: [Option<Tensor>; 2],
    /// The entropy of the distribution of one slot of a batch, for which first a set and then a candidate of this set
    /// is drawn, in nats: `[batches]`.
    pub entropy: Tensor,
}

/// The static part of the candidates' scores under the present weights of a policy.
pub struct Scoring {
    /// Sets of positions. The candidates of a set compete with each other.
    pub sets: Vec<Range<usize>>,
    /// The static part of the first layer of each candidate: `[N, H]`.
    candidates: Tensor,
    /// The static part of the first layer of each cluster, from the mean state of its candidates; hierarchical form
    /// only: `[C, H]`.
    clusters: Option<Tensor>,
}

impl Scoring {
    /// Gradients flow back to the weights of the policy.
    pub fn new(policy: &Policy, candidates: &Candidates) -> Self {
        let sets = policy.sets(candidates);
        let clusters = policy.clusters.as_ref().map(|scorer| scorer.fixed_part(&set_means(&candidates.state, &sets)));
        Self { sets, candidates: policy.candidates.fixed_part(&candidates.state), clusters }
    }

    pub fn without_gradients(policy: &Policy, candidates: &Candidates) -> Self {
        tch::no_grad(|| Self::new(policy, candidates))
    }

    /// A copy at which gradients stop and add up. A large minibatch runs forward and backward in parts on the copy;
    /// then [`Self::backward`] passes the sum of the gradients on, once.
    #[must_use]
    pub fn leaf(&self) -> Self {
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        Self { sets: self.sets.clone(), candidates: leaf(&self.candidates), clusters: self.clusters.as_ref().map(leaf) }
    }

    /// Passes the gradients of a [leaf](Self::leaf) on to the weights of the first layers.
    pub fn backward(&self, leaf: &Self) {
        let pairs = self.clusters.iter().zip(&leaf.clusters).chain([(&self.candidates, &leaf.candidates)]);
        for (tensor, leaf) in pairs {
            let gradient = leaf.grad();
            if gradient.defined() {
                (tensor * gradient).sum(None).backward();
            }
        }
    }

    /// Logits of the clusters in some states: `[states, C]`; hierarchical form only. There is no reuse penalty for
    /// clusters, because a good cluster stays good as long as it has fresh candidates.
    fn cluster_logits(&self, policy: &Policy, states: &[State]) -> Option<Tensor> {
        let (scorer, fixed) = (policy.clusters.as_ref()?, self.clusters.as_ref()?);
        let mean_counts = |state: &State| -> Vec<f32> {
            self.sets.iter().map(|set| state.history.mean_count(set, state.step)).collect()
        };
        let counts: Vec<f32> = states.iter().flat_map(mean_counts).collect();
        let counts = Tensor::from_slice(&counts).view([states.len() as i64, -1]); // [states, C]
        Some(scorer.scores(fixed, &stages(states), &policy.seen(&counts)))
    }

    /// Logits of the n candidates of a set in some states: `[states, n]`. The reuse penalty is subtracted once for each
    /// earlier selection of the candidate.
    fn candidate_logits(&self, policy: &Policy, set: usize, states: &[State]) -> Tensor {
        let range = &self.sets[set];
        let fixed = self.candidates.narrow(0, range.start as i64, range.len() as i64); // [n, H]
        let counts: Vec<f32> = states.iter().flat_map(|state| state.history.counts(range, state.step)).collect();
        let counts = Tensor::from_slice(&counts).view([states.len() as i64, range.len() as i64]); // [states, n]
        policy.candidates.scores(&fixed, &stages(states), &policy.seen(&counts))
            - counts * policy.constants.reuse_penalty
    }

    /// Draws the next batch. The caller adds the batch to the history
    /// ([`SelectionHistory::take`](super::state::SelectionHistory::take)).
    pub fn act(&self, policy: &Policy, state: State, batch_size: usize, draw: DrawMode) -> Result<DrawnBatch> {
        tch::no_grad(|| self.draw(policy, state, batch_size, draw))
    }

    fn draw(&self, policy: &Policy, state: State, batch_size: usize, mut draw: DrawMode) -> Result<DrawnBatch> {
        let sizes: Vec<usize> = self.sets.iter().map(Range::len).collect();
        let mut moments = Vec::new();
        // The sets that give candidates to the batch, each with the number of these candidates.
        let (order, sets): (Vec<(usize, usize)>, _) = if let Some(logits) = self.cluster_logits(policy, &[state]) {
            moments.push(moments_of(&logits));
            let scores: Vec<f32> = Vec::try_from(logits.squeeze_dim(0))?;
            let order = draw.indices(&scores, sizes.len());
            let in_order: Vec<usize> = order.iter().map(|&set| sizes[set]).collect();
            let budgets = budgets(&in_order, batch_size, policy.constants.clusters_per_step);
            let used: Vec<_> = order.into_iter().zip(budgets).filter(|(_, budget)| *budget > 0).collect();
            let picks = picks(0, used.iter().map(|(set, _)| *set).collect(), &logits)?;
            (used, Some(picks))
        } else {
            let budgets = budgets(&sizes, batch_size, sizes.len());
            (budgets.into_iter().enumerate().filter(|(_, budget)| *budget > 0).collect(), None)
        };
        let mut candidates = Vec::with_capacity(order.len());
        for (set, budget) in order {
            let logits = self.candidate_logits(policy, set, &[state]); // [1, n]
            if sets.is_none() {
                moments.push(moments_of(&logits));
            }
            let scores: Vec<f32> = Vec::try_from(logits.squeeze_dim(0))?;
            candidates.push(picks(set, draw.indices(&scores, budget), &logits)?);
        }
        Ok(DrawnBatch { sets, candidates, pooled: self.pooled(state, &moments) })
    }

    /// The positions of the drawn candidates, in the order of the slots: `[B]`.
    pub fn positions(&self, action: &DrawnBatch) -> Vec<usize> {
        let of_set = |picks: &Picks| picks.drawn.iter().map(|drawn| self.sets[picks.set].start + drawn).collect();
        action.candidates.iter().flat_map::<Vec<usize>, _>(of_set).collect()
    }

    /// The number of candidates that must be scored to replay a batch.
    pub fn candidates_of(&self, action: &DrawnBatch) -> usize {
        action.candidates.iter().map(|picks| self.sets[picks.set].len()).sum()
    }

    /// The log-probabilities of recorded batches, each in its own state.
    pub fn replay(&self, policy: &Policy, states: &[State], actions: &[&DrawnBatch]) -> Replay {
        let steps = states.len() as i64;
        let mut slot_entropy = Tensor::zeros([steps], (TensorKind::Float, self.candidates.device()));
        let sets = self.cluster_logits(policy, states).map(|logits| {
            slot_entropy = &slot_entropy + entropy(&logits);
            let drawn = actions.iter().enumerate().filter_map(|(place, action)| Some((place, action.sets.as_ref()?)));
            let log_probs: Vec<Tensor> = drawn
                .map(|(place, picks)| log_probs(&logits.narrow(0, place as i64, 1), &[picks]).view([-1]))
                .collect();
            Tensor::cat(&log_probs, 0)
        });

        // Batches with equally many draws from the same set are scored together.
        let mut groups: BTreeMap<(usize, usize), Vec<GroupMember>> = BTreeMap::new();
        let mut draws = 0;
        for (place, action) in actions.iter().enumerate() {
            for picks in &action.candidates {
                groups.entry((picks.set, picks.drawn.len())).or_default().push((place, picks, draws));
                draws += picks.drawn.len() as i64;
            }
        }
        let (mut grouped, mut order) = (Vec::with_capacity(groups.len()), Vec::with_capacity(draws as usize));
        for ((set, drawn), members) in groups {
            let states: Vec<State> = members.iter().map(|(place, _, _)| states[*place]).collect();
            let picks: Vec<&Picks> = members.iter().map(|(_, picks, _)| *picks).collect();
            let logits = self.candidate_logits(policy, set, &states); // [members, n]
            grouped.push(log_probs(&logits, &picks).view([-1]));
            order.extend(members.iter().flat_map(|(_, _, first)| *first..first + drawn as i64));
            // The probability that a slot of the batch belongs to this set.
            let share = |(place, _, _): &GroupMember| {
                let [_, batch_size] = actions[*place].draws();
                (drawn as f64 / batch_size as f64) as f32
            };
            let shares = Tensor::from_slice(&members.iter().map(share).collect::<Vec<f32>>()); // [members]
            // In the form `per_cluster`, no draw decides the set of a slot, so the set adds its own entropy.
            let of_choice =
                if policy.constants.form == PolicyForm::PerCluster { -shares.log() } else { shares.zeros_like() };
            let of_set = (entropy(&logits) + of_choice) * &shares; // [members]
            let places: Vec<i64> = members.iter().map(|(place, _, _)| *place as i64).collect();
            slot_entropy = slot_entropy.index_add(0, &Tensor::from_slice(&places), &of_set);
        }
        // From the order of the groups to the order of the batches: argsort inverts the permutation.
        let place_of = Tensor::from_slice(&order).argsort(0, false); // [draws]
        let candidates = Tensor::cat(&grouped, 0).index_select(0, &place_of); // [draws]
        Replay { levels: [sets, Some(candidates)], entropy: slot_entropy }
    }

    /// See [`DrawnBatch::pooled`]. `moments` has one entry for each softmax over sets, or over candidates.
    fn pooled(&self, state: State, moments: &[[f32; 4]]) -> Vec<f32> {
        let n = self.candidates.size()[0] as usize;
        let counts = state.history.counts(&(0..n), state.step);
        let mean = counts.iter().map(|count| count.ln_1p()).sum::<f32>() / n as f32;
        let spread = counts.iter().map(|count| (count.ln_1p() - mean).powi(2)).sum::<f32>() / n as f32;
        let mut pooled = state.stage.to_vec();
        pooled.extend([mean, spread.sqrt()]);
        for moment in 0..4 {
            pooled.push(moments.iter().map(|of_set| of_set[moment]).sum::<f32>() / moments.len().max(1) as f32);
        }
        pooled.extend(state.history.mean_state());
        pooled
    }
}

/// Mean of the static state over each set: `[N, F]` -> `[C, F]`.
fn set_means(state: &Tensor, sets: &[Range<usize>]) -> Tensor {
    let means: Vec<Tensor> = sets
        .iter()
        .map(|set| {
            state.narrow(0, set.start as i64, set.len() as i64).mean_dim([0i64].as_slice(), false, TensorKind::Float)
        })
        .collect();
    Tensor::stack(&means, 0)
}

/// The stage parts of some states: `[states, 2]`.
fn stages(states: &[State]) -> Tensor {
    let stages: Vec<f32> = states.iter().flat_map(|state| state.stage).collect();
    Tensor::from_slice(&stages).view([states.len() as i64, STAGE_PART_WIDTH as i64])
}

/// Log-probabilities of b draws from each row of the logits: `[m, n]` -> `[m, b]`.
fn log_probs(logits: &Tensor, picks: &[&Picks]) -> Tensor {
    let drawn: Vec<i64> = picks.iter().flat_map(|picks| &picks.drawn).map(|&drawn| drawn as i64).collect();
    plackett_luce(logits, &Tensor::from_slice(&drawn).view([picks.len() as i64, -1]))
}

/// The draw `drawn` from a set with the logits `[1, n]`, with its scores and log-probabilities.
fn picks(set: usize, drawn: Vec<usize>, logits: &Tensor) -> Result<Picks> {
    let index: Vec<i64> = drawn.iter().map(|&drawn| drawn as i64).collect();
    let scores = Vec::try_from(logits.gather(1, &Tensor::from_slice(&index).unsqueeze(0), false).squeeze_dim(0))?;
    let mut picks = Picks { set, drawn, scores, log_probs: Vec::new() };
    picks.log_probs = Vec::try_from(log_probs(logits, &[&picks]).squeeze_dim(0))?;
    Ok(picks)
}

/// Of logits `[1, n]`: the mean, the standard deviation, the largest logit minus the mean, and the entropy divided by
/// the largest possible entropy ln n.
fn moments_of(logits: &Tensor) -> [f32; 4] {
    let n = logits.size().get(1).copied().unwrap_or(1);
    let mean = logits.mean(None).double_value(&[]);
    let spread = logits.std(false).double_value(&[]);
    let lead = logits.max().double_value(&[]) - mean;
    let relative = if n > 1 { entropy(logits).double_value(&[0]) / (n as f64).ln() } else { 1.0 };
    [mean as f32, spread as f32, lead as f32, relative as f32]
}
