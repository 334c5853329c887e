//! Who is credited for a reward: a baseline per step, and what each selected candidate contributed.
//!
//! Twenty episodes are few, and a reward belongs to a whole batch. Two regressions over all steps of all rounds so far
//! make more of it: the mean reward at a step (early steps gain more than late ones, whatever they train on), and the
//! part of a reward that the batch's mean features explain. The second gives every draw a credit of its own, and
//! pools what all episodes have shown about such candidates instead of what this one step shows.

use std::ops::Range;

use tch::{Kind as TensorKind, Tensor};

use super::state::Candidates;
use raisin_base::error::{Context as _, Result};

/// How much a round still counts in the next one's step baseline.
const KEEP: f64 = 0.8;
/// The same for contributions. They fade slowly: once the policy chooses well, only old rounds show the contrast to
/// what it no longer chooses.
const KEEP_CONTRIBUTIONS: f64 = 0.97;
/// A step's baseline is a mean over this many steps to either side.
const WINDOW: usize = 2;
/// Regressors that say when a reward came, not which candidates were selected.
const WHEN: usize = 7;
/// Numbers of a row before the regressors: weight, round, reward.
const HEAD: usize = 3;
/// Keeps the regression on [`When`] solvable where its regressors are alike, times the number of rows.
const SOLVABLE: f64 = 1e-10;
/// Features that vary less than this do not vary, but for rounding.
const STEADY: f64 = 1e-6;
/// Steps in a row whose errors may depend on each other.
const BLOCK: usize = 8;
/// A contribution counts from here on, in standard errors of what it explains.
const STANDARD_ERRORS: f64 = 2.5;

/// Mean reward by step over the rounds, newer ones counting more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBaseline {
    /// S_t: the sum over the rounds of the mean reward of a round's episodes at step t, each counting [`KEEP`] times as
    /// much as the one after it.
    sums: Vec<f64>,
    /// w: the sum of what the rounds count.
    weight: f64,
}

