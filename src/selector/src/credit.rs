//! The contribution of each drawn candidate to the reward of its step (docs/method.md, section 4, `credit`).
//!
//! A reward belongs to a whole batch, and twenty episodes give few rewards. A ridge regression over all steps of all
//! rounds so far extracts more from them: it predicts the reward of a step from the mean features of the batch and from
//! [`StepCovariates`]. The coefficient of a feature is its *effect*, which may change linearly over the training. The
//! *contribution* of a candidate is the sum of its features times their effects, in units of the standard deviation over
//! the pool. So a contribution combines what all episodes have shown about
//! candidates with such features. [`super::episode`] mixes the contribution of a draw with the advantage of the step;
//! the mean is the *credit* of the draw.

use std::ops::Range;

use tch::{Device, Kind as TensorKind, Tensor};

use super::features::{features_at, products};
use super::scorer::stage_position;
use super::state::Candidates;
use raisin_base::error::{Context as _, Result};

/// The weight of a round falls by this factor with each later round. The factor is near 1: once the policy chooses
/// well, only old rounds have batches of the candidates that it no longer chooses.
const KEEP: f64 = 0.97;
/// The columns of a row before the mean features of its batch. [`StepCovariates::columns`] names the covariates.
const WEIGHT: usize = 0;
const ROUND: usize = 1;
const REWARD: usize = 2;
const COVARIATES: Range<usize> = 3..3 + COVARIATE_COLUMNS;
const COVARIATE_COLUMNS: usize = 7;
/// This number times the number of rows is the ridge penalty of each covariate. It is negligible, but it keeps the
/// regression solvable if covariates are linearly dependent.
const COVARIATE_PENALTY: f64 = 1e-10;
/// Effects change over the training if the reliability of the change exceeds this number. With 0, noise of a slow
/// process was taken for change.
const SURE_OF_CHANGE: f64 = 0.5;
/// Added to the deviation of a feature: a feature that varies less than this varies only by rounding.
const SMALLEST_DEVIATION: f64 = 1e-6;
/// The errors of this many consecutive steps may depend on each other.
const BLOCK: usize = 8;
/// The number of standard errors that a fit must exceed before it is trusted.
const STANDARD_ERRORS: f64 = 2.5;

/// One row for each step of each round so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contributions {
    /// `[n, width]`, row-major: weight, round, reward, covariates, then the mean features of the batch, and the same
    /// times the position of the step in its training.
    rows: Vec<f64>,
    width: usize,
    round: usize,
}

/// The variables that explain a reward apart from the batch.
#[derive(Clone, Copy, Debug)]
pub struct StepCovariates {
    /// t/T
    pub time: f64,
    /// (P(M_t) - P(M_0)) / s, where s is the largest abs(P(M_t) - P(M_0)) of the first round.
    pub improvement: f64,
    /// The mean over the batch of ln(1 + times selected before).
    pub reuse: f64,
}

impl StepCovariates {
    /// The columns of the regression that belong to the covariates.
    fn columns(self) -> [f64; COVARIATE_COLUMNS] {
        let Self { time, improvement, reuse } = self;
        [1.0, time, time * time, improvement, improvement * improvement, time * improvement, reuse]
    }
}

/// A step as the regression sees it.
pub struct ObservedStep<'a> {
    pub covariates: StepCovariates,
    /// R_t
    pub reward: f64,
    /// The positions of the candidates of the batch D_t: `[B]`.
    pub batch: &'a [usize],
}

/// An estimate for each candidate that changes linearly over the training.
pub struct CandidateEffects {
    /// At the middle of the training: `[N]`.
    pub middle: Tensor,
    /// The change per unit of [`stage_position`]: `[N]`.
    pub change: Tensor,
}

impl CandidateEffects {
    /// The estimates at the time t/T: `[N]`.
    pub fn at(&self, time: f64) -> Tensor {
        &self.middle + &self.change * stage_position(time)
    }
}

/// The result of the regression.
struct FeatureEffects {
    /// For each feature of a candidate ([`super::features`]), its effect on the reward of a step at the middle of the
    /// training; then, for each feature, the change of its effect per unit of [`stage_position`]: `[2 (F + C)]`.
    effects: Tensor,
    /// How far to trust `effects`, from 0 to 1; see [`reliability`].
    reliability: f64,
}

