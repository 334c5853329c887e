//! The `overlap` kind: which instructions share text with the examples of a task, and the pool without them
//! (docs/method.md, section 8).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};

pub struct Overlap;

/// Which instructions are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeftOut {
    /// None: the overlap is reported only.
    None,
    /// Those that overlap a test example. Training may look at the validation examples anyway.
    #[default]
    Test,
    /// Those that overlap a test or a validation example.
    Both,
}

/// Parameters of an `overlap` stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The stage whose instructions are looked through.
    pub instructions: String,
    /// The stage whose validation and test examples are looked for.
    pub task: String,
    /// An example overlaps an instruction that has so many words of its prompt in a row, case and punctuation aside. One
    /// with a shorter prompt overlaps an instruction that asks the very same.
    #[serde(default = "default_ngram")]
    pub ngram: usize,
    /// Words in a row that more examples than this have are the task's template, and no sign of overlap. If absent, all
    /// count.
    #[serde(default)]
    pub common: Option<usize>,
    /// Which instructions this stage leaves out where it is used as `instructions`: `none`, `test` (those that overlap a test
    /// example) or `both` (a validation example, too).
    #[serde(default)]
    pub drop: LeftOut,
}

fn default_ngram() -> usize {
    13
}

impl Kind for Overlap {
    const NAME: &'static str = "overlap";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Finds instructions that overlap a task's examples, and gives the pool without them.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["instructions", "overlap"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        needs.stage("/instructions", &parameters.instructions, "instructions");
        needs.stage("/task", &parameters.task, "task");
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        if parameters.ngram == 0 {
            return Err(ParameterProblem::new("/ngram", "no text has words in a row of length 0"));
        }
        if parameters.common == Some(0) {
            let problem = ParameterProblem::new("/common", "nothing is in no example, so nothing would count");
            return Err(problem.hint("leave `common` out to count all words in a row"));
        }
        Ok(())
    }
}
