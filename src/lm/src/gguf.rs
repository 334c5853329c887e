//! Reads GGUF files: metadata, and tensors under the names of Hugging Face, dequantised into the requested dtype.
//! gguf_blocks.rs decodes the blocks; tokenizer_from_gguf.rs writes the tokenizer.
//!
//! llama.cpp stores q and k of Llama models with interleaved rows in each head, for its own layout of the rotary
//! position embedding. Here the rows are brought back into the order of the original checkpoint. A GGUF file is not
//! trusted: every length in the file is checked against the size of the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::bf16;
use memmap2::Mmap;
use serde_json::{Value, json};
use tch::{Device, Kind as TensorKind, Tensor};

use super::config::keys::short;
use super::config::{Architecture, ModelConfig};
use super::gguf_blocks::{BlockType, dequantise};
use super::rope::{RopeScaling, llama3_of};
use super::weights::{map, refuse_unread};
use raisin_base::error::{Context as _, Problem, Result, anyhow, bail, ensure};

/// Shape, block format and byte range of one tensor in the file.
struct GgufEntry {
    /// The dimensions in the order of GGUF: the fastest dimension first.
    dimensions: Vec<u64>,
    block: BlockType,
    start: usize,
    end: usize,
}

/// The tensor that holds the divisors of the rotation frequencies of a Llama 3 model.
const ROTATION_FACTORS: &str = "rope_freqs.weight";

/// The metadata keys of an architecture that raisin reads, or that change nothing.
const KNOWN: [&str; 18] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.freq_base",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "tensor_data_layout",
    "vocab_size",
];

/// An open GGUF file. It remembers which tensors were read, so that [`Self::finish`] can report unread tensors.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, GgufEntry>,
    taken: BTreeSet<String>,
}

impl Gguf {
    pub fn open(path: &Path) -> Result<Self> {
        let map = map(path)?;
        let (metadata, tensors) = parse(&map).with_context(|| format!("in {}", path.display()))?;
        Ok(Self { path: path.to_owned(), map, metadata, tensors, taken: BTreeSet::new() })
    }

