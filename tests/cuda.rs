//! Compares the arithmetic on a GPU with the arithmetic on the CPU: `just test --test cuda -- --ignored` on a machine
//! with a CUDA device.
//!
//! In f32, the two results agree to rounding errors. In bf16, they agree to the precision of bf16, because the GPU uses
//! other kernels there (attention over rows of all lengths in one call).

use std::sync::{Arc, Mutex};

use raisin_base::error::Result;
use raisin_base::learner::Ensemble as _;
use raisin_base::seed::Seed;
use raisin_corpus::Sequence;
use raisin_lm::{Adaptation, Architecture, Batch, Model, ModelConfig, TARGETS};
use raisin_training::{Episodes, Trainer, TrainerConfig, TrainingPool, ValidationSet};
use tch::{Device, Kind as TensorKind, Tensor, no_grad};

const VOCABULARY: u32 = 500;

fn gpu() -> Device {
    raisin_lm::device(Some(0)).expect("a CUDA device")
}

fn rows(count: u32) -> Vec<Sequence> {
    (0..count)
        .map(|row| {
            let tokens: Vec<u32> =
                (0..9 + row * 37 % 120).map(|place| (row * 131 + place * place * 17) % VOCABULARY).collect();
            Sequence { supervised: (0..tokens.len()).map(|place| place > 4).collect(), tokens }
        })
        .collect()
}

/// Every architecture, with its special features.
fn configs() -> Vec<(&'static str, ModelConfig)> {
    let llama = ModelConfig::llama(i64::from(VOCABULARY), 128, 3, 8, 2, 256);
    let of = |model_type: Architecture| ModelConfig {
        model_type,
        architectures: vec![model_type.class_name().to_owned()],
        ..llama.clone()
    };
    vec![
        ("Llama", llama.clone()),
        ("Llama, head apart", ModelConfig { tie_word_embeddings: false, ..llama.clone() }),
        ("Mistral, window of 24", ModelConfig { sliding_window: Some(24), ..of(Architecture::Mistral) }),
        ("Qwen2", of(Architecture::Qwen2)),
        ("Qwen3", of(Architecture::Qwen3)),
        ("heads of 12", ModelConfig { head_dim: 12, ..llama }),
    ]
}

/// A model with equal weights on the CPU and on the GPU, in f32 on the CPU and in this dtype on the GPU. The weights
/// are larger than at a usual initialisation, so that differences show.
fn both(config: &ModelConfig, kind: TensorKind) -> Result<[Model; 2]> {
    let folder = tempfile::tempdir()?;
    let config = ModelConfig { initializer_range: 0.08, ..config.clone() };
    Model::init(config, &Seed::new(1), Device::Cpu, kind)?.save(folder.path())?;
    Ok([Model::load(folder.path(), Device::Cpu, TensorKind::Float)?, Model::load(folder.path(), gpu(), kind)?])
}

fn lora() -> Adaptation {
    Adaptation::Lora { rank: 4, alpha: 16.0, targets: TARGETS.map(str::to_owned).to_vec() }
}

fn loss_and_gradient(model: &mut Model, rows: &[Sequence]) -> Result<(f64, Tensor)> {
    let rows: Vec<&Sequence> = rows.iter().collect();
    let batch = Batch::pack(&rows, model.device())?;
    let model = model.joined()?;
    let loss = model.response_loss(&model.hidden(&batch)?, &batch)?;
    let mean = loss.sum / loss.tokens as f64;
    let gradient = model.flat_gradient(&mean)?;
    Ok((mean.double_value(&[]), gradient.to_device(Device::Cpu)))
}

/// The norm of the difference, relative to the norm of the expected tensor.
fn apart(one: &Tensor, other: &Tensor) -> f64 {
    let difference = (one.to_device(Device::Cpu) - other.to_device(Device::Cpu)).norm().double_value(&[]);
    difference / other.norm().double_value(&[])
}

