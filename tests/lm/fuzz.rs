//! Reads files of models that were changed at random: GGUF files, safetensors files and their indexes, config.json,
//! adapters, tokenizers and chat templates. tests/support/fuzz.rs has the changes and the limits.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::path::Path;
use std::time::Duration;

use raisin_base::error::Result;
use raisin_base::seed::Seed;
use raisin_corpus::message::conversation;
use raisin_corpus::{Codec, Example, Instruction, Sequence, byte_tokenizer};
use raisin_lm::gguf::Gguf;
use raisin_lm::weights::{Outgoing, Weights, write};
use raisin_lm::{Adaptation, Batch, Model, ModelConfig, TARGETS, write_tokenizer};
use raisin_tests::fuzz::{self, Fuzzing, Limits, Subject, run_subject};
use serde_json::{Value, json};
use tch::{Device, Kind as TensorKind};

use crate::gguf_file::tiny;

/// libtorch alone holds about 300 MB.
const LIMITS: Limits = Limits { time: Duration::from_secs(2), memory: 1200 << 10 };

const SUBJECTS: [(&str, Subject); 5] = [
    ("gguf", gguf_files),
    ("weights", weights),
    ("configs", configs),
    ("adapters", adapters),
    ("tokenizers", tokenizers),
];

/// Not a test: the process of one subject.
#[test]
fn fuzz_process() {
    run_subject(&SUBJECTS, LIMITS);
}

fn holds(subject: &str) {
    fuzz::holds("fuzz::fuzz_process", subject);
}

#[test]
fn no_changed_gguf_file_causes_a_panic_or_a_hang() {
    holds("gguf");
}

#[test]
fn no_changed_file_of_weights_causes_a_panic_or_a_hang() {
    holds("weights");
}

#[test]
fn no_changed_configuration_of_a_model_causes_a_panic_or_a_hang() {
    holds("configs");
}

#[test]
fn no_changed_adapter_causes_a_panic_or_a_hang() {
    holds("adapters");
}

#[test]
fn no_changed_tokenizer_or_chat_template_causes_a_panic_or_a_hang() {
    holds("tokenizers");
}

/// What a stage does first with a model: a pass over some tokens.
fn pass(model: &Model) -> Result<()> {
    let tokens: Vec<u32> = (0..7).map(|place| place * 3 % 20).collect();
    let sequence = Sequence { supervised: vec![false; tokens.len()], tokens };
    let batch = Batch::pack(&[&sequence], Device::Cpu)?;
    tch::no_grad(|| model.logits(&model.hidden(&batch)?)).map(drop)
}

/// A changed copy of a text. Half of the changes of a JSON document keep it JSON.
fn changed_text(fuzzing: &mut Fuzzing, corpus: &[Vec<u8>]) -> Vec<u8> {
    let chosen = &corpus[fuzzing.rng.below(corpus.len())];
    let document = serde_json::from_slice::<Value>(chosen).ok().filter(|value| value.is_object() || value.is_array());
    match document.filter(|_| fuzzing.rng.below(2) == 0) {
        Some(mut document) => {
            for _ in 0..=fuzzing.rng.below(3) {
                fuzzing.change_json(&mut document);
            }
            document.to_string().into_bytes()
        }
        None => fuzzing.changed(corpus),
    }
}

fn gguf_files(fuzzing: &mut Fuzzing) {
    tch::set_num_threads(1);
    let corpus = [tiny("llama", 0, 128), tiny("llama", 8, 34), tiny("qwen2", 1, 64), tiny("qwen3", 2, 18)];
    let out = fuzzing.folder.join("out");
    let read = |path: &Path, out: &Path| -> Result<()> {
        std::fs::create_dir_all(out)?;
        let gguf = Gguf::open(path)?;
        write_tokenizer(&gguf, gguf.config()?.max_position_embeddings, out)?;
        Codec::load(out)?.encode("a <|end|> b 12")?;
        let model = Model::from_gguf(path, Device::Cpu, TensorKind::Float)?;
        model.save(out)?;
        pass(&model)
    };
    for whole in &corpus {
        std::fs::write(fuzzing.folder.join("whole"), whole).unwrap();
        read(&fuzzing.folder.join("whole"), &out).unwrap();
    }
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        let mut accepted = false;
        fuzzing.one("changed.gguf", &changed, |path| accepted = read(path, &out).is_ok());
        fuzzing.accepted += u64::from(accepted);
    }
}