    /// A metadata value; an array is a JSON array.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    fn number(&self, key: &str) -> Result<i64> {
        self.get(key)
            .and_then(Value::as_i64)
            .ok_or_else(|| anyhow!("{} has no integer `{key}` in its metadata", self.path.display()))
    }

    /// The configuration of the model, from the metadata.
    pub fn config(&self) -> Result<ModelConfig> {
        let name = self.text("general.architecture").unwrap_or("(none)");
        let architecture = match name {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            other => {
                return Err(Problem::new(format!("{} has the architecture `{other}`", self.path.display()))
                    .hint("raisin reads llama, qwen2 and qwen3 from GGUF files")
                    .into());
            }
        };
        let at = |key: &str| format!("{name}.{key}");
        let whole = |key: &str| self.number(&at(key));
        let real = |key: &str| self.get(&at(key)).and_then(Value::as_f64);
        let heads = whole("attention.head_count")?;
        let vocabulary = self.entry("token_embd.weight")?.dimensions.last().copied().unwrap_or(0) as i64;
        let mut config = ModelConfig::llama(
            vocabulary,
            whole("embedding_length")?,
            usize::try_from(whole("block_count")?)?,
            heads,
            whole("attention.head_count_kv").unwrap_or(heads),
            whole("feed_forward_length")?,
        );
        config.set_architecture(architecture);
        if let Ok(dim) = whole("attention.key_length") {
            config.head_dim = dim;
            let values = whole("attention.value_length").unwrap_or(dim);
            ensure!(
                values == dim,
                "{}: a head has keys of {dim} numbers, but values of {values} numbers",
                self.path.display()
            );
        }
        self.refuse_unknown(name, &config)?;
        let has = |name: &str| self.tensors.contains_key(name);
        config.attention_bias = architecture != Architecture::Qwen2 && has("blk.0.attn_output.bias");
        config.mlp_bias = has("blk.0.ffn_down.bias");
        config.max_position_embeddings = usize::try_from(whole("context_length")?)?;
        config.rope_theta = real("rope.freq_base").unwrap_or(10_000.0);
        config.rms_norm_eps = real("attention.layer_norm_rms_epsilon")
            .ok_or_else(|| anyhow!("the metadata do not contain `attention.layer_norm_rms_epsilon`"))?;
        config.tie_word_embeddings = !has("output.weight");
        config.rope_scaling = self.rope_scaling(name, &config)?;
        let id = |key: &str| self.get(&format!("tokenizer.ggml.{key}")).and_then(Value::as_u64).map(|id| id as u32);
        config.bos_token_id = id("bos_token_id");
        config.eos_token_id = id("eos_token_id").into_iter().collect();
        config.pad_token_id = id("padding_token_id");
        config.check()?;
        Ok(config)
    }

    /// Refuses the metadata of an architecture that raisin does not know, because they may change what the model
    /// computes.
    fn refuse_unknown(&self, architecture: &str, config: &ModelConfig) -> Result<()> {
        let prefix = format!("{architecture}.");
        for (name, value) in self.metadata.range(prefix.clone()..) {
            let Some(key) = name.strip_prefix(&prefix) else { break };
            let off = value.is_null() || *value == Value::Bool(false) || value.as_f64() == Some(0.0);
            let known = match key {
                // How many numbers of a head are rotated.
                "rope.dimension_count" | "attention.value_length" => value.as_i64() == Some(config.head_dim),
                "attention.causal" => value.as_bool() == Some(true),
                _ => KNOWN.contains(&key),
            };
            if !known && !off {
                let message = format!("`{name}` in {} is {}", self.path.display(), short(value));
                return Err(Problem::new(message)
                    .hint("raisin runs dense models, and knows no other value of this key; use another model")
                    .into());
            }
        }
        Ok(())
    }

    fn rope_scaling(&self, architecture: &str, config: &ModelConfig) -> Result<Option<RopeScaling>> {
        if self.tensors.contains_key(ROTATION_FACTORS) {
            let scaling = llama3_of(&self.values(ROTATION_FACTORS)?, config);
            return scaling.map(Some).with_context(|| format!("in {}", self.path.display()));
        }
        let at = |key: &str| self.get(&format!("{architecture}.rope.scaling.{key}"));
        let kind = at("type").and_then(Value::as_str).unwrap_or("none");
        if kind == "none" {
            return Ok(None);
        }
        let mut raw = json!({"rope_type": kind, "factor": at("factor")});
        for (name, key) in [
            ("original_max_position_embeddings", "original_context_length"),
            ("attention_factor", "attn_factor"),
            ("beta_fast", "yarn_beta_fast"),
            ("beta_slow", "yarn_beta_slow"),
        ] {
            if let Some(value) = at(key) {
                raw[name] = value.clone();
            }
        }
        RopeScaling::read(&raw, config.max_position_embeddings).with_context(|| format!("in {}", self.path.display()))
    }

    /// Reads the tensor that transformers calls `name`, dequantised directly into the requested dtype.
    pub fn parameter(&mut self, name: &str, shape: &[i64], kind: TensorKind, config: &ModelConfig) -> Result<Tensor> {
        let stored = stored_name(name)?;
        let entry = self.entry(&stored)?;
        let found: Vec<i64> = entry.dimensions.iter().rev().map(|&size| size as i64).collect();
        ensure!(found == shape, "`{stored}` has the shape {found:?}, but the metadata require {shape:?}");
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") => Some(config.num_attention_heads),
            Some("k_proj") => Some(config.num_key_value_heads),
            _ => None,
        };
        let heads = heads.filter(|_| config.model_type == Architecture::Llama);
        let rows = if heads.is_some() || shape.len() > 1 { shape[0] as usize } else { 1 };
        let order = |row: usize| match heads {
            // The original order has first the even rows of a head, and then the odd rows.
            Some(heads) => {
                let dim = rows / heads as usize;
                let (head, place) = (row / dim, row % dim);
                head * dim + place % (dim / 2) * 2 + place / (dim / 2)
            }
            None => row,
        };
        let mut tensor = Tensor::f_zeros(shape, (kind, Device::Cpu))?;
        let bytes = &self.map[entry.start..entry.end];
        match kind {
            TensorKind::Float => dequantise(entry.block, bytes, rows, &order, values_of::<f32>(&mut tensor)?),
            TensorKind::BFloat16 => dequantise(entry.block, bytes, rows, &order, values_of::<bf16>(&mut tensor)?),
            other => bail!("GGUF tensors can be read as Float or BFloat16, but not as {other:?}"),
        }
        self.taken.insert(stored);
        Ok(tensor)
    }

    /// Checks that every tensor was read. Call this after the last read.
    ///
    /// # Errors
    /// The file has unread tensors: its tensors do not fit the architecture in its metadata.
    pub fn finish(&self) -> Result<()> {
        // The rotation divisors were read together with the metadata.
        let unread = self.tensors.keys().filter(|name| !self.taken.contains(*name) && *name != ROTATION_FACTORS);
        refuse_unread(unread, &self.path, "its metadata do not explain")
    }

    /// The dequantised values of a tensor, by its GGUF name.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let bytes = &self.map[entry.start..entry.end];
        let mut values = vec![0.0; bytes.len() / entry.block.bytes() * entry.block.values()];
        dequantise(entry.block, bytes, 1, &|row| row, &mut values);
        Ok(values)
    }

    fn entry(&self, name: &str) -> Result<&GgufEntry> {
        self.tensors.get(name).ok_or_else(|| anyhow!("{} has no tensor `{name}`", self.path.display()))
    }
}

