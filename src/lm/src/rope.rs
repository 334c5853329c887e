//! Computes the frequencies of the rotary position embedding, plain or scaled, as transformers computes them. This file
//! handles numbers only; attention.rs makes tensors of them.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::ModelConfig;
use super::config::keys::{Keys, short};
use raisin_base::error::{Context as _, Problem, Result, anyhow, ensure};

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

/// The keys of the object, of all types together. transformers ignores the keys of another type.
const KEYS: [&str; 16] = [
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    // The creators of YaRN note with this key that the model was trained with the scaling.
    "finetuned",
    "high_freq_factor",
    "low_freq_factor",
    "max_position_embeddings",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
];

/// The base of the rotations, and their scaling, from all keys of config.json that concern them.
///
/// # Errors
/// See [`RopeScaling::read`]. Or `rope_scaling` and `rope_parameters` are different.
pub(super) fn of_config(keys: Keys<'_>, max_position_embeddings: usize) -> Result<(f64, Option<RopeScaling>)> {
    check_share(keys.get("partial_rotary_factor").unwrap_or(&Value::Null))?;
    let given = |key: &str| keys.get(key).filter(|rope| rope.as_object().is_none_or(|entries| !entries.is_empty()));
    let rope = match (given("rope_scaling"), given("rope_parameters")) {
        (Some(older), Some(newer)) if older != newer => {
            return Err(Problem::new("`rope_scaling` and `rope_parameters` are different")
                .hint("leave one of them in config.json")
                .into());
        }
        (Some(rope), _) | (None, Some(rope)) => rope,
        (None, None) => &Value::Null,
    };
    let theta =
        |value: &Value| value.as_f64().ok_or_else(|| anyhow!("`rope_theta` is {}, which is no number", short(value)));
    let theta =
        match [rope.get("rope_theta"), keys.get("rope_theta")].into_iter().flatten().find(|value| !value.is_null()) {
            Some(given) => theta(given)?,
            None => 10_000.0,
        };
    let mut rope = rope.clone();
    // As in transformers, this key takes precedence over the entry of the scaling.
    if let (Some(entries), Some(context)) = (rope.as_object_mut(), keys.get("original_max_position_embeddings")) {
        entries.insert("original_max_position_embeddings".to_owned(), context.clone());
    }
    Ok((theta, RopeScaling::read(&rope, max_position_embeddings)?))
}

/// Checks that whole heads are rotated.
fn check_share(share: &Value) -> Result<()> {
    let whole = share.is_null() || share.as_f64().is_some_and(|share| (share - 1.0).abs() < f64::EPSILON);
    ensure!(whole, "`partial_rotary_factor` is {}: raisin supports only 1, the rotation of whole heads", short(share));
    Ok(())
}

impl RopeScaling {
    /// Reads the object that config.json calls `rope_scaling` or `rope_parameters`. `None` if nothing is scaled.
    ///
    /// # Errors
    /// raisin does not know the type or a key, or a number that the type needs is missing.
    pub fn read(rope: &Value, max_position_embeddings: usize) -> Result<Option<Self>> {
        let Some(entries) = rope.as_object() else {
            ensure!(rope.is_null(), "the rope scaling is {}, but it must be an object", short(rope));
            return Ok(None);
        };
        if let Some((key, value)) = entries.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
            return Err(Problem::new(format!(
                "the rope scaling has `{key}`: {}, and raisin does not know this key",
                short(value)
            ))
            .hint("the key may change what the model computes; if the key changes nothing, remove it from config.json")
            .into());
        }
        check_share(&rope["partial_rotary_factor"])?;
        let kind = match (&rope["rope_type"], &rope["type"]) {
            (Value::Null, Value::Null) => "default",
            (Value::Null, kind) | (kind, _) => kind
                .as_str()
                .ok_or_else(|| anyhow!("the rope scaling has the type {}, which is no text", short(kind)))?,
        };
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
            serde_json::from_value(raw).with_context(|| format!("in the rope scaling `{kind}`: {}", short(rope)))?;
        let factor = scaling.factor();
        ensure!(
            factor.is_finite() && factor > 0.0,
            "the factor of the rope scaling is {factor}, but it must be finite and above 0"
        );
        scaling.check()?;
        Ok(Some(scaling))
    }

    /// Checks the numbers beside `factor`.
    fn check(&self) -> Result<()> {
        let positive = |name: &str, number: f64| {
            ensure!(
                number.is_finite() && number > 0.0,
                "`{name}` of the rope scaling is {number}, but it must be finite and above 0"
            );
            Ok(())
        };
        match self {
            Self::Linear { .. } | Self::Dynamic { .. } => Ok(()),
            Self::Llama3 { low_freq_factor, high_freq_factor, original_max_position_embeddings, .. } => {
                positive("original_max_position_embeddings", *original_max_position_embeddings as f64)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                ensure!(
                    low_freq_factor < high_freq_factor,
                    "`low_freq_factor` of the rope scaling is {low_freq_factor}, but it must be below \
                     `high_freq_factor`, which is {high_freq_factor}"
                );
                Ok(())
            }
            Self::Yarn { original_max_position_embeddings, attention_factor, beta_fast, beta_slow, .. } => {
                positive("original_max_position_embeddings", *original_max_position_embeddings as f64)?;
                for (name, number) in
                    [("attention_factor", attention_factor), ("beta_fast", beta_fast), ("beta_slow", beta_slow)]
                {
                    // transformers takes 0 of a beta as the default.
                    if let Some(number) = number.filter(|number| *number != 0.0) {
                        positive(name, number)?;
                    }
                }
                Ok(())
            }
        }
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
