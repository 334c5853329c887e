//! Files of a model folder that raisin cannot read, and what to do then; and the files that raisin copies unchanged.

use std::path::Path;

use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::files::if_there;

/// The files of a tokenizer. Those that exist are copied.
const TOKENIZER_FILES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.txt",
];

/// The folder of further chat templates, which transformers finds by their names.
const TEMPLATE_FOLDER: &str = "additional_chat_templates";

pub(super) const GENERATION_CONFIG: &str = "generation_config.json";

/// Copies the tokenizer of one model folder into another, byte for byte.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        copy(&from.join(name), &to.join(name))?;
    }
    let templates = from.join(TEMPLATE_FOLDER);
    if !templates.is_dir() {
        return Ok(());
    }
    let target = to.join(TEMPLATE_FOLDER);
    std::fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
    for entry in std::fs::read_dir(&templates).with_context(|| format!("cannot read {}", templates.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", templates.display()))?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|extension| extension == "jinja"))
        {
            copy(&path, &target.join(name))?;
        }
    }
    Ok(())
}

/// Copies config.json and generation_config.json of one model folder into another, byte for byte.
pub fn copy_configs(from: &Path, to: &Path) -> Result<()> {
    ["config.json", GENERATION_CONFIG].iter().try_for_each(|name| copy(&from.join(name), &to.join(name)))
}

/// The content of generation_config.json; `None` if the folder has none.
pub(super) fn read_generation_config(folder: &Path) -> Result<Option<Vec<u8>>> {
    let path = folder.join(GENERATION_CONFIG);
    let bytes = if_there(std::fs::read(&path)).with_context(|| format!("cannot read {}", path.display()))?;
    if let Some(bytes) = &bytes {
        refuse_pointer(&path, bytes)?;
    }
    Ok(bytes)
}

/// Copies the content of a file, if there is one. The files of the store are read-only, and a copy of the file itself
/// would also be read-only.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(bytes) = if_there(std::fs::read(from)).with_context(|| format!("cannot read {}", from.display()))? {
        refuse_pointer(from, &bytes)?;
        std::fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

/// Refuses the text with which git replaces a large file until `git lfs pull` has fetched the file.
pub(super) fn refuse_pointer(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        let problem = format!("{} is a pointer of git LFS, and not the file itself", path.display());
        return Err(Problem::new(problem).hint("run `git lfs pull` in the folder of the model").into());
    }
    Ok(())
}

/// The error for a folder without the weights `wanted`.
pub(super) fn no_weights(folder: &Path, wanted: &str, pickled: &[&str]) -> Problem {
    let problem = Problem::new(format!("{} has no {wanted}", folder.display()));
    let Some(found) = pickled.iter().find(|name| folder.join(name).exists()) else {
        return problem.hint("raisin reads safetensors and GGUF; pickled weights (.bin, .pt) are not opened");
    };
    let (module, class) = match *found {
        "adapter_model.bin" => ("peft", "AutoPeftModelForCausalLM"),
        _ => ("transformers", "AutoModelForCausalLM"),
    };
    problem.hint(format!(
        "{found} is pickled, and raisin opens no pickled weights, because they can run code. Convert the weights: \
         python -c \"from {module} import {class}; {class}.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
    ))
}

/// Checks that a model folder has the tokenizer in the form that raisin reads.
///
/// # Errors
/// The folder has no tokenizer.json, or only a pointer to it.
pub fn require_tokenizer(folder: &Path) -> Result<()> {
    let path = folder.join("tokenizer.json");
    let bytes = if_there(std::fs::read(&path)).with_context(|| format!("cannot read {}", path.display()))?;
    if let Some(bytes) = bytes {
        return refuse_pointer(&path, &bytes);
    }
    let convert = "python -c \"from transformers import AutoTokenizer; \
                   AutoTokenizer.from_pretrained('FOLDER').save_pretrained('FOLDER')\"";
    let hint = match ["tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"]
        .iter()
        .find(|name| folder.join(name).exists())
    {
        Some(found) => format!("raisin does not read {found}. Convert the tokenizer: {convert}"),
        None => format!("put the tokenizer of the model into the folder, or save it there: {convert}"),
    };
    Err(Problem::new(format!("{} has no tokenizer.json", folder.display())).hint(hint).into())
}