/// A model with a tokenizer for its tokens.
fn model_at(folder: &Path, config: ModelConfig) -> Model {
    let model = Model::init(config, &Seed::new(5), Device::Cpu, TensorKind::Float).unwrap();
    model.save(folder).unwrap();
    byte_tokenizer::write(folder, 64).unwrap();
    model
}

fn tiny_config() -> ModelConfig {
    ModelConfig::llama(260, 16, 2, 4, 2, 24)
}

fn weights(fuzzing: &mut Fuzzing) {
    tch::set_num_threads(1);
    let (one, two) = (fuzzing.folder.join("one"), fuzzing.folder.join("two"));
    model_at(&one, tiny_config());
    model_at(&two, tiny_config());
    // The second model in two shards.
    let whole = Weights::open(&two).unwrap();
    let names: Vec<String> = whole.names().map(str::to_owned).collect();
    let mut map = json!({});
    for (number, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let values: Vec<_> = names.iter().map(|name| whole.read(name).unwrap()).collect();
        let tensors: Vec<_> =
            names.iter().zip(&values).map(|(name, value)| Outgoing::of(name.clone(), value).unwrap()).collect();
        write(&two.join(format!("part-{number}.safetensors")), &tensors).unwrap();
        names.iter().for_each(|name| map[name] = json!(format!("part-{number}.safetensors")));
    }
    drop(whole);
    std::fs::remove_file(two.join("model.safetensors")).unwrap();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    std::fs::write(two.join("model.safetensors.index.json"), index).unwrap();
    let files = [
        one.join("model.safetensors"),
        two.join("part-0.safetensors"),
        two.join("part-1.safetensors"),
        two.join("model.safetensors.index.json"),
    ];
    let corpus = files.each_ref().map(|path| std::fs::read(path).unwrap());
    for folder in [&one, &two] {
        Model::load(folder, Device::Cpu, TensorKind::Float).unwrap();
    }
    while fuzzing.goes_on() {
        let chosen = fuzzing.rng.below(files.len());
        let mut changed = corpus[chosen].clone();
        if fuzzing.rng.below(2) == 0 && corpus[chosen].starts_with(b"{") {
            changed = changed_text(fuzzing, std::slice::from_ref(&corpus[chosen]));
        } else if fuzzing.rng.below(2) == 0 && !corpus[chosen].starts_with(b"{") {
            changed = changed_header(fuzzing, &changed);
        } else {
            (0..=fuzzing.rng.below(3)).for_each(|_| fuzzing.change(&mut changed, &corpus));
        }
        let path = files[chosen].clone();
        let mut accepted = false;
        fuzzing.one("changed", &changed, |_| {
            std::fs::write(&path, &changed).unwrap();
            let model = Model::load(path.parent().unwrap(), Device::Cpu, TensorKind::BFloat16);
            accepted = model.and_then(|model| pass(&model)).is_ok();
        });
        fuzzing.accepted += u64::from(accepted);
        std::fs::write(&path, &corpus[chosen]).unwrap();
    }
}

/// A safetensors file with a changed header of the right length.
fn changed_header(fuzzing: &mut Fuzzing, file: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = changed_text(fuzzing, &[file[8..8 + length].to_vec()]);
    [&(header.len() as u64).to_le_bytes(), header.as_slice(), &file[8 + length..]].concat()
}

