//! Compares the files that raisin writes with transformers and peft, which read the files.

use raisin_base::error::Result;
use raisin_base::seed::Seed;
use raisin_corpus::Sequence;
use raisin_lm::weights::{Outgoing, write};
use raisin_lm::{Adaptation, Batch, Model, ModelConfig};
use tch::{Device, Kind as TensorKind, Tensor};

use crate::largest_difference;
use raisin_tests::python::{run_python, setting};

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn exports_load_in_transformers_and_peft_with_the_same_logits() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    let seed = Seed::new(3);
    let mut config = ModelConfig::llama(97, 32, 3, 4, 2, 64);
    config.initializer_range = 0.2;
    config.eos_token_id = vec![2];
    let mut model = Model::init(config, &seed, Device::Cpu, TensorKind::Float)?;
    model.save(&folder.path().join("base"))?;
    let tokens: Vec<u32> = (0..20).map(|place| place * 31 % 97).collect();
    let sequence = Sequence { supervised: vec![false; tokens.len()], tokens: tokens.clone() };
    let batch = Batch::pack(&[&sequence], Device::Cpu)?;
    let logits = |model: &Model| -> Result<Tensor> { tch::no_grad(|| model.logits(&model.hidden(&batch)?)) };
    let base = logits(&model)?;
    let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_owned).to_vec();
    model.prepare(&Adaptation::TopLayersLora { layers: 2, rank: 3, alpha: 5.0, targets }, &seed)?;
    assert!(largest_difference(&base, &logits(&model)?) < 1e-6, "a new adapter changes nothing");
    // B is not zero, as after some training.
    let count = model.trainable().count() as i64;
    let mut flat = model.trainable().flat.shallow_clone();
    tch::no_grad(|| flat.copy_(&((Tensor::arange(count, (TensorKind::Float, Device::Cpu)) * 0.7).sin() * 0.2)));
    let adapted = logits(&model)?;
    model.save_adapter(&folder.path().join("adapter"), None)?;
    model.save_merged(&folder.path().join("merged"))?;
    std::fs::write(folder.path().join("adapter/references.json"), r#"{"base": "x"}"#)?;
    assert!(model.save(&folder.path().join("refused")).is_err(), "saving would lose the adapters");
    std::fs::write(folder.path().join("adapter/references.json"), r#"{"base": "base"}"#)?;
    let reopened = Model::load(&folder.path().join("adapter"), Device::Cpu, TensorKind::Float)?;
    assert!(largest_difference(&adapted, &logits(&reopened)?) < 1e-6, "the adapter comes back over its base");
    let merged = Model::load(&folder.path().join("merged"), Device::Cpu, TensorKind::Float)?;
    let probe = [
        ("tokens".to_owned(), Tensor::from_slice(&tokens.iter().map(|&id| i64::from(id)).collect::<Vec<_>>())),
        ("base".to_owned(), base),
        ("adapter".to_owned(), adapted),
        ("merged".to_owned(), logits(&merged)?),
    ];
    let probe = probe.iter().map(|(name, tensor)| Outgoing::of(name.clone(), tensor)).collect::<Result<Vec<_>>>()?;
    write(&folder.path().join("probe.safetensors"), &probe)?;
    run_python(&python, "check_export.py", &[folder.path()])?;
    Ok(())
}
