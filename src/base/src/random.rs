//! The source of all random numbers of raisin. [`Seed::rng`](crate::seed::Seed::rng) makes a generator. The same seed
//! gives the same numbers on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A generator of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }

    /// A standard normal number, by the Box-Muller transform.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Uniform in 0..bound, without bias; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        let bound = bound as u64;
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let number = self.0.next_u64();
            if number < limit {
                return (number % bound) as usize;
            }
        }
    }

    /// Uniform in low..=high.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// One of `items`; the default value if `items` is empty.
    pub fn pick<T: Copy + Default>(&mut self, items: &[T]) -> T {
        items.get(self.below(items.len())).copied().unwrap_or_default()
    }

    /// Brings the items into a random order, by the Fisher-Yates shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// The indices 0..length in a random order.
    pub fn order(&mut self, length: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..length).collect();
        self.shuffle(&mut indices);
        indices
    }

    /// The indices of the weights in a random order: each next one is drawn from those that are left, with a probability in
    /// proportion to its weight. The weights are above 0.
    pub fn weighted_order(&mut self, weights: &[f64]) -> Vec<usize> {
        // The first of several exponential clocks to ring is one with a probability in proportion to its rate.
        let times: Vec<f64> = weights.iter().map(|weight| -(1.0 - self.unit()).ln() / weight).collect();
        let mut indices: Vec<usize> = (0..weights.len()).collect();
        indices.sort_by(|one, other| times[*one].total_cmp(&times[*other]));
        indices
    }

    /// `count` of the indices 0..length in ascending order; all of them if `length` is not larger.
    pub fn sample(&mut self, length: usize, count: usize) -> Vec<usize> {
        if count >= length {
            return (0..length).collect();
        }
        let mut indices = self.order(length);
        indices.truncate(count);
        indices.sort_unstable();
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn a_weighted_order_has_every_index_once_and_begins_with_an_index_as_often_as_its_weight_says() {
        let mut rng = Seed::new(17).at("weights").rng();
        let weights = [1.0, 2.0, 5.0];
        let mut first = [0; 3];
        for _ in 0..8000 {
            let order = rng.weighted_order(&weights);
            first[order[0]] += 1;
            let mut all = order;
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        }
        // A standard deviation is at most 45.
        for (count, expected) in first.into_iter().zip([1000, 2000, 5000]) {
            assert!(i32::abs_diff(count, expected) < 200, "{first:?}");
        }
    }

    /// Another order would change artifacts without a new version of their kinds.
    #[test]
    fn a_seed_gives_the_order_that_it_has_always_given() {
        let mut order = Seed::new(17).at("order").rng().order(8);
        assert_eq!(order, [6, 7, 3, 0, 1, 5, 2, 4]);
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn numbers_have_the_mean_and_spread_of_their_distributions() {
        let mut rng = Seed::new(3).rng();
        let mut moments = |draw: fn(&mut Rng) -> f64| {
            let drawn: Vec<f64> = (0..20_000).map(|_| draw(&mut rng)).collect();
            let mean = drawn.iter().sum::<f64>() / 20_000.0;
            (mean, drawn.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0)
        };
        let (mean, variance) = moments(Rng::unit);
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.005, "{mean} {variance}");
        let (mean, variance) = moments(Rng::normal);
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn numbers_below_a_bound_are_equally_frequent() {
        let mut rng = Seed::new(3).rng();
        let mut counts = [0; 7];
        for _ in 0..7_000 {
            counts[rng.below(7)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_sample_is_ascending_without_repeats_and_repeatable() {
        for seed in 0..200 {
            let (length, count) = (seed as usize % 40, seed as usize % 43);
            let sample = Seed::new(seed).rng().sample(length, count);
            assert_eq!(sample.len(), count.min(length));
            assert!(sample.windows(2).all(|pair| pair[0] < pair[1]) && sample.iter().all(|&index| index < length));
            assert_eq!(sample, Seed::new(seed).rng().sample(length, count));
        }
    }
}