fn configs(fuzzing: &mut Fuzzing) {
    tch::set_num_threads(1);
    let folder = fuzzing.folder.join("model");
    model_at(&folder, tiny_config());
    let plain: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let mut corpus = vec![plain.to_string().into_bytes()];
    let more = [
        json!({"model_type": "mistral", "architectures": null, "sliding_window": 4}),
        json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "layer_types": ["full_attention", "full_attention"]}),
        json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
            "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.5, "rope_theta": 5000.0}}),
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16}}),
        json!({"eos_token_id": [2, 3], "bos_token_id": 1, "quantization_config": null, "attention_dropout": 0.0}),
    ];
    for more in more {
        let mut config = plain.clone();
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        corpus.push(config.to_string().into_bytes());
    }
    let read = |folder: &Path| -> Result<()> {
        let model = Model::load(folder, Device::Cpu, TensorKind::Float)?;
        pass(&model)?;
        // What raisin has accepted and written is read again as the same model.
        let copy = folder.with_file_name("copy");
        std::fs::create_dir_all(&copy)?;
        model.config.write(&copy)?;
        let again = ModelConfig::read(&copy).unwrap();
        // A decimal number is read with an error in its last digit.
        let ModelConfig { initializer_range, rms_norm_eps, rope_theta, rope_scaling, .. } = model.config.clone();
        assert_eq!(again.rope_scaling.is_some(), rope_scaling.is_some());
        let again = ModelConfig { initializer_range, rms_norm_eps, rope_theta, rope_scaling, ..again };
        assert_eq!(again, model.config);
        Ok(())
    };
    for config in &corpus {
        std::fs::write(folder.join("config.json"), config).unwrap();
        read(&folder).unwrap();
    }
    while fuzzing.goes_on() {
        let changed = changed_text(fuzzing, &corpus);
        let mut accepted = false;
        fuzzing.one("changed", &changed, |_| {
            std::fs::write(folder.join("config.json"), &changed).unwrap();
            accepted = read(&folder).is_ok();
        });
        fuzzing.accepted += u64::from(accepted);
    }
}

fn adapters(fuzzing: &mut Fuzzing) {
    tch::set_num_threads(1);
    let (base, folder) = (fuzzing.folder.join("base"), fuzzing.folder.join("adapter"));
    let mut model = model_at(&base, tiny_config());
    let targets = TARGETS.map(str::to_owned).to_vec();
    model.prepare(&Adaptation::Lora { rank: 2, alpha: 4.0, targets }, &Seed::new(2)).unwrap();
    model.save_adapter(&folder, Some("cache/artifacts/0")).unwrap();
    let files = ["adapter_config.json", "adapter_model.safetensors"].map(|name| folder.join(name));
    let plain: Value = serde_json::from_slice(&std::fs::read(&files[0]).unwrap()).unwrap();
    let mut configs = vec![plain.to_string().into_bytes()];
    for more in [
        json!({"target_modules": ".*\\.(?!x)(q|k|v|o|gate|up|down)_proj", "use_rslora": true}),
        json!({"target_modules": "all-linear", "rank_pattern": {"q_proj": 2, "layers.1.*": 2}, "alpha_pattern": {"v": 1}}),
        json!({"layers_to_transform": [0, 1], "layers_pattern": ["layers"], "exclude_modules": ["lm_head"]}),
    ] {
        let mut config = plain.clone();
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        configs.push(config.to_string().into_bytes());
    }
    let read = |folder: &Path| -> Result<()> {
        let model = Model::load_on_base(folder, &base, Device::Cpu, TensorKind::Float)?;
        pass(&model)
    };
    for config in &configs {
        std::fs::write(&files[0], config).unwrap();
        read(&folder).unwrap();
    }
    let weights = [std::fs::read(&files[1]).unwrap()];
    while fuzzing.goes_on() {
        let changes_weights = fuzzing.rng.below(4) == 0;
        let changed = match changes_weights {
            true if fuzzing.rng.below(2) == 0 => changed_header(fuzzing, &weights[0]),
            true => fuzzing.changed(&weights),
            false => changed_text(fuzzing, &configs),
        };
        let path = files[usize::from(changes_weights)].clone();
        let mut accepted = false;
        fuzzing.one("changed", &changed, |_| {
            std::fs::write(&path, &changed).unwrap();
            accepted = read(&folder).is_ok();
        });
        fuzzing.accepted += u64::from(accepted);
        std::fs::write(&files[0], &configs[0]).unwrap();
        std::fs::write(&files[1], &weights[0]).unwrap();
    }
}

