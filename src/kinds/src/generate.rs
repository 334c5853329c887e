//! The `generate` kind: makes a synthetic pool with known labels, a task, and a text to pre-train a base model on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::Family;

use crate::{check_distinct, word};

/// A synthetic pool with known labels, its task, and a pre-training text.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// The number of instructions in the pool.
    pub size: usize,
    /// The share of instructions that ask for a target skill and answer correctly.
    pub relevant: f64,
    /// The share of instructions that ask for a target skill and answer wrongly.
    pub wrong: f64,
    /// The share of instructions that ask for another skill and answer wrongly.
    pub corrupted: f64,
    /// The share of near-copies of a few correct instructions for other skills. The rest of the pool asks for other skills
    /// and answers correctly. If the shares do not give whole numbers of instructions, the largest remainders are rounded
    /// up.
    pub redundant: f64,
    /// The skills that occur.
    pub families: Vec<Family>,
    /// The skills that the task asks for.
    pub targets: Vec<Family>,
    /// The number of validation examples.
    pub validation: usize,
    /// The number of test examples.
    pub test: usize,
    /// The number of short texts for the pre-training of a base model; 0 writes no such table.
    pub pretraining_size: usize,
    /// The share of these texts that show a target skill.
    pub target_share_in_pretraining: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            size: 3000,
            relevant: 0.08,
            wrong: 0.06,
            corrupted: 0.25,
            redundant: 0.05,
            families: Family::ALL.to_vec(),
            targets: vec![Family::Add, Family::Sort],
            validation: 64,
            test: 256,
            pretraining_size: 20_000,
            target_share_in_pretraining: 0.02,
        }
    }
}

/// The id of a row is a 32-bit number.
const MOST_ROWS: usize = u32::MAX as usize;

pub struct GenerateKind;

impl Kind for GenerateKind {
    const NAME: &'static str = "generate";
    const VERSION: u32 = 2;
    const ABOUT: &'static str =
        "Makes a seeded synthetic pool in which selection matters: a small part of it teaches the task.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &["instructions", "task"];
    type Parameters = Parameters;

    fn needs(_: &Parameters, _: &mut Needs) {}

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        let problem = ParameterProblem::new;
        let shares = [
            ("/relevant", parameters.relevant),
            ("/wrong", parameters.wrong),
            ("/corrupted", parameters.corrupted),
            ("/redundant", parameters.redundant),
        ];
        for (pointer, share) in
            shares.into_iter().chain([("/target_share_in_pretraining", parameters.target_share_in_pretraining)])
        {
            if !(0.0..=1.0).contains(&share) {
                return Err(problem(pointer, format!("a share lies between 0 and 1, and this is {share}")));
            }
        }
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        if sum > 1.0 + 1e-9 {
            return Err(problem(
                "/corrupted",
                format!("relevant, wrong, corrupted and redundant sum to {sum:.3}, more than 1"),
            ));
        }
        if parameters.size == 0 {
            return Err(problem("/size", "a pool of 0 instructions is empty".to_owned()));
        }
        for (pointer, count) in [
            ("/size", parameters.size),
            ("/validation", parameters.validation),
            ("/test", parameters.test),
            ("/pretraining_size", parameters.pretraining_size),
        ] {
            if count > MOST_ROWS {
                return Err(problem(pointer, format!("{count} rows are more than the limit of {MOST_ROWS}")));
            }
        }
        if parameters.validation == 0 {
            return Err(problem("/validation", "a task needs at least one validation example".to_owned()));
        }
        if parameters.test == 0 {
            return Err(problem("/test", "a task needs at least one test example".to_owned()));
        }
        check_distinct("/families", &parameters.families, word)?;
        check_distinct("/targets", &parameters.targets, word)?;
        if parameters.targets.is_empty() {
            return Err(problem("/targets", "the task needs at least one target skill".to_owned()));
        }
        if parameters.families.iter().all(|family| parameters.targets.contains(family)) {
            return Err(problem(
                "/families",
                "every skill is a target: no skill is left for the irrelevant instructions".to_owned(),
            )
            .hint("name skills that are not targets, or leave `families` out"));
        }
        Ok(())
    }
}
