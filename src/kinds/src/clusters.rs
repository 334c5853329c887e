//! The `clusters` kind: the static part of the fused state of every candidate, and the cluster of the candidate
//! (docs/method.md, section 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::{check_distinct, numbers, outputs};

pub struct ClustersKind;

/// Parameters of a `clusters` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose features are reduced and grouped.
    pub features: String,
    /// The pool of the features. With it, the state has a column for each source of the pool, such as
    /// `source.code.jsonl`: 1 for the rows of the source, 0 for the others. A source is a file, or the name that a `filter`
    /// gave to rows as `source`. The pool needs 2 to 32 sources for this. If absent, the state has no such columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Stages with further numbers of each instruction, such as `influence` stages. Their columns join the static state
    /// under the name of the kind, for example as `influence.relative_drop`. At most one stage of a kind. If absent,
    /// the state has only the numbers of the features.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Another `clusters` stage. The rows get the principal components, the scales and the clusters of that stage, so
    /// that the numbers of a state mean the same in both. So a policy that was trained with that stage can select from
    /// these rows. Both need features of the same model. With `like`, leave out `dimensions`, `clusters`, `whiten`,
    /// `iterations` and `starts`. If absent, the components, scales and clusters come from the rows themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// The number of dimensions that an embedding is reduced to.
    #[serde(skip_serializing_if = "is_usual::<DIMENSIONS>")]
    #[schemars(extend("default" = DIMENSIONS))]
    pub dimensions: Option<usize>,
    /// C: the number of clusters.
    #[serde(skip_serializing_if = "is_usual::<CLUSTERS>")]
    #[schemars(extend("default" = CLUSTERS))]
    pub clusters: Option<usize>,
    /// Scales every reduced dimension to variance 1 in the state. k-means runs on the principal components without this
    /// scaling, because scaling would give directions of noise as much weight as the directions that separate
    /// candidates.
    #[serde(skip_serializing_if = "is_whitened")]
    #[schemars(extend("default" = WHITEN))]
    pub whiten: Option<bool>,
    /// The largest number of iterations of k-means.
    #[serde(skip_serializing_if = "is_usual::<ITERATIONS>")]
    #[schemars(extend("default" = ITERATIONS))]
    pub iterations: Option<usize>,
    /// The number of starts of k-means. The start with the tightest clusters is kept. Of more than 65,536 rows, the starts
    /// cluster a sample of so many rows, and only the best one goes on with all rows.
    #[serde(skip_serializing_if = "is_usual::<STARTS>")]
    #[schemars(extend("default" = STARTS))]
    pub starts: Option<usize>,
}

const DIMENSIONS: usize = 32;
const CLUSTERS: usize = 4;
const WHITEN: bool = true;
const ITERATIONS: usize = 100;
const STARTS: usize = 4;

/// A default that the file writes out has the same key as a default that it leaves out.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn is_usual<const USUAL: usize>(number: &Option<usize>) -> bool {
    number.is_none_or(|number| number == USUAL)
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference to the field")]
fn is_whitened(whiten: &Option<bool>) -> bool {
    whiten.is_none_or(|whiten| whiten == WHITEN)
}

impl Parameters {
    pub fn dimensions(&self) -> usize {
        self.dimensions.unwrap_or(DIMENSIONS)
    }

    pub fn clusters(&self) -> usize {
        self.clusters.unwrap_or(CLUSTERS)
    }

    pub fn whiten(&self) -> bool {
        self.whiten.unwrap_or(WHITEN)
    }

    pub fn iterations(&self) -> usize {
        self.iterations.unwrap_or(ITERATIONS)
    }

    pub fn starts(&self) -> usize {
        self.starts.unwrap_or(STARTS)
    }

    /// The first parameter that is given and that `like` decides.
    fn decided_by_like(&self) -> Option<&'static str> {
        let given = [
            ("dimensions", self.dimensions.is_some()),
            ("clusters", self.clusters.is_some()),
            ("whiten", self.whiten.is_some()),
            ("iterations", self.iterations.is_some()),
            ("starts", self.starts.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(key, _)| key)
    }
}

impl Kind for ClustersKind {
    const NAME: &'static str = "clusters";
    const VERSION: u32 = 6;
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
        if let Some(instructions) = &parameters.instructions {
            needs.stage("/instructions", instructions, "instructions");
        }
        for (place, stage) in parameters.columns.iter().enumerate() {
            needs.stage(format!("/columns/{place}"), stage, "columns");
        }
        if let Some(like) = &parameters.like {
            needs.stage("/like", like, "clusters");
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        check_distinct("/columns", &parameters.columns, String::clone)?;
        if let (Some(like), Some(key)) = (&parameters.like, parameters.decided_by_like()) {
            let problem = format!("`like` takes it from the stage `{like}`; leave it out");
            return Err(ParameterProblem::new(format!("/{key}"), problem));
        }
        numbers::counts(&[
            ("dimensions", parameters.dimensions()),
            ("clusters", parameters.clusters()),
            ("iterations", parameters.iterations()),
            ("starts", parameters.starts()),
        ])
    }
}
