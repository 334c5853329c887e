//! Signatures, and the bands by which they are compared.

use raisin_base::seed::Seed;

use super::shingles::mixed;

/// A signature of `bands` x `rows` minimum hashes. Two sets are compared if all hashes of one band agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bands {
    pub bands: usize,
    pub rows: usize,
}

/// The share of the pairs at the threshold that the bands must find.
const RECALL: f64 = 0.95;

impl Bands {
    /// The fewest comparisons within a number of hashes: the longest bands that still find at least 95 % of the pairs
    /// whose similarity is the threshold.
    pub fn of_threshold(threshold: f64, hashes: usize) -> Self {
        let of_rows = |rows: usize| Self { bands: hashes / rows, rows };
        let finds = |bands: &Self| bands.chance(threshold) >= RECALL;
        (1..=hashes.max(1)).rev().map(of_rows).find(finds).unwrap_or(Self { bands: hashes.max(1), rows: 1 })
    }

    /// The probability that a pair of this similarity is compared.
    pub fn chance(&self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }

    /// One hash for each band of the signature of a set; none for an empty set.
    pub(super) fn of_set(&self, set: &[u32], functions: &[(u64, u64)]) -> Vec<u64> {
        if set.is_empty() {
            return Vec::new();
        }
        let minimum = |(factor, summand): &(u64, u64)| {
            let hash = |element: &u32| (factor.wrapping_mul(u64::from(*element)).wrapping_add(*summand) >> 32) as u32;
            set.iter().map(hash).min().unwrap_or(u32::MAX)
        };
        let of_band = |functions: &[(u64, u64)]| {
            functions.iter().map(minimum).fold(0, |hash, minimum| mixed(hash ^ u64::from(minimum)).rotate_left(7))
        };
        functions.chunks(self.rows).map(of_band).collect()
    }

    /// The hash functions of a signature: multiply and shift, with odd factors.
    pub(super) fn functions(&self, seed: &Seed) -> Vec<(u64, u64)> {
        let number = |place: usize, part: &str| seed.at(part).at(place).number();
        (0..self.bands * self.rows).map(|place| (number(place, "factor") | 1, number(place, "summand"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bands_find_nearly_all_pairs_at_the_threshold() {
        for threshold in [0.3, 0.5, 0.7, 0.8, 0.9, 0.99] {
            for hashes in [64, 128, 256] {
                let bands = Bands::of_threshold(threshold, hashes);
                assert!(bands.bands * bands.rows <= hashes);
                assert!(bands.chance(threshold) >= RECALL, "{threshold} {hashes} {bands:?}");
                let longer = Bands { bands: hashes / (bands.rows + 1), rows: bands.rows + 1 };
                assert!(longer.bands == 0 || longer.chance(threshold) < RECALL, "{threshold} {hashes} {bands:?}");
            }
        }
        assert_eq!(Bands::of_threshold(0.8, 128), Bands { bands: 18, rows: 7 });
    }

    #[test]
    fn equal_minimum_hashes_are_as_frequent_as_the_similarity() {
        // 3,000 hashes of two sets with a similarity of 1/3.
        let bands = Bands { bands: 3000, rows: 1 };
        let functions = bands.functions(&Seed::new(1));
        let set = |from: u64, to: u64| (from..to).map(|n| (mixed(n) >> 32) as u32).collect::<Vec<u32>>();
        let (a, b) = (bands.of_set(&set(0, 200), &functions), bands.of_set(&set(100, 300), &functions));
        let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / 3000.0;
        assert!((equal - 1.0 / 3.0).abs() < 0.03, "{equal}");
        assert!(bands.of_set(&[], &functions).is_empty());
    }
}
