//! Seeds without global state: every random generator derives from the seed of the pipeline and the place of use.

use crate::random::Rng;

/// A seed from which the seeds of subordinate places derive.
///
/// `Seed::new(17).at("episode").at(3)` depends only on 17, "episode" and 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    pub fn new(pipeline_seed: u64) -> Self {
        Self(blake3::derive_key("raisin seed v1", &pipeline_seed.to_le_bytes()))
    }

    /// The seed of a place: the name of a purpose, or an index within a purpose.
    #[must_use]
    pub fn at(&self, place: impl std::fmt::Display) -> Self {
        Self(*blake3::keyed_hash(&self.0, place.to_string().as_bytes()).as_bytes())
    }

    /// The generator of this place.
    pub fn rng(&self) -> Rng {
        Rng::from_seed(self.0)
    }

    /// 63 bits of the seed, for interfaces that take a number.
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().unwrap_or_default()) >> 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_independent_and_repeatable() {
        let seed = Seed::new(17);
        assert_eq!(seed.at("a").at(1), Seed::new(17).at("a").at(1));
        assert_ne!(seed.at("a").at(1), seed.at("a").at(2));
        assert_ne!(seed.at("a").number(), Seed::new(18).at("a").number());
    }
}
