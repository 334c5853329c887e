//! Writes models: folders in Hugging Face layout for whole models, folders in PEFT layout for adapters. weights.rs
//! writes the safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tch::Kind as TensorKind;

use super::config::write_json;
use super::folder_files::{GENERATION_CONFIG, copy_tokenizer};
use super::layer::{Parameter, Projection};
use super::lora::Adapter;
use super::model::{Model, adapter_part};
use super::weights::{self, Outgoing};
use raisin_base::error::{Context as _, Problem, Result, ensure};

impl Model {
    /// Writes the whole model in Hugging Face layout, with the tokenizer of the folder that the model was read from.
    ///
    /// # Errors
    /// The model has adapters. Then use [`Model::save_merged`] or [`Model::save_adapter`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        if self.adapters().next().is_some() {
            return Err(Problem::new("this model has adapters, and its weights do not contain the adapters")
                .hint("save the adapters alone, or save the model with merged adapters")
                .into());
        }
        self.save_merged(folder)
    }

    /// Writes the whole model in Hugging Face layout. If the model has adapters, they are merged into the weights.
    pub fn save_merged(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let adapted: BTreeMap<&str, &Projection> = self
            .projections()
            .filter(|projection| projection.adapter.is_some())
            .map(|projection| (projection.weight.name.as_str(), projection))
            .collect();
        // All tensors get one dtype: f32 as soon as one parameter was trained in f32. A merged weight is f32.
        let all_alike = self.parameters().all(|parameter| parameter.value.kind() == self.compute);
        let merged_alike = adapted.is_empty() || self.compute == TensorKind::Float;
        let kind = if all_alike && merged_alike { self.compute } else { TensorKind::Float };
        let mut tensors = Vec::new();
        for Parameter { name, value } in self.parameters() {
            let projection = adapted.get(name.as_str()).copied();
            tensors.push(Outgoing::new(name.clone(), kind, &value.size(), move || {
                let value = projection.map_or_else(|| Ok(value.shallow_clone()), Projection::merged)?;
                Ok(value.f_detach()?.f_to_kind(kind)?)
            })?);
        }
        weights::write(&folder.join("model.safetensors"), &tensors)?;
        let mut config = self.config.clone();
        config.torch_dtype = if kind == TensorKind::BFloat16 { "bfloat16" } else { "float32" }.to_owned();
        config.write(folder)?;
        self.write_generation_config(folder)?;
        self.write_tokenizer(folder)
    }

    /// Writes the adapters in PEFT layout, with the configuration and the tokenizer of the base model. `base` is what
    /// PEFT gets as the name or path of the base model.
    pub fn save_adapter(&self, folder: &Path, base: Option<&str>) -> Result<()> {
        let Some(adapter) = &self.adapter else {
            return Err(Problem::new("this model has no adapters of its own training")
                .hint("save the whole model")
                .into());
        };
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut tensors = Vec::new();
        for (projection, Adapter { a, b, .. }) in self.adapters() {
            for (letter, value) in [('A', a), ('B', b)] {
                let make = || Ok(value.f_detach()?.f_to_kind(TensorKind::Float)?);
                let name = adapter_part(projection, letter);
                tensors.push(Outgoing::new(name, TensorKind::Float, &value.size(), make)?);
            }
        }
        ensure!(!tensors.is_empty(), "no projection has an adapter");
        weights::write(&folder.join("adapter_model.safetensors"), &tensors)?;
        let alpha = if adapter.alpha.fract() == 0.0 { json!(adapter.alpha as i64) } else { json!(adapter.alpha) };
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": adapter.rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "target_modules": adapter.targets,
            "layers_to_transform": adapter.layers,
            "layers_pattern": null,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "use_dora": false,
            "use_rslora": false,
        });
        write_json(&folder.join("adapter_config.json"), &config)?;
        self.config.write(folder)?;
        self.write_generation_config(folder)?;
        self.write_tokenizer(folder)
    }

    /// Writes the generation_config.json of the folder that the model was read from, byte for byte. If that folder has
    /// none, the file gets the tokens that config.json names.
    fn write_generation_config(&self, folder: &Path) -> Result<()> {
        let path = folder.join(GENERATION_CONFIG);
        if let Some(bytes) = &self.generation_config {
            return std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()));
        }
        let config = serde_json::to_value(&self.config)?;
        let mut value = json!({"_from_model_config": true});
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if !config[key].is_null() {
                value[key] = config[key].clone();
            }
        }
        write_json(&path, &value)
    }

    fn write_tokenizer(&self, folder: &Path) -> Result<()> {
        match &self.folder {
            Some(source) => copy_tokenizer(source, folder),
            None => Ok(()),
        }
    }
}
