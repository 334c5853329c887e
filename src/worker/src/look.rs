//! Answers what `raisin init` asks about a model: its shape, its context and its chat template. No weight is read.

use std::path::Path;

use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::look::ModelFindings;
use raisin_lm::ModelConfig;
use raisin_lm::gguf::Gguf;

/// # Errors
/// The path leads neither to a GGUF file nor to a folder with a model that raisin supports.
pub fn look(path: &Path) -> Result<ModelFindings> {
    let (config, has_chat_template) = if path.is_dir() {
        if !path.join("config.json").is_file() {
            return Err(Problem::usage(format!("{} has no config.json", path.display()))
                .hint(
                    "give a GGUF file, or a folder as transformers saves it: config.json, safetensors, tokenizer.json",
                )
                .into());
        }
        let settings = std::fs::read_to_string(path.join("tokenizer_config.json")).unwrap_or_default();
        let has_template = path.join("chat_template.jinja").is_file() || settings.contains("\"chat_template\"");
        (ModelConfig::read(path)?, has_template)
    } else {
        let gguf = Gguf::open(path).with_context(|| format!("cannot read the model {}", path.display()))?;
        let has_template = gguf.text("tokenizer.chat_template").is_some();
        (gguf.config()?, has_template)
    };
    let (hidden, layers) = (config.hidden_size as f64, config.num_hidden_layers);
    let attention = hidden * config.head_dim as f64 * (config.num_attention_heads + config.num_key_value_heads) as f64;
    let of_layer = 2.0 * attention + 3.0 * hidden * config.intermediate_size as f64;
    let embeddings = if config.tie_word_embeddings { 1.0 } else { 2.0 };
    Ok(ModelFindings {
        architecture: config.model_type.class_name().trim_end_matches("ForCausalLM").to_lowercase(),
        layers,
        hidden_size: config.hidden_size,
        vocabulary: config.vocab_size,
        context: config.max_position_embeddings,
        parameters: layers as f64 * of_layer + embeddings * hidden * config.vocab_size as f64,
        has_chat_template,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_folder_gives_its_shape_and_another_folder_says_what_is_missing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/quickstart-base");
        let found = look(&folder).unwrap();
        assert_eq!((found.architecture.as_str(), found.layers > 0, found.vocabulary > 0), ("llama", true, true));
        let config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
        assert_eq!(found.layers as u64, config["num_hidden_layers"].as_u64().unwrap());
        let bytes = std::fs::metadata(folder.join("model.safetensors")).unwrap().len() as f64;
        let per_parameter = bytes / found.parameters;
        assert!((1.9..4.2).contains(&per_parameter), "{per_parameter} bytes for each parameter");
        let error = raisin_base::error::render(&look(folder.parent().unwrap()).unwrap_err());
        assert!(error.contains("has no config.json") && error.contains("hint: give a GGUF file"), "{error}");
    }
}
