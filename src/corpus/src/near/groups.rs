//! Groups of items that are alike.

use rayon::prelude::*;

use raisin_base::seed::Seed;

use super::{Bands, Comparable};

/// An item is compared with at most this number of groups of its bucket. Without the limit, many texts with the same
/// beginning would be compared each with each.
const MOST_COMPARED: usize = 64;

/// What the search found.
#[derive(Clone, Debug)]
pub struct Groups {
    /// For each item the first item of its group.
    pub first: Vec<u32>,
    /// The number of pairs that were compared exactly.
    pub compared: u64,
    /// The number of these pairs whose similarity reaches the threshold.
    pub alike: u64,
    /// The number of comparisons that were left out because a bucket had too many groups.
    pub left_out: u64,
}

/// Groups items whose similarity is at least `threshold`. `done` hears of finished bands.
pub fn groups<C: Comparable + ?Sized>(
    items: &C,
    threshold: f64,
    bands: Bands,
    seed: &Seed,
    mut done: impl FnMut(usize),
) -> Groups {
    let mut found = UnionFind::new(items.count());
    // Equal items need no signature. Empty items are left alone.
    let mut distinct: Vec<u32> = Vec::new();
    for (place, first) in (0..).zip(items.equal()).filter(|(place, _)| !items.is_empty(*place)) {
        if first == place {
            distinct.push(place);
        } else {
            found.join(first, place);
        }
    }
    let signatures = items.signatures(&distinct, bands, seed);
    let (mut compared, mut alike, mut left_out) = (0, 0, 0);
    for band in 0..bands.bands {
        let mut keys: Vec<(u64, u32)> =
            signatures.iter().zip(&distinct).map(|(signature, place)| (signature[band], *place)).collect();
        keys.par_sort_unstable();
        for bucket in keys.chunk_by(|a, b| a.0 == b.0).filter(|bucket| bucket.len() > 1) {
            // One member of each group that the bucket has so far.
            let mut seen: Vec<u32> = Vec::new();
            for (_, place) in bucket {
                let root = found.first(*place);
                if seen.iter().any(|other| found.first(*other) == root) {
                    continue;
                }
                left_out += seen.len().saturating_sub(MOST_COMPARED) as u64;
                for other in seen.iter().take(MOST_COMPARED) {
                    compared += 1;
                    if items.reaches(*place, *other, threshold) {
                        alike += 1;
                        found.join(*other, *place);
                    }
                }
                if !seen.iter().any(|other| found.first(*other) == found.first(*place)) {
                    seen.push(*place);
                }
            }
        }
        done(band + 1);
    }
    let first = (0..items.count() as u32).map(|place| found.first(place)).collect();
    Groups { first, compared, alike, left_out }
}

/// Disjoint groups of numbers. The first number of a group represents it.
#[derive(Clone, Debug)]
pub struct UnionFind {
    parents: Vec<u32>,
}

impl UnionFind {
    /// `count` groups of one number each.
    pub fn new(count: usize) -> Self {
        Self { parents: (0..count as u32).collect() }
    }

    /// The first number of the group.
    pub fn first(&self, mut number: u32) -> u32 {
        while self.parents[number as usize] != number {
            number = self.parents[number as usize];
        }
        number
    }

    pub fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.shorten(a), self.shorten(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parents[high as usize] = low;
    }

