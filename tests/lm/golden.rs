//! Compares small random models of every architecture with transformers and peft: logits, losses, gradients, training
//! steps, continuations. tests/python/golden.py computes the expected values.
//!
//! All tolerances are for f32. One forward and backward pass: logits 2e-5 (they reach about 10); gradients 2e-5,
//! relative to the larger of their largest entry and 1. Ten steps of AdamW: losses 5e-5, gradient norms 1e-3
//! (relative), parameters 1e-6 on average and 1e-3 at most (a step changes a parameter by up to 2e-3), the optimizer's
//! means 5e-5. AdamW changes a parameter with a gradient near zero according to the gradient's rounding error.
//!
//! PyTorch's own two implementations of attention, eager and sdpa, differ by similar amounts on these models: losses by
//! up to 2.3e-5, norms by 3.2e-4, parameters by 1.9e-7 on average and 4.2e-4 at most. Adapters end within 2e-5 of
//! peft's adapters.

use std::path::Path;
use std::sync::OnceLock;

use raisin_base::error::{Context as _, Result, anyhow};
use raisin_base::seed::Seed;
use raisin_corpus::Sequence;
use raisin_lm::{Adaptation, Batch, Model, TARGETS};
use raisin_training::{LearningRateSchedule, Trainer, TrainerConfig};
use tch::{Device, Kind as TensorKind, Tensor};

use crate::{largest_difference, sequences, tensors};
use raisin_tests::python::{run_python, setting};

const ARCHITECTURES: [&str; 11] = [
    "llama",
    "llama-wide",
    "llama3",
    "linear",
    "dynamic",
    "mistral",
    "mistral-full",
    "qwen2",
    "qwen2-window",
    "qwen2-yarn",
    "qwen3",
];

