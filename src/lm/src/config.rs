//! The shape of a model, read from and written to the config.json of a checkpoint. This file handles neither weights
//! nor devices; rope.rs reads the scaling of the positions.
//!
//! [`ModelConfig`] has the key names of config.json. transformers 5 moved `rope_theta` and `rope_scaling` into
//! `rope_parameters`. raisin reads both spellings and writes the older one, which every version of transformers reads.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rope::RopeScaling;
use raisin_base::error::{Context as _, Problem, Result, bail, ensure};

/// The architectures that the forward pass supports. They differ in three optional parts of the attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    Llama,
    Mistral,
    /// With biases on q, k and v.
    Qwen2,
    /// With a norm over each head of q and k.
    Qwen3,
}

impl Architecture {
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// One decoder-only model of the Llama family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub architectures: Vec<String>,
    pub model_type: Architecture,
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub num_hidden_layers: usize,
    pub num_attention_heads: i64,
    pub num_key_value_heads: i64,
    pub head_dim: i64,
    pub hidden_act: String,
    pub max_position_embeddings: usize,
    pub initializer_range: f64,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub sliding_window: Option<i64>,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    #[serde(with = "one_or_many")]
    pub eos_token_id: Vec<u32>,
    pub pad_token_id: Option<u32>,
    pub torch_dtype: String,
}