impl Contributions {
    /// Adds the steps of a round. Returns the contribution of each candidate of the pool, and the reliability of
    /// the effects.
    ///
    /// The sum over the features of a candidate is divided by the standard deviation over the pool and over the training.
    /// [`Scoring::centred`](super::scoring::Scoring::centred) subtracts what the policy expected. So the contributions
    /// shrink when the policy selects only candidates that help.
    pub fn add_round(&mut self, candidates: &Candidates, steps: &[ObservedStep]) -> Result<(CandidateEffects, f64)> {
        self.start_round();
        for step in steps {
            let batch = features_at(candidates, step.batch); // [B, F + C]
            let mean: Vec<f64> = Vec::try_from(batch.mean_dim([0i64].as_slice(), false, TensorKind::Double))?;
            self.push(step.covariates, step.reward, &mean);
        }
        let FeatureEffects { effects, reliability } = self.estimate()?;
        // [N, 2]: at the middle of the training, and its change
        let parts = products(candidates, &effects.view([2, -1]).tr());
        let (middle, change) = (parts.select(1, 0), parts.select(1, 1));
        let deviation = (middle.var(true) + change.var(true)).sqrt() + 1e-12;
        Ok((CandidateEffects { middle: middle / &deviation, change: change / &deviation }, reliability))
    }

    /// Reduces the weights of the rounds so far.
    fn start_round(&mut self) {
        for row in self.rows.chunks_mut(self.width.max(1)) {
            row[WEIGHT] *= KEEP;
        }
        self.round += usize::from(!self.rows.is_empty());
    }

    /// Adds a step with the mean features of its batch: `[F + C]`. The row also has each feature times the position of
    /// the step in its training, because an effect may change over the training.
    fn push(&mut self, covariates: StepCovariates, reward: f64, mean: &[f64]) {
        self.width = COVARIATES.end + 2 * mean.len();
        self.rows.extend([1.0, self.round as f64, reward]);
        self.rows.extend(covariates.columns());
        self.rows.extend_from_slice(mean);
        let position = stage_position(covariates.time);
        self.rows.extend(mean.iter().map(|value| value * position));
    }

    /// The ridge regression of the rewards on the covariates and on the mean features of the batches. Every row has its
    /// weight. The penalty of the features is one of seven: the one with the smallest left-out errors. The features may
    /// have effects that change over the training, if this explains the rewards reliably better than constant effects.
    ///
    /// A *left-out* error is the error of predicting a step by the regression on all other rounds. Single steps cannot
    /// be left out instead, because the steps of a round train the same model and so depend on each other. After one
    /// round, nothing can be left out: the effects and their reliability are 0.
    ///
    /// # Errors
    /// A row is not finite.
    fn estimate(&self) -> Result<FeatureEffects> {
        let count = (self.rows.len() / self.width.max(1)) as i64; // n
        let table = Tensor::from_slice(&self.rows).view([count, self.width as i64]);
        let width = (self.width - COVARIATES.end) as i64; // p = 2 (F + C)
        let rounds = self.rounds();
        if rounds.len() < 2 {
            let effects = Tensor::zeros([width], (TensorKind::Double, Device::Cpu));
            return Ok(FeatureEffects { effects, reliability: 0.0 });
        }
        // Rows times the roots of their weights: their squared errors then have the weights.
        let root_weight = table.narrow(1, WEIGHT as i64, 1).sqrt(); // [n, 1]
        let reward = table.narrow(1, REWARD as i64, 1) * &root_weight; // [n, 1]
        let covariates = table.narrow(1, COVARIATES.start as i64, COVARIATE_COLUMNS as i64) * &root_weight; // [n, 7]
        let features = table.narrow(1, COVARIATES.end as i64, width) * &root_weight; // [n, p]

        let covariate_penalties = [COVARIATE_PENALTY * count as f64; COVARIATE_COLUMNS];
        let without_features = RidgeRegression::fit(&covariates, &reward, &covariate_penalties, &rounds)?;
        // As in the Frisch-Waugh theorem, each feature is replaced by its residual: the feature minus the part that the
        // covariates predict. Each residual is divided by its deviation, so that one penalty suits all features.
        let residuals = &features - covariates.matmul(&without_features.inverse.matmul(&features)); // [n, p]
        let variance = residuals.square().mean_dim([0i64].as_slice(), true, TensorKind::Double); // [1, p]
        let deviation = variance.sqrt() + SMALLEST_DEVIATION; // [1, p]
        let all = Tensor::cat(&[&covariates, &(residuals / &deviation)], 1); // [n, 7 + p]
        let half = width / 2;
        let constant = RidgeRegression::best(&all, &reward, &covariate_penalties, half, &rounds)?;
        let changing = RidgeRegression::best(&all, &reward, &covariate_penalties, width, &rounds)?;
        // An effect is taken as constant unless the rewards contradict it beyond noise.
        let is_changing = reliability(&constant, &changing, &rounds)? > SURE_OF_CHANGE;
        let (fit, fitted) = if is_changing { (changing, width) } else { (constant, half) };
        let coefficients = fit.coefficients.narrow(0, COVARIATE_COLUMNS as i64, fitted).squeeze_dim(1); // [fitted]
        let effects = coefficients / deviation.squeeze_dim(0).narrow(0, 0, fitted);
        let effects = effects.constant_pad_nd([0, width - fitted]); // [p]
        Ok(FeatureEffects { effects, reliability: reliability(&without_features, &fit, &rounds)? })
    }

