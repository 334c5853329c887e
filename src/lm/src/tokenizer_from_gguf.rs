//! Writes a Hugging Face tokenizer folder from the vocabulary, the merges and the chat template of a GGUF file. gguf.rs
//! reads the file.
//!
//! GGUF stores only the name of the pre-tokenizer. The pre-tokenizer of SmolLM2 splits off every digit before the
//! byte-level split. Converters without this step tokenise one row in fifteen of Alpaca differently.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::write_json;
use super::gguf::Gguf;
use raisin_base::error::{Problem, Result, anyhow, ensure};
use raisin_corpus::byte_tokenizer::byte_level_bpe;

/// GGUF's types of special tokens: control tokens and user-defined tokens.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.
pub fn write_tokenizer(gguf: &Gguf, context: usize, folder: &Path) -> Result<()> {
    let list = |key: &str| {
        gguf.get(&format!("tokenizer.ggml.{key}"))
            .and_then(Value::as_array)
            .ok_or_else(|| anyhow!("the GGUF file has no list `tokenizer.ggml.{key}`"))
    };
    let model = gguf.text("tokenizer.ggml.model").unwrap_or("(none)");
    ensure!(model == "gpt2", "the GGUF file has a `{model}` tokenizer; only byte-level BPE (`gpt2`) is supported");
    let tokens = list("tokens")?;
    let types = list("token_type")?;
    let merges = list("merges")?;
    ensure!(tokens.len() == types.len(), "{} tokens but {} token types", tokens.len(), types.len());
    let texts: Vec<&str> = tokens
        .iter()
        .map(|token| token.as_str().ok_or_else(|| anyhow!("the token {token} is not a string")))
        .collect::<Result<_>>()?;
    let added: Vec<Value> = texts
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(kind.as_i64(), Some(CONTROL | USER_DEFINED)))
        .map(|(id, (text, kind))| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind.as_i64() == Some(CONTROL)})
        })
        .collect();
    let vocabulary: Map<String, Value> =
        texts.iter().enumerate().map(|(id, text)| ((*text).to_owned(), id.into())).collect();
    let pairs: Vec<Value> = merges
        .iter()
        .map(|merge| {
            let (left, right) = merge
                .as_str()
                .and_then(|merge| merge.split_once(' '))
                .ok_or_else(|| anyhow!("the merge {merge} is not a pair"))?;
            Ok(json!([left, right]))
        })
        .collect::<Result<_>>()?;
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let mut tokenizer = byte_level_bpe(vocabulary, &pairs, &added, &pre_tokenizer(gguf)?, &decoder);
    tokenizer["normalizer"] = normalizer(gguf);
    tokenizer["post_processor"] = post_processor(gguf, &texts);
    // Llama 3 takes a word of the vocabulary as one token, without applying the merges.
    tokenizer["model"]["ignore_merges"] = is_llama3(gguf).into();
    let text = serde_json::to_string(&tokenizer)? + "\n";
    std::fs::write(folder.join("tokenizer.json"), text)?;
    let mut config = json!({});
    for (name, key) in [("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")]
    {
        let id = gguf.get(&format!("tokenizer.ggml.{key}_token_id")).and_then(Value::as_u64);
        if let Some(text) = id.and_then(|id| texts.get(id as usize)) {
            config[name] = json!(text);
        }
    }
    write_json(&folder.join("special_tokens_map.json"), &config)?;
    config["tokenizer_class"] = json!("PreTrainedTokenizerFast");
    config["clean_up_tokenization_spaces"] = json!(false);
    config["model_max_length"] = json!(context);
    if let Some(template) = gguf.text("tokenizer.chat_template") {
        config["chat_template"] = json!(template);
    }
    write_json(&folder.join("tokenizer_config.json"), &config)
}

fn is_llama3(gguf: &Gguf) -> bool {
    matches!(gguf.text("tokenizer.ggml.pre"), Some("llama-bpe" | "llama3" | "llama-v3"))
}

/// Adds the BOS token before a text if the file says so. If the file does not say, only Llama 3 adds the BOS token.
fn post_processor(gguf: &Gguf, texts: &[&str]) -> Value {
    let adds = gguf.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool).unwrap_or(is_llama3(gguf));
    let bos = gguf.get("tokenizer.ggml.bos_token_id").and_then(Value::as_u64);
    let Some((id, text)) = bos.filter(|_| adds).and_then(|id| Some((id, *texts.get(id as usize)?))) else {
        return Value::Null;
    };
    let first = json!({"SpecialToken": {"id": text, "type_id": 0}});
    let sequence = |name: &str, kind: u8| json!({"Sequence": {"id": name, "type_id": kind}});
    json!({
        "type": "TemplateProcessing",
        "single": [first, sequence("A", 0)],
        "pair": [first, sequence("A", 0), {"SpecialToken": {"id": text, "type_id": 1}}, sequence("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
    })
}

/// The normaliser: Qwen composes characters first (NFC).
fn normalizer(gguf: &Gguf) -> Value {
    if gguf.text("tokenizer.ggml.pre") == Some("qwen2") { json!({"type": "NFC"}) } else { Value::Null }
}

fn pre_tokenizer(gguf: &Gguf) -> Result<Value> {
    let byte_level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]})
    };
    match gguf.text("tokenizer.ggml.pre").unwrap_or("default") {
        "smollm" => Ok(json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            byte_level(true),
        ]})),
        "gpt-2" => Ok(byte_level(true)),
        "qwen2" => Ok(split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )),
        "llama-bpe" | "llama3" | "llama-v3" => Ok(split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )),
        other => Err(Problem::new(format!("the GGUF file's pre-tokenizer `{other}` is unknown"))
            .hint("use the Hugging Face folder of the model: it contains tokenizer.json")
            .into()),
    }
}
