//! Runs a stage of kind `model`: writes a language model from a GGUF file, a Hugging Face folder, fresh weights, or a
//! base with a frozen prefix.
//!
//! The first three become a Hugging Face folder. A base with a frozen prefix becomes a proxy: a reference to the base,
//! and the hidden states that enter the trained layers. The frozen layers then never run again.

use std::time::Instant;

use serde_json::json;
use tch::{Device, Kind as TensorKind};

use crate::encoding::{EncodingReport, RowsOf, encode_examples, encode_pool};
use crate::learning::{check_context, codec, codec_of, compute, device, phase_cost, speed};
use raisin_base::error::{Result, bail, ensure};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Cost, DType, Progress};
use raisin_corpus::{Codec, Sequence, byte_tokenizer, read_instructions, read_task};
use raisin_kinds::model::{Init, ModelSource, Parameters};
use raisin_lm as lm;
use raisin_lm::proxy::{ProxyConfig, write_sets};
use raisin_training::Meter;

/// The tokens in a forward pass of the prefix: enough for all cores, and few enough for the memory of a small machine.
const BATCH_TOKENS: usize = 4096;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let stored = match parameters.dtype {
        DType::F32 => TensorKind::Float,
        DType::Bf16 => TensorKind::BFloat16,
    };
    let source = &parameters.source;
    let out = context.out();
    if source.gguf.is_some() {
        let path = context.file("/source/gguf")?;
        let gguf = lm::gguf::Gguf::open(path)?;
        let config = gguf.config()?;
        lm::write_tokenizer(&gguf, config.max_position_embeddings, &out)?;
        codec_of(&out, config.vocab_size)?;
        return lm::Model::from_gguf(path, Device::Cpu, stored)?.save(&out);
    }
    if source.huggingface.is_some() {
        let folder = context.file("/source/huggingface")?;
        let base = source.base.as_ref().map(|_| context.file("/source/base")).transpose()?;
        // Adapters are often saved without the tokenizer.
        let tokenizer = base.filter(|_| !folder.join("tokenizer.json").is_file()).unwrap_or(folder);
        lm::require_tokenizer(tokenizer)?;
        codec_of(tokenizer, lm::ModelConfig::read(base.unwrap_or(folder))?.vocab_size)?;
        let model = match base {
            Some(base) => lm::Model::load_on_base(folder, base, Device::Cpu, stored)?,
            None => lm::Model::load(folder, Device::Cpu, stored)?,
        };
        return model.save_merged(&out);
    }
    if let Some(init) = &source.init {
        return fresh(init, stored, context);
    }
    prefix(source, context)
}

/// Writes a model with fresh weights.
fn fresh(init: &Init, stored: TensorKind, context: &Context) -> Result<()> {
    let out = context.out();
    if init.tokenizer == "bytes" {
        byte_tokenizer::write(&out, init.context)?;
    } else {
        lm::copy_tokenizer(context.file("/source/init/tokenizer")?, &out)?;
    }
    lm::require_tokenizer(&out)?;
    let codec = Codec::load(&out)?;
    let rows = codec.highest_token().map_or(0, |(id, _)| i64::from(id) + 1);
    let Init { hidden_size, layers, heads, intermediate_size, .. } = *init;
    let kv_heads = init.kv_heads.unwrap_or(heads);
    let mut config = lm::ModelConfig::llama(rows, hidden_size, layers, heads, kv_heads, intermediate_size);
    config.max_position_embeddings = init.context;
    config.rope_theta = init.rope_theta;
    config.tie_word_embeddings = init.tie_word_embeddings;
    config.eos_token_id = codec.stop_tokens().to_vec();
    config.pad_token_id = codec.stop_tokens().first().copied();
    lm::Model::init(config, &Seed::new(init.seed).at("model"), Device::Cpu, stored)?.save(&out)
}

