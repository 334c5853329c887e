//! Computes the frequencies of the rotary position embedding, plain or scaled, as transformers computes them. This file
//! handles numbers only; attention.rs makes tensors of them.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::ModelConfig;
use raisin_base::error::{Context as _, Problem, Result, ensure};

/// How rotations are scaled for contexts that are longer than the context of the pre-training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Every position is divided by `factor`.
    Linear { factor: f64 },
    /// Changes nothing within `max_position_embeddings`. raisin does not use longer contexts.
    Dynamic { factor: f64 },
    /// Llama 3: the frequencies of long wavelengths are divided by `factor`, those of short wavelengths are kept, and
    /// those between are blended.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
    /// Blends by how often a wavelength fits into the original context. Also scales the attention logits.
    Yarn {
        factor: f64,
        original_max_position_embeddings: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beta_fast: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beta_slow: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mscale: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mscale_all_dim: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        truncate: Option<bool>,
    },
}

impl RopeScaling {
    /// Reads the object that config.json calls `rope_scaling` or `rope_parameters`. `None` if nothing is scaled.
    ///
    /// # Errors
    /// The type is unknown to raisin, or a number that the type needs is missing.
    pub fn read(rope: &Value, max_position_embeddings: usize) -> Result<Option<Self>> {
        if !rope.is_object() {
            return Ok(None);
        }
        let share = rope["partial_rotary_factor"].as_f64().unwrap_or(1.0);
        ensure!(
            (share - 1.0).abs() < f64::EPSILON,
            "`partial_rotary_factor` is {share}: raisin supports only 1, the rotation of whole heads"
        );
        let kind = rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default");
        if kind == "default" {
            return Ok(None);
        }
        if !["linear", "dynamic", "llama3", "yarn"].contains(&kind) {
            return Err(Problem::new(format!("unknown rope scaling `{kind}`"))
                .hint("raisin supports default, linear, dynamic, llama3 and yarn")
                .into());
        }
        let mut raw = rope.clone();
        raw["rope_type"] = kind.into();
        // A missing original context is the context itself, as in transformers.
        if raw["original_max_position_embeddings"].is_null() {
            raw["original_max_position_embeddings"] = max_position_embeddings.into();
        }
        // Some programs write integers as 8192.0.
        if let Some(length) = raw["original_max_position_embeddings"].as_f64() {
            raw["original_max_position_embeddings"] = (length as u64).into();
        }
        let scaling: Self =
            serde_json::from_value(raw).with_context(|| format!("in the rope scaling `{kind}`: {rope}"))?;
        let factor = scaling.factor();
        ensure!(
            factor.is_finite() && factor > 0.0,
            "the factor of the rope scaling is {factor}, but it must be finite and above 0"
        );
        Ok(Some(scaling))
    }

    pub fn factor(&self) -> f64 {
        match self {
            Self::Linear { factor }
            | Self::Dynamic { factor }
            | Self::Llama3 { factor, .. }
            | Self::Yarn { factor, .. } => *factor,
        }
    }

    /// The factor of the cosines and sines.
    pub(super) fn attention_factor(&self) -> f64 {
        let Self::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } = self else { return 1.0 };
        let by = |scale: f64| if *factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        match (attention_factor, mscale.filter(|scale| *scale != 0.0), mscale_all_dim.filter(|scale| *scale != 0.0)) {
            (Some(given), ..) => *given,
            (None, Some(one), Some(all)) => by(one) / by(all),
            _ => by(1.0),
        }
    }
}

