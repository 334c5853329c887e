//! The `generate` kind: a synthetic pool, its task, and what a base model may have read before.
//!
//! The first question to a selection method is whether it finds what helps where one knows what helps. Rows carry
//! their label; no method but the oracle reads it.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Kind, Needs, ParameterProblem, Process};
use crate::corpus::artifact::{examples_batch, instructions_batch};
use crate::corpus::pool::{SourceSummary, grouped, sources_batch};
use crate::corpus::synthetic::{Family, Mix, mix};
use crate::corpus::{Extract, Scored, Scoring};
use crate::error::Result;
use crate::table;

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

/// The longest answer has six or seven bytes; the rest is room for a model that has not learnt to stop.
const MAX_NEW_TOKENS: usize = 16;

pub struct Generate;

impl Kind for Generate {
    const NAME: &'static str = "generate";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Makes a seeded synthetic pool with the structure that makes selection matter.";
    const PROCESS: Process = Process::Light;
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

    fn run(parameters: Parameters, context: &Context) -> Result<()> {
        let made = mix(
            &Mix {
                size: parameters.size,
                relevant: parameters.relevant,
                wrong: parameters.wrong,
                corrupted: parameters.corrupted,
                redundant: parameters.redundant,
                families: parameters.families,
                targets: parameters.targets,
                validation: parameters.validation,
                test: parameters.test,
                pretraining: parameters.pretraining_size,
                target_share_in_pretraining: parameters.target_share_in_pretraining,
            },
            &context.seed(),
        )?;
        let records = made.pool.len() as u64;
        let source =
            SourceSummary { file: "synthetic".to_owned(), format: "synthetic".to_owned(), records, rejected: 0 };
        context.write_table("instructions", &instructions_batch(&made.pool)?)?;
        context.write_table("sources", &sources_batch(&[source])?)?;
        context.write_table("validation", &examples_batch(&made.validation)?)?;
        context.write_table("test", &examples_batch(&made.test)?)?;
        if !made.pretraining.is_empty() {
            let texts = made.pretraining.iter().map(|(prompt, response)| chat_text(prompt, response));
            let rows = table::batch(vec![
                ("text", Arc::new(StringArray::from_iter_values(texts)) as ArrayRef),
                ("prompt", Arc::new(made.pretraining.iter().map(|(prompt, _)| Some(prompt)).collect::<StringArray>())),
                ("response", Arc::new(made.pretraining.iter().map(|(_, text)| Some(text)).collect::<StringArray>())),
            ])?;
            context.write_table("pretraining", &rows)?;
        }
        let scoring = Scoring { by: Scored::Match, extract: Some(Extract::Exact), max_new_tokens: MAX_NEW_TOKENS };
        context.write_json("task.json", &scoring)?;
        context.note(format!(
            "{} synthetic instructions, {} validation and {} test examples",
            grouped(records),
            grouped(made.validation.len() as u64),
            grouped(made.test.len() as u64),
        ));
        Ok(())
    }
}

/// The chat as the byte-level tokenizer's template renders it.
fn chat_text(prompt: &str, response: &str) -> String {
    format!("<|user|>{prompt}<|end|><|assistant|>{response}<|end|>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{Codec, byte_tokenizer, read_instructions, read_task};
    use crate::stages::{Assignment, DType, DeviceKind, Environment};
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn the_artifact_is_a_pool_a_task_and_texts_that_the_tiny_model_reads() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let parameters = json!({"size": 100, "validation": 8, "test": 16, "pretraining_size": 50});
        let context = Context::silent(Assignment {
            kind: "generate".into(),
            stage: "pool".into(),
            parameters: parameters.clone(),
            stages: BTreeMap::new(),
            files: BTreeMap::new(),
            seed: 17,
            environment: Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 },
            threads: 1,
            folder: folder.path().join("stage"),
        })?;
        Generate::run(serde_json::from_value(parameters)?, &context)?;
        let pool = read_instructions(&context.out())?;
        let task = read_task(&context.out())?;
        assert_eq!((pool.len(), task.validation.len(), task.test.len()), (100, 8, 16));
        assert!(pool.iter().all(|row| row.label.is_some()));
        byte_tokenizer::write(folder.path(), 256)?;
        let codec = Codec::load(folder.path())?;
        let texts = table::read(&context.out().join("pretraining.parquet"))?;
        let columns: Vec<&StringArray> =
            ["text", "prompt", "response"].iter().map(|name| table::column(&texts, name)).collect::<Result<_>>()?;
        for row in 0..texts.num_rows() {
            let messages =
                crate::corpus::message::conversation(None, columns[1].value(row), Some(columns[2].value(row)));
            let instruction = crate::corpus::Instruction { id: 0, messages, label: None };
            let sequence = codec.instruction(&instruction, 128)?.expect("supervised");
            assert_eq!(sequence.tokens, codec.encode(columns[0].value(row))?);
        }
        Ok(())
    }

    #[test]
    fn shares_that_cannot_be_are_refused() {
        let pointer = |parameters: serde_json::Value| {
            Generate::check(&serde_json::from_value(parameters).expect("parameters")).expect_err("refused").pointer
        };
        assert_eq!(pointer(json!({"relevant": 0.7, "corrupted": 0.4})), "/corrupted");
        assert_eq!(pointer(json!({"wrong": -0.1})), "/wrong");
        assert_eq!(pointer(json!({"families": ["add"], "targets": ["add"]})), "/families");
        assert_eq!(pointer(json!({"targets": []})), "/targets");
    }
}
