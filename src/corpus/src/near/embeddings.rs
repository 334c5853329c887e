//! Texts as the embeddings of a language model, compared by their cosine.

use std::collections::HashMap;

use rayon::prelude::*;

use raisin_base::digest::Digest;
use raisin_base::seed::Seed;

use super::{Bands, Comparable, mixed};

/// Embeddings of one width. Their mean is taken off: the hidden states of a language model have a large common part, with
/// which all texts would look alike. Then each has the length 1.
pub struct Embeddings {
    width: usize,
    /// Row by row. A row without an embedding has zeros.
    values: Vec<f32>,
    is_missing: Vec<bool>,
    /// For each row the first row with the same embedding.
    equal: Vec<u32>,
}

impl Embeddings {
    /// `values` has `width` numbers for each row. `is_missing` says which rows have no embedding.
    pub fn new(mut values: Vec<f32>, width: usize, mut is_missing: Vec<bool>) -> Self {
        let width = width.max(1);
        let equal = equal_rows(&values, width, &is_missing);
        let mut mean = vec![0.0_f64; width];
        let present = is_missing.iter().filter(|missing| !**missing).count().max(1) as f64;
        for (row, _) in values.chunks(width).zip(&is_missing).filter(|(_, missing)| !**missing) {
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value) / present);
        }
        let centred = |(row, missing): (&mut [f32], &mut bool)| {
            row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= *mean as f32);
            let length = dot(row, row).sqrt();
            *missing |= !length.is_finite();
            // A row at the mean has no direction, and a similarity of 0 to all others.
            let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
            row.iter_mut().for_each(|value| *value = if *missing { 0.0 } else { *value * scale });
        };
        values.par_chunks_mut(width).zip(is_missing.par_iter_mut()).for_each(centred);
        Self { width, values, is_missing, equal }
    }

    fn row(&self, row: u32) -> &[f32] {
        &self.values[row as usize * self.width..][..self.width]
    }

    /// The sides of random planes on which the rows lie (Charikar, "Similarity estimation techniques from rounding
    /// algorithms", 2002), one plane for each hash.
    fn planes(&self, count: usize, seed: &Seed) -> Vec<f32> {
        let signs = |plane: usize| {
            let mut rng = seed.at("plane").at(plane).rng();
            (0..self.width).map(move |_| if rng.below(2) == 0 { 1.0 } else { -1.0 })
        };
        (0..count).flat_map(signs).collect()
    }
}

impl Comparable for Embeddings {
    fn count(&self) -> usize {
        self.is_missing.len()
    }

    fn is_empty(&self, item: u32) -> bool {
        self.is_missing[item as usize]
    }

    fn equal(&self) -> Vec<u32> {
        self.equal.clone()
    }

    /// The cosine, from -1 to 1.
    fn similarity(&self, a: u32, b: u32) -> f64 {
        f64::from(dot(self.row(a), self.row(b)).clamp(-1.0, 1.0))
    }

    /// Two vectors with an angle of a lie on the same side of a random plane with the probability 1 - a/pi.
    fn agreement(&self, similarity: f64) -> f64 {
        1.0 - similarity.clamp(-1.0, 1.0).acos() / std::f64::consts::PI
    }

    fn signatures(&self, items: &[u32], bands: Bands, seed: &Seed) -> Vec<Vec<u64>> {
        let planes = self.planes(bands.bands * bands.rows, seed);
        let of_band = |row: &[f32], planes: &[f32]| {
            planes
                .chunks(self.width)
                .fold(0, |hash, plane| mixed(hash ^ u64::from(dot(row, plane) >= 0.0)).rotate_left(7))
        };
        let of_item = |item: &u32| {
            planes.chunks(self.width * bands.rows).map(|planes| of_band(self.row(*item), planes)).collect()
        };
        items.par_iter().map(of_item).collect()
    }
}

