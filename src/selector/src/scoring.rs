//! The policy applied to a state: the score of every candidate, a batch drawn by the scores, and the log-probability of
//! each draw (docs/method.md, section 3).
//!
//! [`Scoring::act`] draws a batch. [`Scoring::replay`] computes the log-probabilities of recorded batches, many at once
//! and with gradients. Both use the same logits ([`Scoring::cluster_logits`], [`Scoring::candidate_logits`]) and the
//! same log-probabilities ([`plackett_luce`], [`shares_then_plackett_luce`]), so that PPO's ratio is 1 until the weights
//! change.
//!
//! A *set* holds the candidates that compete in one softmax: the candidates of a cluster, or the whole pool in the form
//! `flat`. The form `hierarchical` has two *levels* of draws: first clusters, then candidates of each drawn cluster.
//! The other forms have the second level only.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::{Kind as TensorKind, Tensor};

use super::concentration::concentrated;
use super::network::STAGE_PART_WIDTH;
use super::policy::{Policy, budgets, filled, shares};
use super::sampling::{DrawMode, entropy, plackett_luce, shares_then_plackett_luce};
use super::scorer::Scorer;
use super::state::{Candidates, State};
use raisin_base::error::Result;
use raisin_settings::ppo::PolicyForm;

/// The draws from one softmax: of candidates of a set, without replacement, or of clusters. Each share of a batch draws
/// its cluster with replacement. If the drawn clusters have too few candidates, more clusters follow without
/// replacement.
#[derive(Clone, Debug, PartialEq)]
pub struct Picks {
    /// The number of the set of the candidates. Not used for clusters: 0.
    pub set: usize,
    /// The drawn candidates, as indices within the set, or the drawn clusters, as numbers of sets. In the order of the
    /// draws.
    pub drawn: Vec<usize>,
    pub scores: Vec<f32>,
    /// Each log-probability is conditional on the earlier draws.
    pub log_probs: Vec<f32>,
}

impl Picks {
    /// Records draws of candidates by the logits `[1, n]`.
    fn new(set: usize, drawn: Vec<usize>, logits: &Tensor) -> Result<Self> {
        let mut picks = Self { set, scores: scores_of(&drawn, logits)?, drawn, log_probs: Vec::new() };
        picks.log_probs = Vec::try_from(log_probs(logits, &[&picks]).squeeze_dim(0))?;
        Ok(picks)
    }

    /// Records draws of clusters by the logits `[1, C]`: first one for each share.
    fn of_clusters(drawn: Vec<usize>, shares: usize, logits: &Tensor) -> Result<Self> {
        let log_probs = Vec::try_from(shares_then_plackett_luce(logits, &drawn, shares))?;
        Ok(Self { set: 0, scores: scores_of(&drawn, logits)?, drawn, log_probs })
    }
}

fn scores_of(drawn: &[usize], logits: &Tensor) -> Result<Vec<f32>> {
    let index: Vec<i64> = drawn.iter().map(|&drawn| drawn as i64).collect();
    Ok(Vec::try_from(logits.gather(1, &Tensor::from_slice(&index).unsqueeze(0), false).squeeze_dim(0))?)
}

/// The number of shares of a batch, each of which draws a cluster.
fn share_count(policy: &Policy, batch_size: usize) -> usize {
    policy.constants.clusters_per_step.clamp(1, batch_size.max(1))
}

/// The clusters of a batch.
struct DrawnClusters {
    /// A cluster for each share, then the clusters that fill what the former lack.
    drawn: Vec<usize>,
    /// Each drawn cluster once, with the number of its candidates in the batch.
    quotas: Vec<(usize, usize)>,
}

