//! The keys of config.json: which keys raisin reads, which keys change nothing, and which keys are refused. A key that
//! is in none of these lists is refused, because it may change what the model computes.

use serde_json::{Map, Value};

use raisin_base::error::{Problem, Result, ensure};

/// The keys that raisin reads.
const READ: &[&str] = &[
    "architectures",
    "attention_bias",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "pad_token_id",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "use_sliding_window",
    "vocab_size",
];

/// The keys that change nothing in what a model of the supported architectures computes: descriptions, settings of
/// other tasks, settings of other programs, and settings of generation, which belong into generation_config.json.
const WITHOUT_EFFECT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cls_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "experts_implementation",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "max_sequence_length",
    "min_length",
    "model_max_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "padding_side",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_last_hidden_states",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attn",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_fused_cross_entropy",
    "use_fused_rms_norm",
    "use_fused_rope",
    "use_unpad",
];

/// The keys of features that raisin does not have, with the value that turns the feature off, and what the feature
/// does.
const OFF: &[(&str, &str, &str)] = &[
    ("add_cross_attention", "false", "the layers attend to the states of another model"),
    ("alibi", "false", "positions are biases of the attention"),
    ("attention_dropout", "0", "attention is trained with dropout, and raisin trains without dropout"),
    ("attention_multiplier", "1", "the attention logits are scaled"),
    ("attn_logit_softcapping", "null", "the attention logits are capped"),
    ("auto_map", "null", "the model has code of its own"),
    ("cross_attention_hidden_size", "null", "the layers attend to the states of another model"),
    ("embd_pdrop", "0", "the embedding is trained with dropout, and raisin trains without dropout"),
    ("embedding_multiplier", "1", "the embedding is scaled"),
    ("expert_layer_period", "null", "some layers are mixtures of experts"),
    ("final_logit_softcapping", "null", "the logits are capped"),
    ("hidden_dropout", "0", "the states are trained with dropout, and raisin trains without dropout"),
    ("hidden_dropout_prob", "0", "the states are trained with dropout, and raisin trains without dropout"),
    ("is_encoder_decoder", "false", "the model has an encoder"),
    ("logit_scale", "1", "the logits are scaled"),
    ("logits_scaling", "1", "the logits are scaled"),
    ("mup", "null", "activations are scaled by the width"),
    ("no_rope_layers", "null", "some layers have no positions"),
    ("num_experts", "0", "the layers are mixtures of experts"),
    ("num_experts_per_tok", "0", "the layers are mixtures of experts"),
    ("num_local_experts", "0", "the layers are mixtures of experts"),
    ("num_nextn_predict_layers", "0", "the model has layers that predict later tokens"),
    ("partial_rotary_factor", "1", "only a part of each head is rotated"),
    ("per_layer_config", "null", "the layers have different shapes"),
    ("pruned_heads", "{}", "heads of the attention are left out"),
    ("qk_layernorm", "false", "queries and keys have norms"),
    ("quantization_config", "null", "the weights are quantised"),
    ("query_pre_attn_scalar", "null", "the attention logits are scaled"),
    ("resid_pdrop", "0", "the states are trained with dropout, and raisin trains without dropout"),
    ("residual_multiplier", "1", "the residual stream is scaled"),
    ("rope_interleaved", "false", "the coordinates of a head are rotated in another order"),
    ("rope_pct", "1", "only a part of each head is rotated"),
    ("sliding_window_pattern", "null", "only some layers have a sliding window"),
    ("tie_encoder_decoder", "false", "the model has an encoder"),
    ("use_mrope", "false", "positions have several dimensions"),
    ("use_qk_norm", "false", "queries and keys have norms"),
];

