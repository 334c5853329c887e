//! Tests of the whole model that do not depend on particular weights. tests/lm compares with PyTorch.

use super::*;
use crate::Adaptation;
use raisin_corpus::Sequence;

fn model(compute: TensorKind) -> Result<Model> {
    let mut config = ModelConfig::llama(50, 16, 3, 4, 2, 24);
    config.initializer_range = 0.3;
    Model::init(config, &Seed::new(5), Device::Cpu, compute)
}

fn batch(lengths: &[usize]) -> Result<Batch> {
    let rows: Vec<Sequence> = lengths
        .iter()
        .map(|&length| Sequence {
            tokens: (0..length as u32).map(|place| place * 7 % 50).collect(),
            supervised: (0..length).map(|place| place > 1).collect(),
        })
        .collect();
    Batch::pack(&rows.iter().collect::<Vec<_>>(), Device::Cpu)
}

#[test]
fn a_prefix_and_the_layers_above_give_the_states_of_the_whole_model() -> Result<()> {
    let (model, batch) = (model(TensorKind::Float)?, batch(&[5, 11, 4])?);
    let states = model.prefix_states(2, &batch)?;
    assert_eq!(
        Vec::<f32>::try_from(model.hidden_from(2, &states, &batch)?.view([-1]))?,
        Vec::<f32>::try_from(model.hidden(&batch)?.view([-1]))?
    );
    Ok(())
}

#[test]
fn only_the_chosen_parameters_are_trained_and_a_new_adaptation_freezes_the_others() -> Result<()> {
    let (mut model, batch) = (model(TensorKind::Float)?, batch(&[6])?);
    let seed = Seed::new(1);
    model.prepare(&Adaptation::TopLayers(1), &seed)?;
    assert!(
        model
            .trainable()
            .leaves
            .iter()
            .all(|(name, _)| name.starts_with("model.layers.2.") || name == "model.norm.weight")
    );
    let mut flat = model.trainable().flat.shallow_clone();
    let _ = tch::no_grad(|| flat.f_mul_scalar_(1.5))?;
    let changed = model.hidden(&batch)?.detach();
    let targets = vec!["k_proj".to_owned()];
    model.prepare(&Adaptation::Lora { rank: 2, alpha: 2.0, targets }, &seed)?;
    assert_eq!(model.trainable().leaves.len(), 6);
    assert!(model.hidden(&batch)?.allclose(&changed, 0.0, 0.0, false), "the trained values stay");
    assert!(model.parameters().all(|parameter| !parameter.value.requires_grad()));
    Ok(())
}

#[test]
fn a_bf16_model_has_f32_leaves_and_nearly_the_same_loss() -> Result<()> {
    let (exact, mut half, batch) = (model(TensorKind::Float)?, model(TensorKind::BFloat16)?, batch(&[9, 9, 3])?);
    half.prepare(&Adaptation::Full, &Seed::new(1))?;
    assert_eq!(half.trainable().flat.kind(), TensorKind::Float);
    let loss = |model: &Model| -> Result<f64> {
        let loss = model.response_loss(&model.hidden(&batch)?, &batch)?;
        Ok(loss.sum.double_value(&[]) / loss.tokens as f64)
    };
    let (exact, half) = (loss(&exact)?, loss(&half)?);
    assert!((exact - half).abs() < 0.02 * exact, "{exact} {half}");
    Ok(())
}

#[test]
fn full_training_costs_three_forward_passes() -> Result<()> {
    let mut model = model(TensorKind::Float)?;
    model.prepare(&Adaptation::Full, &Seed::new(1))?;
    let (forward, train) = (model.flops_per_token(false), model.flops_per_token(true));
    assert!((train / forward - 3.0).abs() < 0.02, "{train} {forward}");
    assert_eq!(model.parameter_count() as usize, model.trainable().count());
    Ok(())
}

#[test]
fn a_sequence_longer_than_the_context_is_refused() -> Result<()> {
    let mut model = model(TensorKind::Float)?;
    model.config.max_position_embeddings = 4;
    let error = model.hidden(&batch(&[5])?).expect_err("too long");
    assert_eq!(error.to_string(), "a sequence of 5 tokens is longer than the model's context of 4");
    Ok(())
}

#[test]
fn the_same_seed_makes_the_same_weights_with_the_wanted_spread() -> Result<()> {
    let values = normal(40_000, 0.5, &Seed::new(2));
    assert_eq!(values, normal(40_000, 0.5, &Seed::new(2)));
    let mean = values.iter().sum::<f32>() / 40_000.0;
    let variance = values.iter().map(|value| value * value).sum::<f32>() / 40_000.0;
    assert!(mean.abs() < 0.01 && (variance - 0.25).abs() < 0.01, "{mean} {variance}");
    Ok(())
}

#[test]
fn a_tied_head_with_other_weights_than_the_embedding_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut config = ModelConfig::llama(50, 16, 1, 4, 2, 24);
    config.tie_word_embeddings = false;
    Model::init(config, &Seed::new(5), Device::Cpu, TensorKind::Float)?.save(folder.path())?;
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, text.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"))?;
    let load = || Model::load(folder.path(), Device::Cpu, TensorKind::Float);
    let error = raisin_base::error::render(&load().err().context("accepted")?);
    assert!(error.contains("has different weights `lm_head.weight` and `model.embed_tokens.weight`"), "{error}");
    assert!(error.contains("set `tie_word_embeddings` to false"), "{error}");
    // The same weights under both names are one tied head.
    let tensors = Weights::open(folder.path())?;
    let names: Vec<String> = tensors.names().map(str::to_owned).collect();
    let values: Vec<Tensor> = names
        .iter()
        .map(|name| tensors.read(if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name }))
        .collect::<Result<_>>()?;
    let outgoing = names.iter().zip(&values).map(|(name, value)| crate::weights::Outgoing::of(name.clone(), value));
    let outgoing = outgoing.collect::<Result<Vec<_>>>()?;
    drop(tensors);
    crate::weights::write(&folder.path().join("model.safetensors"), &outgoing)?;
    assert!(load()?.head.is_none());
    Ok(())
}
