//! Measures the memory of training. Each measurement runs in a process of its own, because the memory of other tests
//! would be counted too.

use std::process::Command;
use std::sync::{Arc, Mutex};

use raisin_base::error::{Result, ensure};
use raisin_base::seed::Seed;
use raisin_corpus::Sequence;
use raisin_lm::{Adaptation, Batch, Model, ModelConfig};
use raisin_training::{Meter, Trainer, TrainerConfig};
use tch::{Device, Kind as TensorKind, Tensor};

/// The size of Qwen2's vocabulary.
const VOCABULARY: i64 = 151_936;

/// Runs one of the ignored tests below alone in a process.
fn alone(name: &str) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", &format!("out_of_memory::{name}"), "--ignored", "--nocapture", "--test-threads", "1"]);
    let output = raisin_tests::processes::output(&mut command);
    let words = String::from_utf8_lossy(&output.stdout);
    print!("{}", words.lines().filter(|line| line.contains("MB")).map(|line| format!("{line}\n")).collect::<String>());
    ensure!(output.status.success(), "{words}\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(words.contains("1 passed"), "the test did not run: {words}");
    Ok(())
}

fn rows(count: u32, length: u32, vocabulary: u32) -> Vec<Sequence> {
    (0..count)
        .map(|row| Sequence {
            tokens: (0..length).map(|place| (row * 31 + place * 7) % vocabulary).collect(),
            supervised: (0..length).map(|place| place > 0).collect(),
        })
        .collect()
}

#[test]
fn a_vocabulary_of_152_thousand_costs_no_gigabytes() -> Result<()> {
    alone("loss_and_gradients_over_a_large_vocabulary")
}

#[test]
#[ignore = "measures the memory of its process: run by the test above"]
fn loss_and_gradients_over_a_large_vocabulary() -> Result<()> {
    tch::set_num_threads(1);
    let mut model =
        Model::init(ModelConfig::llama(VOCABULARY, 32, 1, 2, 2, 32), &Seed::new(1), Device::Cpu, TensorKind::Float)?;
    model.prepare(&Adaptation::Full, &Seed::new(2))?;
    let rows = rows(2, 1025, VOCABULARY as u32);
    let batch = Batch::pack(&rows.iter().collect::<Vec<_>>(), Device::Cpu)?;
    let before = Meter::start(Device::Cpu).stop().peak_bytes;
    let meter = Meter::start(Device::Cpu);
    let loss = model.response_loss(&model.hidden(&batch)?, &batch)?;
    let leaves: Vec<&Tensor> = model.trainable().leaves.iter().map(|(_, leaf)| leaf).collect();
    let gradients = Tensor::f_run_backward(&[loss.sum], &leaves, false, false)?;
    drop(gradients);
    let taken = (meter.stop().peak_bytes - before) >> 20;
    let logits = (2048 * VOCABULARY * 4) >> 20;
    println!("loss and gradients: {taken} MB, where all logits alone are {logits} MB");
    // The limit allows for the matrices of two chunks and the gradient of the embedding table.
    ensure!(taken < 500, "{taken} MB");
    let meter = Meter::start(Device::Cpu);
    let log_probs = tch::no_grad(|| model.token_log_probs(&model.hidden(&batch)?, &batch))?;
    let taken = (meter.stop().peak_bytes - before) >> 20;
    println!("log-probabilities: {taken} MB");
    ensure!(log_probs.numel() == 2048 && taken < 500, "{taken} MB");
    Ok(())
}

fn trainer(micro_batch_tokens: usize, activation_checkpointing: bool) -> Result<Trainer> {
    let config = ModelConfig::llama(64, 128, 16, 4, 4, 512);
    let mut model = Model::init(config, &Seed::new(1), Device::Cpu, TensorKind::Float)?;
    model.prepare(&Adaptation::Full, &Seed::new(2))?;
    let config = TrainerConfig {
        learning_rate: 1e-3,
        total_steps: 10,
        micro_batch_tokens,
        activation_checkpointing,
        ..TrainerConfig::default()
    };
    Trainer::new(model, config, None)
}

#[test]
fn checkpointed_activations_take_a_fraction_of_the_memory() -> Result<()> {
    alone("activations_kept_and_checkpointed")
}

#[test]
#[ignore = "measures the memory of its process: run by the test above"]
fn activations_kept_and_checkpointed() -> Result<()> {
    tch::set_num_threads(1);
    let rows = rows(8, 256, 64);
    let batch: Vec<&Sequence> = rows.iter().collect();
    let mut taken = Vec::new();
    // This step lets libtorch allocate the memory that it keeps, before the measurement.
    trainer(4096, false)?.step(&batch[..1], None)?;
    for checkpointing in [true, false] {
        let mut trainer = trainer(4096, checkpointing)?;
        let before = Meter::start(Device::Cpu).stop().peak_bytes;
        trainer.step(&batch, None)?;
        let phases = trainer.account().phases;
        taken.push((phases.forward.peak_bytes.max(phases.backward.peak_bytes) - before) >> 20);
    }
    println!("a step takes {} MB with activations kept, {} MB with checkpoints", taken[1], taken[0]);
    ensure!(taken[0] * 2 < taken[1], "{taken:?}");
    Ok(())
}

#[test]
fn a_step_that_finds_no_memory_is_made_in_halves_and_says_so() -> Result<()> {
    alone("a_step_under_a_limit_of_memory")
}

/// The kernel enforces the limit, so a real allocation fails, in the middle of a forward or backward pass.
#[test]
#[ignore = "limits the memory of its process: run by the test above"]
fn a_step_under_a_limit_of_memory() -> Result<()> {
    raisin_base::error::print_panics_without_backtrace();
    tch::set_num_threads(1);
    let rows = rows(16, 256, 64);
    let batch: Vec<&Sequence> = rows.iter().collect();
    // The micro-batches hold one row, so that no freed memory is left for the limited step.
    let mut free = trainer(256, false)?;
    let expected = free.step(&batch, None)?;
    drop(free);
    let mut limited = trainer(4096, false)?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    limited.model.listen(Arc::new(move |text| hears.lock().expect("one thread").push(text.to_owned())));
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse().ok());
    let size: u64 = size.unwrap_or(0);
    let limit = size * 1024 + (400 << 20);
    let limit = rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit)?;
    let outcome = limited.step(&batch, None)?;
    let notice = heard.lock().expect("one thread").first().cloned().unwrap_or_default();
    println!("under a limit of 400 MB: {notice}");
    ensure!(
        notice.starts_with("there was no memory for 4096 tokens at a time in step 1; the limit is now "),
        "{notice}"
    );
    ensure!(limited.config.micro_batch_tokens < 4096);
    ensure!((outcome.loss - expected.loss).abs() < 1e-5, "{} {}", outcome.loss, expected.loss);
    ensure!((outcome.gradient_norm / expected.gradient_norm - 1.0).abs() < 1e-4);
    // The notice comes once, and the smaller size is kept.
    limited.step(&batch, None)?;
    ensure!(heard.lock().expect("one thread").len() == 1);
    Ok(())
}
