//! The language model against transformers and peft: logits, losses, gradients, continuations, exported files.
//!
//! Needs Python with tests/python/requirements.txt, given as RAISIN_PYTHON, and for one test the GGUF file of
//! SmolLM2-135M, given as RAISIN_GGUF. Tests say so and pass where these are not set.

#[path = "support/python.rs"]
mod python;

use std::path::Path;

use anyhow::{Context as _, Result};
use python::{run_python, setting};
use raisin::corpus::Sequence;
use raisin::lm::weights::{Weights, write};
use raisin::lm::{Adaptation, Batch, Config, Model, gguf::Gguf};
use raisin::seed::Seed;
use tch::{Device, Kind, Tensor};

const ARCHITECTURES: [&str; 5] = ["llama", "llama3", "mistral", "qwen2", "qwen3"];

fn tensors(path: &Path) -> Result<Weights> {
    Weights::open_files(path, &[path.to_owned()])
}

/// The golden sequences of a model.
fn sequences(expected: &Weights) -> Result<Vec<Sequence>> {
    let mut rows = Vec::new();
    while expected.contains(&format!("tokens.{}", rows.len())) {
        let tokens = Vec::<i64>::try_from(expected.read(&format!("tokens.{}", rows.len()))?)?;
        let supervised =
            Vec::<i64>::try_from(expected.read(&format!("supervised.{}", rows.len()))?.to_kind(Kind::Int64))?;
        rows.push(Sequence {
            tokens: tokens.into_iter().map(|token| token as u32).collect(),
            supervised: supervised.into_iter().map(|mark| mark == 1).collect(),
        });
    }
    Ok(rows)
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[test]
fn logits_losses_and_gradients_are_those_of_transformers() -> Result<()> {
    let Some(python) = setting("RAISIN_PYTHON") else { return Ok(()) };
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    run_python(&python, "golden.py", &[folder.path()])?;
    for name in ARCHITECTURES {
        let at = folder.path().join(name);
        let expected = tensors(&at.join("expected.safetensors"))?;
        let rows = sequences(&expected)?;
        let mut model = Model::load(&at, Device::Cpu, Kind::Float).context(name)?;
        let batch = Batch::pack(&rows.iter().collect::<Vec<_>>(), Device::Cpu)?;
        let logits = model.logits(&model.hidden(&batch)?)?;
        for (row, &(start, end)) in batch.row_spans().iter().enumerate() {
            let golden = expected.read(&format!("logits.{row}"))?;
            let packed = logits.narrow(0, start as i64, (end - start) as i64);
            let difference = largest_difference(&packed, &golden);
            assert!(difference < 2e-5, "{name}, row {row}, packed: {difference:e}");
            let alone = model.logits(&model.hidden(&Batch::pack(&[&rows[row]], Device::Cpu)?)?)?;
            let difference = largest_difference(&alone, &golden);
            assert!(difference < 2e-5, "{name}, row {row}, alone: {difference:e}");
        }
        model.prepare(&Adaptation::Full, &Seed::new(1))?;
        let loss = model.response_loss(&model.hidden(&batch)?, &batch)?;
        assert!(largest_difference(&loss.sum, &expected.read("loss")?) < 1e-3, "{name}");
        let leaves: Vec<&Tensor> = model.trainable().leaves.iter().map(|(_, leaf)| leaf).collect();
        let gradients = Tensor::run_backward(&[loss.sum], &leaves, false, false);
        assert_eq!(leaves.len(), expected.names().filter(|name| name.starts_with("gradient.")).count(), "{name}");
        for ((leaf, _), gradient) in model.trainable().leaves.iter().zip(&gradients) {
            let golden = expected.read(&format!("gradient.{leaf}"))?;
            let scale = golden.abs().max().double_value(&[]).max(1.0);
            let difference = largest_difference(gradient, &golden) / scale;
            assert!(difference < 2e-5, "{name}, gradient of {leaf}: {difference:e} of {scale:e}");
        }
    }
    Ok(())
}

#[test]
fn greedy_continuations_are_those_of_transformers() -> Result<()> {
    let Some(python) = setting("RAISIN_PYTHON") else { return Ok(()) };
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    run_python(&python, "golden.py", &[folder.path()])?;
    for name in ARCHITECTURES {
        let at = folder.path().join(name);
        let expected = tensors(&at.join("expected.safetensors"))?;
        let prompts: Vec<Vec<u32>> = sequences(&expected)?.into_iter().map(|row| row.tokens).collect();
        let model = Model::load(&at, Device::Cpu, Kind::Float)?;
        let together = model.generate(&prompts, 16, &[2])?;
        for (row, continuation) in together.iter().enumerate() {
            let golden = Vec::<i64>::try_from(expected.read(&format!("continuation.{row}"))?)?;
            assert!(
                golden.iter().copied().eq(continuation.iter().map(|&id| i64::from(id))),
                "{name}, row {row}: {golden:?} {continuation:?}"
            );
            assert_eq!(*continuation, model.generate(&prompts[row..=row], 16, &[2])?[0], "{name}, row {row} alone");
        }
    }
    Ok(())
}

#[test]
fn gguf_blocks_have_the_values_of_the_gguf_package() -> Result<()> {
    let Some(python) = setting("RAISIN_PYTHON") else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    run_python(&python, "gguf_blocks.py", &[folder.path()])?;
    let gguf = Gguf::open(&folder.path().join("blocks.gguf"))?;
    let expected = tensors(&folder.path().join("expected.safetensors"))?;
    let mut formats = 0;
    for name in expected.names() {
        let golden = Vec::<f32>::try_from(expected.read(name)?.view([-1]))?;
        assert_eq!(gguf.values(name)?, golden, "{name}");
        formats += 1;
    }
    assert_eq!(formats, 10);
    Ok(())
}

#[test]
fn exports_load_in_transformers_and_peft_with_the_same_logits() -> Result<()> {
    let Some(python) = setting("RAISIN_PYTHON") else { return Ok(()) };
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    let seed = Seed::new(3);
    let mut config = Config::llama(97, 32, 3, 4, 2, 64);
    config.initializer_range = 0.2;
    config.eos_token_id = vec![2];
    let mut model = Model::init(config, &seed, Device::Cpu, Kind::Float)?;
    model.save(&folder.path().join("base"))?;
    let tokens: Vec<u32> = (0..20).map(|place| place * 31 % 97).collect();
    let sequence = Sequence { supervised: vec![false; tokens.len()], tokens: tokens.clone() };
    let batch = Batch::pack(&[&sequence], Device::Cpu)?;
    let logits = |model: &Model| -> Result<Tensor> { tch::no_grad(|| model.logits(&model.hidden(&batch)?)) };
    let base = logits(&model)?;
    let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_owned).to_vec();
    model.prepare(&Adaptation::TopLayersLora { layers: 2, rank: 3, alpha: 5.0, targets }, &seed)?;
    assert!(largest_difference(&base, &logits(&model)?) < 1e-6, "a new adapter changes nothing");
    // As after some training: B is no longer zero.
    let count = model.trainable().count() as i64;
    let mut flat = model.trainable().flat.shallow_clone();
    tch::no_grad(|| flat.copy_(&((Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7).sin() * 0.2)));
    let adapted = logits(&model)?;
    model.save_adapter(&folder.path().join("adapter"))?;
    model.save_merged(&folder.path().join("merged"))?;
    std::fs::write(folder.path().join("adapter/references.json"), r#"{"base": "x"}"#)?;
    assert!(model.save(&folder.path().join("refused")).is_err(), "saving would lose the adapters");
    std::fs::write(folder.path().join("adapter/references.json"), r#"{"base": "base"}"#)?;
    let reopened = Model::load(&folder.path().join("adapter"), Device::Cpu, Kind::Float)?;
    assert!(largest_difference(&adapted, &logits(&reopened)?) < 1e-6, "the adapter comes back over its base");
    let merged = Model::load(&folder.path().join("merged"), Device::Cpu, Kind::Float)?;
    let probe = [
        ("tokens".to_owned(), Tensor::from_slice(&tokens.iter().map(|&id| i64::from(id)).collect::<Vec<_>>())),
        ("base".to_owned(), base),
        ("adapter".to_owned(), adapted),
        ("merged".to_owned(), logits(&merged)?),
    ];
    write(&folder.path().join("probe.safetensors"), &probe)?;
    run_python(&python, "check_export.py", &[folder.path()])?;
    Ok(())
}

#[test]
fn smollm2_agrees_with_transformers_on_twenty_prompts() -> Result<()> {
    let (Some(python), Some(path)) = (setting("RAISIN_PYTHON"), setting("RAISIN_GGUF")) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let gguf = Gguf::open(&path)?;
    raisin::lm::write_tokenizer(&gguf, gguf.config()?.max_position_embeddings, folder.path())?;
    Model::from_gguf(&path, Device::Cpu, Kind::Float)?.save(folder.path())?;
    let golden = folder.path().join("expected.safetensors");
    run_python(&python, "smollm2_reference.py", &[&path, folder.path(), &golden])?;
    let model = Model::load(folder.path(), Device::Cpu, Kind::Float)?;
    assert_eq!(model.parameter_count(), 134_515_008);
    let codec = raisin::corpus::Codec::load(folder.path())?;
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
