//! The `export` kind: writes the selected instructions for other training programs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::{check_distinct, is_off, outputs, word};

pub struct ExportKind;

/// The form of a file of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportForm {
    /// `{"messages": [{"role", "content", ...}], "tools"?}`: holds every conversation. The usual form of TRL.
    Messages,
    /// `{"conversations": [{"from", "value"}], "system", "tools"}`: no thoughts beside the text of a turn.
    Sharegpt,
    /// `{"instruction", "input", "output", "system", "history"}`: only texts, in turns of user and assistant.
    Alpaca,
}

impl ExportForm {
    /// The word of the form, which is also the name of its file.
    pub fn name(self) -> String {
        word(&self)
    }
}

/// Parameters of an `export` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose table `selection` has the rows and their order. Of a `selector`, the last round counts.
    pub selection: String,
    /// The pool from which that stage selected.
    pub instructions: String,
    /// The forms to write.
    #[serde(default = "default_forms")]
    pub forms: Vec<ExportForm>,
    /// Writes an instruction as often as it was selected. By default it is written once, at its first place, and its
    /// `weight` is the number of times.
    #[serde(default, skip_serializing_if = "is_off")]
    pub repeat: bool,
}

fn default_forms() -> Vec<ExportForm> {
    vec![ExportForm::Messages]
}

impl Kind for ExportKind {
    const NAME: &'static str = "export";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "Writes the selected instructions, in their order, for other training programs.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    const TABLES: &'static [TableDeclaration] = outputs::export::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::export::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::export::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/selection", &parameters.selection, "selection");
        needs.stage("/instructions", &parameters.instructions, "instructions");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        if parameters.forms.is_empty() {
            let problem = ParameterProblem::new("/forms", "an export needs at least one form");
            return Err(problem.hint("such as forms = [\"messages\"]"));
        }
        check_distinct("/forms", &parameters.forms, word)
    }
}