impl DrawnClusters {
    /// Draws a cluster for each share of the batch, with replacement. If the drawn clusters have too few candidates,
    /// the other clusters follow, in the order of a draw without replacement, until the batch is full.
    fn draw(scores: &[f32], sizes: &[usize], batch_size: usize, count: usize, mode: &mut DrawMode) -> Self {
        let mut drawn = mode.repeated_indices(scores, count);
        let (mut sets, mut wanted): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for (&set, share) in drawn.iter().zip(shares(batch_size, count)) {
            if let Some(place) = sets.iter().position(|known| *known == set) {
                wanted[place] += share;
            } else {
                sets.push(set);
                wanted.push(share);
            }
        }
        let among_drawn = sets.len();
        if sets.iter().map(|&set| sizes[set]).sum::<usize>() < batch_size {
            let others: Vec<usize> = (0..sizes.len()).filter(|set| !sets.contains(set)).collect();
            let scores: Vec<f32> = others.iter().map(|&set| scores[set]).collect();
            sets.extend(mode.indices(&scores, others.len()).into_iter().map(|place| others[place]));
            wanted.resize(sets.len(), 0);
        }
        let sizes: Vec<usize> = sets.iter().map(|&set| sizes[set]).collect();
        let budgets = filled(&wanted, &sizes, batch_size);
        let quotas: Vec<(usize, usize)> = sets.into_iter().zip(budgets).filter(|(_, budget)| *budget > 0).collect();
        drawn.extend(quotas[among_drawn..].iter().map(|(set, _)| *set));
        Self { drawn, quotas }
    }
}

/// A batch D_t with the draws that gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnBatch {
    /// The clusters that fill the batch; hierarchical form only. The cluster of several shares is there several times.
    pub cluster_picks: Option<Picks>,
    /// For each set that gives candidates to the batch, the candidates from this set.
    pub candidate_picks: Vec<Picks>,
    /// The input of the critic in the state S_t, `[POOLED + F]`: the stage part (2), mean and deviation of availability
    /// (2), mean, deviation, lead and relative entropy of the scores (4), and the mean static state of the earlier
    /// selections (F). The mean over all candidates is left out, because it is the same at every step.
    pub pooled: Vec<f32>,
}

impl DrawnBatch {
    /// The picks of the two levels: clusters (empty unless the form is `hierarchical`), and candidates.
    pub fn levels(&self) -> [&[Picks]; 2] {
        [self.cluster_picks.as_slice(), &self.candidate_picks]
    }

    /// The number of draws at each level.
    pub fn draws(&self) -> [usize; 2] {
        self.levels().map(|level| level.iter().map(|picks| picks.drawn.len()).sum())
    }
}

/// The candidates that one of several batches took from one set.
struct GroupMember<'a> {
    /// The index of the batch.
    batch: usize,
    picks: &'a Picks,
    /// The index of the first of these candidates among the drawn candidates of all batches.
    first_draw: i64,
}

/// Log-probabilities of recorded batches under a policy.
pub struct Replay {
    /// At each [level](DrawnBatch::levels), the log-probabilities of all draws, in the order of the batches and of
    /// their draws: `[draws]`. `None` for the level of clusters if no clusters were drawn.
    pub levels: [Option<Tensor>; 2],
    /// The entropy of the distribution of one slot of a batch, for which first a set and then a candidate of this set
    /// is drawn, in nats: `[batches]`.
    pub entropy: Tensor,
}

/// The static part of the candidates' scores under the present weights of a policy.
pub struct Scoring {
    /// The positions of each set.
    sets: Vec<Range<usize>>,
    /// The static part of the first layer of each candidate: `[N, H]`.
    candidates_fixed: Tensor,
    /// The static part of the first layer of each cluster, from the mean state of its candidates; hierarchical form
    /// only: `[C, H]`.
    clusters_fixed: Option<Tensor>,
    /// The prior's part of the score of each candidate: `[N]`; `None` without a prior.
    candidates_prior: Option<Tensor>,
    /// The mean of this part over each set: `[C]`.
    clusters_prior: Option<Tensor>,
}

