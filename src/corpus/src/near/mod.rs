//! The search for near-duplicates: texts whose sets of n-grams have a high Jaccard similarity.
//!
//! MinHash (Broder, "On the resemblance and containment of documents", 1997) and banding (Leskovec, Rajaraman and
//! Ullman, "Mining of Massive Datasets", section 3.4) find pairs that may be alike. Each such pair is then compared
//! exactly, so that no pair is joined whose similarity is below the threshold. Rows that are joined by a chain of pairs
//! are one group, even if its ends are less alike.

mod bands;
mod groups;
mod shingles;

pub use bands::Bands;
pub use groups::{Groups, UnionFind, groups};
pub use shingles::{Gram, jaccard, shingles};
