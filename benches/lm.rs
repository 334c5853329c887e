//! raisin's part of `just bench lm` and `just bench gpu`: times one task of one model in its own process, through the
//! library that the stages use. The scripts beside this file draw the batches, start the other programs, and compare.
//!
//!     bench-lm prepare GGUF ROWS.json OUT COUNT    writes a Hugging Face folder and token sequences for all programs
//!     bench-lm synthetic MODEL OUT COUNT           writes rows of the synthetic pool for a byte-level model
//!     bench-lm run REQUEST.json                    times one task, and prints one line of JSON

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use raisin_base::error::{Context as _, Result, anyhow, bail, render};
use raisin_base::learner::Ensemble;
use raisin_base::seed::Seed;
use raisin_corpus::message::{Message, conversation};
use raisin_corpus::synthetic::{Family, Mix, mix};
use raisin_corpus::{Codec, Instruction, Sequence};
use raisin_lm::gguf::Gguf;
use raisin_lm::proxy::{Overlong, PrefixStates, ProxyConfig, write_states};
use raisin_lm::{Adaptation, Batch, Model, TARGETS, write_tokenizer};
use raisin_training::{Episodes, LearningRateSchedule, Trainer, TrainerConfig, TrainingPool, ValidationSet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Kind as TensorKind, Tensor, no_grad};

/// The maximum length of a row in tokens, for raisin and for the other programs. Longer rows are cut.
const MAX_TOKENS: usize = 512;

fn main() -> ExitCode {
    raisin_base::allocator::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["prepare", gguf, rows, out, count] => prepare(Path::new(gguf), Path::new(rows), Path::new(out), count),
        ["synthetic", model, out, count] => synthetic(Path::new(model), Path::new(out), count),
        ["run", request] => run(Path::new(request)),
        _ => Err(anyhow!("usage: bench-lm prepare | synthetic | run (benches/lm.rs says more)")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            raisin_base::say!("{}", render(&error));
            ExitCode::FAILURE
        }
    }
}

/// A row in the form that the other programs read.
#[derive(Serialize, Deserialize)]
struct BenchRow {
    tokens: Vec<u32>,
    supervised: Vec<u8>,
}

/// The tokens of a conversation; `None` if the conversation has no trainable token.
fn encoded(codec: &Codec, messages: Vec<Message>) -> Option<BenchRow> {
    let encoded = codec.instruction(&Instruction::new(0, messages), MAX_TOKENS);
    encoded.sequence.map(|Sequence { tokens, supervised }| BenchRow {
        tokens,
        supervised: supervised.into_iter().map(u8::from).collect(),
    })
}

fn prepare(gguf: &Path, rows: &Path, out: &Path, count: &str) -> Result<()> {
    let model = Model::from_gguf(gguf, Device::Cpu, TensorKind::Float)?;
    let folder = out.join("model");
    model.save(&folder)?;
    write_tokenizer(&Gguf::open(gguf)?, model.config.max_position_embeddings, &folder)?;
    let codec = Codec::load(&folder)?;
    let records: Vec<Value> = serde_json::from_slice(&std::fs::read(rows)?).context("the rows are a JSON list")?;
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let count: usize = count.parse()?;
    let mut sequences = Vec::new();
    for record in &records {
        let (question, input) = (text(record, "instruction"), text(record, "input"));
        let question = if input.is_empty() { question } else { format!("{question}\n\n{input}") };
        let messages = conversation(None, &question, Some(&text(record, "output")));
        sequences.extend(encoded(&codec, messages));
        if sequences.len() == count {
            break;
        }
    }
    Ok(std::fs::write(out.join("rows.json"), serde_json::to_vec(&sequences)?)?)
}