/// The chat template of the tests: what many templates do, in a few lines.
const TEMPLATE: &str = "{%- if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif -%}\
    {%- for message in messages %}{{ '<|' ~ message['role'] ~ '|>' }}{{ message.content.strip() + eos_token }}\
    {%- if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}\
    {%- if tools is not none and tools %}{{ tools | tojson(indent=4) }}{% endif %}\
    {%- set ns = namespace(text='') %}{% for i in range(3) %}{% set ns.text = ns.text ~ i %}{% endfor %}\
    {%- macro named(x) %}{{ x | upper }}{{ x.split('a')[-1] }}{% endmacro %}{{ named('abc') }}";

/// A tokenizer with the parts that the tokenizers of models have.
fn rich_tokenizer() -> Value {
    let added = |id: u32, text: &str, special: bool| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": !special, "special": special})
    };
    let letters = ["<unk>", "▁", "a", "b", "c", "▁a", "ab", "<0x41>"];
    let vocabulary: serde_json::Map<String, Value> =
        (0..).zip(letters).map(|(id, text)| (text.to_owned(), Value::from(id))).collect();
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [added(0, "<unk>", true), added(8, "<|end|>", true), added(9, "word", false)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|\\p{L}+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated",
                "invert": false},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
            {"type": "Digits", "individual_digits": true}, {"type": "Punctuation", "behavior": "Isolated"}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [8], "tokens": ["<|end|>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": [["▁", "a"], ["a", "b"]]},
    })
}

/// A unigram tokenizer, as SentencePiece makes it.
fn unigram_tokenizer() -> Value {
    let mut tokenizer = rich_tokenizer();
    tokenizer["model"] = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<unk>", 0.0], ["▁", -2.0], ["a", -3.0], ["b", -3.5], ["▁a", -4.0], ["ab", -4.5]]});
    tokenizer["added_tokens"][1]["id"] = json!(6);
    tokenizer["added_tokens"][2]["id"] = json!(7);
    tokenizer
}

fn tokenizers(fuzzing: &mut Fuzzing) {
    let folder = fuzzing.folder.join("model");
    std::fs::create_dir(&folder).unwrap();
    byte_tokenizer::write(&folder, 64).unwrap();
    let files = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];
    let mut corpora: Vec<(String, Vec<Vec<u8>>)> =
        files.iter().map(|name| ((*name).to_owned(), vec![std::fs::read(folder.join(name)).unwrap()])).collect();
    corpora[0].1.extend([rich_tokenizer(), unigram_tokenizer()].map(|tokenizer| tokenizer.to_string().into_bytes()));
    corpora.push(("chat_template.jinja".to_owned(), vec![TEMPLATE.as_bytes().to_vec()]));
    let read = |folder: &Path| -> Result<()> {
        let codec = Codec::load(folder)?;
        codec.highest_token();
        let messages = conversation(Some("ab 12"), "a b\u{e9} <|end|> word", Some("ab"));
        codec.instruction(&Instruction::new(0, messages.clone()), 64);
        let tokens = codec.prompt(&Example::open(0, messages[..2].to_vec(), "ab"))?;
        codec.decode(&tokens).map(drop)
    };
    for (name, corpus) in &corpora {
        for whole in corpus {
            std::fs::write(folder.join(name), whole).unwrap();
            read(&folder).unwrap();
        }
    }
    while fuzzing.goes_on() {
        for (name, corpus) in &corpora {
            if name == "chat_template.jinja" {
                drop(std::fs::remove_file(folder.join(name)));
            } else {
                std::fs::write(folder.join(name), &corpus[0]).unwrap();
            }
        }
        // Most of the code reads tokenizer.json and the chat template.
        let chosen = [0, 0, 0, 1, 2, 3, 4, 4][fuzzing.rng.below(8)];
        let (name, corpus) = &corpora[chosen];
        let changed = changed_text(fuzzing, corpus);
        let mut accepted = false;
        fuzzing.one("changed", &changed, |_| {
            std::fs::write(folder.join(name), &changed).unwrap();
            accepted = read(&folder).is_ok();
        });
        fuzzing.accepted += u64::from(accepted);
    }
}
