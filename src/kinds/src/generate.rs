//! The `generate` kind: makes a synthetic pool with known labels, a task, and a text to pre-train a base model on.

use raisin_contract::outputs::{ExamplePipeline, FileDeclaration, TableDeclaration};
use raisin_contract::{Kind, Needs, ParameterProblem, Process};
pub use raisin_settings::Mix as Parameters;

use crate::{check_distinct, outputs, word};

/// The id of a row is a 32-bit number.
const MOST_ROWS: usize = u32::MAX as usize;

pub struct GenerateKind;

impl Kind for GenerateKind {
    const NAME: &'static str = "generate";
    const VERSION: u32 = 5;
    const ABOUT: &'static str =
        "Makes a seeded synthetic pool in which selection matters: a small part of it teaches the task.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["instructions", "task"];
    const TABLES: &'static [TableDeclaration] = outputs::generate::TABLES;
    const FILES: &'static [&'static [FileDeclaration]] = outputs::generate::FILES;
    const EXAMPLES: &'static [ExamplePipeline] = outputs::generate::EXAMPLES;
    type Parameters = Parameters;

    fn needs(_: &Parameters, _: &mut Needs) {}

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let problem = |key: &str, message: String| Err(ParameterProblem::new(format!("/{key}"), message));
        let Parameters { size, relevant, wrong, corrupted, redundant, validation, test, .. } = *parameters;
        for (key, share) in [
            ("relevant", relevant),
            ("wrong", wrong),
            ("corrupted", corrupted),
            ("redundant", redundant),
            ("target_share_in_pretraining", parameters.target_share_in_pretraining),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return problem(key, format!("a share lies between 0 and 1, and this is {share}"));
            }
        }
        let sum = relevant + wrong + corrupted + redundant;
        if sum > 1.0 + 1e-9 {
            let message = format!("relevant, wrong, corrupted and redundant sum to {sum:.3}, more than 1");
            return problem("corrupted", message);
        }
        let pretraining = parameters.pretraining_size;
        for (key, count) in
            [("size", size), ("validation", validation), ("test", test), ("pretraining_size", pretraining)]
        {
            if count > MOST_ROWS {
                return problem(key, format!("{count} rows are more than the limit of {MOST_ROWS}"));
            }
        }
        if size == 0 {
            return problem("size", "a pool of 0 instructions is empty".to_owned());
        }
        for (split, count) in [("validation", validation), ("test", test)] {
            if count == 0 {
                return problem(split, format!("a task needs at least one {split} example"));
            }
        }
        check_distinct("/families", &parameters.families, word)?;
        check_distinct("/targets", &parameters.targets, word)?;
        if parameters.targets.is_empty() {
            return problem("targets", "the task needs at least one target skill".to_owned());
        }
        if parameters.families.iter().all(|family| parameters.targets.contains(family)) {
            let message = "every skill is a target: no skill is left for the irrelevant instructions";
            return Err(ParameterProblem::new("/families", message)
                .hint("name skills that are not targets, or leave `families` out"));
        }
        Ok(())
    }
}