    /// The ranges of rows of the rounds.
    fn rounds(&self) -> Vec<Range<usize>> {
        let rounds: Vec<u64> = self.rows.chunks(self.width.max(1)).map(|row| row[ROUND] as u64).collect();
        let mut start = 0;
        let range = |of_round: &[u64]| {
            start += of_round.len();
            start - of_round.len()..start
        };
        rounds.chunk_by(u64::eq).map(range).collect()
    }

    /// `[n, width]` f64
    pub fn tensor(&self) -> Tensor {
        Tensor::from_slice(&self.rows).view([-1, self.width.max(1) as i64])
    }

    /// Reads the result of [`Self::tensor`].
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let width = tensor.size().get(1).copied().unwrap_or(0) as usize;
        let rows: Vec<f64> = Vec::try_from(tensor.reshape([-1]))?;
        let round =
            rows.chunks(width.max(1)).next_back().and_then(|row| row.get(ROUND)).map_or(0, |&round| round as usize);
        Ok(Self { rows, width, round })
    }
}

/// A ridge regression of y on x.
struct RidgeRegression {
    /// (X'X + penalties)^-1 X': `[q, n]`.
    inverse: Tensor,
    /// `[q, 1]`
    coefficients: Tensor,
    /// y - x coefficients: `[n, 1]`.
    errors: Tensor,
    /// The errors of each round by the regression on all other rounds: `[n, 1]`.
    left_out_errors: Tensor,
}

impl RidgeRegression {
    /// The regression on the first columns of `x`: the covariates, with their penalties, and `features` columns with the
    /// penalty that gives the smallest left-out errors.
    fn best(x: &Tensor, y: &Tensor, covariates: &[f64], features: i64, rounds: &[Range<usize>]) -> Result<Self> {
        let x = x.narrow(1, 0, covariates.len() as i64 + features);
        let mut best: Option<Self> = None;
        for power in -3..=3 {
            let mut penalties = covariates.to_vec();
            penalties.resize(x.size()[1] as usize, x.size()[0] as f64 * 10f64.powi(power));
            let fit = Self::fit(&x, y, &penalties, rounds)?;
            if best.as_ref().is_none_or(|best| squares(&fit.left_out_errors) < squares(&best.left_out_errors)) {
                best = Some(fit);
            }
        }
        best.context("no penalty to choose from")
    }