impl StepBaseline {
    /// Takes in the rewards of a round's episodes, and returns the baseline of each step of each.
    ///
    /// With R the rewards of the E episodes of this round, W(t) the steps from t - 2 to t + 2 of an episode, and S and w
    /// those of the rounds before, a step of episode e has the baseline
    ///
    /// b(e, t) = (sum over s in W(t) of (0.8 S_s + 1/E sum over e' != e of R(e', s))) / (|W(t)| (0.8 w + (E - 1)/E)):
    ///
    /// the mean reward around this step, without any reward of the episode itself. A baseline that holds the reward
    /// that it is subtracted from takes a part of each reward away, and all of it where there is no other.
    ///
    /// In the first round of a single episode there is nothing but its own rewards. There the baseline is the mean of
    /// the two rewards measured before the step's own and of the two measured after it (`every` steps share one
    /// measurement); without any, 0.
    pub fn absorb(&mut self, rewards: &[Vec<f64>], every: usize) -> Vec<Vec<f64>> {
        let (steps, episodes) = (rewards.first().map_or(0, Vec::len), rewards.len() as f64);
        self.sums.resize(steps, 0.0);
        let sums: Vec<f64> = (0..steps).map(|step| rewards.iter().map(|of| of[step]).sum()).collect();
        let weight = self.weight * KEEP + (episodes - 1.0) / episodes;
        let of_episode = |own: &Vec<f64>| -> Vec<f64> {
            let elsewhere = |step: usize| self.sums[step] * KEEP + (sums[step] - own[step]) / episodes;
            let around = |step: usize| step.saturating_sub(WINDOW)..(step + WINDOW + 1).min(steps);
            let known = |step: usize| around(step).map(elsewhere).sum::<f64>() / (weight * around(step).len() as f64);
            (0..steps).map(|step| if weight > 0.0 { known(step) } else { beside(own, step, every) }).collect()
        };
        let baselines = rewards.iter().map(of_episode).collect();
        self.sums.iter_mut().zip(&sums).for_each(|(sum, rewards)| *sum = *sum * KEEP + rewards / episodes);
        self.weight = self.weight * KEEP + 1.0;
        baselines
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

/// The mean of the rewards measured next to that of a step.
fn beside(rewards: &[f64], step: usize, every: usize) -> f64 {
    let measurement = |step: usize| step / every.max(1);
    let distance = |other: usize| measurement(other).abs_diff(measurement(step));
    let beside: Vec<f64> = (0..rewards.len())
        .filter(|&other| (1..=WINDOW).contains(&distance(other)))
        .map(|other| rewards[other])
        .collect();
    beside.iter().sum::<f64>() / beside.len().max(1) as f64
}

/// All steps of all rounds as rows of a regression, round by round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contributions {
    /// Row-major: weight, round, reward, WHEN numbers, then the batch's mean features.
    rows: Vec<f64>,
    width: usize,
    round: usize,
}

/// What the regression says.
struct ContributionEstimate {
    /// One a feature of [`features`]: the effect on a step's reward of a batch made of such candidates only.
    effects: Tensor,
    /// How far to trust `effects`, 0 to 1; see [`Contributions::estimate`].
    reliability: f64,
}

/// The features that a candidate is credited by: its static state, and which cluster it is in. `[N, F + C]` f64.
///
/// How often it was selected before is none of them. That a candidate is worth less every time holds for candidates
/// that are worth something; added up, it would make a good candidate that was used thrice worse than a useless fresh
/// one (tried: the share of relevant picks rises to .9 and then falls to .7).
pub fn features(candidates: &Candidates) -> Tensor {
    let clusters: Vec<i64> = candidates.clusters.iter().map(|&cluster| i64::from(cluster)).collect();
    let (rows, width) = (clusters.len() as i64, candidates.state.size()[1]);
    let all =
        Tensor::zeros([rows, width + candidates.ranges.len() as i64], (TensorKind::Double, candidates.state.device()));
    // Straight into one table: memory cannot hold one of each part of a large pool beside it.
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
    /// Takes in the steps of a round, each with when it was, what it gained and the positions of its batch. Returns what
    /// each candidate of each batch is credited with, in the order of the batch, and how far to trust that.
    ///
    /// Credit is the candidate's estimated effect less the mean of the round's draws, in deviations over the pool: it
    /// fades as the policy comes to choose only what helps. `table` has the [`features`] of the candidates:
    /// `[N, F + C]`.
    pub fn credits(&mut self, table: &Tensor, steps: &[(When, f64, &[usize])]) -> Result<(Vec<Vec<f64>>, f64)> {
        self.age();
        let mut batches = Vec::with_capacity(steps.len());
        for (when, reward, positions) in steps {
            let index: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
            let chosen = table.index_select(0, &Tensor::from_slice(&index)); // [B, F + C]
            let mean: Vec<f64> = Vec::try_from(chosen.mean_dim([0i64].as_slice(), false, TensorKind::Double))?;
            self.push(*when, *reward, &mean);
            batches.push(chosen);
        }
        let estimate = self.estimate()?;
        let effects = estimate.effects.unsqueeze(1); // [F + C, 1]
        let scale = table.matmul(&effects).std(true).double_value(&[]) + 1e-12;
        let mut credits: Vec<Vec<f64>> = batches
            .iter()
            .map(|chosen| Vec::try_from(chosen.matmul(&effects).squeeze_dim(1)))
            .collect::<Result<_, _>>()?; // [steps][B]
        let count = credits.iter().map(Vec::len).sum::<usize>();
        let mean = credits.iter().flatten().sum::<f64>() / count.max(1) as f64;
        credits.iter_mut().flatten().for_each(|credit| *credit = (*credit - mean) / scale);
        Ok((credits, estimate.reliability))
    }

    /// Starts a new round: what was seen before counts less.
    fn age(&mut self) {
        for row in self.rows.chunks_mut(self.width.max(1)) {
            row[0] *= KEEP_CONTRIBUTIONS;
        }
        self.round += usize::from(!self.rows.is_empty());
    }

    /// One step: when it was, what it gained, and the mean features of its batch.
    fn push(&mut self, when: When, reward: f64, mean: &[f64]) {
        let (t, p) = (when.time, when.improvement);
        self.width = HEAD + WHEN + mean.len();
        self.rows.extend([1.0, self.round as f64, reward, 1.0, t, t * t, p, p * p, t * p, when.reuse]);
        self.rows.extend_from_slice(mean);
    }

    /// Ridge regression of rewards on when they came and on the batch's mean features; only the features pay a penalty.
    ///
    /// The penalty and the reliability come from leaving rounds out: the steps of one are no independent witnesses,
    /// because they share the model that they train. With e the errors of predicting each round by the regression on
    /// all the others, e0 those of the regression on *when* alone, and f and f0 the errors of both with nothing left out,
    ///
    /// reliability = (1 - e^2/e0^2) / (1 - f^2/f0^2) x max(0, 1 - 2.5^2 (R + 1)/(R - 1) / z^2).
    ///
    /// The first factor says how much of the fit survives leaving a round out. Of a fit that explains nothing it is a
    /// quotient of two small numbers, which may be anything; so the second asks whether features explain anything at
    /// all. z is the sum of e0 (e0 - e), which noise makes as often negative as positive, over its standard error: the
    /// larger of those that the sums of R rounds and the sums of eight steps in a row give. It counts from 2.5 on, and
    /// from more where R is small and the standard error itself uncertain. One round alone shows nothing that could fail
    /// in another: 0.
    ///
    /// # Errors
    /// Rows that are not finite.
    fn estimate(&self) -> Result<ContributionEstimate> {
        let count = self.rows.len() / self.width.max(1);
        let table = Tensor::from_slice(&self.rows).view([count as i64, self.width as i64]);
        let (head, features) = ((HEAD + WHEN) as i64, (self.width - HEAD - WHEN) as i64);
        let weight = table.narrow(1, 0, 1).sqrt(); // [n, 1]
        let reward = table.narrow(1, 2, 1) * &weight; // [n, 1]
        let when = table.narrow(1, HEAD as i64, WHEN as i64) * &weight; // [n, WHEN]
        let what = table.narrow(1, head, features) * &weight; // [n, p]
        let rounds = self.rounds();
        if rounds.len() < 2 {
            return Ok(ContributionEstimate {
                effects: Tensor::zeros([features], (TensorKind::Double, tch::Device::Cpu)),
                reliability: 0.0,
            });
        }

        // A feature's unit is its deviation from what *when* predicts of it.
        let solvable = SOLVABLE * count as f64;
        let alone = Fit::new(&when, &reward, &Tensor::from_slice(&[solvable; WHEN]), &rounds)?;
        let what = &what - when.matmul(&alone.solve(&what)); // [n, p]
        let scale = what.square().mean_dim([0i64].as_slice(), true, TensorKind::Double).sqrt() + STEADY; // [1, p]
        let all = Tensor::cat(&[&when, &(what / &scale)], 1); // [n, WHEN + p]
        let mut best: Option<Fit> = None;
        for power in -3..=3 {
            let mut penalties = vec![solvable; WHEN];
            penalties.resize(WHEN + features as usize, count as f64 * 10f64.powi(power));
            let fit = Fit::new(&all, &reward, &Tensor::from_slice(&penalties), &rounds)?;
            if best.as_ref().is_none_or(|best| squares(&fit.left_out) < squares(&best.left_out)) {
                best = Some(fit);
            }
        }
        let best = best.context("no penalty to choose from")?;
        let effects = best.solution.narrow(0, WHEN as i64, features).squeeze_dim(1) / scale.squeeze_dim(0); // [p]
        Ok(ContributionEstimate { effects, reliability: reliability(&alone, &best, &rounds)? })
    }

    /// What the episode had gained before each step.
    #[cfg(test)]
    pub fn improvements(&self) -> Vec<f64> {
        self.rows.chunks(self.width.max(1)).map(|row| row[HEAD + 3]).collect()
    }

    /// The rows of each round.
    fn rounds(&self) -> Vec<Range<usize>> {
        let rounds: Vec<f64> = self.rows.chunks(self.width.max(1)).map(|row| row[1]).collect();
        let mut start = 0;
        #[expect(clippy::float_cmp, reason = "small whole numbers")]
        let same = |one: &f64, other: &f64| one == other;
        rounds
            .chunk_by(same)
            .map(|of_round| {
                start += of_round.len();
                start - of_round.len()..start
            })
            .collect()
    }

    pub fn tensor(&self) -> Tensor {
        let width = self.width.max(1) as i64;
        Tensor::from_slice(&self.rows).view([-1, width])
    }

    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let width = tensor.size().get(1).copied().unwrap_or(0) as usize;
        let rows: Vec<f64> = Vec::try_from(tensor.reshape([-1]))?;
        let round =
            rows.len().checked_sub(width).and_then(|last| rows.get(last + 1)).map_or(0, |&round| round as usize);
        Ok(Self { rows, width, round })
    }
}

