//! Means with intervals. Samples are small, so that all intervals are those of Student's t distribution.
//!
//! An interval over *seeds* shows how much the result of another run could differ: each seed is one observation, and
//! two methods are paired by their common seeds. An interval over *items* shows how much the result on another test set
//! from the same source could differ: each item is one observation, with its difference averaged over the seeds that
//! both methods have.

use std::f64::consts::PI;

/// A mean and its 95 % interval. With fewer than two observations there is no interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanEstimate {
    pub count: usize,
    pub mean: f64,
    pub interval: Option<(f64, f64)>,
}

impl MeanEstimate {
    /// Whether the interval lies on one side of zero.
    pub fn excludes_zero(&self) -> bool {
        self.interval.is_some_and(|(low, high)| low > 0.0 || high < 0.0)
    }
}

/// The mean of independent observations and its t-interval; `None` without observations.
pub fn mean(values: &[f64]) -> Option<MeanEstimate> {
    weighted_mean(&values.iter().map(|value| (*value, 1.0)).collect::<Vec<_>>())
}

/// The weighted mean of (value, weight) and the t-interval of the ratio estimator. The estimator treats the weights,
/// for example the numbers of tokens of items, as observations too. With equal weights, the result is the plain mean
/// and its t-interval.
pub fn weighted_mean(values: &[(f64, f64)]) -> Option<MeanEstimate> {
    let total: f64 = values.iter().map(|(_, weight)| weight).sum();
    if values.is_empty() || total <= 0.0 {
        return None;
    }
    let mean = values.iter().map(|(value, weight)| value * weight).sum::<f64>() / total;
    let count = values.len();
    let interval = (count > 1).then(|| {
        let squares: f64 = values.iter().map(|(value, weight)| (weight * (value - mean)).powi(2)).sum();
        let error = (squares * count as f64 / (count - 1) as f64).sqrt() / total;
        let reach = t_quantile(0.975, (count - 1) as f64) * error;
        (mean - reach, mean + reach)
    });
    Some(MeanEstimate { count, mean, interval })
}

/// The quantile of Student's t distribution by bisection of the distribution function, accurate to about 1e-12.
pub fn t_quantile(probability: f64, degrees: f64) -> f64 {
    if probability < 0.5 {
        return -t_quantile(1.0 - probability, degrees);
    }
    let (mut low, mut high) = (0.0, 1.0);
    while t_distribution(high, degrees) < probability && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if t_distribution(middle, degrees) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// P(T <= t) for t >= 0: 1 - I(d/(d+t^2); d/2, 1/2) / 2.
fn t_distribution(t: f64, degrees: f64) -> f64 {
    1.0 - 0.5 * incomplete_beta(degrees / (degrees + t * t), 0.5 * degrees, 0.5)
}

/// The regularised incomplete beta function by Lentz's continued fraction, on the side on which the fraction converges
/// fast.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front = (a * x.ln() + b * (1.0 - x).ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            fraction *= d * c;
        }
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

/// The logarithm of the gamma function by Lanczos' approximation (g = 7, 9 terms; relative error about 1e-15).
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (PI / (PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let mut sum = TERMS[0];
    for (place, term) in TERMS.iter().enumerate().skip(1) {
        sum += term / (x + place as f64);
    }
    let t = x + 7.5;
    0.5 * (2.0 * PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
#[expect(clippy::unreadable_literal, reason = "as scipy prints them")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_of_t_agree_with_scipy() {
        // scipy.stats.t.ppf(0.975, d)
        let golden = [
            (1.0, 12.706204736174694),
            (2.0, 4.302652729749462),
            (3.0, 3.1824463052837078),
            (4.0, 2.7764451051977934),
            (9.0, 2.262157162798205),
            (30.0, 2.0422724563012378),
            (100.0, 1.9839715185235518),
            (1000.0, 1.9623390808264083),
        ];
        for (degrees, expected) in golden {
            let found = t_quantile(0.975, degrees);
            assert!((found - expected).abs() < 1e-9 * expected, "{degrees}: {found} instead of {expected}");
        }
        assert!((t_quantile(0.025, 4.0) + 2.7764451051977934).abs() < 1e-9);
    }

    #[test]
    fn the_interval_of_a_mean_agrees_with_scipy() {
        // scipy.stats.t.interval(0.95, 4, loc=np.mean(x), scale=scipy.stats.sem(x)), x = [1.1, 1.4, 0.9, 1.2, 1.3]
        let found = mean(&[1.1, 1.4, 0.9, 1.2, 1.3]).expect("five values");
        let (low, high) = found.interval.expect("an interval");
        assert!((found.mean - 1.18).abs() < 1e-12);
        assert!((low - 0.9411611611900019).abs() < 1e-9 && (high - 1.418838838809998).abs() < 1e-9, "{low} {high}");
    }

    #[test]
    fn one_value_has_no_interval_and_no_values_have_no_mean() {
        assert_eq!(mean(&[2.0]), Some(MeanEstimate { count: 1, mean: 2.0, interval: None }));
        assert_eq!(mean(&[]), None);
        assert!(!mean(&[2.0]).is_some_and(|estimate| estimate.excludes_zero()));
    }

    proptest! {
        #[test]
        fn equal_weights_give_the_plain_mean(values in prop::collection::vec(-5.0f64..5.0, 2..20), weight in 0.5f64..9.0) {
            let weighted: Vec<(f64, f64)> = values.iter().map(|value| (*value, weight)).collect();
            let (one, other) = (mean(&values).expect("values"), weighted_mean(&weighted).expect("values"));
            prop_assert!((one.mean - other.mean).abs() < 1e-9);
            let ((low, high), (low2, high2)) = (one.interval.expect("two"), other.interval.expect("two"));
            prop_assert!((low - low2).abs() < 1e-9 && (high - high2).abs() < 1e-9 && low <= high);
        }

        #[test]
        fn the_distribution_function_is_the_inverse_of_the_quantile(p in 0.5f64..0.999, degrees in 1.0f64..200.0) {
            prop_assert!((t_distribution(t_quantile(p, degrees), degrees) - p).abs() < 1e-9);
        }
    }
}
