//! What measured effects say about candidates: a Bayesian linear regression of the effects on the features of the
//! candidates and on the stage (docs/method.md, section 4, `credit = "effect"`).
//!
//! [`weighted_effects`] weight the effects by the tokens of the rows. Those of one measurement are compared with each other
//! only, by [`standardised`], so that every measurement counts alike. The regression explains what the prior does not:
//! with z the prior's column, rho its declared slope, x the features (the static state, the cluster, and how often the
//! candidate was selected before) and s the position of the step in its training,
//!
//! effect = rho z + x (a + s b) + noise
//!
//! a and b have a normal prior around 0. It has three widths, because the many columns of an embedding would otherwise
//! decide how far the few columns that say something may go: one for the many columns, one for the others, and a factor
//! for b. The widths are those with the smallest left-out errors: each fifth of the candidates is predicted from the
//! other four fifths. So the regression is as wide as it can predict candidates that were never measured.

use std::collections::BTreeMap;

use tch::{Device, Kind as TensorKind, Tensor};

use super::scorer::stage_position;
use raisin_base::error::{Result, ensure};
use raisin_base::learner::RowEffect;
use raisin_base::random::Rng;

/// The candidates are divided into this many folds by their ids.
const FOLDS: usize = 5;

/// The most passes over the three widths.
const MOST_SWEEPS: usize = 4;

/// One measurement: the effects of some candidates at one state of the model.
pub struct MeasuredEffects<'a> {
    /// t/T
    pub time: f64,
    pub ids: &'a [u32],
    /// The features of the candidates: `[n, F]`.
    pub features: &'a Tensor,
    /// rho z of each candidate, the prior's part: `[n]`; `None` without a prior.
    pub prior: Option<&'a Tensor>,
    pub effects: &'a [f64],
}

/// The sums of a regression over some rows. q = 2 F.
#[derive(Debug)]
struct Sums {
    /// X'X: `[q, q]`.
    gram: Tensor,
    /// X'y: `[q, 1]`.
    product: Tensor,
    /// y'y
    squares: f64,
    /// The same for the effects before the part of the prior is subtracted.
    raw_squares: f64,
    count: f64,
}

/// All measurements so far, as sums over each fold: their size does not grow with the number of measurements.
#[derive(Debug)]
pub struct EffectRegression {
    folds: Vec<Sums>,
    /// For each of the F features, whether it is one of the many columns that describe a candidate together.
    many: Vec<bool>,
}

/// How far the regression shrinks the weights. The penalty of a weight is the number of effects times a power of ten; here are
/// the exponents, in halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shrinkage {
    /// Of a, for the many columns.
    many: i32,
    /// Of a, for the other columns.
    few: i32,
    /// How much more b is shrunk than a.
    change: i32,
}

impl Shrinkage {
    /// The penalty of each weight of a and b, for this number of effects: `[2 F]`.
    fn penalties(self, many: &[bool], count: f64) -> Tensor {
        let penalty = |halves: i32| count * 10f64.powf(f64::from(halves) / 2.0);
        let of = |more: i32| many.iter().map(move |&many| penalty(more + if many { self.many } else { self.few }));
        Tensor::from_slice(&of(0).chain(of(self.change)).collect::<Vec<f64>>())
    }
}

/// The distribution of the weights a and b, given all measurements.
#[derive(Debug)]
pub struct Posterior {
    /// `[F, 2]`: a and b.
    pub mean: Tensor,
    /// A root of the covariance of (a, b): `[2 F, 2 F]`.
    root: Tensor,
    /// The share of the variance of the effects that prior and regression explain for candidates that the regression has
    /// not seen: from 0 to 1.
    pub reliability: f64,
    /// The share of the variance of the effects that the prior explains alone; negative if the prior misleads.
    pub explained_by_prior: f64,
}

impl Sums {
    fn zero(width: i64) -> Self {
        let options = (TensorKind::Double, Device::Cpu);
        Self {
            gram: Tensor::zeros([width, width], options),
            product: Tensor::zeros([width, 1], options),
            squares: 0.0,
            raw_squares: 0.0,
            count: 0.0,
        }
    }

