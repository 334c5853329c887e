//! Runs a stage of kind `generate`: writes a synthetic pool, its task, and a pre-training text.
//!
//! In this pool it is known which rows help, so that a test can show whether a selection method finds them. The label of a
//! row says it. Only the method `oracle` reads the label.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};

use raisin_base::error::Result;
use raisin_contract::Context;
use raisin_corpus::artifact::{instructions_batch, task_batches};
use raisin_corpus::pool::{SourceSummary, grouped, sources_batch};
use raisin_corpus::synthetic::mix;
use raisin_corpus::{Extract, Scored, ScoringRule};
use raisin_kinds::generate::Parameters;
use raisin_table::{self as table, WriteTable as _};

/// The longest answer has seven bytes. More tokens are allowed for a model that has not learned to end its answer.
const MAX_NEW_TOKENS: usize = 16;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let made = mix(&parameters, &context.seed())?;
    let records = made.pool.len() as u64;
    let source = SourceSummary { file: "synthetic".to_owned(), format: "synthetic".to_owned(), records, rejected: 0 };
    context.write_table("instructions", &instructions_batch(&made.pool)?)?;
    context.write_table("sources", &sources_batch(&[source])?)?;
    let [validation, test] = task_batches(&made.validation, &made.test)?;
    context.write_table("validation", &validation)?;
    context.write_table("test", &test)?;
    if !made.pretraining.is_empty() {
        let texts = made.pretraining.iter().map(|(prompt, response)| chat_text(prompt, response));
        let rows = table::batch(vec![
            ("text", Arc::new(StringArray::from_iter_values(texts)) as ArrayRef),
            ("prompt", Arc::new(made.pretraining.iter().map(|(prompt, _)| Some(prompt)).collect::<StringArray>())),
            ("response", Arc::new(made.pretraining.iter().map(|(_, text)| Some(text)).collect::<StringArray>())),
        ])?;
        context.write_table("pretraining", &rows)?;
    }
    let scoring = ScoringRule { by: Scored::Match, extract: Some(Extract::Exact), max_new_tokens: MAX_NEW_TOKENS };
    context.write_json("task.json", &scoring)?;
    context.note(format!(
        "{} synthetic instructions, {} validation and {} test examples",
        grouped(records),
        grouped(made.validation.len() as u64),
        grouped(made.test.len() as u64),
    ));
    Ok(())
}

/// The chat as the template of the byte-level tokenizer renders it.
fn chat_text(prompt: &str, response: &str) -> String {
    format!("<|user|>{prompt}<|end|><|assistant|>{response}<|end|>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_contract::{Assignment, DType, DeviceKind, Environment};
    use raisin_corpus::{Codec, byte_tokenizer, read_instructions, read_task};
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn the_artifact_is_a_pool_a_task_and_texts_that_the_tiny_model_reads() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let parameters = json!({"size": 100, "validation": 8, "test": 16, "pretraining_size": 50});
        let context = Context::silent(Assignment {
            kind: "generate".into(),
            kind_version: 1,
            stage: "pool".into(),
            parameters: parameters.clone(),
            stages: BTreeMap::new(),
            files: BTreeMap::new(),
            seed: 17,
            environment: Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 },
            threads: 1,
            folder: folder.path().join("stage"),
            tokens: None,
        })?;
        run(serde_json::from_value(parameters)?, &context)?;
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
                raisin_corpus::message::conversation(None, columns[1].value(row), Some(columns[2].value(row)));
            let instruction = raisin_corpus::Instruction { id: 0, messages, label: None };
            let sequence = codec.instruction(&instruction, 128)?.expect("supervised");
            assert_eq!(sequence.tokens, codec.encode(columns[0].value(row))?);
        }
        Ok(())
    }
}
