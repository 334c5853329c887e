//! The role `model`: checks that a program wrote a model folder that raisin can read, before a stage of another kind
//! reads the folder. What only the weights can show, such as a wrong shape, is found when the model is loaded.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::call::names;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::Context;
use raisin_corpus::Codec;
use raisin_kinds::command::Parameters;

const ADAPTER: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Pickled weights, which raisin does not open.
const PICKLED: [&str; 4] = ["pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "model.pt"];

/// What an adapter takes from its base if the program did not write it.
const FROM_THE_BASE: [&str; 7] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// The largest header of a safetensors file, as in the library `safetensors`.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// Checks the folder `{out}`, and completes an adapter.
///
/// # Errors
/// A file is missing or has another form.
pub fn take(parameters: &Parameters, context: &Context) -> Result<()> {
    let out = context.out();
    let weights = if out.join(ADAPTER).is_file() {
        adapter(parameters, context)?;
        vec![out.join(ADAPTER_WEIGHTS)]
    } else {
        full(&out)?
    };
    for path in weights {
        check_weights(&path).with_context(|| format!("{} is not a whole safetensors file", shown(&path)))?;
    }
    let config = object(&out, "config.json")?;
    if !config["model_type"].is_string() {
        let problem = Problem::new("config.json, which the program wrote, has no `model_type`");
        return Err(problem.hint("save the model with `model.save_pretrained(OUT)`").into());
    }
    if !out.join("tokenizer.json").is_file() {
        return Err(missing(&out, "tokenizer.json", "save the tokenizer too: `tokenizer.save_pretrained(OUT)`")?);
    }
    Codec::load(&out).context("the tokenizer that the program wrote cannot be read")?;
    Ok(())
}

/// The files of weights of a whole model.
fn full(out: &Path) -> Result<Vec<PathBuf>> {
    if out.join(WEIGHTS).is_file() {
        return Ok(vec![out.join(WEIGHTS)]);
    }
    if !out.join(INDEX).is_file() {
        let pickled = PICKLED.iter().find(|name| out.join(name).exists());
        let hint = match pickled {
            Some(name) => format!("raisin does not open {name}: write safetensors, `model.save_pretrained(OUT)`"),
            None => "save the model into {out} itself: `model.save_pretrained(OUT)`".to_owned(),
        };
        return Err(missing(out, WEIGHTS, &hint)?);
    }
    let index = object(out, INDEX)?;
    let names: BTreeSet<&str> =
        index["weight_map"].as_object().into_iter().flatten().filter_map(|(_, name)| name.as_str()).collect();
    if names.is_empty() {
        return Err(Problem::new(format!("{INDEX} has no `weight_map` with files")).into());
    }
    for name in &names {
        if !out.join(name).is_file() {
            return Err(missing(out, name, &format!("{INDEX} lists this file"))?);
        }
    }
    Ok(names.into_iter().map(|name| out.join(name)).collect())
}

/// Refers to the base of an adapter, and takes from it what the program did not write.
fn adapter(parameters: &Parameters, context: &Context) -> Result<()> {
    let out = context.out();
    if !out.join(ADAPTER_WEIGHTS).is_file() {
        let hint = "save the adapter with `model.save_pretrained(OUT)`, in safetensors";
        return Err(missing(&out, ADAPTER_WEIGHTS, hint)?);
    }
    if out.join(WEIGHTS).exists() || out.join(INDEX).exists() {
        let problem = Problem::new("the program wrote both an adapter and the weights of a whole model");
        return Err(problem.hint("write one of them into {out}").into());
    }
    let inputs = (0..parameters.inputs.len()).map(|place| context.input(&format!("/inputs/{place}")));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let Some(base) = inputs.into_iter().find(|folder| folder.join("config.json").is_file()) else {
        let problem = Problem::new("the program wrote an adapter, and no input of the stage is its base model");
        return Err(problem.hint("give the program the stage with the base, for example {base}").into());
    };
    for name in FROM_THE_BASE.iter().filter(|name| base.join(name).is_file() && !out.join(name).exists()) {
        std::fs::copy(base.join(name), out.join(name)).with_context(|| format!("cannot copy {name} of the base"))?;
    }
    context.add_reference("base", base)
}

/// Reads the header of a safetensors file, and checks that the file has as many bytes as the header says.
fn check_weights(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).context("its header is missing")?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER_BYTES.min(bytes) {
        return Err(Problem::new(format!("its header would have {length} bytes, and the file has {bytes}")).into());
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let header: Value = serde_json::from_slice(&header).context("its header is not JSON")?;
    let end = |tensor: &Value| tensor["data_offsets"][1].as_u64();
    let tensors = header.as_object().into_iter().flatten().filter(|(name, _)| *name != "__metadata__");
    let ends = tensors.map(|(name, tensor)| {
        end(tensor).ok_or_else(|| Problem::new(format!("the tensor `{name}` has no `data_offsets`")))
    });
    let ends = ends.collect::<Result<Vec<_>, _>>()?;
    let Some(end) = ends.into_iter().max() else { return Err(Problem::new("it has no tensor").into()) };
    let expected = length.saturating_add(8).saturating_add(end);
    if expected != bytes {
        return Err(Problem::new(format!("its header asks for {expected} bytes, and the file has {bytes}")).into());
    }
    Ok(())
}

/// A file of the program that is a JSON object.
fn object(out: &Path, name: &str) -> Result<Value> {
    let read = raisin_base::files::if_there(std::fs::read(out.join(name)));
    let Some(text) = read.with_context(|| format!("cannot read {name}"))? else {
        return Err(missing(out, name, "save the model with `model.save_pretrained(OUT)`")?);
    };
    let read: Value = serde_json::from_slice(&text).with_context(|| format!("{name} is not JSON"))?;
    if read.is_object() { Ok(read) } else { Err(Problem::new(format!("{name} is not a JSON object")).into()) }
}

fn missing(out: &Path, name: &str, hint: &str) -> Result<raisin_base::error::Error> {
    let message = format!("the program did not write `{name}` into {{out}}, which has {}", names(out)?);
    Ok(Problem::new(message).hint(hint).into())
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(WEIGHTS);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        std::fs::write(&path, bytes)?;
        Ok(check_weights(&path).err().map(|error| error.to_string()).unwrap_or_default())
    }

    #[test]
    fn weights_have_as_many_bytes_as_their_header_says() -> Result<()> {
        let header = r#"{"__metadata__":{},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert_eq!(file(header, 8)?, "");
        let expected = header.len() + 16;
        let short = format!("its header asks for {expected} bytes, and the file has {}", expected - 1);
        assert_eq!(file(header, 7)?, short);
        assert_eq!(file("{}", 0)?, "it has no tensor");
        assert_eq!(file("{x", 0)?, "its header is not JSON");
        assert_eq!(file(r#"{"w":{}}"#, 0)?, "the tensor `w` has no `data_offsets`");
        Ok(())
    }
}