/// Writes a proxy: a reference to the base, and the hidden states after the frozen prefix.
fn prefix(source: &ModelSource, context: &Context) -> Result<()> {
    let Some(train_layers) = source.train_layers else { bail!("a frozen prefix needs `train_layers`") };
    let limit = source.sequence_limit();
    let max_tokens = limit.max_tokens;
    let out = context.out();
    let base = context.input("/source/prefix")?;
    let device = device(context)?;
    let loading = Meter::start(device);
    let codec = codec(base)?;
    let mut model = lm::Model::load(base, device, compute(context))?;
    model.listen(std::sync::Arc::new(context.listener()));
    context.cost(phase_cost("load", loading.stop()));
    let layers = model.config.num_hidden_layers;
    ensure!(
        train_layers < layers,
        "cannot freeze a prefix: the base has {layers} layers, and train_layers is {train_layers}"
    );
    let pointer = "/source/instructions";
    let pool = context.input(pointer)?;
    let instructions = read_instructions(pool)?;
    let mut encoding = EncodingReport::new(limit);
    let encoded = encode_pool(&codec, &instructions, max_tokens, context, pointer)?;
    let pool = encoding.instructions(Some(pool), &instructions, encoded)?;
    let task = read_task(context.input("/source/task")?)?;
    let encoded = encode_examples(&codec, &task.validation, max_tokens);
    let validation = encoding.examples(RowsOf::Validation, None, &task.validation, encoded)?;
    let test = if source.test {
        let encoded = encode_examples(&codec, &task.test, max_tokens);
        encoding.examples(RowsOf::Test, None, &task.test, encoded)?.rows
    } else {
        Vec::new()
    };
    encoding.tell(&codec, context);
    pool.not_empty(RowsOf::Instructions, None)?;
    validation.not_empty(RowsOf::Validation, None)?;
    let (pool, validation) = (pool.rows, validation.rows);
    check_context(&model, max_tokens, pool.iter().chain(&validation).chain(&test).flatten())?;
    let config =
        ProxyConfig { train_layers, prefix_layers: layers - train_layers, max_tokens, on_overlong: limit.on_overlong };
    let count = |rows: &[Option<Sequence>]| rows.iter().flatten().map(|row| row.tokens.len()).sum::<usize>();
    let (selecting, testing) = (count(&pool) + count(&validation), count(&test));
    let total = selecting + testing;
    let mut sets = vec![("pool", pool.as_slice()), ("validation", &validation)];
    if source.test {
        sets.push(("test", &test));
    }
    let start = Instant::now();
    let running = Meter::start(device);
    write_sets(&model, &config, &sets, BATCH_TOKENS, &out, &mut |done| {
        context.progress(Progress {
            phase: "hidden states".to_owned(),
            done: done as u64,
            total: total as u64,
            unit: "tokens".to_owned(),
            tokens_per_second: speed(done as u64, start.elapsed()),
            ..Progress::default()
        });
    })?;
    // The FLOPs of the prefix are the FLOPs of a whole forward pass minus the FLOPs of the layers above the prefix.
    let flops = model.flops_per_token(false) - model.flops_per_token_from(config.prefix_layers, false);
    let total_flops = flops * total as f64;
    context.cost(Cost { tokens: total as u64, flops: total_flops, ..phase_cost("forward", running.stop()) });
    // The states of the test examples save the cost of an evaluation. They are no cost of the selection.
    let mut summary = json!({ "pass": "prefix", "tokens": selecting, "flops": flops * selecting as f64 });
    if source.test {
        (summary["test_tokens"], summary["test_flops"]) = (json!(testing), json!(flops * testing as f64));
    }
    context.write_json("summary.json", &summary)?;
    context.write_json("proxy.json", &config)?;
    encoding.write(context)?;
    lm::copy_tokenizer(base, &out)?;
    lm::copy_configs(base, &out)?;
    context.add_reference("base", base)
}

#[cfg(test)]
mod tests;