/// The angle per position, for each pair of coordinates of a head: `[head_dim / 2]`.
pub(super) fn frequencies(config: &ModelConfig) -> Vec<f32> {
    let dim = config.head_dim;
    let plain: Vec<f32> = (0..dim / 2)
        .map(|pair| {
            // In f32, in the same steps as transformers.
            let exponent = (2 * pair) as f32 / dim as f32;
            1.0 / (config.rope_theta as f32).powf(exponent)
        })
        .collect();
    match &config.rope_scaling {
        None | Some(RopeScaling::Dynamic { .. }) => plain,
        Some(RopeScaling::Linear { factor }) => plain.into_iter().map(|frequency| frequency / *factor as f32).collect(),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let context = *original_max_position_embeddings as f64;
            let (low, high) = (*low_freq_factor, *high_freq_factor);
            plain
                .into_iter()
                .map(|frequency| llama3(f64::from(frequency), *factor, low, high, context) as f32)
                .collect()
        }
        Some(RopeScaling::Yarn {
            factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, ..
        }) => {
            let context = *original_max_position_embeddings as f64;
            // The index of the pair whose wavelength fits this many times into the original context.
            let place =
                |rotations: f64| dim as f64 * (context / (rotations * 2.0 * PI)).ln() / (2.0 * config.rope_theta.ln());
            let given = |value: &Option<f64>, usual: f64| value.filter(|value| *value != 0.0).unwrap_or(usual);
            let (mut low, mut high) = (place(given(beta_fast, 32.0)), place(given(beta_slow, 1.0)));
            if truncate.unwrap_or(true) {
                (low, high) = (low.floor(), high.ceil());
            }
            let low = low.max(0.0) as f32;
            let mut high = high.min(dim as f64 - 1.0) as f32;
            if (low - high).abs() < f32::EPSILON {
                high += 0.001;
            }
            let blend = |(pair, frequency): (usize, f32)| {
                let kept = 1.0 - ((pair as f32 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / *factor as f32 * (1.0 - kept) + frequency * kept
            };
            plain.into_iter().enumerate().map(blend).collect()
        }
    }
}

/// The scaled frequency of one pair, for Llama 3.
fn llama3(frequency: f64, factor: f64, low: f64, high: f64, context: f64) -> f64 {
    let wavelength = 2.0 * PI / frequency;
    if wavelength > context / low {
        frequency / factor
    } else if wavelength < context / high {
        frequency
    } else {
        let smooth = (context / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// The scaling of a Llama 3 model, from the divisors that llama.cpp stores instead of the four numbers: each plain
/// frequency is divided by its divisor.
///
/// # Errors
/// The divisors are not those of a Llama 3 model, so the four numbers are unknown.
pub(super) fn llama3_of(divisors: &[f32], config: &ModelConfig) -> Result<RopeScaling> {
    let factor = divisors.iter().copied().fold(1.0f32, f32::max);
    // All published Llama 3 models differ only in `factor`.
    let scaling = RopeScaling::Llama3 {
        factor: f64::from(factor.round()),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = frequencies(&ModelConfig { rope_scaling: None, ..config.clone() });
    let scaled = frequencies(&ModelConfig { rope_scaling: Some(scaling.clone()), ..config.clone() });
    let fits = divisors.len() == plain.len()
        && divisors.iter().zip(plain.iter().zip(&scaled)).all(|(divisor, (plain, scaled))| {
            let ours = plain / scaled;
            (divisor - ours).abs() <= 1e-3 * ours
        });
    ensure!(fits, "the rotation divisors `rope_freqs.weight` are not those of a Llama 3 model");
    Ok(scaling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> ModelConfig {
        let mut config = ModelConfig::llama(8, 128, 1, 2, 2, 8);
        config.rope_theta = 500_000.0;
        config
    }

    #[test]
    fn every_spelling_of_a_scaling_is_read_and_an_unknown_scaling_is_named() -> Result<()> {
        assert_eq!(RopeScaling::read(&Value::Null, 64)?, None);
        assert_eq!(RopeScaling::read(&json!({"rope_type": "default", "rope_theta": 1e4}), 64)?, None);
        let linear = Some(RopeScaling::Linear { factor: 2.0 });
        assert_eq!(RopeScaling::read(&json!({"type": "linear", "factor": 2}), 64)?, linear);
        assert_eq!(RopeScaling::read(&json!({"rope_type": "linear", "factor": 2.0}), 64)?, linear);
        let Some(RopeScaling::Yarn { original_max_position_embeddings: 64, .. }) =
            RopeScaling::read(&json!({"type": "yarn", "factor": 4.0}), 64)?
        else {
            panic!("a missing original context must be the context");
        };
        let error = RopeScaling::read(&json!({"type": "longrope", "factor": 2.0}), 64).expect_err("unknown");
        assert_eq!(error.to_string(), "unknown rope scaling `longrope`");
        let error = RopeScaling::read(&json!({"type": "llama3", "factor": 8.0}), 64).expect_err("incomplete");
        assert!(format!("{error:#}").contains("low_freq_factor"), "{error:#}");
        Ok(())
    }

    #[test]
    fn the_scaling_of_llama_3_is_recovered_from_the_divisors_of_llama_cpp() -> Result<()> {
        let config = config();
        for factor in [8.0, 32.0] {
            let scaling = RopeScaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            };
            let plain = frequencies(&config);
            let scaled = frequencies(&ModelConfig { rope_scaling: Some(scaling.clone()), ..config.clone() });
            let mut divisors: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
            assert_eq!(llama3_of(&divisors, &config)?, scaling);
            divisors[20] *= 1.1;
            assert!(llama3_of(&divisors, &config).is_err());
        }
        Ok(())
    }
}
