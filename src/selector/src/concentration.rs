//! How the draws of a training concentrate on some of the candidates (docs/method.md, section 4, `concentration`).

use rayon::prelude::*;
use tch::Tensor;

use raisin_settings::ppo::Concentration;

/// The logits of a draw that concentrates on about `aim` of the candidates with these scores: `[n]` -> `[n]`.
pub fn concentrated(scores: &Tensor, concentration: Concentration, aim: f64) -> Tensor {
    match concentration {
        Concentration::Limit => limited(scores, aim),
        Concentration::Scale => scores * scaling_factor(scores, aim),
    }
}

/// How far the scores outside the limit of [`limited`] lie below those within it: they are drawn only after all of these.
const OUTSIDE: f64 = 1e4;

/// 0 for the `aim` highest scores, and far less for the others, in their order: `[n]` -> `[n]`. Scores that equal the lowest
/// within the limit are within it too.
fn limited(scores: &Tensor, aim: f64) -> Tensor {
    let count = (aim.round() as i64).clamp(1, scores.size()[0]);
    let (highest, _) = scores.topk(count, 0, true, true);
    let outside = scores - highest.get(0) - OUTSIDE;
    outside.masked_fill(&scores.ge_tensor(&highest.get(count - 1)), 0.0)
}

/// The largest factor of [`scaling_factor`].
const LARGEST_FACTOR: f64 = 8.0;

/// The most steps of [`scaling_factor`]. Halving alone needs about 40 for all digits.
const MOST_STEPS: usize = 60;

/// The number of scores that are summed together.
const CHUNK: usize = 8192;

/// A smaller difference of two factors has no effect on a score in f32.
const SMALLEST_DIFFERENCE: f64 = 1e-12;

/// The factor from 0 to [`LARGEST_FACTOR`] by which the scores `[n]` are multiplied, so that exp(entropy) of their softmax
/// is `aim`. If even the largest factor leaves more effective candidates, the largest factor. The entropy falls with the
/// factor: Newton's method finds the factor in an interval that every step makes smaller, and halves the interval where
/// it would leave it.
fn scaling_factor(scores: &Tensor, aim: f64) -> f64 {
    let scores: Vec<f32> = Vec::try_from(scores.detach().contiguous()).unwrap_or_default();
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let below: Vec<f64> = scores.iter().map(|&score| f64::from(score - highest)).collect();
    // The entropy at a factor, and its derivative: minus the factor times the variance of the scores under the softmax.
    let entropy = |factor: f64| {
        let of_chunk = |chunk: &[f64]| {
            chunk.iter().fold([0.0; 3], |[sum, scores, squares], &score| {
                let weight = (factor * score).exp();
                [sum + weight, scores + weight * score, squares + weight * score * score]
            })
        };
        // The chunks are fixed, so that the sums do not depend on the number of threads.
        let chunks: Vec<[f64; 3]> = below.par_chunks(CHUNK).map(of_chunk).collect();
        let [sum, scores, squares] =
            chunks.iter().fold([0.0; 3], |sums, chunk| std::array::from_fn(|place| sums[place] + chunk[place]));
        let (mean, mean_square) = (scores / sum, squares / sum);
        (sum.ln() - factor * mean, -factor * (mean_square - mean * mean))
    };
    let aim = aim.ln();
    if entropy(LARGEST_FACTOR).0 > aim {
        return LARGEST_FACTOR;
    }
    let (mut low, mut high, mut factor) = (0.0, LARGEST_FACTOR, 1.0);
    for _ in 0..MOST_STEPS {
        let (value, slope) = entropy(factor);
        if value > aim {
            low = factor;
        } else {
            high = factor;
        }
        let step = factor - (value - aim) / slope;
        let next = if step > low && step < high { step } else { f64::midpoint(low, high) };
        let is_found = (next - factor).abs() <= SMALLEST_DIFFERENCE;
        factor = next;
        if is_found || high - low <= SMALLEST_DIFFERENCE {
            break;
        }
    }
    factor
}

#[cfg(test)]
mod tests {
    use super::super::sampling::{DrawMode, entropy};
    use super::*;
    use raisin_base::error::Result;
    use raisin_base::seed::Seed;
    use tch::Kind as TensorKind;

    #[test]
    fn scores_are_scaled_to_the_effective_number_of_candidates() {
        let scores: Vec<f32> = (0..1000).map(|place| ((place as f32) * 0.37).sin() * 0.4).collect();
        let scores = Tensor::from_slice(&scores);
        for aim in [500.0, 900.0] {
            let scaled = concentrated(&scores, Concentration::Scale, aim);
            let found = entropy(&scaled.unsqueeze(0)).exp().double_value(&[0]);
            assert!((found / aim - 1.0).abs() < 1e-3, "{found} for {aim}");
        }
        // The scores cannot tell ten candidates apart, and are not enlarged without limit.
        assert!((scaling_factor(&scores, 10.0) - LARGEST_FACTOR).abs() < 1e-6);
        let equal = Tensor::zeros([50], (TensorKind::Float, tch::Device::Cpu));
        assert!(scaling_factor(&equal, 10.0).is_finite());
    }

    #[test]
    fn a_limit_leaves_the_highest_scores_equal_and_keeps_the_order_of_the_others() -> Result<()> {
        let scores = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.4, 0.5, 3.0]);
        let found =
            |aim: f64| -> Result<Vec<f32>> { Ok(Vec::try_from(concentrated(&scores, Concentration::Limit, aim))?) };
        let two = found(2.0)?;
        assert!([two[2], two[5]].iter().all(|it| *it == 0.0), "{two:?}");
        assert!(two[0] > two[3] && two[3] > two[1] && two[0] < -9000.0, "{two:?}");
        // The third highest score is there twice.
        let three = found(3.0)?;
        assert!([three[0], three[2], three[4], three[5]].iter().all(|it| *it == 0.0), "{three:?}");
        assert!(found(100.0)?.iter().all(|it| *it == 0.0));
        // A limit that is smaller than a batch does not leave the batch short: the next scores follow.
        let mut rng = Seed::new(3).rng();
        for _ in 0..20 {
            let mut drawn = DrawMode::Sample(&mut rng).indices(&two, 4);
            drawn[..2].sort_unstable();
            assert_eq!(drawn[..2], [2, 5], "the rest follows: {drawn:?}");
        }
        Ok(())
    }
}
