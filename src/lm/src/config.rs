//! The shape of a model, read from and written to the config.json of a checkpoint. This file handles neither weights
//! nor devices; rope.rs reads the scaling of the positions.
//!
//! [`ModelConfig`] has the key names of config.json. transformers 5 moved `rope_theta` and `rope_scaling` into
//! `rope_parameters`. raisin reads both spellings and writes the older one, which every version of transformers reads.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::folder_files::refuse_pointer;
use super::rope::{self, RopeScaling};
use keys::Keys;
use raisin_base::error::{Context as _, Problem, Result, bail, ensure};

pub(super) mod keys;
mod layers;

/// The largest size of a dimension.
const MOST: i64 = 1 << 30;

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
    ///
    /// # Errors
    /// A key has a value that raisin does not support, or raisin does not know the key.
    fn from_checkpoint(raw: &Value) -> Result<Self> {
        let Some(object) = raw.as_object() else { bail!("the content is not a JSON object") };
        let Ok(architecture) = Architecture::deserialize(&raw["model_type"]) else {
            let name = raw["model_type"].as_str().unwrap_or("(none)");
            return Err(Problem::new(format!("unknown model_type `{name}`"))
                .hint("raisin supports llama, mistral, qwen2 and qwen3")
                .into());
        };
        keys::refuse_unknown(object)?;
        check_class(architecture, &raw["architectures"])?;
        let keys = Keys(object);
        let usual = Usual::of(architecture);
        let (hidden, heads) = (keys.required("hidden_size")?, keys.required("num_attention_heads")?);
        ensure!(heads > 0, "`num_attention_heads` is {heads}, but it must be above 0");
        let layers = usize::try_from(keys.required("num_hidden_layers")?).context("`num_hidden_layers` is negative")?;
        let key_value_heads = match keys.whole("num_key_value_heads")? {
            Some(given) => given,
            None if keys.has("num_key_value_heads") => heads,
            None => usual.key_value_heads.unwrap_or(heads),
        };
        let (vocabulary, between) = (keys.required("vocab_size")?, keys.required("intermediate_size")?);
        let mut config = Self::llama(vocabulary, hidden, layers, heads, key_value_heads, between);
        config.set_architecture(architecture);
        config.head_dim = match keys.whole("head_dim")? {
            Some(given) => given,
            None if keys.has("head_dim") => hidden / heads,
            None => usual.head_dim.unwrap_or(hidden / heads),
        };
        config.max_position_embeddings = match keys.whole("max_position_embeddings")? {
            Some(context) => usize::try_from(context).context("`max_position_embeddings` is negative")?,
            None => usual.context,
        };
        config.initializer_range = keys.real("initializer_range", 0.02)?;
        config.rms_norm_eps = keys.real("rms_norm_eps", 1e-6)?;
        (config.rope_theta, config.rope_scaling) = rope::of_config(keys, config.max_position_embeddings)?;
        config.attention_bias = keys.flag("attention_bias")?;
        config.mlp_bias = keys.flag("mlp_bias")?;
        config.tie_word_embeddings = keys.flag("tie_word_embeddings")?;
        config.bos_token_id = keys.token("bos_token_id", usual.bos)?;
        config.pad_token_id = keys.token("pad_token_id", None)?;
        config.eos_token_id = keys.tokens("eos_token_id", usual.eos)?;
        config.sliding_window = layers::window(architecture, layers, keys)?;
        for key in ["torch_dtype", "dtype"] {
            if let Some(dtype) = keys.text(key)? {
                config.torch_dtype = dtype;
            }
        }
        if let Some(activation) = keys.text("hidden_act")? {
            config.hidden_act = activation;
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
            // Products of two sizes stay within i64.
            ensure!(size <= MOST, "`{name}` is {size}, which is more than the limit of {MOST}");
        }
        let context = self.max_position_embeddings;
        ensure!(
            (1..=MOST as usize).contains(&context),
            "`max_position_embeddings` is {context}: it must be from 1 to {MOST}"
        );
        for (name, number) in [
            ("rms_norm_eps", self.rms_norm_eps),
            ("initializer_range", self.initializer_range),
            ("rope_theta", self.rope_theta),
        ] {
            ensure!(number.is_finite() && number >= 0.0, "`{name}` is {number}: it must be finite and not negative");
        }
        ensure!(self.rope_theta > 0.0, "`rope_theta` is 0: it must be above 0");
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
        if self.hidden_act != "silu" {
            return Err(Problem::new(format!("`hidden_act` is `{}`", self.hidden_act))
                .hint("raisin supports only the activation silu")
                .into());
        }
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
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Usual {
    fn of(architecture: Architecture) -> Self {
        let llama = Self { key_value_heads: None, head_dim: None, context: 2048, bos: Some(1), eos: Some(2) };
        let qwen = Self { key_value_heads: Some(32), context: 32_768, bos: None, eos: None, ..llama };
        match architecture {
            Architecture::Llama => llama,
            Architecture::Mistral => Self { key_value_heads: Some(8), context: 4096 * 32, ..llama },
            Architecture::Qwen2 => qwen,
            Architecture::Qwen3 => Self { head_dim: Some(128), ..qwen },
        }
    }
}

/// Checks that `architectures` names the class that raisin computes. Old versions of transformers wrote the names with
/// other capital letters.
fn check_class(architecture: Architecture, named: &Value) -> Result<()> {
    let ours = architecture.class_name();
    let names = match named {
        Value::Null => return Ok(()),
        Value::Array(names) => names.as_slice(),
        one => std::slice::from_ref(one),
    };
    if names.is_empty() || names.iter().any(|name| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case(ours))) {
        return Ok(());
    }
    Err(Problem::new(format!("`architectures` is {}", keys::short(named)))
        .hint(format!("for this model_type, raisin supports only {ours}"))
        .into())
}

pub(super) fn read_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    refuse_pointer(path, &bytes)?;
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

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        None(()),
        One(u32),
        Many(Vec<u32>),
    }

    pub fn serialize<S: Serializer>(ids: &Vec<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        match ids.as_slice() {
            [] => serializer.serialize_none(),
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
        Ok(match Ids::deserialize(deserializer)? {
            Ids::None(()) => Vec::new(),
            Ids::One(one) => vec![one],
            Ids::Many(many) => many,
        })
    }
}

#[cfg(test)]
mod tests;