/// Refuses every key of config.json that raisin neither reads nor knows to change nothing.
///
/// # Errors
/// The error names the key, its value, and what to do.
pub(super) fn refuse_unknown(raw: &Map<String, Value>) -> Result<()> {
    // A known feature is told before an unknown key: it says more about the model.
    for &(key, off, feature) in OFF {
        let Some(value) = raw.get(key).filter(|value| !is_off(value, off)) else { continue };
        let what = match (key, value["quant_method"].as_str()) {
            ("quantization_config", Some(method)) => format!("the weights are quantised by `{method}`"),
            ("quantization_config", None) => "the weights are quantised".to_owned(),
            _ => format!("`{key}` is {}: {feature}", short(value)),
        };
        let hint = match key {
            "quantization_config" => "raisin reads plain f32, f16 and bf16 weights, and GGUF files".to_owned(),
            "auto_map" => "raisin runs no code of a model; if the weights are those of the plain architecture, remove \
                           `auto_map` from config.json"
                .to_owned(),
            _ => format!("raisin supports only {off}"),
        };
        return Err(Problem::new(what).hint(hint).into());
    }
    for (key, value) in raw {
        let known = READ.contains(&key.as_str())
            || WITHOUT_EFFECT.contains(&key.as_str())
            || OFF.iter().any(|(off, ..)| *off == key);
        let says_nothing = match value {
            Value::Null => true,
            Value::Object(entries) => entries.is_empty(),
            Value::Array(entries) => entries.is_empty(),
            _ => false,
        };
        if !known && !says_nothing {
            return Err(Problem::new(format!("`{key}` is {}, and raisin does not know this key", short(value)))
                .hint(
                    "the key may change what the model computes; if the key changes nothing, remove it from config.json",
                )
                .into());
        }
    }
    Ok(())
}

/// Whether a value turns a feature off: null, false and empty values do, and the value `off`.
fn is_off(value: &Value, off: &str) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(entries) => entries.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Number(number) => {
            number.as_f64().zip(off.parse().ok()).is_some_and(|(is, off): (f64, f64)| (is - off).abs() < f64::EPSILON)
        }
        _ => false,
    }
}

/// A value in a message. A long value is cut.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The values of keys, each with the right type.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a>(pub &'a Map<String, Value>);

impl<'a> Keys<'a> {
    /// The value of a key; `None` if the key is missing or null.
    pub fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, even as null.
    pub fn has(self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The whole number of a key that must be there.
    pub fn required(self, key: &str) -> Result<i64> {
        ensure!(self.get(key).is_some(), "`{key}` is missing");
        self.whole(key).map(Option::unwrap_or_default)
    }

    pub fn whole(self, key: &str) -> Result<Option<i64>> {
        self.typed(key, "a whole number", |value| {
            // Some programs write whole numbers as 8192.0.
            let real = || value.as_f64().filter(|real| real.fract() == 0.0 && real.abs() < 1e15);
            value.as_i64().or_else(|| real().map(|real| real as i64))
        })
    }

    /// The number of a key. Null is no number, although the key may be missing.
    pub fn real(self, key: &str, default: f64) -> Result<f64> {
        ensure!(!self.has(key) || self.get(key).is_some(), "`{key}` is null, but it must be a number");
        Ok(self.typed(key, "a number", Value::as_f64)?.unwrap_or(default))
    }

    pub fn flag(self, key: &str) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    pub fn text(self, key: &str) -> Result<Option<String>> {
        self.typed(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// The tokens of a key, which holds one token or a list. If the key is missing, these are the tokens `default`.
    pub fn tokens(self, key: &str, default: Option<u32>) -> Result<Vec<u32>> {
        let many = match self.0.get(key) {
            None => return Ok(default.into_iter().collect()),
            Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(many)) => many.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let token = |value: &Value| match value.as_i64() {
            // Old versions of transformers write -1 for "no token".
            Some(-1) => Ok(None),
            Some(id) if u32::try_from(id).is_ok() => Ok(Some(id as u32)),
            _ => Err(Problem::new(format!("`{key}` is {}, which is no token", short(value)))
                .hint("a token is a whole number from 0; null stands for no token")
                .into()),
        };
        many.iter().filter_map(|value| token(value).transpose()).collect()
    }

    /// The token of a key that holds at most one token.
    pub fn token(self, key: &str, default: Option<u32>) -> Result<Option<u32>> {
        let tokens = self.tokens(key, default)?;
        ensure!(tokens.len() < 2, "`{key}` has {} tokens, but it must be one token", tokens.len());
        Ok(tokens.first().copied())
    }

    fn typed<T>(self, key: &str, wanted: &str, of: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let typed = of(value);
        ensure!(typed.is_some(), "`{key}` is {}, but it must be {wanted}", short(value));
        Ok(typed)
    }
}
