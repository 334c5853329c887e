//! Writes small GGUF files, for tests that need no Python.

/// A metadata value.
pub enum Metadata<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

/// The bytes of a GGUF file of the version 3. A tensor has a name, its dimensions (the fastest first), the id of its
/// block type, and its bytes.
pub fn gguf(metadata: &[(&str, Metadata<'_>)], tensors: &[(String, Vec<u64>, u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut bytes, key);
        match value {
            Metadata::U32(number) => {
                bytes.extend(4u32.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
            Metadata::F32(number) => {
                bytes.extend(6u32.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
            Metadata::Bool(flag) => {
                bytes.extend(7u32.to_le_bytes());
                bytes.push(u8::from(*flag));
            }
            Metadata::Text(value) => {
                bytes.extend(8u32.to_le_bytes());
                text(&mut bytes, value);
            }
            Metadata::Texts(values) => {
                bytes.extend([9u32, 8].map(u32::to_le_bytes).concat());
                bytes.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(&mut bytes, value));
            }
            Metadata::I32s(values) => {
                bytes.extend([9u32, 5].map(u32::to_le_bytes).concat());
                bytes.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
            }
        }
    }
    let mut data: Vec<u8> = Vec::new();
    for (name, dimensions, block, values) in tensors {
        text(&mut bytes, name);
        bytes.extend((dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.extend(block.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(values);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A whole model of this architecture (`llama`, `qwen2` or `qwen3`), with a byte-level tokenizer. The matrices have this
/// block type, of which 32 values take `block_bytes` bytes.
pub fn tiny(architecture: &str, block: u32, block_bytes: usize) -> Vec<u8> {
    let (hidden, between, rows, head) = (32u64, 64u64, 260u64, 16u64);
    let at = |key: &str| format!("{architecture}.{key}");
    let sizes = [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 16),
        ("rope.dimension_count", 16),
    ]
    .map(|(key, size)| (at(key), Metadata::U32(size)));
    let mut tokens: Vec<String> = (0..256u32).map(|id| char::from_u32(0x100 + id).unwrap_or('x').to_string()).collect();
    tokens.extend(["<|end|>", "<|user|>", "<|assistant|>", "ĀĀ"].map(str::to_owned));
    let types = (0..260).map(|id| if (256..259).contains(&id) { 3 } else { 1 }).collect();
    let (epsilon, base) = (at("attention.layer_norm_rms_epsilon"), at("rope.freq_base"));
    let mut metadata: Vec<(&str, Metadata<'_>)> = vec![
        ("general.architecture", Metadata::Text(architecture)),
        (&epsilon, Metadata::F32(1e-5)),
        (&base, Metadata::F32(10_000.0)),
        ("tokenizer.ggml.model", Metadata::Text("gpt2")),
        ("tokenizer.ggml.pre", Metadata::Text(if architecture == "llama" { "smollm" } else { "qwen2" })),
        ("tokenizer.ggml.tokens", Metadata::Texts(tokens)),
        ("tokenizer.ggml.token_type", Metadata::I32s(types)),
        ("tokenizer.ggml.merges", Metadata::Texts(vec!["Ā Ā".to_owned()])),
        ("tokenizer.ggml.bos_token_id", Metadata::U32(256)),
        ("tokenizer.ggml.eos_token_id", Metadata::U32(256)),
        ("tokenizer.ggml.add_bos_token", Metadata::Bool(false)),
        ("tokenizer.chat_template", Metadata::Text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")),
    ];
    metadata.extend(sizes.iter().map(|(key, size)| match size {
        Metadata::U32(size) => (key.as_str(), Metadata::U32(*size)),
        _ => (key.as_str(), Metadata::U32(0)),
    }));
    let matrix = |name: &str, inputs: u64, outputs: u64| {
        let count = (inputs * outputs / 32) as usize * block_bytes;
        let values = (0..count).map(|place| (place * 37 % 61) as u8).collect();
        (name.to_owned(), vec![inputs, outputs], block, values)
    };
    let vector = |name: &str, size: u64| {
        (
            name.to_owned(),
            vec![size],
            0,
            (0..size).flat_map(|place| (1.0 + place as f32 / 64.0).to_le_bytes()).collect(),
        )
    };
    let mut tensors = vec![
        matrix("token_embd.weight", hidden, rows),
        vector("output_norm.weight", hidden),
        vector("blk.0.attn_norm.weight", hidden),
        vector("blk.0.ffn_norm.weight", hidden),
        matrix("blk.0.attn_q.weight", hidden, 2 * head),
        matrix("blk.0.attn_k.weight", hidden, head),
        matrix("blk.0.attn_v.weight", hidden, head),
        matrix("blk.0.attn_output.weight", 2 * head, hidden),
        matrix("blk.0.ffn_gate.weight", hidden, between),
        matrix("blk.0.ffn_up.weight", hidden, between),
        matrix("blk.0.ffn_down.weight", between, hidden),
    ];
    match architecture {
        "qwen2" => tensors.extend([
            vector("blk.0.attn_q.bias", 2 * head),
            vector("blk.0.attn_k.bias", head),
            vector("blk.0.attn_v.bias", head),
        ]),
        "qwen3" => {
            tensors.extend([vector("blk.0.attn_q_norm.weight", head), vector("blk.0.attn_k_norm.weight", head)]);
        }
        _ => {}
    }
    gguf(&metadata, &tensors)
}