/// A ridge regression, and how it predicts each round from all others.
struct Fit {
    /// (X'X + penalties)^-1 X': `[q, n]`.
    inverse: Tensor,
    /// `[q, 1]`
    solution: Tensor,
    /// Of the fit, and of predicting each round by the other rounds: `[n, 1]`.
    errors: Tensor,
    left_out: Tensor,
}

impl Fit {
    /// `x` `[n, q]`, `y` `[n, 1]`, a penalty for each column of x.
    fn new(x: &Tensor, y: &Tensor, penalties: &Tensor, rounds: &[Range<usize>]) -> Result<Self> {
        let gram = x.tr().matmul(x) + penalties.diag(0); // [q, q]
        let inverse = Tensor::f_linalg_solve(&gram, &x.tr(), true)?;
        let solution = inverse.matmul(y);
        let errors = y - x.matmul(&solution); // [n, 1]
        // The errors of a round that is left out are (I - H)^-1 times its errors, H being its block of x (..)^-1 x'.
        let left_out = rounds
            .iter()
            .map(|round| {
                let (start, length) = (round.start as i64, round.len() as i64);
                let hat = x.narrow(0, start, length).matmul(&inverse.narrow(1, start, length));
                let rest = Tensor::eye(length, (TensorKind::Double, tch::Device::Cpu)) - hat;
                Ok(Tensor::f_linalg_solve(&rest, &errors.narrow(0, start, length), true)?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { inverse, solution, errors, left_out: Tensor::cat(&left_out, 0) })
    }

    /// The solution for other targets: `[n, k]` -> `[q, k]`.
    fn solve(&self, y: &Tensor) -> Tensor {
        self.inverse.matmul(y)
    }
}

/// As [`Contributions::estimate`] says.
fn reliability(alone: &Fit, fit: &Fit, rounds: &[Range<usize>]) -> Result<f64> {
    let survives = 1.0 - squares(&fit.left_out) / squares(&alone.left_out);
    let fitted = 1.0 - squares(&fit.errors) / squares(&alone.errors);
    let agreement: Vec<f64> = // [n]
        Vec::try_from((&alone.left_out * (&alone.left_out - &fit.left_out)).squeeze_dim(1))?;
    let sum = agreement.iter().sum::<f64>();
    // Rewards that do not vary beyond when they came leave nothing to explain.
    if !(sum > 0.0 && survives > 0.0 && fitted > 0.0) {
        return Ok(0.0);
    }
    let of_rounds: Vec<f64> = rounds.iter().map(|round| agreement[round.clone()].iter().sum()).collect();
    let blocks = rounds.iter().flat_map(|round| agreement[round.clone()].chunks(BLOCK));
    let of_blocks: Vec<f64> = blocks.map(|block| block.iter().sum()).collect();
    let variance = variance_of_sum(&of_rounds).max(variance_of_sum(&of_blocks));
    let count = rounds.len() as f64;
    let enough = STANDARD_ERRORS.powi(2) * (count + 1.0) / (count - 1.0);
    let significance = (1.0 - enough * variance / sum.powi(2)).max(0.0);
    Ok((survives / fitted).clamp(0.0, 1.0) * significance)
}

/// The sum of squares.
fn squares(values: &Tensor) -> f64 {
    values.square().sum(None).double_value(&[])
}

/// Of a sum of independent values.
fn variance_of_sum(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() * count / (count - 1.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::seed::Seed;

    #[test]
    fn the_step_baseline_is_the_mean_of_other_episodes_near_the_step() {
        let mut baseline = StepBaseline::default();
        // Nothing but the episode's own rewards: those measured beside the step's own.
        assert_eq!(baseline.absorb(&[vec![1.0, 2.0, 4.0, 8.0]], 1), [[3.0, 13.0 / 3.0, 11.0 / 3.0, 3.0]]);
        // Later rounds: what the rounds before gained around the step.
        let mut baseline = StepBaseline::default();
        baseline.absorb(&[vec![2.0; 6]], 1);
        assert_eq!(baseline.absorb(&[vec![4.0; 6]], 1), [[2.0; 6]]);
        let after = baseline.absorb(&[vec![9.0; 6]], 1).concat();
        assert!(after.iter().all(|value| (value - (2.0 * KEEP + 4.0) / (KEEP + 1.0)).abs() < 1e-12), "{after:?}");
        assert_eq!(StepBaseline::from_tensor(&baseline.tensor()).expect("its own tensor"), baseline);
        // The other episodes of the round, and at what weight they join the rounds before.
        let mut baseline = StepBaseline::default();
        assert_eq!(baseline.absorb(&[vec![1.0; 3], vec![5.0; 3]], 1), [[5.0; 3], [1.0; 3]]);
        let second = baseline.absorb(&[vec![1.0; 3], vec![5.0; 3]], 1).concat();
        assert!((second[0] - (3.0 * KEEP + 2.5) / (KEEP + 0.5)).abs() < 1e-12, "{second:?}");
    }

    #[test]
    fn no_reward_is_part_of_its_own_baseline() {
        for (episodes, every) in [(1, 1), (3, 1), (1, 3), (2, 4)] {
            let mut rng = Seed::new(9).rng();
            // The rewards of `every` steps are one measurement, shared out.
            let mut rewards = || -> Vec<f64> {
                let measured: Vec<f64> = (0..12).map(|_| rng.normal()).collect();
                (0..12).map(|step| measured[step / every]).collect()
            };
            let mut before = StepBaseline::default();
            for round in 0..3 {
                let round_rewards: Vec<Vec<f64>> = (0..episodes).map(|_| rewards()).collect();
                let baselines = before.clone().absorb(&round_rewards, every);
                for (episode, measurement) in (0..episodes).flat_map(|one| (0..12 / every).map(move |two| (one, two))) {
                    let steps = measurement * every..(measurement + 1) * every;
                    let mut changed = round_rewards.clone();
                    changed[episode][steps.clone()].iter_mut().for_each(|reward| *reward += 100.0);
                    let after = before.clone().absorb(&changed, every);
                    for step in steps {
                        let (one, two) = (baselines[episode][step], after[episode][step]);
                        assert!(
                            (one - two).abs() < 1e-9,
                            "round {round}, {episodes} episodes, step {step}: {one} {two}"
                        );
                    }
                }
                before.absorb(&round_rewards, every);
            }
        }
    }

    #[test]
    fn an_item_is_credited_by_its_state_and_its_cluster() -> Result<()> {
        let columns = vec!["a".to_owned(), "b".to_owned()];
        let candidates = Candidates::new(&[4, 7, 9], &[1, 0, 1], &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], columns)?;
        let clusters: Vec<i64> = candidates.clusters.iter().map(|&cluster| i64::from(cluster)).collect();
        let one_hot = Tensor::from_slice(&clusters).one_hot(candidates.ranges.len() as i64);
        let expected =
            Tensor::cat(&[candidates.state.to_kind(TensorKind::Double), one_hot.to_kind(TensorKind::Double)], 1);
        assert_eq!(features(&candidates), expected);
        Ok(())
    }

    /// Steps of some rounds whose rewards fall with time and depend on the batch by `effects`. Noise of one step goes on
    /// into the next by `correlation`; with `drifting`, batches change slowly over a round, as those of a policy do.
    fn played(rounds: usize, effects: [f64; 3], correlation: f64, drifting: bool, seed: &Seed) -> Vec<Contributions> {
        let mut rng = seed.rng();
        let mut contributions = Contributions::default();
        let fresh = (1.0 - correlation * correlation).sqrt();
        let after_round = |_| {
            contributions.age();
            let (mut noise, mut gained) = (0.0, 0.0);
            let phases: [f64; 3] = std::array::from_fn(|_| rng.unit());
            for step in 0..50 {
                let time = f64::from(step) / 50.0;
                let mean = phases.map(|phase| {
                    let slow = 0.5 + 0.5 * (std::f64::consts::TAU * (2.0 * time + phase)).sin();
                    if drifting { 0.8 * slow + 0.2 * rng.unit() } else { rng.unit() }
                });
                noise = correlation * noise + fresh * rng.normal();
                let effect: f64 = mean.iter().zip(effects).map(|(value, effect)| value * effect).sum();
                let reward = 2.0 * (1.0 - time) + effect + 0.3 * noise;
                contributions.push(When { time, improvement: gained / 50.0, reuse: 0.0 }, reward, &mean);
                gained += reward;
            }
            contributions.clone()
        };
        (0..rounds).map(after_round).collect()
    }

    #[test]
    fn contributions_are_found_under_noise() -> Result<()> {
        let rounds = played(20, [1.0, -1.0, 0.0], 0.0, false, &Seed::new(3));
        let found = rounds[19].estimate()?;
        let effects: Vec<f64> = Vec::try_from(&found.effects)?;
        assert!((effects[0] - 1.0).abs() < 0.1 && (effects[1] + 1.0).abs() < 0.1, "{effects:?}");
        assert!(effects[2].abs() < 0.1, "{effects:?}");
        let reliability = rounds.iter().map(|rounds| Ok(rounds.estimate()?.reliability)).collect::<Result<Vec<_>>>()?;
        assert!(reliability[0] == 0.0, "one round shows nothing that could fail in another: {reliability:?}");
        assert!(reliability[4] > 0.5 && reliability[19] > 0.9, "{reliability:?}");
        assert_eq!(Contributions::from_tensor(&rounds[19].tensor())?, rounds[19]);
        Ok(())
    }

    #[test]
    fn noise_alone_is_never_trusted() -> Result<()> {
        for (correlation, drifting) in [(0.0, false), (0.9, false), (0.0, true), (0.9, true)] {
            for seed in 0..10 {
                for (round, rounds) in played(8, [0.0; 3], correlation, drifting, &Seed::new(seed)).iter().enumerate() {
                    let reliability = rounds.estimate()?.reliability;
                    let which = format!("correlation {correlation}, drifting {drifting}, seed {seed}, round {round}");
                    assert!(reliability < 0.1, "{which}: {reliability}");
                }
            }
        }
        Ok(())
    }

    /// By the definition: a regression on the other rounds predicts the round that was left out.
    #[test]
    fn what_is_left_out_is_predicted_by_the_other_rounds_alone() -> Result<()> {
        let rounds = played(3, [1.0, -1.0, 0.0], 0.5, false, &Seed::new(5));
        let rounds = &rounds[2];
        let table = Tensor::from_slice(&rounds.rows).view([-1, rounds.width as i64]);
        let (x, y) = (table.narrow(1, HEAD as i64, (WHEN + 3) as i64), table.narrow(1, 2, 1));
        let penalties = Tensor::from_slice(&[1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 2.0, 2.0, 2.0]);
        let ranges = rounds.rounds();
        assert_eq!(ranges, [0..50, 50..100, 100..150]);
        let fit = Fit::new(&x, &y, &penalties, &ranges)?;
        let part = |of: &Tensor, range: &Range<usize>| of.narrow(0, range.start as i64, range.len() as i64);
        let others = |of: &Tensor| Tensor::cat(&[part(of, &ranges[0]), part(of, &ranges[2])], 0);
        let other = Fit::new(&others(&x), &others(&y), &penalties, &[0..50, 50..100])?;
        let expected = part(&y, &ranges[1]) - part(&x, &ranges[1]).matmul(&other.solution);
        assert!((part(&fit.left_out, &ranges[1]) - expected).abs().max().double_value(&[]) < 1e-9);
        Ok(())
    }
}