fn synthetic(model: &Path, out: &Path, count: &str) -> Result<()> {
    let codec = Codec::load(model)?;
    let shape = Mix {
        size: count.parse()?,
        targets: vec![Family::Plural, Family::Vowels],
        validation: 1,
        test: 1,
        pretraining_size: 0,
        target_share_in_pretraining: 0.0,
        ..Mix::default()
    };
    let mut sequences = Vec::new();
    for row in mix(&shape, &Seed::new(17))?.pool {
        sequences.extend(encoded(&codec, row.messages));
    }
    Ok(std::fs::write(out.join("rows.json"), serde_json::to_vec(&sequences)?)?)
}

/// One measurement.
#[derive(Deserialize)]
struct Measurement {
    task: MeasurementName,
    model: String,
    rows: String,
    device: String,
    dtype: String,
    threads: i32,
    /// The row numbers of each timed unit. The first unit is not counted.
    batches: Vec<Vec<usize>>,
    /// The row numbers of the validation set of a reward evaluation.
    #[serde(default)]
    validation: Vec<usize>,
    /// The maximum number of tokens of a forward pass.
    batch_tokens: usize,
    /// For a proxy with a frozen prefix: the number of trained layers on top.
    #[serde(default)]
    top_layers: Option<usize>,
    /// The number of episodes.
    #[serde(default)]
    episodes: usize,
    /// The number of steps of each episode.
    #[serde(default)]
    steps: usize,
    /// Whether all episodes run at the same time, instead of one after another.
    #[serde(default)]
    side_by_side: bool,
    /// Whether all weights are trained, instead of adapters.
    #[serde(default)]
    full: bool,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum MeasurementName {
    Features,
    Full,
    Lora,
    Reward,
    Episodes,
}

/// The measured values of one timed unit.
#[derive(Serialize)]
struct Unit {
    seconds: f64,
    /// The processor time in seconds, summed over all threads.
    cpu: f64,
    tokens: usize,
    supervised: usize,
    flops: f64,
    /// The loss. Equal losses show that the programs compute the same task.
    value: f64,
}

fn kind(dtype: &str) -> Result<TensorKind> {
    match dtype {
        "f32" => Ok(TensorKind::Float),
        "bf16" => Ok(TensorKind::BFloat16),
        other => bail!("the dtype {other} is neither f32 nor bf16"),
    }
}

fn lora() -> Adaptation {
    Adaptation::Lora { rank: 16, alpha: 32.0, targets: TARGETS.map(str::to_owned).to_vec() }
}

fn run(path: &Path) -> Result<()> {
    let request: Measurement = serde_json::from_slice(&std::fs::read(path)?)?;
    let device = match request.device.strip_prefix("cuda") {
        None => Device::Cpu,
        Some(rest) => raisin_lm::device(Some(rest.trim_start_matches(':').parse().unwrap_or(0)))?,
    };
    tch::set_num_threads(request.threads);
    let rows: Vec<BenchRow> = serde_json::from_slice(&std::fs::read(&request.rows)?)?;
    let rows: Vec<Sequence> = rows
        .into_iter()
        .map(|row| Sequence { tokens: row.tokens, supervised: row.supervised.iter().map(|&mark| mark == 1).collect() })
        .collect();
    let (folder, compute) = (Path::new(&request.model), kind(&request.dtype)?);
    let model = match request.task {
        MeasurementName::Full => Model::load_to_train(folder, device, compute, &Adaptation::Full)?,
        _ => Model::load(folder, device, compute)?,
    };
    let units = match request.task {
        MeasurementName::Features => features(&model, &rows, &request)?,
        MeasurementName::Full => train(model, &Adaptation::Full, &rows, &request)?,
        MeasurementName::Lora => train(model, &lora(), &rows, &request)?,
        MeasurementName::Reward => reward(&model, &rows, &request)?,
        MeasurementName::Episodes => episodes(model, rows, &request)?,
    };
    println!("{}", json!({ "units": units, "peak_bytes": peak_memory(device) }));
    Ok(())
}

/// The largest resident set of this process so far, in bytes. For a GPU: the memory in use, because libtorch keeps
/// freed memory.
fn peak_memory(device: Device) -> u64 {
    if let Device::Cuda(index) = device {
        return raisin_lm::device_memory_in_use(index).unwrap_or(0);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The processor time of this process so far, in seconds.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, and `time` is one.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Runs `work` and waits until the device has finished. Returns the wall time and the processor time in seconds.
fn timed<T>(device: Device, work: impl FnOnce() -> Result<T>) -> Result<([f64; 2], T)> {
    let (start, cpu) = (Instant::now(), processor_time());
    let result = work()?;
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
    Ok(([start.elapsed().as_secs_f64(), processor_time() - cpu], result))
}

fn chosen<'a>(rows: &'a [Sequence], batch: &[usize]) -> Vec<&'a Sequence> {
    batch.iter().map(|&row| &rows[row]).collect()
}

fn counts(rows: &[&Sequence]) -> (usize, usize) {
    (rows.iter().map(|row| row.tokens.len()).sum(), rows.iter().map(|row| row.supervised_tokens()).sum())
}

/// Times the log-probability and the mean hidden state of each response.
fn features(model: &Model, rows: &[Sequence], request: &Measurement) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for batch in &request.batches {
        let rows = chosen(rows, batch);
        let (tokens, supervised) = counts(&rows);
        let ([seconds, cpu], value) = timed(model.device(), || {
            no_grad(|| {
                let batch = Batch::pack(&rows, model.device())?;
                let hidden = model.hidden(&batch)?;
                let log_probs = model.token_log_probs(&hidden, &batch)?;
                let lengths: Vec<i64> = rows.iter().map(|row| row.tokens.len() as i64).collect();
                let means: Vec<Tensor> = hidden
                    .f_split_with_sizes(lengths.as_slice(), 0)?
                    .iter()
                    .map(|row| row.f_mean_dim(0, false, TensorKind::Float))
                    .collect::<Result<_, _>>()?;
                let _ = Tensor::f_stack(&means, 0)?.f_to_device(Device::Cpu)?;
                Ok(-log_probs.f_sum(TensorKind::Float)?.f_double_value(&[])? / supervised as f64)
            })
        })?;
        let flops = model.flops_per_token(false) * tokens as f64;
        units.push(Unit { seconds, cpu, tokens, supervised, flops, value });
    }
    Ok(units)
}