impl ModelConfig {
    /// A Llama with default values for everything that is not a parameter.
    pub fn llama(vocabulary: i64, hidden: i64, layers: usize, heads: i64, key_value_heads: i64, ff: i64) -> Self {
        Self {
            architectures: vec![Architecture::Llama.class_name().to_owned()],
            model_type: Architecture::Llama,
            vocab_size: vocabulary,
            hidden_size: hidden,
            intermediate_size: ff,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim: hidden / heads.max(1),
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            attention_bias: false,
            mlp_bias: false,
            sliding_window: None,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: Vec::new(),
            pad_token_id: None,
            torch_dtype: "float32".to_owned(),
        }
    }

    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        Self::from_checkpoint(&read_json(&path)?).with_context(|| format!("in {}", path.display()))
    }

    /// From a config.json of any version of transformers. A missing key gets the default of transformers.
    fn from_checkpoint(raw: &Value) -> Result<Self> {
        let Ok(architecture) = Architecture::deserialize(&raw["model_type"]) else {
            let name = raw["model_type"].as_str().unwrap_or("(none)");
            return Err(Problem::new(format!("unknown model_type `{name}`"))
                .hint("raisin supports llama, mistral, qwen2 and qwen3")
                .into());
        };
        let whole = |key: &str| -> Result<i64> {
            raw[key].as_i64().with_context(|| format!("`{key}` is missing or is not an integer: {}", raw[key]))
        };
        if raw["quantization_config"].is_object() {
            let method = raw["quantization_config"]["quant_method"].as_str().unwrap_or("(unnamed)");
            return Err(Problem::new(format!("the weights are quantised by `{method}`"))
                .hint("raisin reads plain f32, f16 and bf16 weights, and GGUF files")
                .into());
        }
        let usual = Usual::of(architecture);
        let hidden = whole("hidden_size")?;
        let heads = whole("num_attention_heads")?;
        ensure!(heads > 0, "`num_attention_heads` is {heads}, but it must be above 0");
        let layers = usize::try_from(whole("num_hidden_layers")?).context("`num_hidden_layers` is negative")?;
        let key_value_heads = match raw.get("num_key_value_heads") {
            Some(Value::Null) => heads,
            Some(given) => given.as_i64().unwrap_or(heads),
            None => usual.key_value_heads.unwrap_or(heads),
        };
        let mut config =
            Self::llama(whole("vocab_size")?, hidden, layers, heads, key_value_heads, whole("intermediate_size")?);
        let rope = if raw["rope_parameters"].is_object() { &raw["rope_parameters"] } else { &raw["rope_scaling"] };
        let number = |value: &Value, default: f64| value.as_f64().unwrap_or(default);
        config.set_architecture(architecture);
        config.head_dim = match raw.get("head_dim") {
            None => usual.head_dim.unwrap_or(hidden / heads),
            Some(given) => given.as_i64().unwrap_or(hidden / heads),
        };
        config.max_position_embeddings =
            raw["max_position_embeddings"].as_u64().map_or(usual.context, |context| context as usize);
        config.initializer_range = number(&raw["initializer_range"], 0.02);
        config.rms_norm_eps = number(&raw["rms_norm_eps"], 1e-6);
        config.rope_theta = number(&rope["rope_theta"], number(&raw["rope_theta"], 10_000.0));
        config.rope_scaling = RopeScaling::read(rope, config.max_position_embeddings)?;
        config.attention_bias = raw["attention_bias"].as_bool().unwrap_or(false);
        config.mlp_bias = raw["mlp_bias"].as_bool().unwrap_or(false);
        config.tie_word_embeddings = raw["tie_word_embeddings"].as_bool().unwrap_or(false);
        config.bos_token_id = raw["bos_token_id"].as_u64().map(|id| id as u32);
        config.pad_token_id = raw["pad_token_id"].as_u64().map(|id| id as u32);
        config.eos_token_id = one_or_many::ids(&raw["eos_token_id"]);
        config.sliding_window = window(architecture, layers, raw)?;
        for key in ["torch_dtype", "dtype"] {
            if let Some(dtype) = raw[key].as_str() {
                config.torch_dtype = dtype.to_owned();
            }
        }
        if let Some(activation) = raw["hidden_act"].as_str() {
            config.hidden_act = activation.to_owned();
        }
        config.check()?;
        Ok(config)
    }

    pub(super) fn set_architecture(&mut self, architecture: Architecture) {
        self.model_type = architecture;
        self.architectures = vec![architecture.class_name().to_owned()];
    }

    /// Checks what the types do not express: positive sizes, divisibility, a supported activation.
    pub fn check(&self) -> Result<()> {
        for (name, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("num_hidden_layers", self.num_hidden_layers as i64),
            ("head_dim", self.head_dim),
        ] {
            ensure!(size > 0, "`{name}` is {size}: it must be positive");
        }
        ensure!(
            self.head_dim % 2 == 0,
            "`head_dim` is {}: rotary position embedding needs an even number",
            self.head_dim
        );
        ensure!(
            self.num_attention_heads % self.num_key_value_heads == 0,
            "{} attention heads cannot be divided evenly among {} key-value heads",
            self.num_attention_heads,
            self.num_key_value_heads
        );
        ensure!(self.hidden_act == "silu", "`hidden_act` is `{}`: only silu is supported", self.hidden_act);
        Ok(())
    }

    /// Whether the q, k and v projections have biases.
    pub fn query_key_value_bias(&self) -> bool {
        self.attention_bias || self.model_type == Architecture::Qwen2
    }

    /// Whether the output projection of the attention has a bias.
    pub fn output_bias(&self) -> bool {
        self.attention_bias && self.model_type != Architecture::Qwen2
    }

    /// Whether there is a norm over each head of q and k.
    pub fn query_key_norm(&self) -> bool {
        self.model_type == Architecture::Qwen3
    }

    /// Writes config.json so that transformers reads it.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut value = serde_json::to_value(self)?;
        if let Some(object) = value.as_object_mut() {
            // If a key is missing, transformers takes the default of the architecture. So these keys are written as
            // null.
            let keeps_null = |key: &str| match key {
                "bos_token_id" | "eos_token_id" | "pad_token_id" => true,
                "sliding_window" => self.model_type == Architecture::Mistral,
                _ => false,
            };
            object.retain(|key, value| !value.is_null() || keeps_null(key));
            if self.sliding_window.is_some() && self.model_type != Architecture::Mistral {
                object.insert("use_sliding_window".to_owned(), json!(true));
                object.insert("max_window_layers".to_owned(), json!(0));
            }
            // transformers 5 reads `dtype`; earlier versions read `torch_dtype`.
            object.insert("dtype".to_owned(), json!(self.torch_dtype));
            object.insert("use_cache".to_owned(), json!(true));
        }
        write_json(&folder.join("config.json"), &value)
    }
}

/// The defaults of transformers for missing keys, as far as the architectures differ.
struct Usual {
    key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    context: usize,
}

impl Usual {
    fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Llama => Self { key_value_heads: None, head_dim: None, context: 2048 },
            Architecture::Mistral => Self { key_value_heads: Some(8), head_dim: None, context: 4096 * 32 },
            Architecture::Qwen2 => Self { key_value_heads: Some(32), head_dim: None, context: 32_768 },
            Architecture::Qwen3 => Self { key_value_heads: Some(32), head_dim: Some(128), context: 32_768 },
        }
    }
}

