//! The `track` kind: writes the curves and results of other stages for TensorBoard, Weights & Biases and MLflow.

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
    /// Also writes offline runs of Weights & Biases, which `wandb sync` uploads. If absent, there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wandb: Option<Wandb>,
    /// Also sends the runs to an MLflow server when the build has ended. The environment names the server:
    /// `MLFLOW_TRACKING_URI`, and `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`.
    /// If it cannot be reached, the build warns, and the next build, or `raisin track push`, sends the runs. If absent,
    /// nothing is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<Mlflow>,
}

/// Where the runs stand in Weights & Biases.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wandb {
    /// The project. `wandb sync --project` gives another one.
    pub project: String,
}

/// Where the runs stand in MLflow.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mlflow {
    /// The experiment. It is made if the server does not have it.
    pub experiment: String,
}

impl Kind for TrackKind {
    const NAME: &'static str = "track";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Writes the curves and results of other stages for TensorBoard, Weights & Biases and MLflow.";
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
        check_of(&parameters.of, "there is no stage to track", "such as of = [\"selector\", \"tuned\", \"scores\"]")?;
        let project = parameters.wandb.as_ref().map(|wandb| ("/wandb/project", "project", &wandb.project));
        let experiment =
            parameters.mlflow.as_ref().map(|mlflow| ("/mlflow/experiment", "experiment", &mlflow.experiment));
        match project.into_iter().chain(experiment).find(|(_, _, name)| name.trim().is_empty()) {
            Some((at, what, _)) => Err(ParameterProblem::new(at, format!("the {what} has no name"))),
            None => Ok(()),
        }
    }
}