/// For each row the first one with the same bits.
fn equal_rows(values: &[f32], width: usize, is_missing: &[bool]) -> Vec<u32> {
    let digest = |row: &[f32]| Digest::of(&row.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    let digests: Vec<Digest> = values.par_chunks(width).map(digest).collect();
    let mut first: HashMap<Digest, u32> = HashMap::new();
    let rows = (0..).zip(digests).zip(is_missing);
    rows.map(|((row, digest), missing)| if *missing { row } else { *first.entry(digest).or_insert(row) }).collect()
}

/// The dot product, in eight sums side by side, which the processor adds at once.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near::groups;

    /// Random directions; every third row is an earlier one with a little noise.
    fn embeddings(count: usize, width: usize) -> Vec<f32> {
        let mut rng = Seed::new(5).rng();
        let mut number = || rng.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0;
        let mut values: Vec<f32> = Vec::new();
        for row in 0..count {
            for place in 0..width {
                let noise = number();
                values.push(if row % 3 == 2 { values[(row - 2) * width + place] + 0.2 * noise } else { noise + 3.0 });
            }
        }
        values
    }

    #[test]
    fn nearly_all_pairs_of_brute_force_are_found_and_no_other_pair_is_joined() {
        let (count, width) = (300, 40);
        let items = Embeddings::new(embeddings(count, width), width, vec![false; count]);
        let threshold = 0.95;
        let bands = Bands::of_threshold(items.agreement(threshold), 128);
        assert!(bands.rows > 4, "{bands:?}");
        let found = groups(&items, threshold, bands, &Seed::new(9), |_| ());
        let (mut pairs, mut joined) = (0, 0);
        for (a, b) in (0..count as u32).flat_map(|b| (0..b).map(move |a| (a, b))) {
            let is_alike = items.similarity(a, b) >= threshold;
            let is_joined = found.first[a as usize] == found.first[b as usize];
            pairs += u32::from(is_alike);
            joined += u32::from(is_alike && is_joined);
            assert!(is_alike || !is_joined || b % 3 == 2, "{a} and {b}");
        }
        assert!(pairs >= 90, "{pairs}");
        assert!(joined * 100 >= pairs * 95, "{joined} of {pairs}");
    }

    #[test]
    fn planes_agree_as_often_as_the_angle_says() {
        let items = Embeddings::new(vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, -1.0, 0.0], 3, vec![false; 3]);
        let bands = Bands { bands: 4000, rows: 1 };
        let signatures = items.signatures(&[0, 1], bands, &Seed::new(3));
        let equal = signatures[0].iter().zip(&signatures[1]).filter(|(a, b)| a == b).count() as f64 / 4000.0;
        // In three dimensions the signs of the planes are few; the angle is 90 degrees.
        assert!((equal - items.agreement(items.similarity(0, 1))).abs() < 0.05, "{equal}");
    }

    #[test]
    fn equal_rows_are_alike_also_if_all_rows_are_equal() {
        let items = Embeddings::new([0.1_f32, 0.7, 0.3].repeat(4), 3, vec![false; 4]);
        let found = groups(&items, 1.0, Bands { bands: 8, rows: 2 }, &Seed::new(1), |_| ());
        assert_eq!(found.first, [0, 0, 0, 0]);
    }

    #[test]
    fn rows_without_an_embedding_and_rows_at_the_mean_are_alike_to_none() {
        let values = vec![1.0, 0.0, 3.0, 0.0, 2.0, 0.0, 9.0, 9.0];
        let items = Embeddings::new(values, 2, vec![false, false, false, true]);
        assert_eq!((0..4).map(|item| items.is_empty(item)).collect::<Vec<_>>(), [false, false, false, true]);
        assert!((items.similarity(0, 1) + 1.0).abs() < 1e-6, "on both sides of the mean");
        let found = groups(&items, 0.9, Bands { bands: 8, rows: 2 }, &Seed::new(1), |_| ());
        assert_eq!(found.first, [0, 1, 2, 3]);
    }
}
