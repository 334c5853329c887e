//! Uniform and normal numbers and shuffles from a generator, which [`crate::seed::Seed::rng`] makes.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

/// Uniform on [0, 1).
pub fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * 2f64.powi(-53)
}

/// Uniform on 0..n; `n` must not be 0.
pub fn below(n: usize, rng: &mut ChaCha8Rng) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// A standard normal number.
pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// Fisher and Yates.
pub fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last + 1, rng));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn a_shuffle_has_the_order_that_its_seed_has_always_given() {
        let mut items: Vec<usize> = (0..8).collect();
        shuffle(&mut items, &mut Seed::new(17).at("order").rng());
        assert_eq!(items, [2, 0, 7, 6, 5, 4, 1, 3]);
        items.sort_unstable();
        assert_eq!(items, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn numbers_have_the_mean_and_spread_of_their_distributions() {
        let mut rng = Seed::new(3).rng();
        let mut moments = |draw: fn(&mut ChaCha8Rng) -> f64| {
            let drawn: Vec<f64> = (0..20_000).map(|_| draw(&mut rng)).collect();
            let mean = drawn.iter().sum::<f64>() / 20_000.0;
            (mean, drawn.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0)
        };
        let (mean, variance) = moments(uniform);
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.005, "{mean} {variance}");
        let (mean, variance) = moments(normal);
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let (mean, _) = moments(|rng| below(7, rng) as f64);
        assert!((mean - 3.0).abs() < 0.06, "{mean}");
    }
}
