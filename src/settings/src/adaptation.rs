//! The settings of an adaptation, which several stage kinds share. src/lm/src/lora.rs carries the adaptation out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which parameters of the model are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdaptationMethod {
    /// LoRA: low-rank matrices are trained beside the frozen weights.
    #[default]
    Lora,
    /// Every weight is trained.
    Full,
    /// Every weight of the top layers is trained; the layers below are frozen.
    TopLayers,
    /// LoRA in the top layers only.
    TopLayersLora,
}

/// The projections (linear layers) that can have LoRA matrices.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// How the model is adapted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptationSettings {
    /// `lora`, `full`, `top_layers` or `top_layers_lora`. A prefix proxy always trains its own top layers: with
    /// `top_layers_lora` by LoRA, otherwise all their weights.
    pub method: AdaptationMethod,
    /// Rank of the LoRA matrices.
    pub rank: u32,
    /// The update of LoRA is scaled by alpha / rank.
    pub alpha: f64,
    /// The projections (linear layers) that get LoRA matrices.
    pub targets: Vec<String>,
    /// How many layers `top_layers` and `top_layers_lora` train.
    pub layers: u32,
}

impl Default for AdaptationSettings {
    fn default() -> Self {
        Self {
            method: AdaptationMethod::Lora,
            rank: 16,
            alpha: 32.0,
            targets: TARGETS.map(str::to_owned).to_vec(),
            layers: 8,
        }
    }
}

impl AdaptationSettings {
    /// The first invalid setting: its key, and the reason.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        use AdaptationMethod as Method;
        match self.method {
            Method::Lora | Method::TopLayersLora if self.rank == 0 => Some(("rank", "a LoRA of rank 0 trains nothing")),
            Method::Lora | Method::TopLayersLora if self.alpha <= 0.0 || !self.alpha.is_finite() => {
                Some(("alpha", "alpha scales the update of LoRA, so it must be above 0"))
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
