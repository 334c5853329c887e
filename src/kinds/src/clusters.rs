//! The `clusters` kind: the static part of the fused state of every candidate, and the cluster of the candidate
//! (docs/method.md, section 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::{check_distinct, number, numbers, outputs};

pub struct ClustersKind;

/// Parameters of a `clusters` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose features are reduced and grouped.
    pub features: String,
    /// Stages with further numbers of each instruction, such as `influence` stages. Their columns join the static state
    /// under the name of the kind, for example as `influence.relative_drop`. At most one stage of a kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The number of dimensions that an embedding is reduced to.
    #[serde(default = "number::<32>")]
    pub dimensions: usize,
    /// C: the number of clusters.
    #[serde(default = "number::<4>")]
    pub clusters: usize,
    /// Scales every reduced dimension to variance 1 in the state. k-means runs on the principal components without this
    /// scaling, because scaling would give directions of noise as much weight as the directions that separate
    /// candidates.
    #[serde(default = "default_whiten")]
    pub whiten: bool,
    /// The largest number of iterations of k-means.
    #[serde(default = "number::<100>")]
    pub iterations: usize,
    /// The number of starts of k-means. The start with the tightest clusters is kept.
    #[serde(default = "number::<4>")]
    pub starts: usize,
}

fn default_whiten() -> bool {
    true
}

impl Kind for ClustersKind {
    const NAME: &'static str = "clusters";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Reduces and standardises features into each candidate's state, and groups candidates.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["clusters"];
    const TABLES: &'static [TableDeclaration] = outputs::clusters::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::clusters::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::clusters::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/features", &parameters.features, "features");
        for (place, stage) in parameters.columns.iter().enumerate() {
            needs.stage(format!("/columns/{place}"), stage, "columns");
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        check_distinct("/columns", &parameters.columns, String::clone)?;
        let Parameters { dimensions, clusters, iterations, starts, .. } = *parameters;
        numbers::counts(&[
            ("dimensions", dimensions),
            ("clusters", clusters),
            ("iterations", iterations),
            ("starts", starts),
        ])
    }
}
