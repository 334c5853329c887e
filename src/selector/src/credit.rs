//! Who is credited for a reward: a baseline per step, and what each selected item contributed.
//!
//! Twenty episodes are few, and a reward belongs to a whole batch. Two regressions over all steps of all rounds so far
//! make more of it: the mean reward at a step (early steps gain more than late ones, whatever they train on), and the
//! part of a reward that the batch's mean features explain. The second gives every draw a credit of its own, and
//! pools what all episodes have shown about such items instead of what this one step shows.

use tch::{Kind, Tensor};

use super::state::Candidates;
use raisin_base::error::{Context as _, Result};

/// How much a round still counts in the next one's step baseline.
const KEEP: f64 = 0.8;
/// The same for contributions. They fade slowly: once the policy chooses well, only old rounds show the contrast to
/// what it no longer chooses.
const KEEP_CONTRIBUTIONS: f64 = 0.97;
/// A step's baseline is a mean over this many steps to either side.
const WINDOW: usize = 2;
/// Regressors that say when a reward came, not which items were selected.
const WHEN: usize = 7;

/// Mean reward by step over the rounds, newer ones counting more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBaseline {
    sums: Vec<f64>,
    weight: f64,
}

impl StepBaseline {
    /// Takes in an episode's rewards, and returns the baseline of each of its steps.
    pub fn absorb(&mut self, rewards: &[f64]) -> Vec<f64> {
        self.sums.resize(rewards.len(), 0.0);
        self.sums.iter_mut().zip(rewards).for_each(|(sum, reward)| *sum = *sum * KEEP + reward);
        self.weight = self.weight * KEEP + 1.0;
        let last = rewards.len().saturating_sub(1);
        (0..rewards.len())
            .map(|step| {
                let window = step.saturating_sub(WINDOW)..=(step + WINDOW).min(last);
                let count = window.clone().count() as f64;
                self.sums[window].iter().sum::<f64>() / (self.weight * count)
            })
            .collect()
    }

    pub fn tensor(&self) -> Tensor {
        Tensor::from_slice(&[&[self.weight], self.sums.as_slice()].concat())
    }

    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let values: Vec<f64> = Vec::try_from(tensor)?;
        let (weight, sums) = values.split_first().context("a step baseline without a weight")?;
        Ok(Self { sums: sums.to_vec(), weight: *weight })
    }
}

/// All steps of all rounds as rows of a regression.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contributions {
    /// Row-major: weight, reward, WHEN numbers, then the batch's mean features.
    rows: Vec<f64>,
    width: usize,
}

/// What the regression says.
pub struct Estimate {
    /// One a feature of [`features`]: the effect on a step's reward of a batch made of such items only.
    pub effects: Tensor,
    /// How much of the fit survives leaving each step out, 0 to 1: how far to trust `effects`.
    pub reliability: f64,
}

/// The features that an item is credited by: its static state, and which cluster it is in. `[N, F + C]` f64.
///
/// How often it was selected before is none of them. That an item is worth less every time holds for items that are
/// worth something; added up, it would make a good item that was used thrice worse than a useless fresh one (tried:
/// the share of relevant picks rises to .9 and then falls to .7).
pub fn features(candidates: &Candidates) -> Tensor {
    let clusters: Vec<i64> = candidates.clusters.iter().map(|&cluster| i64::from(cluster)).collect();
    let (rows, width) = (clusters.len() as i64, candidates.state.size()[1]);
    let all = Tensor::zeros([rows, width + candidates.ranges.len() as i64], (Kind::Double, candidates.state.device()));
    // Straight into one table: a large pool has no room for one of each part beside it.
    all.narrow(1, 0, width).copy_(&candidates.state);
    let of_its_cluster = (Tensor::from_slice(&clusters) + width).unsqueeze(1);
    let _ = all.shallow_clone().scatter_value_(1, &of_its_cluster, 1.0);
    all
}

/// When a step was taken.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// t/T
    pub time: f64,
    /// What the episode had gained before it, in units of what the first episode gained.
    pub improvement: f64,
    /// Mean of ln(1 + times selected before) over the batch.
    pub reuse: f64,
}

impl Contributions {
    /// Starts a new round: what was seen before counts less.
    pub fn age(&mut self) {
        for row in self.rows.chunks_mut(self.width.max(1)) {
            row[0] *= KEEP_CONTRIBUTIONS;
        }
    }

    /// One step: when it was, what it gained, and the mean features of its batch.
    pub fn push(&mut self, when: When, reward: f64, mean: &[f64]) {
        let (t, p) = (when.time, when.improvement);
        self.width = 2 + WHEN + mean.len();
        self.rows.extend([1.0, reward, 1.0, t, t * t, p, p * p, t * p, when.reuse]);
        self.rows.extend_from_slice(mean);
    }