impl Scoring {
    /// Gradients flow back to the weights of the policy.
    pub fn new(policy: &Policy, candidates: &Candidates) -> Self {
        let sets = policy.sets(candidates);
        let clusters: Vec<i64> = candidates.clusters.iter().map(|&cluster| i64::from(cluster)).collect();
        let fixed_of_clusters = |scorer: &Scorer| {
            let of_sets: Vec<i64> = sets.iter().map(|set| clusters[set.start]).collect();
            scorer.fixed_part(&set_means(&candidates.state, &sets), &Tensor::from_slice(&of_sets))
        };
        let clusters_fixed = policy.clusters.as_ref().map(fixed_of_clusters);
        let prior = policy.constants.prior.as_ref().zip(candidates.prior.as_ref());
        let candidates_prior = prior.map(|(prior, column)| column * prior.weight); // [N]
        let clusters_prior =
            candidates_prior.as_ref().map(|prior| set_means(&prior.unsqueeze(1), &sets).squeeze_dim(1));
        let candidates_fixed = policy.candidates.fixed_part(&candidates.state, &Tensor::from_slice(&clusters));
        Self { sets, candidates_fixed, clusters_fixed, candidates_prior, clusters_prior }
    }

    pub fn without_gradients(policy: &Policy, candidates: &Candidates) -> Self {
        tch::no_grad(|| Self::new(policy, candidates))
    }

    /// A copy whose tensors are leaves of the graph: a backward pass ends at them and adds to their gradients. A large
    /// minibatch runs forward and backward in parts on the copy. Then [`Self::backward`] takes the summed gradients
    /// from the copy back to the weights of the policy, once.
    #[must_use]
    pub fn leaf(&self) -> Self {
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        Self {
            sets: self.sets.clone(),
            candidates_fixed: leaf(&self.candidates_fixed),
            clusters_fixed: self.clusters_fixed.as_ref().map(leaf),
            candidates_prior: self.candidates_prior.as_ref().map(Tensor::shallow_clone),
            clusters_prior: self.clusters_prior.as_ref().map(Tensor::shallow_clone),
        }
    }

    /// Passes the gradients of a [leaf](Self::leaf) on to the weights of the first layers.
    pub fn backward(&self, leaf: &Self) {
        let clusters = self.clusters_fixed.iter().zip(&leaf.clusters_fixed);
        for (tensor, leaf) in clusters.chain([(&self.candidates_fixed, &leaf.candidates_fixed)]) {
            let gradient = leaf.grad();
            if gradient.defined() {
                (tensor * gradient).sum(None).backward();
            }
        }
    }

    /// Logits of the clusters in some states: `[states, C]`; hierarchical form only. There is no reuse penalty for
    /// clusters, because a good cluster stays good as long as it has fresh candidates.
    fn cluster_logits(&self, policy: &Policy, states: &[State]) -> Option<Tensor> {
        let (scorer, fixed) = (policy.clusters.as_ref()?, self.clusters_fixed.as_ref()?);
        let mean_counts = |state: &State| -> Vec<f32> {
            self.sets.iter().map(|set| state.history.mean_count(set, state.step)).collect()
        };
        let counts: Vec<f32> = states.iter().flat_map(mean_counts).collect();
        let counts = Tensor::from_slice(&counts).view([states.len() as i64, -1]); // [states, C]
        let scores = scorer.scores(fixed, &stages(states), &policy.counts_or_zeros(&counts));
        Some(match &self.clusters_prior {
            Some(prior) => scores + prior,
            None => scores,
        })
    }

