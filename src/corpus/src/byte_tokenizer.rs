//! The tokenizer of the tiny byte-level model: one token for each byte and four special tokens, without merges.
//!
//! The tokenizer has the files tokenizer.json, tokenizer_config.json, special_tokens_map.json and
//! generation_config.json, so that `transformers` loads the tiny model in the same way as any other model.

use std::path::Path;

use serde_json::{Map, Value, json};

use raisin_base::error::{Context as _, Result};

/// The number of tokens: bytes and special tokens.
pub const VOCABULARY_SIZE: usize = 256 + SPECIAL.len();
/// The token that ends a turn; it is also the padding token.
pub const END: u32 = 256;
const SPECIAL: [&str; 4] = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"];

const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    {{ '<|' + (message['role'] if message['role'] in ['system', 'assistant'] else 'user') + '|>' }}\
    {{ message['content'] + eos_token }}\
    {% endfor %}\
    {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// Writes the four files of the tokenizer into a model folder. `max_length` is the largest number of tokens in a
/// sequence.
pub fn write(folder: &Path, max_length: usize) -> Result<()> {
    for (name, content) in files(max_length) {
        let path = folder.join(name);
        let text = serde_json::to_string_pretty(&content)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The files of the tokenizer by name.
pub fn files(max_length: usize) -> [(&'static str, Value); 4] {
    let vocabulary: Map<String, Value> =
        (0..=255u8).map(|byte| (printable(byte).to_string(), Value::from(byte))).collect();
    let special = |(id, content)| {
        json!({"id": id, "content": content, "lstrip": false, "normalized": false, "rstrip": false,
            "single_word": false, "special": true})
    };
    let added: Vec<Value> = (END..).zip(SPECIAL).map(special).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = byte_level_bpe(vocabulary, &[], &added, &byte_level, &byte_level);
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "additional_special_tokens": &SPECIAL[1..],
        "clean_up_tokenization_spaces": false,
        "model_max_length": max_length,
        "chat_template": CHAT_TEMPLATE,
    });
    let map = json!({
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "additional_special_tokens": &SPECIAL[1..],
    });
    let generation = json!({"eos_token_id": END, "pad_token_id": END});
    [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", map),
        ("generation_config.json", generation),
    ]
}

/// The content of tokenizer.json for byte-level BPE, without normalizer and post-processor.
pub fn byte_level_bpe(
    vocabulary: Map<String, Value>,
    merges: &[Value],
    added_tokens: &[Value],
    pre_tokenizer: &Value,
    decoder: &Value,
) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    })
}

/// The character that byte-level tokenizers write for a byte: a visible byte is written as itself, other bytes as
/// characters from U+0100 on.
fn printable(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|&other| !visible(other)).count() as u32;
    char::from_u32(0x100 + hidden_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Codec;
    use proptest::prelude::*;

    fn codec() -> Codec {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), 256).expect("written");
        Codec::load(folder.path()).expect("loads")
    }

    #[test]
    fn a_space_and_a_newline_are_written_as_gpt2_writes_them() {
        assert_eq!([printable(b'A'), printable(b' '), printable(b'\n'), printable(0xAD)], ['A', 'Ġ', 'Ċ', 'Ń']);
    }

    #[test]
    fn tokens_are_bytes_and_the_end_stops_generation() {
        let codec = codec();
        assert_eq!(codec.encode("aé<|end|>").expect("encodes"), [97, 0xC3, 0xA9, END]);
        assert_eq!(codec.stop_tokens(), [END]);
        assert_eq!(codec.vocabulary_size(), VOCABULARY_SIZE);
    }

    proptest! {
        #[test]
        fn the_tokens_of_a_text_are_its_bytes_and_decode_to_the_text(text in "[^<]{0,60}") {
            thread_local!(static CODEC: Codec = codec());
            CODEC.with(|codec| {
                let tokens = codec.encode(&text).expect("encodes");
                let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
                assert_eq!(tokens, bytes);
                assert_eq!(codec.decode(&tokens).expect("decodes"), text);
            });
        }
    }
}
