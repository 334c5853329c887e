//! The `report` kind: writes one HTML page about the results of other stages, and the comparison of methods as a table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, PipelineSetup, Process};

use crate::{check_of, need_all, outputs};

pub struct ReportKind;

/// Parameters of a `report` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stages to report, each once, in any order: selectors, fine-tunes and evaluations. A `clusters` stage shows
    /// the clusters of what methods without features selected. The page covers all variants of the stages.
    pub of: Vec<String>,
    /// The page's heading. If absent, it is the name of the pipeline.
    #[serde(default)]
    pub title: Option<String>,
    /// The method that the other methods are compared with.
    #[serde(default = "default_baseline")]
    pub baseline: String,
    /// What the loader of the pipeline fills in.
    #[serde(default)]
    #[schemars(skip)]
    pub setup: Option<PipelineSetup>,
}

fn default_baseline() -> String {
    "random".to_owned()
}

impl Kind for ReportKind {
    const NAME: &'static str = "report";
    const VERSION: u32 = 13;
    const ABOUT: &'static str = "Compares methods over seeds, with plots of learning and selection, on one HTML page.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const GATHERS: bool = true;
    const SHOWS_SETUP: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    const TABLES: &'static [TableDeclaration] = outputs::report::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::report::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::report::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        need_all(&parameters.of, needs, |_| true);
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let hint = "such as of = [\"selector\", \"tuned\", \"scores\"]";
        check_of(&parameters.of, "a report needs at least one stage", hint)
    }
}