    /// Ridge regression of rewards on mean features, both after a regression on when; the penalty is chosen by
    /// leaving steps out one by one.
    pub fn estimate(&self) -> Result<Estimate> {
        let count = self.rows.len() / self.width.max(1);
        let table = Tensor::from_slice(&self.rows).view([count as i64, self.width as i64]);
        let weight = table.narrow(1, 0, 1).sqrt(); // [n, 1]
        let (when, what) = (WHEN as i64, (self.width - 2 - WHEN) as i64);
        let reward = table.narrow(1, 1, 1) * &weight;
        let when = table.narrow(1, 2, when) * &weight;
        let what = table.narrow(1, 2 + WHEN as i64, what) * &weight;

        // Frisch-Waugh: regress both on `when` first.
        let gram = when.tr().matmul(&when);
        let ridge = Tensor::eye(WHEN as i64, (Kind::Double, tch::Device::Cpu)) * (1e-8 * count as f64);
        let on_when = |y: &Tensor| -> Result<Tensor> {
            Ok(y - when.matmul(&Tensor::f_linalg_solve(&(&gram + &ridge), &when.tr().matmul(y), true)?))
        };
        let (reward, what) = (on_when(&reward)?, on_when(&what)?);
        let scale = what.square().mean_dim([0i64].as_slice(), true, Kind::Double).sqrt() + 1e-9; // [1, p]
        let x = &what / &scale;

        let total = reward.square().sum(None).double_value(&[]);
        let (values, vectors) = x.tr().matmul(&x).f_linalg_eigh("L")?;
        let rotated = x.matmul(&vectors); // [n, p]
        let target = rotated.tr().matmul(&reward); // [p, 1]
        let mut best: Option<(f64, f64, Tensor)> = None;
        for power in -3..=3 {
            let penalty = count as f64 * 10f64.powi(power);
            let inverse = (values.clamp_min(0.0) + penalty).reciprocal(); // [p]
            let solution = &target * inverse.unsqueeze(1);
            let residual = &reward - rotated.matmul(&solution);
            let leverage =
                (rotated.square() * &inverse).sum_dim_intlist([1i64].as_slice(), true, Kind::Double).clamp(0.0, 0.999);
            let left_out = (&residual / (-leverage + 1.0)).square().sum(None).double_value(&[]);
            if best.as_ref().is_none_or(|(lowest, _, _)| left_out < *lowest) {
                best = Some((left_out, residual.square().sum(None).double_value(&[]), vectors.matmul(&solution)));
            }
        }
        let (left_out, residual, solution) = best.context("no penalty to choose from")?;
        let (survives, fitted) = (1.0 - left_out / total, 1.0 - residual / total);
        let reliability = if total > 0.0 && fitted > 0.0 { (survives / fitted).clamp(0.0, 1.0) } else { 0.0 };
        Ok(Estimate { effects: solution.squeeze_dim(1) / scale.squeeze_dim(0), reliability })
    }

    pub fn tensor(&self) -> Tensor {
        let width = self.width.max(1) as i64;
        Tensor::from_slice(&self.rows).view([-1, width])
    }

    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let width = tensor.size().get(1).copied().unwrap_or(0) as usize;
        Ok(Self { rows: Vec::try_from(tensor.reshape([-1]))?, width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{normal, uniform};
    use raisin_base::seed::Seed;

    #[test]
    fn the_step_baseline_is_the_mean_over_rounds_near_the_step() {
        let mut baseline = StepBaseline::default();
        assert_eq!(baseline.absorb(&[2.0; 6]), [2.0; 6]);
        let after = baseline.absorb(&[4.0; 6]);
        assert!(after.iter().all(|value| (value - (2.0 * KEEP + 4.0) / (KEEP + 1.0)).abs() < 1e-12));
        assert_eq!(StepBaseline::from_tensor(&baseline.tensor()).expect("its own tensor"), baseline);
    }

    #[test]
    fn an_item_is_credited_by_its_state_and_its_cluster() -> Result<()> {
        let columns = vec!["a".to_owned(), "b".to_owned()];
        let candidates = Candidates::new(&[4, 7, 9], &[1, 0, 1], &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], columns)?;
        let clusters: Vec<i64> = candidates.clusters.iter().map(|&cluster| i64::from(cluster)).collect();
        let one_hot = Tensor::from_slice(&clusters).one_hot(candidates.ranges.len() as i64);
        let expected = Tensor::cat(&[candidates.state.to_kind(Kind::Double), one_hot.to_kind(Kind::Double)], 1);
        assert_eq!(features(&candidates), expected);
        Ok(())
    }

    #[test]
    fn contributions_are_found_under_noise_and_noise_alone_is_not_trusted() -> Result<()> {
        let mut rng = Seed::new(3).rng();
        let (mut signal, mut noise) = (Contributions::default(), Contributions::default());
        for step in 0..200 {
            let time = f64::from(step % 50) / 50.0;
            let mean = [uniform(&mut rng), uniform(&mut rng), uniform(&mut rng)];
            let random = 0.3 * normal(&mut rng);
            let when = When { time, improvement: time, reuse: 0.0 };
            signal.push(when, 2.0 * (1.0 - time) + mean[0] - mean[1] + random, &mean);
            noise.push(when, 2.0 * (1.0 - time) + random, &mean);
        }
        let found = signal.estimate()?;
        let effects: Vec<f64> = Vec::try_from(&found.effects)?;
        assert!((effects[0] - 1.0).abs() < 0.25 && (effects[1] + 1.0).abs() < 0.25, "{effects:?}");
        assert!(effects[2].abs() < 0.25, "{effects:?}");
        assert!(found.reliability > 0.9, "{}", found.reliability);
        assert!(noise.estimate()?.reliability < 0.3, "{}", noise.estimate()?.reliability);
        Ok(())
    }
}
