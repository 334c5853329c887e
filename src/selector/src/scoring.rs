//! What a policy makes of a state: the score of every candidate, a batch drawn by the scores, and the log-probability of
//! each draw (docs/method.md, section 3).
//!
//! [`Scoring::act`] draws and [`Scoring::replay`] looks at recorded draws again, many at once and with gradients. Both take
//! logits from [`Scoring::cluster_logits`] and [`Scoring::candidate_logits`] and log-probabilities from
//! [`plackett_luce`], so that PPO's ratio is 1 for as long as the weights have not changed.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::{Kind as TensorKind, Tensor};

use super::network::STAGE_PART_WIDTH;
use super::policy::{Policy, budgets};
use super::sampling::{DrawMode, entropy, plackett_luce};
use super::state::{Candidates, State};
use raisin_base::error::Result;
use raisin_settings::ppo::PolicyForm;

/// An ordered draw from one set, or of sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Picks {
    /// Index of the set that was drawn from.
    pub set: usize,
    /// Indices within the set, in the order of the draw.
    pub drawn: Vec<usize>,
    pub scores: Vec<f32>,
    /// Given the draws before.
    pub log_probs: Vec<f32>,
}

/// A batch D_t, as it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnBatch {
    /// Which sets fill the batch; hierarchical form only.
    pub sets: Option<Picks>,
    pub candidates: Vec<Picks>,
    /// What the critic sees of the state that was acted in: stage (2), mean and spread of availability (2), mean, spread,
    /// lead and relative entropy of the scores (4), and the mean static state of what was selected so far (F). The mean
    /// over all candidates, which docs/method.md names too, is the same at every step and so of no use to it.
    pub pooled: Vec<f32>,
}

/// What one of several actions drew from one set: the action's place, the picks, and which of all draws is the first.
type Drawn<'a> = (usize, &'a Picks, i64);

/// Log-probabilities of recorded actions under a policy, in the order of the actions and of the draws of each.
pub struct Replay {
    /// Of draws of clusters, hierarchical form only: `[draws]`.
    pub sets: Option<Tensor>,
    /// Of draws of candidates: `[draws]`.
    pub candidates: Tensor,
    /// Of the distribution of one slot of a batch, which is first a set and then a candidate of it: `[actions]`.
    pub entropy: Tensor,
}

/// The candidates as a policy with its present weights sees them, apart from what changes from step to step.
pub struct Scoring {
    /// Sets of positions, each of which competes within itself.
    pub sets: Vec<Range<usize>>,
    /// The static part of the candidates' first layer: `[N, H]`.
    candidates: Tensor,
    /// The same of the clusters, from the means of their candidates' states; hierarchical form only: `[C, H]`.
    clusters: Option<Tensor>,
}

impl Scoring {
    /// With the graph of the weights' gradients.
    pub fn new(policy: &Policy, candidates: &Candidates) -> Self {
        let sets = policy.sets(candidates);
        let clusters = policy.clusters.as_ref().map(|scorer| scorer.fixed_part(&set_means(&candidates.state, &sets)));
        Self { sets, candidates: policy.candidates.fixed_part(&candidates.state), clusters }
    }

    /// For acting only.
    pub fn without_gradients(policy: &Policy, candidates: &Candidates) -> Self {
        tch::no_grad(|| Self::new(policy, candidates))
    }

    /// The same for reading gradients off: a large minibatch runs forward and back in parts, which add up theirs here.
    #[must_use]
    pub fn leaf(&self) -> Self {
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        Self { sets: self.sets.clone(), candidates: leaf(&self.candidates), clusters: self.clusters.as_ref().map(leaf) }
    }

    /// Passes the gradients of a leaf on to the weights of the first layers.
    pub fn backward(&self, leaf: &Self) {
        let pairs = self.clusters.iter().zip(&leaf.clusters).chain([(&self.candidates, &leaf.candidates)]);
        for (tensor, leaf) in pairs {
            let gradient = leaf.grad();
            if gradient.defined() {
                (tensor * gradient).sum(None).backward();
            }
        }
    }

    /// Logits of the clusters in some states: `[states, C]`. Clusters pay no penalty for reuse, because a good cluster
    /// stays good while other candidates of it are left.
    fn cluster_logits(&self, policy: &Policy, states: &[State]) -> Option<Tensor> {
        let (scorer, fixed) = (policy.clusters.as_ref()?, self.clusters.as_ref()?);
        let mean_counts = |state: &State| -> Vec<f32> {
            self.sets.iter().map(|set| state.history.mean_count(set, state.step)).collect()
        };
        let counts: Vec<f32> = states.iter().flat_map(mean_counts).collect();
        let counts = Tensor::from_slice(&counts).view([states.len() as i64, -1]); // [states, C]
        Some(scorer.scores(fixed, &stages(states), &policy.seen(&counts)))
    }

    /// Logits of the candidates of a set in some states: `[states, n]`. Candidates pay a penalty for each time that
    /// they were selected before.
    fn candidate_logits(&self, policy: &Policy, set: usize, states: &[State]) -> Tensor {
        let range = &self.sets[set];
        let fixed = self.candidates.narrow(0, range.start as i64, range.len() as i64); // [n, H]
        let counts: Vec<f32> = states.iter().flat_map(|state| state.history.counts(range, state.step)).collect();
        let counts = Tensor::from_slice(&counts).view([states.len() as i64, range.len() as i64]); // [states, n]
        policy.candidates.scores(&fixed, &stages(states), &policy.seen(&counts))
            - counts * policy.constants.reuse_penalty
    }