    /// `raw` is y before the part of the prior is subtracted.
    fn add(&mut self, x: &Tensor, y: &Tensor, raw: &Tensor) {
        self.gram = &self.gram + x.tr().matmul(x);
        self.product = &self.product + x.tr().matmul(y);
        self.squares += y.square().sum(TensorKind::Double).double_value(&[]);
        self.raw_squares += raw.square().sum(TensorKind::Double).double_value(&[]);
        self.count += x.size()[0] as f64;
    }

    fn minus(&self, other: &Self) -> Self {
        Self {
            gram: &self.gram - &other.gram,
            product: &self.product - &other.product,
            squares: self.squares - other.squares,
            raw_squares: self.raw_squares - other.raw_squares,
            count: self.count - other.count,
        }
    }

    /// X'X plus the penalties `[q]` on its diagonal.
    fn penalised(&self, penalties: &Tensor) -> Tensor {
        &self.gram + penalties.diag(0)
    }

    /// The ridge coefficients: `[q, 1]`.
    fn solve(&self, penalties: &Tensor) -> Result<Tensor> {
        let root = self.penalised(penalties).f_linalg_cholesky(false)?;
        Ok(self.product.f_cholesky_solve(&root, false)?)
    }

    /// The sum of the squared errors of these coefficients.
    fn squared_error(&self, coefficients: &Tensor) -> f64 {
        let fitted = coefficients.tr().matmul(&(self.gram.matmul(coefficients) - &self.product * 2.0));
        self.squares + fitted.double_value(&[0, 0])
    }
}

/// What each row would add to the effect of a batch, in units of a row of average length. The loss of a batch is a mean
/// over tokens: with n tokens in row i, the effect of a batch is the sum of n e over the sum of n. So a row adds n (e - E),
/// where E is the mean over all tokens. A row of three tokens hardly matters, however large its effect.
pub fn weighted_effects(effects: &[RowEffect]) -> Vec<f64> {
    let tokens: f64 = effects.iter().map(|row| row.tokens as f64).sum();
    if tokens == 0.0 {
        return vec![0.0; effects.len()];
    }
    let mean = effects.iter().map(|row| row.tokens as f64 * row.effect).sum::<f64>() / tokens;
    let average = tokens / effects.len() as f64;
    effects.iter().map(|row| row.tokens as f64 / average * (row.effect - mean)).collect()
}

/// The most deviations from the median that a number can have before it is limited. A few extreme rows would otherwise
/// make all other rows look alike.
const MOST_DEVIATIONS: f64 = 10.0;

