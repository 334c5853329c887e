//! A policy in the middle of a run: what it has selected so far, and what it selects next.

use std::ops::Range;

use tch::Tensor;

use super::network::STAGE;
use super::policy::{Level, Policy, budgets, set_means};
use super::sampling::{Draw, entropy, plackett_luce};
use super::state::Candidates;
use raisin_base::error::{Problem, Result};
use raisin_settings::ppo::Form;

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

/// A batch, as it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// Which sets fill the batch; hierarchical form only.
    pub sets: Option<Picks>,
    pub items: Vec<Picks>,
    /// The critic's view of the state that was acted in.
    pub pooled: Vec<f32>,
}

pub struct Actor {
    pub sets: Vec<Range<usize>>,
    /// Times selected, by position.
    pub counts: Vec<f32>,
    batch_size: usize,
    items_fixed: Tensor,
    sets_fixed: Option<Tensor>,
    /// Sum of the static states of all that was selected.
    selected: Vec<f64>,
    selections: f64,
}

impl Actor {
    pub fn new(policy: &Policy, candidates: &Candidates, batch_size: usize) -> Result<Self> {
        policy.check(candidates)?;
        if candidates.len() < batch_size {
            return Err(Problem::new(format!(
                "there are {} candidates, fewer than one batch of {batch_size}",
                candidates.len()
            ))
            .hint("a larger pool, or a smaller batch")
            .into());
        }
        let sets = policy.sets(candidates);
        let (items_fixed, sets_fixed) = tch::no_grad(|| {
            let means = policy.clusters.as_ref().map(|scorer| scorer.fixed_part(&set_means(&candidates.state, &sets)));
            (policy.items.fixed_part(&candidates.state), means)
        });
        Ok(Self {
            sets,
            counts: vec![0.0; candidates.len()],
            batch_size,
            items_fixed,
            sets_fixed,
            selected: vec![0.0; candidates.columns.len()],
            selections: 0.0,
        })
    }

    /// The next batch of a policy in this state; [`Actor::take`] then records it.
    pub fn act(&self, policy: &Policy, stage: [f32; STAGE], mut draw: Draw) -> Result<Action> {
        tch::no_grad(|| {
            let stage_row = Tensor::from_slice(&stage).view([1, STAGE as i64]);
            let sizes: Vec<usize> = self.sets.iter().map(Range::len).collect();
            let mut moments = Vec::new();
            let (order, set_picks) = match (&policy.clusters, &self.sets_fixed) {
                (Some(_), Some(fixed)) => {
                    let counts = Tensor::from_slice(&mean_counts(&self.counts, &self.sets)).unsqueeze(0);
                    let logits = policy.logits(Level::Clusters, fixed, &stage_row, &counts);
                    moments.push(moments_of(&logits));
                    let scores: Vec<f32> = Vec::try_from(logits.squeeze_dim(0))?;
                    let order = draw.indices(&scores, sizes.len());
                    let in_order: Vec<usize> = order.iter().map(|&set| sizes[set]).collect();
                    let budgets = budgets(&in_order, self.batch_size, policy.constants.clusters_per_step);
                    let used: Vec<(usize, usize)> =
                        order.into_iter().zip(budgets).filter(|(_, budget)| *budget > 0).collect();
                    let picks = picks(0, used.iter().map(|(set, _)| *set).collect(), &logits)?;
                    (used, Some(picks))
                }
                _ => {
                    let budgets = budgets(&sizes, self.batch_size, sizes.len());
                    (budgets.into_iter().enumerate().filter(|(_, budget)| *budget > 0).collect(), None)
                }
            };
            let mut items = Vec::with_capacity(order.len());
            for (set, budget) in order {
                let range = &self.sets[set];
                let fixed = self.items_fixed.narrow(0, range.start as i64, range.len() as i64);
                let counts = Tensor::from_slice(&self.counts[range.clone()]).unsqueeze(0);
                let logits = policy.logits(Level::Items, &fixed, &stage_row, &counts);
                if policy.constants.form != Form::Hierarchical {
                    moments.push(moments_of(&logits));
                }
                let scores: Vec<f32> = Vec::try_from(logits.squeeze_dim(0))?;
                items.push(picks(set, draw.indices(&scores, budget), &logits)?);
            }
            let pooled = self.pooled(stage, &moments);
            Ok(Action { sets: set_picks, items, pooled })
        })
    }

    /// Positions of an action's items, in the order of the slots.
    pub fn positions(&self, action: &Action) -> Vec<usize> {
        action
            .items
            .iter()
            .flat_map(|picks| picks.drawn.iter().map(|drawn| self.sets[picks.set].start + drawn))
            .collect()
    }

    /// Records that these positions were selected.
    pub fn take(&mut self, positions: &[usize], candidates: &Candidates) -> Result<()> {
        let index: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
        let rows = candidates.state.index_select(0, &Tensor::from_slice(&index));
        let sum: Vec<f32> = Vec::try_from(rows.sum_dim_intlist([0i64].as_slice(), false, None))?;
        self.selected.iter_mut().zip(sum).for_each(|(total, value)| *total += f64::from(value));
        self.selections += positions.len() as f64;
        positions.iter().for_each(|&position| self.counts[position] += 1.0);
        Ok(())
    }

    /// What the critic sees: stage (2), mean and spread of availability (2), mean, spread, lead and relative entropy of
    /// the scores (4), and the mean static state of what was selected so far (F). The mean over all candidates, which
    /// docs/method.md names too, is the same at every step and so of no use to it.
    fn pooled(&self, stage: [f32; STAGE], moments: &[[f32; 4]]) -> Vec<f32> {
        let n = self.counts.len() as f32;
        let mean = self.counts.iter().map(|count| count.ln_1p()).sum::<f32>() / n;
        let spread = self.counts.iter().map(|count| (count.ln_1p() - mean).powi(2)).sum::<f32>() / n;
        let mut pooled = stage.to_vec();
        pooled.extend([mean, spread.sqrt()]);
        for moment in 0..4 {
            pooled.push(moments.iter().map(|of_set| of_set[moment]).sum::<f32>() / moments.len().max(1) as f32);
        }
        pooled.extend(self.selected.iter().map(|sum| (sum / self.selections.max(1.0)) as f32));
        pooled
    }
}

/// Mean times selected of each set.
fn mean_counts(counts: &[f32], sets: &[Range<usize>]) -> Vec<f32> {
    sets.iter().map(|set| counts[set.clone()].iter().sum::<f32>() / set.len() as f32).collect()
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

fn picks(set: usize, drawn: Vec<usize>, logits: &Tensor) -> Result<Picks> {
    let index: Vec<i64> = drawn.iter().map(|&drawn| drawn as i64).collect();
    let index = Tensor::from_slice(&index).unsqueeze(0);
    let scores = Vec::try_from(logits.gather(1, &index, false).squeeze_dim(0))?;
    let log_probs = Vec::try_from(plackett_luce(logits, &index).squeeze_dim(0))?;
    Ok(Picks { set, drawn, scores, log_probs })
}
