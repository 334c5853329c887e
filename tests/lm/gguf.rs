//! Compares GGUF files with the gguf package and transformers: block formats, and whole models of each architecture.

use raisin_base::error::{Context as _, Result};
use raisin_corpus::Sequence;
use raisin_lm::gguf::Gguf;
use raisin_lm::{Batch, Model, ModelConfig};
use tch::{Device, Kind as TensorKind};

use crate::{largest_difference, tensors};
use raisin_tests::python::{run_python, setting};

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn gguf_blocks_have_the_values_of_the_gguf_package() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
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
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn models_out_of_gguf_files_compute_what_transformers_computes_with_their_weights() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    run_python(&python, "gguf_models.py", &[folder.path()])?;
    for name in ["llama", "llama3", "linear", "mistral", "qwen2", "qwen3"] {
        let path = folder.path().join(format!("{name}.gguf"));
        let model = Model::from_gguf(&path, Device::Cpu, TensorKind::Float).context(name)?;
        let expected = tensors(&folder.path().join(format!("{name}.safetensors")))?;
        let tokens: Vec<u32> =
            Vec::<i64>::try_from(expected.read("tokens")?)?.into_iter().map(|id| id as u32).collect();
        let sequence = Sequence { supervised: vec![false; tokens.len()], tokens };
        let batch = Batch::pack(&[&sequence], Device::Cpu)?;
        let logits = |model: &Model| -> Result<_> { tch::no_grad(|| model.logits(&model.hidden(&batch)?)) };
        let difference = largest_difference(&logits(&model)?, &expected.read("logits")?);
        assert!(difference < 2e-5, "{name}: {difference:e}");
        // The model is unchanged after it is written as a Hugging Face folder and read again. The scaling of the
        // positions is kept too.
        model.save(&folder.path().join(name))?;
        assert_eq!(ModelConfig::read(&folder.path().join(name))?, model.config, "{name}");
        let again = Model::load(&folder.path().join(name), Device::Cpu, TensorKind::Float)?;
        assert!(largest_difference(&logits(&model)?, &logits(&again)?) < 1e-7, "{name}");
        // Reading directly into bf16 gives the same numbers as rounding afterwards.
        let half = Model::from_gguf(&path, Device::Cpu, TensorKind::BFloat16)?;
        half.save(&folder.path().join("half"))?;
        let [half, whole] =
            ["half", name].map(|folder_name| tensors(&folder.path().join(folder_name).join("model.safetensors")));
        let (half, whole) = (half?, whole?);
        for name in whole.names() {
            assert!(half.read(name)?.equal(&whole.read(name)?.to_kind(TensorKind::BFloat16)), "{name}");
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn a_tensor_too_many_and_a_tensor_too_few_are_named() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
    let folder = tempfile::tempdir()?;
    run_python(&python, "gguf_models.py", &[folder.path()])?;
    let refused = |name: &str| -> Result<String> {
        let error = Model::from_gguf(&folder.path().join(name), Device::Cpu, TensorKind::Float).err();
        Ok(format!("{:#}", error.context("the file is not as it should be")?))
    };
    assert!(refused("extra.gguf")?.ends_with("its metadata do not explain: blk.0.strange.weight"));
    let path = folder.path().join("qwen2.gguf");
    let mut bytes = std::fs::read(&path)?;
    let (from, to) = (b"blk.2.ffn_up.weight", b"blk.2.ffn_ub.weight");
    let place = bytes.windows(from.len()).position(|window| window == from).context("the tensor's name")?;
    bytes[place..place + to.len()].copy_from_slice(to);
    std::fs::write(&path, bytes)?;
    assert!(refused("qwen2.gguf")?.ends_with("has no tensor `blk.2.ffn_up.weight`"));
    Ok(())
}
