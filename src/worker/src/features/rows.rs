//! The rows of a stage of kind `features` as tokens: each row with its prompts, and its responses alone.

use rayon::prelude::*;

use crate::encoding::{EncodedRows, EncodingReport, RowsOf, encode_examples, encode_pool};
use raisin_base::error::Result;
use raisin_contract::Context;
use raisin_corpus::{Codec, Encoded, Example, Instruction, Message, Sequence};

/// A row as tokens.
#[derive(Debug, Default)]
pub struct EncodedRow {
    pub id: u32,
    /// The row with its prompts; `None` if the row is left out.
    pub whole: Option<Sequence>,
    /// The responses of the row alone; `None` if they have no token that can be scored, or if there is no second pass.
    pub alone: Option<Sequence>,
    /// Why one of the two is `None`.
    pub missing: Option<String>,
}

pub struct RowEncoder<'a> {
    pub codec: &'a Codec,
    pub max_tokens: usize,
    /// Whether the responses are encoded alone too.
    pub unconditional: bool,
}

impl RowEncoder<'_> {
    pub fn instructions(
        &self,
        instructions: &[Instruction],
        context: &Context,
        encoding: &mut EncodingReport,
    ) -> Result<Vec<EncodedRow>> {
        let pool = context.input("/instructions")?;
        let encoded = encode_pool(self.codec, instructions, self.max_tokens, context, "/instructions")?;
        let alone = encoded.par_iter().zip(instructions).map(|(whole, row)| self.alone(row, whole)).collect();
        let mut rows = self.joined(encoding.instructions(Some(pool), instructions, encoded)?, alone);
        for (row, instruction) in rows.iter_mut().zip(instructions) {
            row.id = instruction.id;
            row.missing = row.missing.take().map(|reason| encoding.reason_with_place(instruction, &reason));
        }
        Ok(rows)
    }

    /// Only the reference response of an example is scored, not the earlier turns of the assistant.
    pub fn examples(&self, examples: &[Example], encoding: &mut EncodingReport) -> Result<Vec<EncodedRow>> {
        let encoded = encode_examples(self.codec, examples, self.max_tokens);
        let alone = |(whole, example): (&Encoded, &Example)| {
            let messages = vec![Message::new("user", ""), example.response.clone()];
            let response = Instruction { tools: example.tools.clone(), ..Instruction::new(example.id, messages) };
            self.alone(&response, whole)
        };
        let alone = encoded.par_iter().zip(examples).map(alone).collect();
        let mut rows = self.joined(encoding.examples(RowsOf::Validation, None, examples, encoded)?, alone);
        rows.iter_mut().zip(examples).for_each(|(row, example)| row.id = example.id);
        Ok(rows)
    }

    /// The responses of `row` alone; `None` if the row itself has no sequence, or if there is no second pass.
    fn alone(&self, row: &Instruction, whole: &Encoded) -> Option<Encoded> {
        whole
            .sequence
            .as_ref()
            .filter(|_| self.unconditional)
            .map(|_| self.codec.responses_alone(row, whole, self.max_tokens))
    }

    fn joined(&self, wholes: EncodedRows, alone: Vec<Option<Encoded>>) -> Vec<EncodedRow> {
        let row = |((whole, missing), alone): ((Option<Sequence>, Option<String>), Option<Encoded>)| {
            let (whole, alone) = match (whole, alone) {
                (Some(whole), Some(alone)) => (whole, alone),
                (whole, _) => return EncodedRow { whole, missing, ..EncodedRow::default() },
            };
            let unscored = |reason: String| format!("the responses alone leave no token to score: {reason}");
            let missing = alone.missing(self.max_tokens).map(unscored);
            EncodedRow { id: 0, whole: Some(whole), alone: alone.sequence, missing }
        };
        wholes.rows.into_iter().zip(wholes.missing).zip(alone).map(row).collect()
    }
}
