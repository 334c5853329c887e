//! The `generate` kind: a synthetic pool with known labels, its task, and what a base model may have read before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use raisin_contract::{Kind, Needs, ParameterProblem, Process};
use raisin_settings::Family;

/// A synthetic pool with known labels, its task, and a pre-training text.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// How many instructions the pool has.
    pub size: usize,
    /// The share of them that teaches the target skills.
    pub relevant: f64,
    /// The share that asks for the target skills and answers wrongly.
    pub wrong: f64,
    /// The share that asks for other skills and answers wrongly.
    pub corrupted: f64,
    /// The share of near-copies of a few clean instructions. What is left is clean and irrelevant.
    pub redundant: f64,
    /// All skills.
    pub families: Vec<Family>,
    /// The skills that the task asks for.
    pub targets: Vec<Family>,
    /// How many validation examples.
    pub validation: usize,
    /// How many test examples.
    pub test: usize,
    /// How many short texts for pre-training a base model; 0 writes none.
    pub pretraining_size: usize,
    /// The share of the target skills in these.
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

pub struct Generate;

impl Kind for Generate {
    const NAME: &'static str = "generate";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Makes a seeded synthetic pool with the structure that makes selection matter.";
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
        if parameters.validation == 0 {
            return Err(problem("/validation", "a task needs at least one validation example".to_owned()));
        }
        if parameters.test == 0 {
            return Err(problem("/test", "a task needs at least one test example".to_owned()));
        }
        if parameters.targets.is_empty() {
            return Err(problem("/targets", "the task needs at least one target skill".to_owned()));
        }
        if parameters.families.iter().all(|family| parameters.targets.contains(family)) {
            return Err(problem("/families", "every skill is a target: nothing is left that is irrelevant".to_owned())
                .hint("name skills that are not targets, or leave `families` out"));
        }
        Ok(())
    }
}
