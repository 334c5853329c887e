//! The examples of an evaluation as tokens, for each metric. An example that cannot be encoded is left out of the metric.

use rayon::prelude::*;

use crate::encoding::{Cause, EncodedRows, EncodingReport, Missing, RowsOf, encode_examples};
use crate::learning::check_context;
use raisin_base::error::Result;
use raisin_corpus::{Codec, Example, Sequence};
use raisin_kinds::evaluate::{Metric, Parameters};
use raisin_lm::Model;
use raisin_settings::Split;

/// The examples for one metric.
pub enum MetricInput {
    Loss(EncodedRows),
    /// For each question, its choices.
    Choice(EncodedRows<Vec<Sequence>>),
    /// The prompts from which answers are generated.
    Match(EncodedRows<Vec<u32>>),
}

impl MetricInput {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loss(_) => "loss",
            Self::Choice(_) => "choice",
            Self::Match(_) => "match",
        }
    }

    /// For each example, the reason why it is left out.
    pub fn missing(&self) -> &[Option<String>] {
        match self {
            Self::Loss(rows) => &rows.missing,
            Self::Choice(families) => &families.missing,
            Self::Match(prompts) => &prompts.missing,
        }
    }
}

/// The examples for all metrics, in the order in which the metrics are computed.
pub struct MetricInputs {
    pub all: Vec<MetricInput>,
    of: RowsOf,
}

impl MetricInputs {
    /// # Errors
    /// An example is too long, and `on_overlong` is `error`.
    pub fn encode(
        metrics: &[Metric],
        examples: &[Example],
        parameters: &Parameters,
        codec: &Codec,
        model: &Model,
        encoding: &mut EncodingReport,
    ) -> Result<Self> {
        let limit = parameters.max_tokens;
        let of = match parameters.split {
            Split::Test => RowsOf::Test,
            Split::Validation => RowsOf::Validation,
        };
        let mut encode = |metric: &Metric| -> Result<MetricInput> {
            Ok(match metric {
                Metric::Loss => {
                    let encoded = encode_examples(codec, examples, limit);
                    MetricInput::Loss(encoding.examples(of, Some("loss"), examples, encoded)?)
                }
                Metric::Choice => {
                    // The prompt and the choice are encoded together. Only the text of the choice has a loss.
                    let choices = |example: &Example| {
                        example.choices.iter().map(|choice| codec.choice(example, choice, limit)).collect()
                    };
                    let encoded = examples.par_iter().map(choices).collect();
                    MetricInput::Choice(encoding.choices(of, "choice", examples, encoded)?)
                }
                Metric::Match => {
                    let context = model.config.max_position_embeddings;
                    let prompts = examples.par_iter().map(|example| prompt(example, codec, context)).collect();
                    MetricInput::Match(encoding.prompts(of, "match", examples, prompts))
                }
            })
        };
        Ok(Self { all: metrics.iter().map(&mut encode).collect::<Result<_>>()?, of })
    }

    /// # Errors
    /// A metric has no example left, or a sequence is longer than the context of the model.
    pub fn check(&self, parameters: &Parameters, model: &Model) -> Result<()> {
        let limit = parameters.max_tokens;
        for input in &self.all {
            let name = Some(input.name());
            match input {
                MetricInput::Loss(rows) => {
                    rows.not_empty(self.of, name)?;
                    check_context(model, limit, rows.present())?;
                }
                MetricInput::Choice(families) => {
                    families.not_empty(self.of, name)?;
                    check_context(model, limit, families.present().flatten())?;
                }
                MetricInput::Match(prompts) => prompts.not_empty(self.of, name)?,
            }
        }
        Ok(())
    }
}

/// The tokens from which the answer to an example is generated.
fn prompt(example: &Example, codec: &Codec, context: usize) -> Result<Vec<u32>, Missing> {
    let prompt = codec.prompt(example).map_err(|error| Missing::new(Cause::Refused, format!("{error:#}")))?;
    let tokens = prompt.len();
    if tokens > context {
        let reason = format!("the prompt has {tokens} tokens, and the context of the model is {context}");
        return Err(Missing::new(Cause::LongPrompt, reason));
    }
    if prompt.is_empty() {
        return Err(Missing::new(Cause::Refused, "the prompt has no token"));
    }
    Ok(prompt)
}
