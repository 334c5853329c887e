//! The `clusters` kind: the static part of the fused state of every candidate, and its cluster (docs/method.md, section 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};

pub struct Clusters;

/// Parameters of a `clusters` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose features are reduced and grouped.
    pub features: String,
    /// Numbers that an embedding is reduced to.
    #[serde(default = "default_dimensions")]
    pub dimensions: usize,
    /// C: how many clusters k-means makes.
    #[serde(default = "default_clusters")]
    pub clusters: usize,
    /// Scale every reduced dimension to variance 1 in the state. k-means itself runs on the principal components as
    /// they are: whitened, directions of noise would count as much as those that tell candidates apart.
    #[serde(default = "default_whiten")]
    pub whiten: bool,
    /// k-means ends after this many iterations, if not before.
    #[serde(default = "default_iterations")]
    pub iterations: usize,
    /// k-means is started this often; the tightest clusters are kept.
    #[serde(default = "default_starts")]
    pub starts: usize,
}

fn default_dimensions() -> usize {
    32
}

fn default_clusters() -> usize {
    4
}

fn default_whiten() -> bool {
    true
}

fn default_iterations() -> usize {
    100
}

fn default_starts() -> usize {
    4
}

impl Kind for Clusters {
    const NAME: &'static str = "clusters";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "Reduces and standardises features into each candidate's state, and groups candidates.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["clusters"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/features", &parameters.features, "features");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        for (key, value) in [
            ("dimensions", parameters.dimensions),
            ("clusters", parameters.clusters),
            ("iterations", parameters.iterations),
            ("starts", parameters.starts),
        ] {
            if value == 0 {
                return Err(ParameterProblem::new(format!("/{key}"), "must be at least 1"));
            }
        }
        Ok(())
    }
}
