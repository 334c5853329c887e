//! The `track` kind: writes the curves and results of other stages for TensorBoard.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::{check_of, need_all, outputs};

pub struct TrackKind;

/// Parameters of a `track` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stages whose numbers are written, each once: trainings, selectors, evaluations, and programs with tables of
    /// their own. The files cover all variants of the stages.
    pub of: Vec<String>,
}

impl Kind for TrackKind {
    const NAME: &'static str = "track";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Writes the curves and results of other stages for TensorBoard.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const GATHERS: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    const TABLES: &'static [TableDeclaration] = outputs::track::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::track::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::track::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        need_all(&parameters.of, needs, |_| true);
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        check_of(&parameters.of, "there is no stage to track", "such as of = [\"selector\", \"tuned\", \"scores\"]")
    }
}