    /// `x` `[n, q]`, `y` `[n, 1]`, `penalties` `[q]`; `rounds` are ranges of the n rows.
    fn fit(x: &Tensor, y: &Tensor, penalties: &[f64], rounds: &[Range<usize>]) -> Result<Self> {
        let gram = x.tr().matmul(x) + Tensor::from_slice(penalties).diag(0); // [q, q]
        let inverse = Tensor::f_linalg_solve(&gram, &x.tr(), true)?;
        let coefficients = inverse.matmul(y);
        let errors = y - x.matmul(&coefficients); // [n, 1]
        // With H the block of x (X'X + penalties)^-1 x' of the round, its left-out errors are (I - H)^-1 times its
        // errors.
        let left_out = |round: &Range<usize>| -> Result<Tensor> {
            let (start, length) = (round.start as i64, round.len() as i64);
            let hat = x.narrow(0, start, length).matmul(&inverse.narrow(1, start, length)); // [length, length]
            let rest = Tensor::eye(length, (TensorKind::Double, Device::Cpu)) - hat;
            Ok(Tensor::f_linalg_solve(&rest, &errors.narrow(0, start, length), true)?)
        };
        let left_out_errors = Tensor::cat(&rounds.iter().map(left_out).collect::<Result<Vec<_>>>()?, 0);
        Ok(Self { inverse, coefficients, errors, left_out_errors })
    }
}

/// How far to trust the features that `fit` has and `without_features` lacks, from 0 to 1.
///
/// reliability = min(1, explained_left_out / explained) x max(0, 1 - 2.5^2 (R + 1)/(R - 1) / z^2), for R rounds.
///
/// `explained` is the share by which the features reduce the sum of the squared errors, and `explained_left_out` is the
/// same share of the left-out errors. Their quotient is the share of the fit that survives when a round is left out. If
/// the features explain nothing, this quotient of two small numbers can have any value. Therefore the second factor
/// tests whether the features explain anything. With `without` and `with` the left-out errors without and with the
/// features, z is the sum over the steps of `without * (without - with)`, divided by its standard error. Noise makes
/// this sum as often negative as positive. The standard error is the larger of two estimates, from the sums over each
/// round and from the sums over each block of eight steps. The second factor is above 0 only if z exceeds
/// 2.5 sqrt((R + 1)/(R - 1)). With few rounds, this limit is higher, because the standard error is then itself
/// uncertain.
///
/// The reliability is 0 if the sum, `explained` or `explained_left_out` is not positive.
fn reliability(without_features: &RidgeRegression, fit: &RidgeRegression, rounds: &[Range<usize>]) -> Result<f64> {
    let explained_left_out = 1.0 - squares(&fit.left_out_errors) / squares(&without_features.left_out_errors);
    let explained = 1.0 - squares(&fit.errors) / squares(&without_features.errors);
    let (without, with) = (&without_features.left_out_errors, &fit.left_out_errors); // [n, 1]
    let reductions: Vec<f64> = Vec::try_from((without * (without - with)).squeeze_dim(1))?; // [n]
    let sum = reductions.iter().sum::<f64>();
    // The negation is also true for NaN, which arises if the covariates explain the rewards completely.
    if !(sum > 0.0 && explained_left_out > 0.0 && explained > 0.0) {
        return Ok(0.0);
    }
    let round_sums: Vec<f64> = rounds.iter().map(|round| reductions[round.clone()].iter().sum()).collect();
    let blocks = rounds.iter().flat_map(|round| reductions[round.clone()].chunks(BLOCK));
    let block_sums: Vec<f64> = blocks.map(|block| block.iter().sum()).collect();
    let variance = variance_of_sum(&round_sums).max(variance_of_sum(&block_sums));
    let count = rounds.len() as f64;
    let smallest_square = STANDARD_ERRORS.powi(2) * (count + 1.0) / (count - 1.0); // of z
    let significance = (1.0 - smallest_square * variance / sum.powi(2)).max(0.0);
    Ok((explained_left_out / explained).clamp(0.0, 1.0) * significance)
}

/// The sum of the squares.
fn squares(values: &Tensor) -> f64 {
    values.square().sum(None).double_value(&[])
}