/// The numbers with mean 0 and standard deviation 1. Before, they are limited to 10 deviations from their median, where a
/// deviation is 1.4826 times the median absolute deviation. `None` if half of the numbers are equal.
pub fn standardised(numbers: &[f64]) -> Option<Vec<f64>> {
    let centre = median(numbers);
    let distances: Vec<f64> = numbers.iter().map(|number| (number - centre).abs()).collect();
    let deviation = 1.4826 * median(&distances);
    if !(deviation.is_finite() && deviation > 0.0) {
        return None;
    }
    let limited = |number: &f64| ((number - centre) / deviation).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS);
    let mut values: Vec<f64> = numbers.iter().map(limited).collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter_mut().for_each(|value| *value -= mean);
    let scale = (values.iter().map(|value| value * value).sum::<f64>() / count).sqrt();
    values.iter_mut().for_each(|value| *value /= scale);
    Some(values)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl EffectRegression {
    /// `many` says for each of the F features whether it is one of many columns that describe a candidate together, such
    /// as those of an embedding.
    pub fn new(many: Vec<bool>) -> Self {
        let width = 2 * many.len() as i64;
        Self { folds: (0..FOLDS).map(|_| Sums::zero(width)).collect(), many }
    }

    /// See [`Self::new`].
    pub fn many(&self) -> &[bool] {
        &self.many
    }

    /// q = 2 F
    fn width(&self) -> i64 {
        2 * self.many.len() as i64
    }

    /// Adds a measurement. A measurement in which half of the effects are equal has no scale, and is left out.
    pub fn add(&mut self, measured: &MeasuredEffects) -> Result<()> {
        let Some(y) = standardised(measured.effects) else { return Ok(()) };
        let raw = Tensor::from_slice(&y).unsqueeze(1); // [n, 1]
        let y = match measured.prior {
            Some(prior) => {
                let prior = prior.to_kind(TensorKind::Double).unsqueeze(1);
                &raw - (&prior - prior.mean(TensorKind::Double))
            }
            None => raw.shallow_clone(),
        };
        let x = measured.features.to_kind(TensorKind::Double);
        let x = &x - x.mean_dim([0i64].as_slice(), true, TensorKind::Double); // [n, F]
        let x = Tensor::cat(&[&x, &(&x * stage_position(measured.time))], 1); // [n, 2 F]
        ensure!(x.size()[1] == self.width(), "a candidate has {} features for {}", x.size()[1] / 2, self.many.len());
        for (fold, sums) in self.folds.iter_mut().enumerate() {
            let members: Vec<i64> =
                (0..).zip(measured.ids).filter(|(_, id)| **id as usize % FOLDS == fold).map(|(row, _)| row).collect();
            if !members.is_empty() {
                let members = Tensor::from_slice(&members);
                let [x, y, raw] = [&x, &y, &raw].map(|of| of.index_select(0, &members));
                sums.add(&x, &y, &raw);
            }
        }
        Ok(())
    }

    /// The number of measured effects so far.
    pub fn count(&self) -> usize {
        self.folds.iter().map(|fold| fold.count).sum::<f64>() as usize
    }

    /// The weights, given all measurements; `None` before the first measurement.
    pub fn estimate(&self) -> Result<Option<Posterior>> {
        let mut all = Sums::zero(self.width());
        for fold in &self.folds {
            all = Sums {
                gram: &all.gram + &fold.gram,
                product: &all.product + &fold.product,
                squares: all.squares + fold.squares,
                raw_squares: all.raw_squares + fold.raw_squares,
                count: all.count + fold.count,
            };
        }
        if all.count < 2.0 * FOLDS as f64 {
            return Ok(None);
        }
        let (error, penalties) = self.widths(&all)?;
        let reliability = (1.0 - error / all.raw_squares).clamp(0.0, 1.0);
        let noise = error / all.count;
        let mean = all.solve(&penalties)?;
        // The covariance is noise (X'X + penalties)^-1. With L L' the penalised matrix, sqrt(noise) L'^-1 is a root.
        let lower = all.penalised(&penalties).f_linalg_cholesky(false)?;
        let eye = Tensor::eye(self.width(), (TensorKind::Double, Device::Cpu));
        let root = Tensor::linalg_solve_triangular(&lower.tr(), &eye, true, true, false) * noise.sqrt();
        let mean = mean.view([2, -1]).tr().to_kind(TensorKind::Float).contiguous();
        Ok(Some(Posterior { mean, root, reliability, explained_by_prior: 1.0 - all.squares / all.raw_squares }))
    }

    /// The penalties with the smallest left-out error, after this error. First one width for all weights, then one width
    /// after the other, until none of them makes the error smaller.
    fn widths(&self, all: &Sums) -> Result<(f64, Tensor)> {
        let others: Vec<Sums> = self.folds.iter().map(|fold| all.minus(fold)).collect();
        let error_of = |shrinkage: Shrinkage| -> Result<f64> {
            let penalties = shrinkage.penalties(&self.many, all.count);
            let of_fold = |(fold, others): (&Sums, &Sums)| Ok(fold.squared_error(&others.solve(&penalties)?));
            self.folds.iter().zip(&others).map(of_fold).sum()
        };
        // A sweep that changes little comes back to widths that were tried before.
        let mut errors: BTreeMap<Shrinkage, f64> = BTreeMap::new();
        let mut best = Shrinkage { many: 0, few: 0, change: 0 };
        let mut smallest = f64::INFINITY;
        for sweep in 0..=MOST_SWEEPS {
            let before = smallest;
            let lines: &[fn(Shrinkage, i32) -> Shrinkage] = match sweep {
                0 => &[|it, halves| Shrinkage { many: halves, few: halves, ..it }],
                _ => &[
                    |it, halves| Shrinkage { few: halves, ..it },
                    // Effects change less over a training than they differ between candidates.
                    |it, halves| Shrinkage { change: halves.max(0), ..it },
                    |it, halves| Shrinkage { many: halves, ..it },
                ],
            };
            for line in lines {
                let from = best;
                for halves in -8..=6 {
                    let tried = line(from, halves);
                    let error = match errors.get(&tried) {
                        Some(known) => *known,
                        None => error_of(tried)?,
                    };
                    errors.insert(tried, error);
                    if error < smallest {
                        (smallest, best) = (error, tried);
                    }
                }
            }
            if sweep > 0 && smallest >= before {
                break;
            }
        }
        ensure!(smallest.is_finite(), "the left-out errors of the measured effects are not finite");
        Ok((smallest, best.penalties(&self.many, all.count)))
    }

    /// `[FOLDS, q + 3, q + 1]` f64: gram and product side by side, then three rows that begin with squares, raw squares and
    /// count.
    pub fn tensor(&self) -> Tensor {
        let fold = |sums: &Sums| {
            let upper = Tensor::cat(&[&sums.gram, &sums.product], 1);
            let columns = self.width() as usize + 1;
            let mut lower = vec![0.0; 3 * columns];
            for (row, number) in [sums.squares, sums.raw_squares, sums.count].into_iter().enumerate() {
                lower[row * columns] = number;
            }
            Tensor::cat(&[upper, Tensor::from_slice(&lower).view([3, -1])], 0)
        };
        Tensor::stack(&self.folds.iter().map(fold).collect::<Vec<_>>(), 0)
    }

    /// Reads the result of [`Self::tensor`].
    pub fn from_tensor(tensor: &Tensor, many: Vec<bool>) -> Result<Self> {
        let size = tensor.size();
        let width = 2 * many.len() as i64;
        ensure!(
            size[..] == [FOLDS as i64, width + 3, width + 1],
            "the saved effects have the shape {size:?}, for {} features",
            many.len()
        );
        let fold = |fold: i64| {
            let table = tensor.get(fold);
            Sums {
                gram: table.narrow(0, 0, width).narrow(1, 0, width).copy(),
                product: table.narrow(0, 0, width).narrow(1, width, 1).copy(),
                squares: table.double_value(&[width, 0]),
                raw_squares: table.double_value(&[width + 1, 0]),
                count: table.double_value(&[width + 2, 0]),
            }
        };
        Ok(Self { folds: (0..FOLDS as i64).map(fold).collect(), many })
    }
}

