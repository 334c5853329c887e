//! Compares tokens with Hugging Face's tokenizers, and whole conversations with `apply_chat_template`.

use std::path::Path;

use raisin_base::error::Result;
use raisin_corpus::{Codec, FindingKind, Instruction, Message, byte_tokenizer};
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
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn tokens_and_chats_are_those_of_hugging_face() -> Result<()> {
    compare(Path::new(""), Path::new(""), &["bytes", "gpt-2", "smollm", "llama-bpe", "qwen2"])
}

#[test]
#[cfg_attr(not(all(has_python, has_data)), ignore = "RAISIN_PYTHON or RAISIN_DATA is not set: tests/python/tokens.py")]
fn tokens_of_real_texts_are_those_of_hugging_face() -> Result<()> {
    compare(&setting("RAISIN_DATA"), Path::new(""), &["bytes", "gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-neox"])
}

#[test]
#[cfg_attr(
    not(all(has_python, has_gguf)),
    ignore = "RAISIN_PYTHON or RAISIN_GGUF is not set: `just model smollm2`, `just test`"
)]
fn tokens_of_a_vocabulary_out_of_a_gguf_file_are_those_of_hugging_face() -> Result<()> {
    compare(Path::new(""), &setting("RAISIN_GGUF"), &["smollm2"])
}

/// Texts and chats under these tokenizers; with a folder of real data more of them.
fn compare(data: &Path, gguf: &Path, names: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    run_python(&setting("RAISIN_PYTHON"), "tokens.py", &[folder.path(), data, gguf])?;
    let texts: Vec<String> = json(&at("strings.json"))?;
    let chats: Vec<Vec<Message>> = json(&at("chats.json"))?;
    let mut compared = Vec::new();
    for &name in names {
        let golden = at(&format!("{name}.safetensors"));
        let model = at(name);
        std::fs::create_dir(&model)?;
        match name {
            "bytes" => byte_tokenizer::write(&model, 256)?,
            "gpt-neox" => {
                std::fs::copy(data.join("tokenizers/gpt-neox-20B_tokenizer.json"), model.join("tokenizer.json"))?;
            }
            "smollm2" => write_tokenizer(&Gguf::open(gguf)?, 2048, &model)?,
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
            let rows: Vec<Instruction> =
                (0..).zip(&chats).map(|(id, messages)| Instruction::new(id, messages.clone())).collect();
            let ours = codec.instructions(&rows, usize::MAX);
            for (row, (ours, ids)) in ours.iter().zip(lists(&expected, "chats")?).enumerate() {
                let Some(sequence) = &ours.sequence else {
                    // An empty response is not trained on.
                    assert_eq!((ours.tokens, ours.findings[0].kind), (ids.len(), FindingKind::TurnEmpty));
                    continue;
                };
                assert_eq!(sequence.tokens, ids, "{name}: {:?}", chats[row]);
            }
            compared.push(format!("{name} ({} texts and {} chats)", texts.len(), chats.len()));
        } else {
            compared.push(format!("{name} ({} texts)", texts.len()));
        }
    }
    println!("the same tokens: {}", compared.join(", "));
    Ok(())
}
