//! Texts as sets of n-grams, compared by their Jaccard similarity.

use std::collections::HashMap;

use rayon::prelude::*;

use raisin_base::seed::Seed;

use super::shingles::{jaccard, reaches};
use super::{Bands, Comparable};

/// The sets of n-grams of texts, as [`shingles`](super::shingles) gives them.
pub struct GramSets(pub Vec<Vec<u32>>);

impl Comparable for GramSets {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self, item: u32) -> bool {
        self.0[item as usize].is_empty()
    }

    /// The Jaccard similarity, from 0 to 1.
    fn similarity(&self, a: u32, b: u32) -> f64 {
        jaccard(&self.0[a as usize], &self.0[b as usize])
    }

    fn reaches(&self, a: u32, b: u32, threshold: f64) -> bool {
        reaches(&self.0[a as usize], &self.0[b as usize], threshold)
    }

    fn equal(&self) -> Vec<u32> {
        let mut places: HashMap<&[u32], u32> = HashMap::new();
        (0..).zip(&self.0).map(|(place, set)| *places.entry(set).or_insert(place)).collect()
    }

    /// The minimum hashes of two sets agree with the probability of their similarity.
    fn agreement(&self, similarity: f64) -> f64 {
        similarity
    }

    fn signatures(&self, items: &[u32], bands: Bands, seed: &Seed) -> Vec<Vec<u64>> {
        let functions = bands.functions(seed);
        items.par_iter().map(|item| bands.of_set(&self.0[*item as usize], &functions)).collect()
    }
}