fn near(what: &str, found: f64, tolerance: f64) {
    println!("{what}: {found:.2e}");
    assert!(found.is_finite() && found <= tolerance, "{what}: {found:e} is above {tolerance:e}");
}

#[test]
#[ignore = "needs a CUDA device"]
fn losses_and_gradients_are_those_of_the_cpu() -> Result<()> {
    let rows = rows(12);
    for (name, config) in configs() {
        for (kind, of_loss, of_gradient) in [(TensorKind::Float, 1e-5, 1e-4), (TensorKind::BFloat16, 1e-2, 6e-2)] {
            let [mut cpu, mut gpu] = both(&config, kind)?;
            for adaptation in [Adaptation::Full, Adaptation::TopLayers(1), lora()] {
                for model in [&mut cpu, &mut gpu] {
                    model.prepare(&adaptation, &Seed::new(3))?;
                    // The B of an adapter is zero at first, and then A has no gradient.
                    let mut flat = model.trainable().flat.shallow_clone();
                    let places =
                        Tensor::arange(flat.numel() as i64, (TensorKind::Float, Device::Cpu)).to_device(flat.device());
                    let _ = no_grad(|| flat.f_add_(&(places.sin() * 0.01)))?;
                }
                let (expected, expected_gradient) = loss_and_gradient(&mut cpu, &rows)?;
                let (loss, gradient) = loss_and_gradient(&mut gpu, &rows)?;
                let what = format!("{name}, {kind:?}, {adaptation:?}");
                near(&format!("{what}: loss"), ((loss - expected) / expected).abs(), of_loss);
                near(&format!("{what}: gradient"), apart(&gradient, &expected_gradient), of_gradient);
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs a CUDA device"]
fn ten_steps_end_where_those_of_the_cpu_end() -> Result<()> {
    let rows = rows(16);
    let (_, config) = &configs()[0];
    for (adaptation, checkpointing) in [(Adaptation::Full, false), (Adaptation::Full, true), (lora(), false)] {
        let mut ends = Vec::new();
        for mut model in both(config, TensorKind::Float)? {
            model.prepare(&adaptation, &Seed::new(3))?;
            let config = TrainerConfig {
                learning_rate: 1e-3,
                total_steps: 10,
                weight_decay: 0.1,
                micro_batch_tokens: 300,
                activation_checkpointing: checkpointing,
                ..TrainerConfig::default()
            };
            let mut trainer = Trainer::new(model, config, None)?;
            let mut losses = Vec::new();
            for step in 0..10 {
                let batch: Vec<&Sequence> = rows.iter().skip(step % 3).step_by(3).collect();
                losses.push(trainer.step(&batch, None)?.loss);
            }
            let flat = trainer.model.trainable().flat.detach().to_device(Device::Cpu);
            ends.push((Tensor::from_slice(&losses), flat));
        }
        let what = format!("{adaptation:?}, recomputed {checkpointing}");
        near(&format!("{what}: losses"), apart(&ends[1].0, &ends[0].0), 1e-4);
        near(&format!("{what}: weights"), apart(&ends[1].1, &ends[0].1), 1e-3);
    }
    Ok(())
}

#[test]
#[ignore = "needs a CUDA device"]
fn episodes_side_by_side_perform_as_on_the_cpu() -> Result<()> {
    let (_, config) = &configs()[0];
    let mut performances = Vec::new();
    for model in both(config, TensorKind::Float)? {
        let device = model.device();
        let validation: Vec<Sequence> = rows(20).split_off(14);
        let validation = ValidationSet::new(&validation.iter().collect::<Vec<_>>(), None, 300, device)?;
        let pool = TrainingPool::new(rows(14).into_iter().map(Some).collect(), None);
        let config = TrainerConfig { learning_rate: 1e-3, total_steps: 5, ..TrainerConfig::default() };
        let mut learners = Episodes::new(model, &lora(), &Seed::new(2), config, 3, pool, validation)?;
        let mut seen = vec![learners.restore_all()?];
        for step in 0..5 {
            let batches: Vec<Vec<u32>> =
                (0..3).map(|episode| (0..4).map(|row| (step + row * 3 + episode * 5) % 14).collect()).collect();
            seen.extend(learners.step_all(&batches)?.iter().map(|trained| trained.loss));
            seen.extend(learners.performances()?);
        }
        performances.push(Tensor::from_slice(&seen));
    }
    near("performances", apart(&performances[1], &performances[0]), 1e-4);
    Ok(())
}

#[test]
#[ignore = "needs a CUDA device"]
fn choices_and_continuations_are_those_of_the_cpu() -> Result<()> {
    for (name, config) in configs() {
        for (kind, tolerance) in [(TensorKind::Float, 1e-5), (TensorKind::BFloat16, 2e-2)] {
            let [cpu, gpu] = both(&config, kind)?;
            // Three choices with a common prefix of 30 tokens.
            let families: Vec<Vec<Sequence>> = (0..5)
                .map(|question| {
                    let choice = |choice: u32| -> Sequence {
                        let tokens: Vec<u32> = (0..30 + 3 * choice)
                            .map(|place| (question * 41 + place * 7 + if place < 30 { 0 } else { choice }) % VOCABULARY)
                            .collect();
                        Sequence { supervised: (0..tokens.len()).map(|place| place >= 30).collect(), tokens }
                    };
                    (1..4).map(choice).collect()
                })
                .collect();
            let families: Vec<Vec<&Sequence>> = families.iter().map(|family| family.iter().collect()).collect();
            let loss = |model: &Model| ValidationSet::of_families(&families, 120, model.device())?.loss(model);
            let (expected, found) = (loss(&cpu)?, loss(&gpu)?);
            near(&format!("{name}, {kind:?}: choices"), ((found - expected) / expected).abs(), tolerance);
            if kind == TensorKind::Float {
                let prompts: Vec<Vec<u32>> = rows(6).into_iter().map(|row| row.tokens).collect();
                assert_eq!(cpu.generate(&prompts, 24, &[])?, gpu.generate(&prompts, 24, &[])?, "{name}");
            }
        }
    }
    Ok(())
}

/// Fills the memory of the GPU, except for about this number of bytes.
fn leave_room(bytes: usize) -> Vec<Tensor> {
    const PIECE: usize = 256 << 20;
    let mut taken = Vec::new();
    while let Ok(piece) = Tensor::f_empty([PIECE as i64], (TensorKind::Uint8, gpu())) {
        taken.push(piece);
    }
    taken.truncate(taken.len().saturating_sub(bytes.div_ceil(PIECE)));
    taken
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_full_gpu_halves_the_micro_batch_says_so_and_goes_on() -> Result<()> {
    let config = ModelConfig::llama(i64::from(VOCABULARY), 512, 8, 8, 8, 2048);
    let mut model = Model::init(config, &Seed::new(1), gpu(), TensorKind::BFloat16)?;
    model.prepare(&lora(), &Seed::new(2))?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let listener = said.clone();
    model.listen(Arc::new(move |words| listener.lock().expect("one thread").push(words.to_owned())));
    let config = TrainerConfig { micro_batch_tokens: 1 << 20, ..TrainerConfig::default() };
    let mut trainer = Trainer::new(model, config, None)?;
    let all = rows(600);
    let batch: Vec<&Sequence> = all.iter().collect();
    let tokens: usize = batch.iter().map(|row| row.tokens.len()).sum();
    // The first step lets the driver and cuBLAS load what they need. On a full GPU they could not.
    trainer.step(&batch[..20], None)?;
    let taken = leave_room(2 << 30);
    let outcome = trainer.step(&batch, None)?;
    drop(taken);
    assert_eq!(outcome.tokens, tokens);
    let said = said.lock().expect("one thread");
    println!("{said:?}");
    assert!(said.iter().any(|words| words.contains("there was no memory for")), "{said:?}");
    let room = trainer.config.micro_batch_tokens;
    assert!(room < tokens && room > tokens / 64, "{room} of {tokens}");
    Ok(())
}