    /// Draws the next batch; [`SelectionHistory::take`](super::state::SelectionHistory::take) then records it.
    pub fn act(&self, policy: &Policy, state: State, batch_size: usize, draw: DrawMode) -> Result<DrawnBatch> {
        tch::no_grad(|| self.draw(policy, state, batch_size, draw))
    }

    fn draw(&self, policy: &Policy, state: State, batch_size: usize, mut draw: DrawMode) -> Result<DrawnBatch> {
        let sizes: Vec<usize> = self.sets.iter().map(Range::len).collect();
        let mut moments = Vec::new();
        // Which sets are drawn from, and how many candidates of each.
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

    /// Positions of an action's candidates, in the order of the slots.
    pub fn positions(&self, action: &DrawnBatch) -> Vec<usize> {
        let of_set = |picks: &Picks| picks.drawn.iter().map(|drawn| self.sets[picks.set].start + drawn).collect();
        action.candidates.iter().flat_map::<Vec<usize>, _>(of_set).collect()
    }

    /// Over how many candidates an action's softmaxes run: what it takes to replay it.
    pub fn candidates_of(&self, action: &DrawnBatch) -> usize {
        action.candidates.iter().map(|picks| self.sets[picks.set].len()).sum()
    }

    /// The log-probabilities of recorded actions, each in its own state.
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

        // Actions that drew equally many candidates from the same set are scored together.
        let mut groups: BTreeMap<(usize, usize), Vec<Drawn>> = BTreeMap::new();
        let (mut draws, mut batch_sizes) = (0, Vec::with_capacity(actions.len()));
        for (place, action) in actions.iter().enumerate() {
            let first = draws;
            for picks in &action.candidates {
                groups.entry((picks.set, picks.drawn.len())).or_default().push((place, picks, draws));
                draws += picks.drawn.len() as i64;
            }
            batch_sizes.push((draws - first) as f64);
        }
        let (mut grouped, mut place_of) = (Vec::with_capacity(groups.len()), vec![0i64; draws as usize]);
        let mut next = 0;
        for ((set, drawn), members) in groups {
            let states: Vec<State> = members.iter().map(|(place, _, _)| states[*place]).collect();
            let picks: Vec<&Picks> = members.iter().map(|(_, picks, _)| *picks).collect();
            let logits = self.candidate_logits(policy, set, &states); // [members, n]
            grouped.push(log_probs(&logits, &picks).view([-1]));
            // The share of a slot's probability that this set has.
            let shares: Vec<f32> =
                members.iter().map(|(place, _, _)| (drawn as f64 / batch_sizes[*place]) as f32).collect();
            let shares = Tensor::from_slice(&shares); // [members]
            // In the paper's form, which set a slot belongs to is a part of what is uncertain of it.
            let which =
                if policy.constants.form == PolicyForm::PerCluster { -shares.log() } else { shares.zeros_like() };
            let of_set = (entropy(&logits) + which) * &shares; // [members]
            let places: Vec<i64> = members.iter().map(|(place, _, _)| *place as i64).collect();
            slot_entropy = slot_entropy.index_add(0, &Tensor::from_slice(&places), &of_set);
            for (_, _, first) in members {
                for draw in first..first + drawn as i64 {
                    place_of[draw as usize] = next;
                    next += 1;
                }
            }
        }
        // From the order of the groups to that of the actions.
        let candidates = Tensor::cat(&grouped, 0).index_select(0, &Tensor::from_slice(&place_of)); // [draws]
        Replay { sets, candidates, entropy: slot_entropy }
    }

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

/// The stages of some states: `[states, 2]`.
fn stages(states: &[State]) -> Tensor {
    let stages: Vec<f32> = states.iter().flat_map(|state| state.stage).collect();
    Tensor::from_slice(&stages).view([states.len() as i64, STAGE_PART_WIDTH as i64])
}

/// Log-probabilities of equally many draws from each row of logits: `[m, n]` -> `[m, b]`.
fn log_probs(logits: &Tensor, picks: &[&Picks]) -> Tensor {
    let drawn: Vec<i64> = picks.iter().flat_map(|picks| &picks.drawn).map(|&drawn| drawn as i64).collect();
    plackett_luce(logits, &Tensor::from_slice(&drawn).view([picks.len() as i64, -1]))
}

/// A draw from a set with logits `[1, n]`.
fn picks(set: usize, drawn: Vec<usize>, logits: &Tensor) -> Result<Picks> {
    let index: Vec<i64> = drawn.iter().map(|&drawn| drawn as i64).collect();
    let scores = Vec::try_from(logits.gather(1, &Tensor::from_slice(&index).unsqueeze(0), false).squeeze_dim(0))?;
    let mut picks = Picks { set, drawn, scores, log_probs: Vec::new() };
    picks.log_probs = Vec::try_from(log_probs(logits, &[&picks]).squeeze_dim(0))?;
    Ok(picks)
}

/// Mean, spread, lead of the best over the mean, and entropy relative to the largest possible, of logits `[1, n]`.
fn moments_of(logits: &Tensor) -> [f32; 4] {
    let n = logits.size().get(1).copied().unwrap_or(1);
    let mean = logits.mean(None).double_value(&[]);
    let spread = logits.std(false).double_value(&[]);
    let lead = logits.max().double_value(&[]) - mean;
    let relative = if n > 1 { entropy(logits).double_value(&[0]) / (n as f64).ln() } else { 1.0 };
    [mean as f32, spread as f32, lead as f32, relative as f32]
}
