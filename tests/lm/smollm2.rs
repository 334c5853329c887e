//! Compares a real model with transformers: SmolLM2-135M, read from its GGUF file.

use raisin_base::error::Result;
use raisin_corpus::Sequence;
use raisin_lm::gguf::Gguf;
use raisin_lm::{Batch, Model};
use tch::{Device, Kind as TensorKind};

use crate::{largest_difference, tensors};
use raisin_tests::python::{run_python, setting};

#[test]
#[cfg_attr(
    not(all(has_python, has_gguf)),
    ignore = "RAISIN_PYTHON or RAISIN_GGUF is not set: `just model smollm2`, `just test`"
)]
fn smollm2_agrees_with_transformers_on_twenty_prompts() -> Result<()> {
    let (python, path) = (setting("RAISIN_PYTHON"), setting("RAISIN_GGUF"));
    let folder = tempfile::tempdir()?;
    let gguf = Gguf::open(&path)?;
    raisin_lm::write_tokenizer(&gguf, gguf.config()?.max_position_embeddings, folder.path())?;
    Model::from_gguf(&path, Device::Cpu, TensorKind::Float)?.save(folder.path())?;
    let golden = folder.path().join("expected.safetensors");
    run_python(&python, "smollm2_reference.py", &[&path, folder.path(), &golden])?;
    let model = Model::load(folder.path(), Device::Cpu, TensorKind::Float)?;
    assert_eq!(model.parameter_count(), 134_515_008);
    let codec = raisin_corpus::Codec::load(folder.path())?;
    let expected = tensors(&golden)?;
    let mut prompts = Vec::new();
    let mut largest = 0f64;
    while expected.contains(&format!("tokens.{}", prompts.len())) {
        let row = prompts.len();
        let tokens: Vec<u32> =
            Vec::<i64>::try_from(expected.read(&format!("tokens.{row}"))?)?.into_iter().map(|id| id as u32).collect();
        if tokens.iter().all(|&id| id > 16) {
            assert_eq!(codec.encode(&codec.decode(&tokens)?)?, tokens, "prompt {row}");
        }
        let sequence = Sequence { supervised: vec![false; tokens.len()], tokens: tokens.clone() };
        let batch = Batch::pack(&[&sequence], Device::Cpu)?;
        let logits = tch::no_grad(|| model.logits(&model.hidden(&batch)?))?;
        largest = largest.max(largest_difference(&logits, &expected.read(&format!("logits.{row}"))?));
        prompts.push(tokens);
    }
    println!("largest difference of logits on {} prompts: {largest:e}", prompts.len());
    assert!(prompts.len() == 20 && largest < 1e-3, "{largest:e}");
    for (row, continuation) in model.generate(&prompts, 32, &[2])?.iter().enumerate() {
        let golden = Vec::<i64>::try_from(expected.read(&format!("continuation.{row}"))?)?;
        assert!(golden.into_iter().eq(continuation.iter().map(|&id| i64::from(id))), "prompt {row}");
    }
    Ok(())
}
