//! Compares the rendering of chat templates with transformers. The templates of the model families come from two Python
//! packages.

use std::path::Path;

use raisin_base::error::Result;
use raisin_corpus::template::{ChatTemplate, ChatValues};
use serde::Deserialize;
use serde_json::Value;

use raisin_tests::python::{run_python, setting};

#[derive(Deserialize)]
struct Case {
    name: String,
    source: String,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    prompt: bool,
    /// `None` if the template refuses the conversation.
    text: Option<String>,
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn chats_with_tools_and_thoughts_are_rendered_as_transformers_renders_them() -> Result<()> {
    compare(Path::new(""))
}

#[test]
#[cfg_attr(
    not(all(has_python, has_gguf)),
    ignore = "RAISIN_PYTHON or RAISIN_GGUF is not set: `just model smollm2`, `just test`"
)]
fn the_template_of_a_gguf_file_is_rendered_as_transformers_renders_it() -> Result<()> {
    compare(&setting("RAISIN_GGUF"))
}

/// All conversations under all templates, and under that of a GGUF file if one is given.
fn compare(gguf: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("cases.json");
    run_python(&setting("RAISIN_PYTHON"), "templates.py", &[&path, gguf])?;
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(&path)?)?;
    let specials = [("bos_token", "<|user|>"), ("eos_token", "<|end|>"), ("pad_token", "<|end|>")];
    let specials: Vec<(String, String)> = specials.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
    let mut wrong = Vec::new();
    for case in &cases {
        let template = ChatTemplate::compile(&case.source, specials.clone())?;
        let chat = ChatValues::of_json(&case.messages, case.tools.as_deref());
        let ours = template.render(&chat, case.messages.len(), case.prompt);
        let ours = ours.map_err(|error| format!("{error:#}"));
        let agree = match (&ours, &case.text) {
            (Ok(ours), Some(golden)) => ours == golden,
            (Err(_), None) => true,
            _ => false,
        };
        if !agree {
            let tools = if case.tools.is_some() { "with" } else { "without" };
            wrong
                .push(format!("{} ({tools} tools, prompt {}):\n  {ours:?}\n  {:?}", case.name, case.prompt, case.text));
        }
    }
    println!("{} of {} conversations are rendered the same", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 900);
    Ok(())
}