/// The numbers of a tensor, as a mutable slice. No other tensor may share the memory.
fn values_of<T>(tensor: &mut Tensor) -> Result<&mut [T]> {
    let count = tensor.numel();
    ensure!(
        size_of::<T>() == tensor.kind().elt_size_in_bytes() && tensor.is_contiguous(),
        "the tensor has another dtype"
    );
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: this is a contiguous CPU tensor of `count` numbers of this size, and only the caller has the tensor.
    // Every bit pattern is a valid number. The slice does not outlive the tensor.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), count) })
}

/// The GGUF name of the tensor that transformers calls `name`.
fn stored_name(name: &str) -> Result<String> {
    match name {
        "model.embed_tokens.weight" => return Ok("token_embd.weight".to_owned()),
        "model.norm.weight" => return Ok("output_norm.weight".to_owned()),
        "lm_head.weight" => return Ok("output.weight".to_owned()),
        _ => {}
    }
    let parts: Vec<&str> = name.split('.').collect();
    let stem = match parts.get(parts.len().saturating_sub(2)).copied() {
        Some("input_layernorm") => "attn_norm",
        Some("post_attention_layernorm") => "ffn_norm",
        Some("q_proj") => "attn_q",
        Some("k_proj") => "attn_k",
        Some("v_proj") => "attn_v",
        Some("o_proj") => "attn_output",
        Some("q_norm") => "attn_q_norm",
        Some("k_norm") => "attn_k_norm",
        Some("gate_proj") => "ffn_gate",
        Some("up_proj") => "ffn_up",
        Some("down_proj") => "ffn_down",
        _ => bail!("GGUF has no tensor that corresponds to `{name}`"),
    };
    Ok(format!("blk.{}.{stem}.{}", parts[2], parts[parts.len() - 1]))
}

type Parsed = (BTreeMap<String, Value>, BTreeMap<String, GgufEntry>);