/// The sliding window: the number of tokens that attention reaches back. `None` means no limit.
fn window(architecture: Architecture, layers: usize, raw: &Value) -> Result<Option<i64>> {
    let given = match raw.get("sliding_window") {
        None => Some(4096),
        Some(given) => given.as_i64(),
    };
    let from = match architecture {
        Architecture::Llama => return Ok(None),
        Architecture::Mistral => return Ok(given),
        Architecture::Qwen2 | Architecture::Qwen3 => raw["max_window_layers"].as_u64().unwrap_or(28) as usize,
    };
    if given.is_none() || raw["use_sliding_window"].as_bool() != Some(true) || from >= layers {
        return Ok(None);
    }
    // Layers from `max_window_layers` on have the window; the layers below have none.
    if from == 0 { Ok(given) } else { bail!("a sliding window only on the layers from {from} on is not supported") }
}

pub(super) fn read_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
}

/// Writes pretty JSON with a final newline.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Hugging Face writes one token id as a number, and several token ids as a list.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub fn ids(value: &Value) -> Vec<u32> {
        match value {
            Value::Number(_) => value.as_u64().map(|id| id as u32).into_iter().collect(),
            Value::Array(many) => many.iter().filter_map(|id| id.as_u64().map(|id| id as u32)).collect(),
            _ => Vec::new(),
        }
    }

    pub fn serialize<S: Serializer>(ids: &Vec<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        match ids.as_slice() {
            [] => serializer.serialize_none(),
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
        Ok(ids(&Value::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_rotation_base_are_read() -> Result<()> {
        let old = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "rope_theta": 5e5, "eos_token_id": [1, 2]});
        let mut new = old.clone();
        new["rope_theta"] = Value::Null;
        new["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
        assert_eq!(ModelConfig::from_checkpoint(&old)?, ModelConfig::from_checkpoint(&new)?);
        assert_eq!(ModelConfig::from_checkpoint(&old)?.eos_token_id, [1, 2]);
        assert_eq!(ModelConfig::from_checkpoint(&old)?.num_key_value_heads, 2);
        Ok(())
    }

    #[test]
    fn a_written_config_is_read_back() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut config = ModelConfig::llama(256, 16, 2, 4, 2, 32);
        config.bos_token_id = Some(1);
        config.eos_token_id = vec![2];
        config.write(folder.path())?;
        assert_eq!(ModelConfig::read(folder.path())?, config);
        for (architecture, window) in
            [(Architecture::Mistral, None), (Architecture::Mistral, Some(9)), (Architecture::Qwen2, Some(9))]
        {
            config.set_architecture(architecture);
            config.sliding_window = window;
            config.rope_scaling = Some(RopeScaling::Linear { factor: 2.0 });
            config.write(folder.path())?;
            assert_eq!(ModelConfig::read(folder.path())?, config);
        }
        Ok(())
    }

    #[test]
    fn a_missing_key_gets_the_default_of_transformers() -> Result<()> {
        let of = |kind: &str, more: Value| -> Result<ModelConfig> {
            let mut raw = json!({"model_type": kind, "vocab_size": 8, "hidden_size": 64, "intermediate_size": 8,
                "num_hidden_layers": 2, "num_attention_heads": 32});
            for (key, value) in more.as_object().into_iter().flatten() {
                raw[key] = value.clone();
            }
            ModelConfig::from_checkpoint(&raw)
        };
        let mistral = of("mistral", json!({}))?;
        assert_eq!((mistral.num_key_value_heads, mistral.sliding_window), (8, Some(4096)));
        assert_eq!(of("mistral", json!({"sliding_window": null}))?.sliding_window, None);
        assert_eq!((of("qwen3", json!({}))?.head_dim, of("qwen3", json!({"head_dim": null}))?.head_dim), (128, 2));
        assert_eq!(of("llama", json!({"num_key_value_heads": null}))?.num_key_value_heads, 32);
        let sliding = json!({"use_sliding_window": true, "sliding_window": 7});
        assert_eq!(of("qwen2", sliding.clone())?.sliding_window, None, "the lower 28 layers have no window");
        let with = |from: u32| {
            let mut sliding = sliding.clone();
            sliding["max_window_layers"] = from.into();
            of("qwen2", sliding)
        };
        assert_eq!(with(0)?.sliding_window, Some(7));
        assert!(with(1).expect_err("mixed").to_string().contains("only on the layers from 1 on"));
        Ok(())
    }

    #[test]
    fn quantised_weights_are_refused_by_their_method() {
        let raw = json!({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}});
        let error = ModelConfig::from_checkpoint(&raw).expect_err("quantised");
        assert_eq!(error.to_string(), "the weights are quantised by `gptq`");
    }

    #[test]
    fn an_unknown_architecture_is_named() {
        let error = ModelConfig::from_checkpoint(&json!({"model_type": "mamba"})).expect_err("unknown");
        assert_eq!(error.to_string(), "unknown model_type `mamba`");
    }
}
