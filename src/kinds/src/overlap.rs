//! The `overlap` kind: finds the instructions that share text with the examples of a task, and gives the pool without
//! them (docs/method.md, section 8).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};

use crate::{number, outputs};

pub struct OverlapKind;

/// Which instructions are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeftOut {
    /// No instruction: the overlap is only reported.
    None,
    /// Instructions that overlap a test example. Training may look at validation examples in any case.
    #[default]
    Test,
    /// Instructions that overlap a test example or a validation example.
    Both,
}

/// Parameters of an `overlap` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose instructions are searched.
    pub instructions: String,
    /// The stage whose validation and test examples are searched for.
    pub task: String,
    /// An example overlaps an instruction if they have this number of words in a row in common, regardless of case and
    /// punctuation. The words may be in any turn of the example except the system text and the response. An example
    /// with fewer words in each turn overlaps an instruction that asks exactly the same.
    #[serde(default = "number::<13>")]
    pub ngram: usize,
    /// Words in a row that more than this number of examples have in common belong to the template of the task and do
    /// not count. If absent, all words count.
    #[serde(default)]
    pub common: Option<usize>,
    /// The instructions that are missing when another stage uses this stage as `instructions`: `none`, `test` (those
    /// that overlap a test example) or `both` (those that overlap a test or a validation example).
    #[serde(default)]
    pub drop: LeftOut,
}

impl Kind for OverlapKind {
    const NAME: &'static str = "overlap";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "Finds instructions that overlap a task's examples, and gives the pool without them.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["instructions", "overlap"];
    const TABLES: &'static [TableDeclaration] = outputs::overlap::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::overlap::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::overlap::EXAMPLES;
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        needs.stage("/task", &parameters.task, "task");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        if parameters.ngram == 0 {
            return Err(ParameterProblem::new("/ngram", "must be at least 1 word"));
        }
        if parameters.common == Some(0) {
            let problem =
                ParameterProblem::new("/common", "every word is in at least 1 example, so that no word would count");
            return Err(problem.hint("leave `common` out to count all words"));
        }
        Ok(())
    }
}