/// The estimated variance of the sum of independent values.
fn variance_of_sum(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() * count / (count - 1.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::seed::Seed;

    /// Rounds whose rewards fall with time and depend on the mean features of the batch by `effects`, after each round.
    /// `correlation` is the correlation between the noise of consecutive steps. With `drifting`, the batches change
    /// slowly over a round, as those of a policy do.
    fn played(rounds: usize, effects: [f64; 3], correlation: f64, drifting: bool, seed: &Seed) -> Vec<Contributions> {
        let mut rng = seed.rng();
        let mut contributions = Contributions::default();
        let fresh = (1.0 - correlation * correlation).sqrt();
        let after_round = |_| {
            contributions.start_round();
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
                let covariates = StepCovariates { time, improvement: gained / 50.0, reuse: 0.0 };
                contributions.push(covariates, reward, &mean);
                gained += reward;
            }
            contributions.clone()
        };
        (0..rounds).map(after_round).collect()
    }

    #[test]
    fn the_effects_of_features_are_found_under_noise() -> Result<()> {
        let rounds = played(20, [1.0, -1.0, 0.0], 0.0, false, &Seed::new(3));
        let found = rounds[19].estimate()?;
        let effects: Vec<f64> = Vec::try_from(&found.effects)?;
        assert!((effects[0] - 1.0).abs() < 0.1 && (effects[1] + 1.0).abs() < 0.1, "{effects:?}");
        assert!(effects[2..].iter().all(|effect| effect.abs() < 0.1), "{effects:?}");
        let reliability = rounds.iter().map(|rounds| Ok(rounds.estimate()?.reliability)).collect::<Result<Vec<_>>>()?;
        assert!(reliability[0] == 0.0, "after one round, nothing can be left out: {reliability:?}");
        assert!(reliability[4] > 0.5 && reliability[19] > 0.9, "{reliability:?}");
        assert_eq!(Contributions::from_tensor(&rounds[19].tensor())?, rounds[19]);
        Ok(())
    }

    #[test]
    fn an_effect_that_changes_its_sign_over_the_training_is_found() -> Result<()> {
        let mut rng = Seed::new(4).rng();
        let mut contributions = Contributions::default();
        for _ in 0..12 {
            contributions.start_round();
            for step in 0..50 {
                let time = f64::from(step) / 50.0;
                let mean = [rng.unit(), rng.unit()];
                let reward = (0.5 - time) * mean[0] + 0.1 * rng.normal();
                contributions.push(StepCovariates { time, improvement: 0.0, reuse: 0.0 }, reward, &mean);
            }
        }
        let found = contributions.estimate()?;
        let effects: Vec<f64> = Vec::try_from(&found.effects)?;
        let at = |time: f64| effects[0] + stage_position(time) * effects[2];
        assert!(at(0.0) > 0.3 && at(1.0) < -0.3, "{effects:?}");
        assert!(found.reliability > 0.5, "{}", found.reliability);
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

    #[test]
    fn left_out_errors_are_those_of_a_regression_on_the_other_rounds() -> Result<()> {
        let rounds = played(3, [1.0, -1.0, 0.0], 0.5, false, &Seed::new(5));
        let rounds = &rounds[2];
        let table = Tensor::from_slice(&rounds.rows).view([-1, rounds.width as i64]);
        let (x, y) = (table.narrow(1, COVARIATES.start as i64, 13), table.narrow(1, REWARD as i64, 1));
        let mut penalties = vec![1e-3; COVARIATE_COLUMNS];
        penalties.resize(13, 2.0);
        let ranges = rounds.rounds();
        assert_eq!(ranges, [0..50, 50..100, 100..150]);
        let fit = RidgeRegression::fit(&x, &y, &penalties, &ranges)?;
        let part = |of: &Tensor, range: &Range<usize>| of.narrow(0, range.start as i64, range.len() as i64);
        let others = |of: &Tensor| Tensor::cat(&[part(of, &ranges[0]), part(of, &ranges[2])], 0);
        let other = RidgeRegression::fit(&others(&x), &others(&y), &penalties, &[0..50, 50..100])?;
        let expected = part(&y, &ranges[1]) - part(&x, &ranges[1]).matmul(&other.coefficients);
        assert!((part(&fit.left_out_errors, &ranges[1]) - expected).abs().max().double_value(&[]) < 1e-9);
        Ok(())
    }
}
