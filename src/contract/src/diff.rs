//! What `raisin diff` passes to `raisin-data` as one JSON argument: pairs of artifacts, whose tables are compared.
//! src/report compares them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The pairs to compare.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DiffQuestion {
    pub pairs: Vec<ArtifactPair>,
    /// The maximum number of instructions that are listed for each side of a pair.
    pub most: usize,
}

/// The artifacts of one stage on both sides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ArtifactPair {
    /// The stage with its variant, without the seed: pairs with the same label are repetitions with other seeds.
    pub label: String,
    /// What distinguishes the pair from the other pairs with this label, such as `seed=17`; may be empty.
    pub repetition: String,
    pub artifacts: [PathBuf; 2],
    /// Whether both sides score the same examples, so that they can be paired one by one.
    pub same_examples: bool,
    /// Whether both sides select from the same pool, so that an id means the same row.
    pub same_pool: bool,
}