/// Reads the metadata and the list of tensors from the header of a file.
fn parse(bytes: &[u8]) -> Result<Parsed> {
    let mut cursor = Cursor { bytes, place: 0 };
    ensure!(cursor.take(4)? == b"GGUF", "this is not a GGUF file");
    let version = cursor.u32()?;
    ensure!((2..=3).contains(&version), "GGUF version {version} is not supported, only versions 2 and 3 are supported");
    let tensor_count = cursor.u64()?;
    let metadata_count = cursor.u64()?;
    let mut metadata = BTreeMap::new();
    for _ in 0..metadata_count {
        let key = cursor.string()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind, 0).with_context(|| format!("in the metadata key `{key}`"))?;
        metadata.insert(key, value);
    }
    let mut infos = Vec::new();
    for _ in 0..tensor_count {
        let name = cursor.string()?;
        let count = cursor.u32()?;
        ensure!(count <= 4, "the tensor `{name}` has {count} dimensions: at most 4 are supported");
        let dimensions = (0..count).map(|_| cursor.u64()).collect::<Result<Vec<_>>>()?;
        let block = BlockType::from_id(cursor.u32()?).with_context(|| format!("in the tensor `{name}`"))?;
        infos.push((name, dimensions, block, cursor.u64()?));
    }
    let alignment = metadata.get("general.alignment").and_then(Value::as_u64).unwrap_or(32).max(1);
    let data = (cursor.place as u64).div_ceil(alignment) * alignment;
    let mut tensors = BTreeMap::new();
    for (name, dimensions, block, offset) in infos {
        let place = || -> Option<(usize, usize)> {
            let count = dimensions.iter().try_fold(1u64, |product, &size| product.checked_mul(size))?;
            // A row of a quantised tensor consists of whole blocks.
            let row = dimensions.first().copied().unwrap_or(1);
            let whole = row.is_multiple_of(block.values() as u64);
            let length = whole.then(|| (count / block.values() as u64).checked_mul(block.bytes() as u64))??;
            let start = data.checked_add(offset)?;
            let end = start.checked_add(length)?;
            (end <= bytes.len() as u64).then_some((start as usize, end as usize))
        };
        let (start, end) = place().ok_or_else(|| anyhow!("the tensor `{name}` reaches beyond the end of the file"))?;
        tensors.insert(name, GgufEntry { dimensions, block, start, end });
    }
    Ok((metadata, tensors))
}

/// Reads the fields of the header one after another, and checks every length.
struct Cursor<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.place.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end =
            end.ok_or_else(|| anyhow!("the file ends at byte {} in the middle of its header", self.bytes.len()))?;
        let taken = &self.bytes[self.place..end];
        self.place = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<String> {
        let length = usize::try_from(self.u64()?)?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// Reads a metadata value of this type. `depth` counts the arrays around the value.
    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            // The f32 goes through its shortest decimal form. So 1e-5 stays 1e-5, and does not become the exact value
            // of the nearest f32.
            6 => f32::from_le_bytes(self.array()?).to_string().parse::<f64>()?.into(),
            7 => Value::Bool(self.take(1)?[0] != 0),
            8 => self.string()?.into(),
            9 => {
                ensure!(depth < 4, "arrays are nested more than 4 levels deep");
                let inner = self.u32()?;
                let count = self.u64()?;
                ensure!(
                    count <= self.bytes.len() as u64,
                    "an array has {count} elements: that is more than the bytes of the file"
                );
                Value::Array((0..count).map(|_| self.value(inner, depth + 1)).collect::<Result<_>>()?)
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => f64::from_le_bytes(self.array()?).into(),
            other => bail!("unknown type {other} of a metadata value"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_transformers_become_names_of_gguf() -> Result<()> {
        assert_eq!(stored_name("model.layers.12.self_attn.o_proj.weight")?, "blk.12.attn_output.weight");
        assert_eq!(stored_name("model.layers.0.self_attn.q_proj.bias")?, "blk.0.attn_q.bias");
        assert!(stored_name("model.layers.0.moe.weight").is_err());
        Ok(())
    }

    #[test]
    fn a_truncated_file_is_an_error_that_says_so() {
        let error = parse(b"GGUF\x03\0\0\0\x01\0\0\0").map(|_| ()).expect_err("truncated");
        assert_eq!(error.to_string(), "the file ends at byte 12 in the middle of its header");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
            bytes.extend(tail);
            let _ = parse(&bytes);
        }
    }
}
