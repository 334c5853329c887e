//! `selector`: trains the selection policy by PPO over episodes on a proxy model (docs/method.md, sections 2 to 5). Leaves the
//! learning itself to the selector room, and the training of the target to `finetune`.

use serde::{Deserialize, Serialize};

use super::{Context, Kind, Needs, ParameterProblem, Process};
use crate::error::Result;

mod parameters;
mod run;
mod tables;
#[cfg(test)]
mod tests;

pub use parameters::Parameters;

pub struct Selector;

impl Kind for Selector {
    const NAME: &'static str = "selector";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Trains a policy that selects instructions, by PPO over episodes on a proxy model.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["policy", "selection"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        needs.stage("/features", &parameters.features, "clusters");
        needs.stage("/model", &parameters.model, "model");
        needs.stage("/task", &parameters.task, "task");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        parameters.check()
    }

    fn run(parameters: Parameters, context: &Context) -> Result<()> {
        run::run(&parameters, context)
    }
}

/// Which values fill what a pipeline file does not give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// What learned within 20 episodes in our measurements.
    #[default]
    Default,
    /// The paper's values, where it gives them.
    Paper,
}
