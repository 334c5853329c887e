//! Runs a stage of kind `generate`: writes a synthetic pool, its task, and a pre-training text.
//!
//! The label of each row of this pool says whether the row helps. A test can thus show whether a selection method finds
//! the rows that help. Only the method `oracle` reads the label.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};

use crate::task::write_task;
use raisin_base::error::Result;
use raisin_contract::Context;
use raisin_corpus::artifact::instructions_batch;
use raisin_corpus::intake::{SourceSummary, counted, grouped, sources_batch};
use raisin_corpus::synthetic::mix;
use raisin_corpus::{Extract, Scored, ScoringRule};
use raisin_kinds::generate::Parameters;
use raisin_table::{self as table, WriteTable as _};

/// The longest answer has seven bytes. More tokens are allowed for a model that has not learned to end its answer.
const MAX_NEW_TOKENS: usize = 16;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let made = mix(&parameters, &context.seed())?;
    let records = made.pool.len() as u64;
    let source = SourceSummary::made("synthetic", records);
    context.write_table("instructions", &instructions_batch(&made.pool)?)?;
    context.write_table("sources", &sources_batch(&[source])?)?;
    if !made.pretraining.is_empty() {
        let pairs = made.pretraining.iter();
        let texts = pairs.clone().map(|(prompt, response)| chat_text(prompt, response));
        let rows = table::batch(vec![
            ("text", Arc::new(StringArray::from_iter_values(texts)) as ArrayRef),
            ("prompt", Arc::new(StringArray::from_iter_values(pairs.clone().map(|(prompt, _)| prompt)))),
            ("response", Arc::new(StringArray::from_iter_values(pairs.map(|(_, response)| response)))),
        ])?;
        context.write_table("pretraining", &rows)?;
    }
    let scoring = ScoringRule { by: Scored::Match, extract: Some(Extract::Exact), max_new_tokens: MAX_NEW_TOKENS };
    write_task(context, &made.validation, &made.test, &scoring)?;
    context.note(format!(
        "{}, {} validation and {} test examples",
        counted(records, "synthetic instruction"),
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
    use raisin_contract::Assignment;
    use raisin_corpus::{Codec, byte_tokenizer, read_instructions, read_task};
    use serde_json::json;

    #[test]
    fn the_artifact_has_a_pool_a_task_and_texts_in_the_chat_template_of_the_byte_tokenizer() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let parameters = json!({"size": 100, "validation": 8, "test": 16, "pretraining_size": 50});
        let context =
            raisin_kinds::context_for_test(Assignment::for_test("generate", folder.path().join("stage"), &[]))?;
        run(serde_json::from_value(parameters)?, &context)?;
        context.check_outputs()?;
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
            let instruction = raisin_corpus::Instruction::new(0, messages);
            let sequence = codec.instruction(&instruction, 128).sequence.expect("supervised");
            assert_eq!(sequence.tokens, codec.encode(columns[0].value(row))?);
        }
        Ok(())
    }
}
