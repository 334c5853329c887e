//! Seeded draws without replacement. The same seed gives the same draw on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use raisin_base::seed::Seed;

/// A generator of random draws.
pub struct DrawSource(ChaCha8Rng);

impl DrawSource {
    pub fn new(seed: &Seed) -> Self {
        Self(seed.rng())
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * 2f64.powi(-53)
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

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// `count` of the indices 0..length in ascending order; all of them if `length` is not larger.
    pub fn sample(&mut self, length: usize, count: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..length).collect();
        if count < length {
            self.shuffle(&mut indices);
            indices.truncate(count);
            indices.sort_unstable();
        }
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sample_is_ascending_without_repeats_and_repeatable(seed: u64, length in 0usize..200, count in 0usize..220) {
            let sample = DrawSource::new(&Seed::new(seed)).sample(length, count);
            prop_assert_eq!(sample.len(), count.min(length));
            prop_assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(sample.iter().all(|&index| index < length));
            prop_assert_eq!(sample, DrawSource::new(&Seed::new(seed)).sample(length, count));
        }
    }

    #[test]
    fn every_value_below_the_bound_is_drawn_about_equally_often() {
        let mut draw = DrawSource::new(&Seed::new(5));
        let mut counts = [0; 7];
        (0..7000).for_each(|_| counts[draw.below(7)] += 1);
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }
}
