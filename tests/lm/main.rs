//! Compares the language model with transformers, peft, tokenizers and gguf: logits, losses, gradients, training steps,
//! continuations, tokens, conversations, scores of choices, dequantised blocks, exported files.
//!
//! The tests need the environment variable RAISIN_PYTHON: a Python with tests/python/requirements.txt and
//! templates.txt. Some comparisons need RAISIN_GGUF, the GGUF file of SmolLM2-135M, or RAISIN_DATA, a folder of real
//! data (tests/python/tokens.py lists its files). If a variable was not set when a test was compiled, the test is
//! ignored and names the variable.

mod adapters;
mod choices;
mod export;
mod fuzz;
mod gguf;
mod gguf_file;
mod golden;
mod masks;
mod out_of_memory;
mod smollm2;
mod templates;
mod tokens;

use std::path::Path;

use raisin_base::error::Result;
use raisin_corpus::Sequence;
use raisin_lm::weights::Weights;
use tch::{Kind as TensorKind, Tensor};

pub fn tensors(path: &Path) -> Result<Weights> {
    Weights::open_files(path, &[path.to_owned()])
}

/// The golden sequences of a model.
pub fn sequences(expected: &Weights) -> Result<Vec<Sequence>> {
    let mut rows = Vec::new();
    while expected.contains(&format!("tokens.{}", rows.len())) {
        let tokens = Vec::<i64>::try_from(expected.read(&format!("tokens.{}", rows.len()))?)?;
        let supervised =
            Vec::<i64>::try_from(expected.read(&format!("supervised.{}", rows.len()))?.to_kind(TensorKind::Int64))?;
        rows.push(Sequence {
            tokens: tokens.into_iter().map(|token| token as u32).collect(),
            supervised: supervised.into_iter().map(|mark| mark == 1).collect(),
        });
    }
    Ok(rows)
}

pub fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}
