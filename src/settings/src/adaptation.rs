//! What a person may set of a training run, as several stage kinds share it. Knows no stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of the model's numbers are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdaptationMethod {
    /// Low-rank matrices beside the frozen weights.
    #[default]
    Lora,
    /// Every weight.
    Full,
    /// Every weight of the uppermost layers; the rest stays frozen.
    TopLayers,
    /// Low-rank matrices in the uppermost layers only.
    TopLayersLora,
}

/// How the model is adapted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptationSettings {
    /// `lora`, `full`, `top_layers` or `top_layers_lora`. A prefix proxy trains its own top layers, whatever stands
    /// here; with `top_layers_lora` by low-rank matrices.
    pub method: AdaptationMethod,
    /// Rank of the LoRA matrices.
    pub rank: u32,
    /// LoRA's update is scaled by alpha / rank.
    pub alpha: f64,
    /// The linear layers that get LoRA matrices.
    pub targets: Vec<String>,
    /// How many layers `top_layers` and `top_layers_lora` train.
    pub layers: u32,
}

impl Default for AdaptationSettings {
    fn default() -> Self {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self {
            method: AdaptationMethod::Lora,
            rank: 16,
            alpha: 32.0,
            targets: targets.map(str::to_owned).to_vec(),
            layers: 8,
        }
    }
}

impl AdaptationSettings {
    /// What cannot be right, with the key it is about.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        use AdaptationMethod as Method;
        match self.method {
            Method::Lora | Method::TopLayersLora if self.rank == 0 => Some(("rank", "a LoRA of rank 0 trains nothing")),
            Method::Lora | Method::TopLayersLora if self.alpha <= 0.0 || !self.alpha.is_finite() => {
                Some(("alpha", "LoRA's alpha scales what is learnt: it is above 0"))
            }
            Method::Lora | Method::TopLayersLora if self.targets.is_empty() => {
                Some(("targets", "LoRA needs at least one target"))
            }
            Method::TopLayers | Method::TopLayersLora if self.layers == 0 => {
                Some(("layers", "at least one layer must be trained"))
            }
            _ => None,
        }
    }
}