    /// Logits of the n candidates of a set in some states: `[states, n]`: the learned score plus the prior,
    /// concentrated on the number of [`Policy::aimed_candidates`]. The reuse penalty is subtracted once for each earlier selection of the candidate.
    fn candidate_logits(&self, policy: &Policy, set: usize, states: &[State]) -> Tensor {
        let range = &self.sets[set];
        let fixed = self.candidates_fixed.narrow(0, range.start as i64, range.len() as i64); // [n, H]
        let counts: Vec<f32> = states.iter().flat_map(|state| state.history.counts(range, state.step)).collect();
        let counts = Tensor::from_slice(&counts).view([states.len() as i64, range.len() as i64]); // [states, n]
        let learned = policy.candidates.scores(&fixed, &stages(states), &policy.counts_or_zeros(&counts));
        let scores = match &self.candidates_prior {
            Some(prior) => learned + prior.narrow(0, range.start as i64, range.len() as i64),
            None => learned,
        };
        let concentrated = |(row, state): (i64, &State)| match policy.aimed_candidates(state.draws) {
            Some(aim) => concentrated(&scores.get(row), policy.constants.concentration, aim),
            None => scores.get(row),
        };
        let rows: Vec<Tensor> = (0..).zip(states).map(concentrated).collect();
        Tensor::stack(&rows, 0) - counts * policy.constants.reuse_penalty
    }

    /// Draws the next batch. The caller adds the batch to the history
    /// ([`SelectionHistory::take`](super::state::SelectionHistory::take)).
    pub fn act(&self, policy: &Policy, state: State, batch_size: usize, mode: DrawMode) -> Result<DrawnBatch> {
        tch::no_grad(|| self.draw_batch(policy, state, batch_size, mode))
    }

    fn draw_batch(&self, policy: &Policy, state: State, batch_size: usize, mut mode: DrawMode) -> Result<DrawnBatch> {
        let sizes: Vec<usize> = self.sets.iter().map(Range::len).collect();
        let mut summaries = Vec::new();
        let mut cluster_picks = None;
        // The sets that give candidates to the batch, each with the number of these candidates.
        let quotas: Vec<(usize, usize)> = if let Some(logits) = self.cluster_logits(policy, &[state]) {
            summaries.push(score_summary(&logits));
            let scores: Vec<f32> = Vec::try_from(logits.squeeze_dim(0))?;
            let count = share_count(policy, batch_size);
            let clusters = DrawnClusters::draw(&scores, &sizes, batch_size, count, &mut mode);
            cluster_picks = Some(Picks::of_clusters(clusters.drawn, count, &logits)?);
            clusters.quotas
        } else {
            let budgets = budgets(&sizes, batch_size, sizes.len());
            budgets.into_iter().enumerate().filter(|(_, budget)| *budget > 0).collect()
        };
        let mut candidate_picks = Vec::with_capacity(quotas.len());
        for (set, budget) in quotas {
            let logits = self.candidate_logits(policy, set, &[state]); // [1, n]
            if cluster_picks.is_none() {
                summaries.push(score_summary(&logits));
            }
            let scores: Vec<f32> = Vec::try_from(logits.squeeze_dim(0))?;
            candidate_picks.push(Picks::new(set, mode.indices(&scores, budget), &logits)?);
        }
        Ok(DrawnBatch { cluster_picks, candidate_picks, pooled: self.pooled(state, &summaries) })
    }

