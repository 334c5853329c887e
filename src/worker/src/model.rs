//! Runs a stage of kind `model`: writes a language model from a GGUF file, a Hugging Face folder, fresh weights, or a
//! base with a frozen prefix.
//!
//! The first three become a Hugging Face folder. A base with a frozen prefix becomes a proxy: a reference to the base,
//! and the hidden states that enter the trained layers. The frozen layers then never run again.

use std::time::Instant;

use serde_json::json;
use tch::{Device, Kind as TensorKind};

use crate::learning::{check_context, compute, device, encode_pool, phase_cost, speed};
use raisin_base::error::{Context as _, Result, bail, ensure};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Cost, DType, Progress};
use raisin_corpus::{Codec, byte_tokenizer, read_instructions, read_task};
use raisin_kinds::model::{Init, ModelSource, Parameters};
use raisin_lm as lm;
use raisin_lm::proxy::{ProxyConfig, write_states};
use raisin_training::Meter;

/// The tokens in a forward pass of the prefix: enough for all cores, and few enough for the memory of a small machine.
const BATCH_TOKENS: usize = 4096;
/// The default of `source.max_tokens`.
const MAX_TOKENS: usize = 1024;

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
        lm::write_tokenizer(&gguf, gguf.config()?.max_position_embeddings, &out)?;
        return lm::Model::from_gguf(path, Device::Cpu, stored)?.save(&out);
    }
    if source.huggingface.is_some() {
        let folder = context.file("/source/huggingface")?;
        let model = match source.base {
            Some(_) => lm::Model::load_on_base(folder, context.file("/source/base")?, Device::Cpu, stored)?,
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
    let codec = Codec::load(&out)?;
    let Init { hidden_size, layers, heads, intermediate_size, .. } = *init;
    let (vocabulary, kv_heads) = (codec.vocabulary_size() as i64, init.kv_heads.unwrap_or(heads));
    let mut config = lm::ModelConfig::llama(vocabulary, hidden_size, layers, heads, kv_heads, intermediate_size);
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
    let max_tokens = source.max_tokens.unwrap_or(MAX_TOKENS);
    let out = context.out();
    let base = context.input("/source/prefix")?;
    let device = device(context)?;
    let loading = Meter::start(device);
    let mut model = lm::Model::load(base, device, compute(context))?;
    model.listen(std::sync::Arc::new(context.listener()));
    context.cost(phase_cost("load", loading.stop()));
    let layers = model.config.num_hidden_layers;
    ensure!(
        train_layers < layers,
        "cannot freeze a prefix: the base has {layers} layers, and train_layers is {train_layers}"
    );
    let codec = Codec::load(base)?;
    let pointer = "/source/instructions";
    let pool = encode_pool(&codec, &read_instructions(context.input(pointer)?)?, max_tokens, context, pointer)?;
    let task = read_task(context.input("/source/task")?)?;
    let validation = task
        .validation
        .iter()
        .map(|example| codec.example(example, &example.response, max_tokens))
        .collect::<Result<Vec<_>>>()?;
    check_context(&model, max_tokens, pool.iter().chain(&validation).flatten())?;
    let config = ProxyConfig { train_layers, prefix_layers: layers - train_layers, max_tokens };
    let total: usize = pool.iter().chain(&validation).flatten().map(|sequence| sequence.tokens.len()).sum();
    let start = Instant::now();
    let running = Meter::start(device);
    write_states(&model, &config, &pool, &validation, BATCH_TOKENS, &out, &mut |done| {
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
    let flops = flops * total as f64;
    context.cost(Cost { tokens: total as u64, flops, ..phase_cost("forward", running.stop()) });
    context.write_json("summary.json", &json!({ "pass": "prefix", "tokens": total, "flops": flops }))?;
    context.write_json("proxy.json", &config)?;
    lm::copy_tokenizer(base, &out)?;
    for name in ["config.json", "generation_config.json"] {
        let path = base.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            std::fs::write(out.join(name), bytes)?;
        }
    }
    context.add_reference("base", base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_contract::{Assignment, Declaration};
    use raisin_corpus::artifact::{PoolRow, examples_batch, instructions_batch};
    use raisin_corpus::{Example, Message};
    use raisin_lm::proxy::PrefixStates;
    use raisin_table as table;
    use serde_json::Value;
    use std::path::PathBuf;

    fn made(parameters: Value, inputs: &[(&str, PathBuf)], folder: PathBuf) -> Result<()> {
        let resolved = Declaration::of::<raisin_kinds::model::ModelKind>()
            .resolve(parameters)
            .map_err(|problem| raisin_base::error::anyhow!(problem.message))?;
        let context = Context::silent(Assignment::for_test("model", folder, inputs))?;
        run(serde_json::from_value(resolved.parameters)?, &context)
    }

    fn tiny() -> Value {
        json!({"source": {"init": {"hidden_size": 16, "layers": 3, "heads": 2, "intermediate_size": 24, "context": 64}}})
    }

    #[test]
    fn fresh_weights_can_be_loaded_and_have_the_same_bytes_twice() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        made(tiny(), &[], at("a"))?;
        made(tiny(), &[], at("b"))?;
        for name in ["model.safetensors", "config.json", "tokenizer.json"] {
            assert_eq!(std::fs::read(at("a/out").join(name))?, std::fs::read(at("b/out").join(name))?, "{name}");
        }
        let model = lm::Model::load(&at("a/out"), Device::Cpu, TensorKind::Float)?;
        assert_eq!(model.config.vocab_size, byte_tokenizer::VOCABULARY_SIZE as i64);
        assert_eq!(model.config.eos_token_id, [byte_tokenizer::END]);
        Ok(())
    }

    #[test]
    fn a_proxy_has_the_states_of_pool_and_validation_and_loads_its_base() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        made(tiny(), &[], at("base"))?;
        let turns = |text: &str| vec![Message::new("user", text), Message::new("assistant", "yes")];
        std::fs::create_dir_all(at("pool"))?;
        let rows = [PoolRow::new(turns("one"), 0, 1), PoolRow::new(turns("a second, longer one"), 0, 2)];
        table::write(&at("pool/instructions.parquet"), &instructions_batch(&rows)?)?;
        std::fs::create_dir_all(at("task"))?;
        let example = Example {
            id: 0,
            messages: [turns("and then?"), vec![Message::new("user", "what?")]].concat(),
            response: "this".to_owned(),
            choices: Vec::new(),
            answer: None,
        };
        for name in ["validation", "test"] {
            table::write(
                &at("task").join(format!("{name}.parquet")),
                &examples_batch(std::slice::from_ref(&example))?,
            )?;
        }
        std::fs::write(at("task/task.json"), r#"{"scoring": "loss", "max_new_tokens": 8}"#)?;
        // As in the store, artifacts are neighbouring folders whose names are digests.
        std::fs::rename(at("base/out"), at("0123"))?;
        let source = json!({"prefix": "base", "train_layers": 1, "instructions": "pool", "task": "task"});
        let inputs =
            [("/source/prefix", at("0123")), ("/source/instructions", at("pool")), ("/source/task", at("task"))];
        made(json!({"source": source}), &inputs, at("proxy"))?;
        std::fs::rename(at("proxy/out"), at("4567"))?;
        let states = PrefixStates::open(&at("4567"))?;
        assert_eq!((states.pool_rows(), states.config.prefix_layers, states.validation_lengths().len()), (2, 2, 1));
        let instructions = read_instructions(&at("pool"))?;
        let sequence = Codec::load(&at("4567"))?.instruction(&instructions[1], states.config.max_tokens)?;
        states.check(1, &sequence.context("a sequence")?)?;
        let whole = Codec::load(&at("4567"))?.example(&example, &example.response, states.config.max_tokens)?;
        assert_eq!(states.validation_lengths(), [whole.context("a sequence")?.tokens.len()], "with all turns");
        assert_eq!(lm::Model::load(&at("4567"), Device::Cpu, TensorKind::Float)?.config.num_hidden_layers, 3);
        let source = json!({"prefix": "base", "train_layers": 3, "instructions": "pool", "task": "task"});
        let error = made(json!({"source": source}), &inputs, at("all")).expect_err("nothing would be frozen");
        assert!(error.to_string().contains("the base has 3 layers"), "{error}");
        Ok(())
    }
}