    /// As [`Self::first`], and makes the way of the number shorter.
    fn shorten(&mut self, number: u32) -> u32 {
        let first = self.first(number);
        let mut number = number;
        while self.parents[number as usize] != first && number != first {
            number = std::mem::replace(&mut self.parents[number as usize], first);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near::shingles::jaccard;
    use crate::near::{Gram, GramSets, shingles};

    #[test]
    fn joined_numbers_have_the_same_first_number() {
        let mut found = UnionFind::new(8);
        for (a, b) in [(5, 3), (3, 7), (1, 2), (7, 2)] {
            found.join(a, b);
        }
        let firsts: Vec<u32> = (0..8).map(|number| found.first(number)).collect();
        assert_eq!(firsts, [0, 1, 1, 1, 4, 1, 6, 1]);
    }

    /// Sets of random numbers, of which some are copies of others with a few changed numbers.
    fn sets(count: usize, seed: u64) -> Vec<Vec<u32>> {
        let mut rng = Seed::new(seed).rng();
        let mut sets: Vec<Vec<u32>> = Vec::new();
        for _ in 0..count {
            let mut set: Vec<u32> = if !sets.is_empty() && rng.below(2) == 0 {
                sets[rng.below(sets.len())].clone()
            } else {
                (0..60).map(|_| rng.below(1 << 30) as u32).collect()
            };
            for _ in 0..rng.below(20) {
                let place = rng.below(set.len());
                set[place] = rng.below(1 << 30) as u32;
            }
            set.sort_unstable();
            set.dedup();
            sets.push(set);
        }
        sets
    }

    #[test]
    fn nearly_all_pairs_of_brute_force_are_found_and_no_other_pair_is_joined() {
        let (mut pairs, mut found) = (0_u32, 0_u32);
        for seed in 0..4 {
            let sets = sets(150, seed);
            let result = groups(&GramSets(sets.clone()), 0.7, Bands::of_threshold(0.7, 128), &Seed::new(9), |_| ());
            let mut exact = UnionFind::new(sets.len());
            for (b, a) in (0..sets.len()).flat_map(|b| (0..b).map(move |a| (b, a))) {
                if jaccard(&sets[a], &sets[b]) >= 0.7 {
                    exact.join(a as u32, b as u32);
                    pairs += 1;
                    found += u32::from(result.first[a] == result.first[b]);
                }
            }
            for place in 0..sets.len() {
                let first = result.first[place];
                assert_eq!(exact.first(first), exact.first(place as u32), "only alike sets share a group");
            }
        }
        assert!(pairs > 100, "{pairs}");
        assert!(f64::from(found) >= 0.95 * f64::from(pairs), "{found} of {pairs}");
    }

    #[test]
    fn equal_sets_are_one_group_and_empty_sets_none() {
        let sets = vec![vec![], vec![1, 2, 3], vec![], vec![1, 2, 3], vec![7, 8]];
        let found = groups(&GramSets(sets), 0.8, Bands { bands: 16, rows: 4 }, &Seed::new(1), |_| ());
        assert_eq!(found.first, [0, 1, 2, 1, 4]);
    }

    #[test]
    fn a_changed_word_in_a_long_text_is_a_near_duplicate() {
        let long: Vec<String> = (0..80).map(|n| format!("word{n}")).collect();
        let mut changed = long.clone();
        changed[40] = "other".to_owned();
        let set = |words: &[String]| shingles([words.join(" ").as_str()], Gram::Words(5));
        let sets = vec![set(&long), set(&changed), set(&long[..40])];
        let found = groups(&GramSets(sets), 0.8, Bands::of_threshold(0.8, 128), &Seed::new(1), |_| ());
        assert_eq!(found.first, [0, 0, 2]);
    }

    #[test]
    fn many_sets_of_one_bucket_are_compared_with_a_limited_number() {
        // Every set has the element with the lowest hash of every function, so that all share each bucket.
        let common: Vec<u32> = (0..40).collect();
        let set = |n: u32| common.iter().copied().chain((0..60).map(|k| 1000 + 60 * n + k)).collect::<Vec<u32>>();
        let sets: Vec<Vec<u32>> = (0..300).map(set).collect();
        let found = groups(&GramSets(sets), 0.9, Bands { bands: 4, rows: 1 }, &Seed::new(1), |_| ());
        assert!(found.compared <= 4 * 300 * MOST_COMPARED as u64);
        assert!(found.left_out > 0);
        assert_eq!(found.first, (0..300).collect::<Vec<u32>>());
    }
}