    /// For each draw of a batch, at each [level](DrawnBatch::levels): the value of what was drawn minus the expectation
    /// of this value under the policy, in the softmax from which it was drawn. `values` has a number for each position:
    /// `[N]` f64. The value of a drawn cluster is the mean value of the candidates that were drawn from it.
    ///
    /// So a draw is compared with the draws that the policy could have made instead. The values of the other sets of
    /// the batch do not matter.
    pub fn centred(
        &self,
        policy: &Policy,
        state: State,
        action: &DrawnBatch,
        values: &Tensor,
    ) -> Result<[Vec<f64>; 2]> {
        let of_set = |set: usize| {
            let range = &self.sets[set];
            values.narrow(0, range.start as i64, range.len() as i64) // [n]
        };
        let expected = |set: usize| expectation(&self.candidate_logits(policy, set, &[state]), &of_set(set));
        tch::no_grad(|| {
            let mut drawn_values: BTreeMap<usize, f64> = BTreeMap::new();
            let mut candidates = Vec::new();
            for picks in &action.candidate_picks {
                let index: Vec<i64> = picks.drawn.iter().map(|&drawn| drawn as i64).collect();
                let drawn: Vec<f64> = Vec::try_from(of_set(picks.set).index_select(0, &Tensor::from_slice(&index)))?;
                drawn_values.insert(picks.set, drawn.iter().sum::<f64>() / drawn.len().max(1) as f64);
                let expected = expected(picks.set);
                candidates.extend(drawn.iter().map(|value| value - expected));
            }
            let mut clusters = Vec::new();
            if let (Some(picks), Some(logits)) = (&action.cluster_picks, self.cluster_logits(policy, &[state])) {
                let of_clusters: Vec<f64> = (0..self.sets.len()).map(expected).collect(); // [C]
                let expected = expectation(&logits, &Tensor::from_slice(&of_clusters));
                clusters.extend(picks.drawn.iter().map(|set| drawn_values.get(set).map_or(0.0, |it| it - expected)));
            }
            Ok([clusters, candidates])
        })
    }

    /// The positions of the drawn candidates, in the order of the slots: `[B]`.
    pub fn positions(&self, action: &DrawnBatch) -> Vec<usize> {
        let positions = |picks: &Picks| picks.drawn.iter().map(|drawn| self.sets[picks.set].start + drawn).collect();
        action.candidate_picks.iter().flat_map::<Vec<usize>, _>(positions).collect()
    }

    /// The number of candidates that must be scored to replay a batch.
    pub fn replay_cost(&self, action: &DrawnBatch) -> usize {
        action.candidate_picks.iter().map(|picks| self.sets[picks.set].len()).sum()
    }

    /// The log-probabilities of recorded batches, each in its own state.
    pub fn replay(&self, policy: &Policy, states: &[State], actions: &[&DrawnBatch]) -> Replay {
        let batches = states.len() as i64;
        let mut slot_entropy = Tensor::zeros([batches], (TensorKind::Float, self.candidates_fixed.device()));
        let cluster_log_probs = self.cluster_logits(policy, states).map(|logits| {
            slot_entropy = &slot_entropy + entropy(&logits);
            let picked = (0..).zip(actions).filter_map(|(batch, action)| Some((batch, action.cluster_picks.as_ref()?)));
            let log_probs = |(batch, picks): (i64, &Picks)| {
                let shares = share_count(policy, actions[batch as usize].draws()[1]);
                shares_then_plackett_luce(&logits.narrow(0, batch, 1), &picks.drawn, shares)
            };
            Tensor::cat(&picked.map(log_probs).collect::<Vec<Tensor>>(), 0)
        });

        // Batches with equally many draws from the same set form a group, which is scored at once.
        let mut groups: BTreeMap<(usize, usize), Vec<GroupMember>> = BTreeMap::new();
        let mut draws = 0;
        for (batch, action) in actions.iter().enumerate() {
            for picks in &action.candidate_picks {
                let member = GroupMember { batch, picks, first_draw: draws };
                groups.entry((picks.set, picks.drawn.len())).or_default().push(member);
                draws += picks.drawn.len() as i64;
            }
        }
        let (mut group_log_probs, mut group_order) = (Vec::with_capacity(groups.len()), Vec::new());
        for ((set, drawn), members) in groups {
            let states: Vec<State> = members.iter().map(|member| states[member.batch]).collect();
            let picks: Vec<&Picks> = members.iter().map(|member| member.picks).collect();
            let logits = self.candidate_logits(policy, set, &states); // [members, n]
            group_log_probs.push(log_probs(&logits, &picks).view([-1]));
            group_order.extend(members.iter().flat_map(|member| member.first_draw..member.first_draw + drawn as i64));
            // The probability that a slot of the batch belongs to this set.
            let set_probability = |member: &GroupMember| {
                let [_, batch_size] = actions[member.batch].draws();
                (drawn as f64 / batch_size as f64) as f32
            };
            let probabilities: Vec<f32> = members.iter().map(set_probability).collect();
            let probabilities = Tensor::from_slice(&probabilities); // [members]
            // The entropy of a slot is the entropy of the choice of a set, plus the mean entropy within the sets. In
            // the form `hierarchical`, the logits of the clusters gave the first term above; in `flat`, it is 0; in
            // `per_cluster`, each set adds -p ln p to it here.
            let surprise = match policy.constants.form {
                PolicyForm::PerCluster => -probabilities.log(),
                PolicyForm::Hierarchical | PolicyForm::Flat => probabilities.zeros_like(),
            };
            let entropy_terms = (entropy(&logits) + surprise) * &probabilities; // [members]
            let batches: Vec<i64> = members.iter().map(|member| member.batch as i64).collect();
            slot_entropy = slot_entropy.index_add(0, &Tensor::from_slice(&batches), &entropy_terms);
        }
        // From the order of the groups to the order of the batches: argsort inverts the permutation.
        let batch_order = Tensor::from_slice(&group_order).argsort(0, false); // [draws]
        let candidate_log_probs = Tensor::cat(&group_log_probs, 0).index_select(0, &batch_order); // [draws]
        Replay { levels: [cluster_log_probs, Some(candidate_log_probs)], entropy: slot_entropy }
    }