fn trainer_config(request: &Measurement, steps: usize) -> TrainerConfig {
    TrainerConfig {
        learning_rate: 1e-5,
        schedule: LearningRateSchedule::Constant,
        total_steps: steps,
        micro_batch_tokens: request.batch_tokens,
        ..TrainerConfig::default()
    }
}

fn train(mut model: Model, adaptation: &Adaptation, rows: &[Sequence], request: &Measurement) -> Result<Vec<Unit>> {
    model.prepare(adaptation, &Seed::new(1))?;
    let device = model.device();
    let mut trainer = Trainer::new(model, trainer_config(request, request.batches.len()), None)?;
    let mut units = Vec::new();
    for batch in &request.batches {
        let rows = chosen(rows, batch);
        let ([seconds, cpu], outcome) = timed(device, || trainer.step(&rows, None))?;
        let (tokens, supervised) = (outcome.tokens, outcome.supervised_tokens);
        units.push(Unit { seconds, cpu, tokens, supervised, flops: outcome.flops, value: outcome.loss });
    }
    Ok(units)
}

fn reward(model: &Model, rows: &[Sequence], request: &Measurement) -> Result<Vec<Unit>> {
    let rows = chosen(rows, &request.validation);
    let (tokens, supervised) = counts(&rows);
    let set = ValidationSet::new(&rows, None, request.batch_tokens, model.device())?;
    let mut units = Vec::new();
    for _ in &request.batches {
        let ([seconds, cpu], value) = timed(model.device(), || set.loss(model))?;
        let flops = model.flops_per_token(false) * tokens as f64;
        units.push(Unit { seconds, cpu, tokens, supervised, flops, value });
    }
    Ok(units)
}

