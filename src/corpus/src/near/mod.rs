//! The search for near-duplicates: texts whose sets of n-grams have a high Jaccard similarity, or whose embeddings have
//! a high cosine.
//!
//! Signatures and banding (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4) find pairs that
//! may be alike. The hashes of a signature are minimum hashes for sets (Broder, "On the resemblance and containment of
//! documents", 1997), and sides of random planes for embeddings. Each such pair is then compared exactly, so that no
//! pair is joined whose similarity is below the threshold. Rows that are joined by a chain of pairs are one group, even
//! if its ends are less alike.

mod bands;
mod embeddings;
mod groups;
mod sets;
mod shingles;

pub use bands::Bands;
pub use embeddings::Embeddings;
pub use groups::{Groups, UnionFind, groups};
use raisin_base::seed::Seed;
pub use sets::GramSets;
use shingles::mixed;
pub use shingles::{Gram, shingles};

/// Items that can be compared, with signatures by which alike ones are found.
pub trait Comparable: Sync {
    fn count(&self) -> usize;

    /// Whether there is nothing to compare the item by.
    fn is_empty(&self, item: u32) -> bool;

    fn similarity(&self, a: u32, b: u32) -> f64;

    /// Whether the similarity reaches a threshold above 0.
    fn reaches(&self, a: u32, b: u32, threshold: f64) -> bool {
        self.similarity(a, b) >= threshold
    }

    /// For each item the first one that is equal to it, as far as this is cheap to know.
    fn equal(&self) -> Vec<u32> {
        (0..self.count() as u32).collect()
    }

    /// The probability that a hash of two items of this similarity agrees.
    fn agreement(&self, similarity: f64) -> f64;

    /// One hash for each band of the signatures of the items, none of which is empty.
    fn signatures(&self, items: &[u32], bands: Bands, seed: &Seed) -> Vec<Vec<u64>>;
}