impl Posterior {
    /// Weights drawn from the distribution: `[F, 2]`.
    pub fn draw(&self, rng: &mut Rng) -> Tensor {
        let normal: Vec<f64> = (0..self.root.size()[0]).map(|_| rng.normal()).collect();
        let noise = self.root.matmul(&Tensor::from_slice(&normal).unsqueeze(1)); // [2 F, 1]
        &self.mean + noise.view([2, -1]).tr().to_kind(TensorKind::Float)
    }

    /// The mean weights of the first features: `[features, 2]`.
    pub fn mean_of(&self, features: usize) -> Tensor {
        self.mean.narrow(0, 0, features as i64)
    }

    /// x (a + s b), the learned part of the effect, for features x `[n, F]` at this time t/T: `[n]`. Features that are
    /// left out at the end count as 0.
    pub fn expected(&self, features: &Tensor, time: f64) -> Tensor {
        let features = self.padded(features);
        let weights = self.mean.select(1, 0) + self.mean.select(1, 1) * stage_position(time); // [F]
        features.to_kind(TensorKind::Double).matmul(&weights.to_kind(TensorKind::Double).unsqueeze(1)).squeeze_dim(1)
    }

    /// The standard deviation of [`Self::expected`], given the measurements: `[n]`.
    pub fn deviations(&self, features: &Tensor, time: f64) -> Tensor {
        let x = self.padded(features).to_kind(TensorKind::Double);
        let x = Tensor::cat(&[&x, &(&x * stage_position(time))], 1);
        x.matmul(&self.root).square().sum_dim_intlist([1i64].as_slice(), false, TensorKind::Double).sqrt()
    }

    /// Features `[n, F']` with zeros for the last F - F' features: `[n, F]`.
    fn padded(&self, features: &Tensor) -> Tensor {
        let missing = self.mean.size()[0] - features.size()[1];
        if missing == 0 { features.shallow_clone() } else { features.constant_pad_nd([0, missing]) }
    }
}

#[cfg(test)]
#[path = "posterior_tests.rs"]
mod tests;