    /// See [`DrawnBatch::pooled`]. `summaries` has the summary of the clusters' scores, or of the scores of each set.
    fn pooled(&self, state: State, summaries: &[[f32; 4]]) -> Vec<f32> {
        let n = self.candidates_fixed.size()[0] as usize;
        // Most candidates were never selected: their logarithm is 0.
        let counted: Vec<f32> = state.history.selected(state.step).map(f32::ln_1p).collect();
        let mean = counted.iter().sum::<f32>() / n as f32;
        let squares: f32 = counted.iter().map(|count| (count - mean).powi(2)).sum();
        let variance = (squares + (n - counted.len()) as f32 * mean.powi(2)) / n as f32;
        let mut pooled = state.stage.to_vec();
        pooled.extend([mean, variance.sqrt()]);
        for column in 0..4 {
            pooled.push(summaries.iter().map(|summary| summary[column]).sum::<f32>() / summaries.len().max(1) as f32);
        }
        pooled.extend(state.history.mean_state());
        pooled
    }
}

/// Mean of the static state over each set: `[N, F]` -> `[C, F]`.
fn set_means(state: &Tensor, sets: &[Range<usize>]) -> Tensor {
    let rows = |set: &Range<usize>| state.narrow(0, set.start as i64, set.len() as i64); // [n, F]
    let mean = |set| rows(set).mean_dim([0i64].as_slice(), false, TensorKind::Float); // [F]
    Tensor::stack(&sets.iter().map(mean).collect::<Vec<Tensor>>(), 0)
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

/// The mean of values `[n]`, f64, weighted by the softmax of logits `[1, n]`.
fn expectation(logits: &Tensor, values: &Tensor) -> f64 {
    logits.to_kind(TensorKind::Double).softmax(1, None).squeeze_dim(0).dot(values).double_value(&[])
}

/// Of logits `[1, n]`: the mean, the standard deviation, the largest logit minus the mean, and the entropy divided by
/// the largest possible entropy ln n.
fn score_summary(logits: &Tensor) -> [f32; 4] {
    let n = logits.size().get(1).copied().unwrap_or(1);
    let mean = logits.mean(None).double_value(&[]);
    let deviation = logits.std(false).double_value(&[]);
    let lead = logits.max().double_value(&[]) - mean;
    let relative_entropy = if n > 1 { entropy(logits).double_value(&[0]) / (n as f64).ln() } else { 1.0 };
    [mean as f32, deviation as f32, lead as f32, relative_entropy as f32]
}

#[cfg(test)]
mod tests;