/// Times the episodes of a selector: training steps, each followed by a reward evaluation.
fn episodes(model: Model, rows: Vec<Sequence>, request: &Measurement) -> Result<Vec<Unit>> {
    let layers = model.config.num_hidden_layers;
    let adaptation = match (request.full, request.top_layers) {
        (true, None) => Adaptation::Full,
        (true, Some(layers)) => Adaptation::TopLayers(layers),
        (false, None) => lora(),
        (false, Some(layers)) => {
            Adaptation::TopLayersLora { layers, rank: 16, alpha: 32.0, targets: TARGETS.map(str::to_owned).to_vec() }
        }
    };
    let folder = tempfile::tempdir()?;
    let examples: Vec<Sequence> = request.validation.iter().map(|&row| rows[row].clone()).collect();
    let pool: Vec<Option<Sequence>> = rows.into_iter().map(Some).collect();
    let mut states = None;
    if let Some(top) = request.top_layers {
        let config = ProxyConfig {
            train_layers: top,
            prefix_layers: layers - top,
            max_tokens: MAX_TOKENS,
            on_overlong: Overlong::Truncate,
        };
        let validation: Vec<Option<Sequence>> = examples.iter().cloned().map(Some).collect();
        write_states(&model, &config, &pool, &validation, request.batch_tokens, folder.path(), &mut |_| ())?;
        std::fs::write(folder.path().join("proxy.json"), serde_json::to_vec(&config)?)?;
        states = Some(PrefixStates::open(folder.path())?);
    }
    let cached = match &states {
        None => None,
        Some(states) => {
            let lengths: Vec<i64> = examples.iter().map(|example| example.tokens.len() as i64).collect();
            Some(states.validation()?.f_split_with_sizes(lengths.as_slice(), 0)?)
        }
    };
    let cached = cached.as_ref().map(|cached| (layers - request.top_layers.unwrap_or(0), cached.as_slice()));
    let device = model.device();
    let together =
        if request.side_by_side { Episodes::lanes_of_a_trainer(&adaptation, device, request.episodes) } else { 1 };
    let limit = request.batch_tokens / together;
    let validation = ValidationSet::new(&examples.iter().collect::<Vec<_>>(), cached, limit, device)?;
    let pool = TrainingPool::new(pool, states);
    let config = TrainerConfig { learning_rate: 1e-4, ..trainer_config(request, request.steps) };
    let batch = |step: usize, episode: usize| -> Vec<u32> {
        let number = (step * request.episodes + episode) % request.batches.len();
        request.batches[number].iter().map(|&row| row as u32).collect()
    };
    let mut units = Vec::new();
    let mut play = |learners: &mut dyn Ensemble, first: usize, played: usize| -> Result<()> {
        learners.restore_all()?;
        let batches_of = |step: usize| (first..first + played).map(|episode| batch(step, episode)).collect::<Vec<_>>();
        if first == 0 {
            // The first step loads kernels and fills the allocator.
            learners.step_all(&batches_of(0))?;
        }
        let (start, cpu) = (Instant::now(), processor_time());
        learners.restore_all()?;
        let (mut tokens, mut supervised, mut flops, mut value) = (0, 0, 0.0, 0.0);
        for step in 0..request.steps {
            for trained in learners.step_all(&batches_of(step))? {
                tokens += trained.tokens as usize;
                supervised += trained.supervised_tokens as usize;
                flops += trained.flops;
            }
            value = learners.performances()?.iter().sum::<f64>();
        }
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), processor_time() - cpu);
        units.push(Unit { seconds, cpu, tokens, supervised, flops, value });
        Ok(())
    };
    if request.side_by_side {
        let (seed, episodes) = (Seed::new(1), request.episodes);
        let mut learners = Episodes::new(model, &adaptation, &seed, config, episodes, pool, validation)?;
        play(&mut learners, 0, request.episodes)?;
    } else {
        let mut learner = Episodes::new(model, &adaptation, &Seed::new(1), config, 1, pool, validation)?;
        for episode in 0..request.episodes {
            play(&mut learner, episode, 1)?;
        }
    }
    Ok(units)
}
