//! The sliding window of a model, from the keys of config.json that describe the layers.

use super::Architecture;
use super::keys::{Keys, short};
use raisin_base::error::{Problem, Result, bail, ensure};

/// The sliding window: the number of tokens that attention reaches back. `None` means no limit.
pub(super) fn window(architecture: Architecture, layers: usize, keys: Keys<'_>) -> Result<Option<i64>> {
    let given = if keys.has("sliding_window") { keys.whole("sliding_window")? } else { Some(4096) };
    let types = layer_types(layers, keys)?;
    let by_keys = match architecture {
        Architecture::Llama => None,
        Architecture::Mistral => given,
        Architecture::Qwen2 | Architecture::Qwen3 if !keys.flag("use_sliding_window")? => None,
        Architecture::Qwen2 | Architecture::Qwen3 => match (given, types) {
            (None, _) => None,
            // The layer types take precedence.
            (_, Some(sliding)) => given.filter(|_| sliding),
            (_, None) => {
                let from = keys.whole("max_window_layers")?.unwrap_or(28);
                ensure!(from >= 0, "`max_window_layers` is {from}: it must not be negative");
                // Layers from `max_window_layers` on have the window; the layers below have none.
                if from > 0 && (from as u64) < layers as u64 {
                    bail!("a sliding window only on the layers from {from} on is not supported");
                }
                given.filter(|_| from == 0)
            }
        },
    };
    if let Some(window) = by_keys {
        ensure!(window > 0, "`sliding_window` is {window}: it must be positive");
    }
    match types {
        Some(sliding) if sliding != by_keys.is_some() => {
            let (all, other) = if sliding {
                ("sliding_attention", "no sliding window")
            } else {
                ("full_attention", "a sliding window")
            };
            Err(Problem::new(format!("`layer_types` says {all}, but the other keys give {other}"))
                .hint("correct `layer_types`, `sliding_window` or `use_sliding_window` in config.json")
                .into())
        }
        _ => Ok(by_keys),
    }
}

/// Whether all layers have a sliding window, according to `layer_types`. `None` if the key is missing.
///
/// # Errors
/// The layers differ, or a layer has a type that raisin does not support.
fn layer_types(layers: usize, keys: Keys<'_>) -> Result<Option<bool>> {
    let Some(value) = keys.get("layer_types") else { return Ok(None) };
    let Some(types) = value.as_array() else { bail!("`layer_types` is {}, but it must be a list", short(value)) };
    ensure!(types.len() == layers, "`layer_types` has {} entries, but `num_hidden_layers` is {layers}", types.len());
    let mut sliding = Vec::with_capacity(layers);
    for (layer, kind) in types.iter().enumerate() {
        sliding.push(match kind.as_str() {
            // The second name is that of older versions of transformers.
            Some("full_attention" | "attention") => false,
            Some("sliding_attention") => true,
            _ => {
                return Err(Problem::new(format!("`layer_types` has {} for layer {layer}", short(kind)))
                    .hint("raisin supports full_attention and sliding_attention, the same in every layer")
                    .into());
            }
        });
    }
    if let Some(layer) = sliding.iter().position(|one| *one != sliding[0]) {
        return Err(Problem::new(format!(
            "`layer_types` has {} for layer {layer}, and {} for layer 0",
            types[layer], types[0]
        ))
        .hint("raisin supports a sliding window on all layers or on no layer")
        .into());
    }
    Ok(sliding.first().copied())
}