/// The folder of the models and expected values, made once for all tests.
fn golden(python: &Path) -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<tempfile::TempDir, String>> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        tch::set_num_threads(1);
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        run_python(python, "golden.py", &[folder.path()]).map_err(|error| error.to_string())?;
        Ok(folder)
    });
    made.as_ref().map(tempfile::TempDir::path).map_err(|error| anyhow!(error.clone()))
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn logits_losses_and_gradients_are_those_of_transformers() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
    for name in ARCHITECTURES {
        let at = golden(&python)?.join(name);
        let expected = tensors(&at.join("expected.safetensors"))?;
        let rows = sequences(&expected)?;
        let mut model = Model::load(&at, Device::Cpu, TensorKind::Float).context(name)?;
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

/// The training configuration of golden.py. A micro-batch holds all rows (packed), or one row.
fn trainer_config(packed: bool, activation_checkpointing: bool) -> TrainerConfig {
    TrainerConfig {
        learning_rate: 2e-3,
        schedule: LearningRateSchedule::Cosine,
        warmup: 0.0,
        total_steps: 10,
        weight_decay: 0.1,
        clip_norm: 1.0,
        micro_batch_tokens: if packed { 4096 } else { 1 },
        activation_checkpointing,
    }
}

/// The rows that golden.py uses in this step.
fn rows_of(step: usize, rows: &[Sequence]) -> Vec<&Sequence> {
    (0..3).map(|place| &rows[(2 * step + place) % rows.len()]).collect()
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn ten_steps_of_training_end_where_pytorch_ends() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
    for name in ARCHITECTURES {
        let at = golden(&python)?.join(name);
        let expected = tensors(&at.join("expected.safetensors"))?;
        let rows = sequences(&expected)?;
        let losses = Vec::<f32>::try_from(expected.read("steps.loss")?)?;
        let norms = Vec::<f32>::try_from(expected.read("steps.norm")?)?;
        for (packed, checkpointing) in [(true, false), (false, false), (true, true)] {
            let case = format!("{name}, packed {packed}, checkpointing {checkpointing}");
            let mut model = Model::load(&at, Device::Cpu, TensorKind::Float)?;
            model.prepare(&Adaptation::Full, &Seed::new(1))?;
            let mut trainer = Trainer::new(model, trainer_config(packed, checkpointing), None)?;
            for step in 0..10 {
                let outcome = trainer.step(&rows_of(step, &rows), None)?;
                let difference = (outcome.loss - f64::from(losses[step])).abs();
                assert!(difference < 5e-5, "{case}, loss of step {step}: {difference:e}");
                let difference = (outcome.gradient_norm / f64::from(norms[step]) - 1.0).abs();
                assert!(difference < 1e-3, "{case}, gradient norm of step {step}: {difference:e}");
            }
            let (mut largest, mut sum, mut count) = ([0f64; 3], 0.0, 0);
            for state in trainer.state()? {
                let name = state.name;
                let parts = [("trained", &state.value), ("first", &state.first), ("second", &state.second)];
                for (largest, (part, ours)) in largest.iter_mut().zip(parts) {
                    let golden = expected.read(&format!("{part}.{name}")).with_context(|| case.clone())?;
                    *largest = largest.max(largest_difference(ours, &golden));
                    if part == "trained" {
                        sum += (ours - &golden).abs().sum(TensorKind::Double).double_value(&[]);
                        count += golden.numel();
                    }
                }
            }
            let mean = sum / count as f64;
            println!(
                "{case}: parameters {mean:.1e} on average, {:.1e} at most; means {:.1e} and {:.1e}",
                largest[0], largest[1], largest[2]
            );
            assert!(mean < 1e-6 && largest[0] < 1e-3, "{case}: {mean:e} {largest:?}");
            assert!(largest[1] < 5e-5 && largest[2] < 5e-5, "{case}: {largest:?}");
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn ten_steps_of_an_adapter_on_every_projection_end_where_peft_ends() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
    for name in ["llama", "qwen2", "qwen3"] {
        let at = golden(&python)?.join(name);
        let rows = sequences(&tensors(&at.join("expected.safetensors"))?)?;
        let folder = tempfile::tempdir()?;
        let mut model = Model::load(&at, Device::Cpu, TensorKind::Float)?;
        let targets = TARGETS.map(str::to_owned).to_vec();
        model.prepare(&Adaptation::Lora { rank: 3, alpha: 6.0, targets }, &Seed::new(4))?;
        model.save_adapter(&folder.path().join("start"), None)?;
        let out = folder.path().join("peft.safetensors");
        let start = folder.path().join("start");
        run_python(&python, "train_adapter.py", &[&at, &start, &at.join("expected.safetensors"), &out])?;
        let expected = tensors(&out)?;
        let losses = Vec::<f32>::try_from(expected.read("steps.loss")?)?;
        let mut trainer = Trainer::new(model, trainer_config(true, false), None)?;
        for (step, loss) in losses.iter().enumerate() {
            let outcome = trainer.step(&rows_of(step, &rows), None)?;
            let difference = (outcome.loss - f64::from(*loss)).abs();
            assert!(difference < 1e-5, "{name}, loss of step {step}: {difference:e}");
        }
        assert_eq!(expected.names().count() - 1, 3 * 7 * 2, "an A and a B on seven projections of three layers");
        let mut largest = 0f64;
        for (leaf, value) in &trainer.model.trainable().leaves {
            largest = largest.max(largest_difference(value, &expected.read(leaf)?));
        }
        println!("{name}: {largest:e} from peft after ten steps");
        assert!(largest < 2e-5, "{name}: {largest:e}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn greedy_continuations_are_those_of_transformers() -> Result<()> {
    let python = setting("RAISIN_PYTHON");
    for name in ARCHITECTURES {
        let at = golden(&python)?.join(name);
        let expected = tensors(&at.join("expected.safetensors"))?;
        let prompts: Vec<Vec<u32>> = sequences(&expected)?.into_iter().map(|row| row.tokens).collect();
        let model = Model::load(&at, Device::Cpu, TensorKind::Float)?;
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
