//! Compares tokens with Hugging Face's tokenizers, and whole conversations with `apply_chat_template`.

use std::path::Path;

use raisin_base::error::{Context as _, Result};
use raisin_corpus::{Codec, Instruction, Message, byte_tokenizer};
use raisin_lm::gguf::Gguf;
use raisin_lm::weights::Weights;
use raisin_lm::write_tokenizer;

use crate::tensors;
use raisin_tests::python::{run_python, setting};

/// The token ids of each text.
fn lists(expected: &Weights, name: &str) -> Result<Vec<Vec<u32>>> {
    let ids = Vec::<i64>::try_from(expected.read(&format!("{name}.ids"))?)?;
    let ends = Vec::<i64>::try_from(expected.read(&format!("{name}.ends"))?)?;
    let mut start = 0;
    Ok(ends
        .into_iter()
        .map(|end| {
            let list = ids[start..end as usize].iter().map(|&id| id as u32).collect();
            start = end as usize;
            list
        })
        .collect())
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

#[test]
fn tokens_and_chats_are_those_of_hugging_face() -> Result<()> {
    let Some(python) = setting("RAISIN_PYTHON") else { return Ok(()) };
    let (data, gguf) = (setting("RAISIN_DATA").unwrap_or_default(), setting("RAISIN_GGUF").unwrap_or_default());
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    run_python(&python, "tokens.py", &[folder.path(), &data, &gguf])?;
    let texts: Vec<String> = json(&at("strings.json"))?;
    let chats: Vec<Vec<Message>> = json(&at("chats.json"))?;
    let mut compared = Vec::new();
    for name in ["bytes", "gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-neox", "smollm2"] {
        let golden = at(&format!("{name}.safetensors"));
        if !golden.is_file() {
            continue;
        }
        let model = at(name);
        std::fs::create_dir(&model)?;
        match name {
            "bytes" => byte_tokenizer::write(&model, 256)?,
            "gpt-neox" => {
                std::fs::copy(data.join("tokenizers/gpt-neox-20B_tokenizer.json"), model.join("tokenizer.json"))?;
            }
            "smollm2" => write_tokenizer(&Gguf::open(&gguf)?, 2048, &model)?,
            trained => write_tokenizer(&Gguf::open(&at(&format!("{trained}.gguf")))?, 2048, &model)?,
        }
        let codec = Codec::load(&model)?;
        let expected = tensors(&golden)?;
        let decoded: Vec<String> = json(&at(&format!("{name}.decoded.json")))?;
        for ((text, ids), back) in texts.iter().zip(lists(&expected, "strings")?).zip(&decoded) {
            assert_eq!(codec.encode(text)?, ids, "{name}: {text:?}");
            assert_eq!(codec.decode(&ids)?, *back, "{name}: {text:?}");
        }
        if expected.contains("chats.ids") {
            let rows: Vec<Instruction> = (0..)
                .zip(&chats)
                .map(|(id, messages)| Instruction { id, messages: messages.clone(), label: None })
                .collect();
            let ours = codec.instructions(&rows, usize::MAX)?;
            for (row, (ours, ids)) in ours.iter().zip(lists(&expected, "chats")?).enumerate() {
                // A response that consists only of its end token is still a response.
                let ours = ours.as_ref().with_context(|| format!("{name}: chat {row} has no target"))?;
                assert_eq!(ours.tokens, ids, "{name}: {:?}", chats[row]);
            }
            compared.push(format!("{name} ({} texts and {} chats)", texts.len(), chats.len()));
        } else {
            compared.push(format!("{name} ({} texts)", texts.len()));
        }
    }
    println!("the same tokens: {}", compared.join(", "));
    assert!(compared.len() >= 5, "{compared:?}");
    Ok(())
}
