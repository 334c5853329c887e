//! Rotary position embedding, and causal attention over the row groups of a packed batch. This file handles tensors
//! only; layer.rs applies the weights.

use tch::{Device, Kind as TensorKind, Tensor};

use super::batch::Batch;
use super::config::ModelConfig;
use super::layout::AttentionGroup;
use super::rope::{RopeScaling, frequencies};
use super::unbound::{flash_attention, has_flash_attention};
use raisin_base::error::Result;

/// Cosines and sines of the rotary position embedding, in the dtype of the matrix products:
/// `[tokens, 1, head_dim / 2]`. On a GPU both are `[tokens, 1, head_dim]`: they are repeated for the second half of a
/// head, and the sines of the first half are negated.
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// The rotation of tokens at these positions (`[tokens]`, integers).
    pub fn at(config: &ModelConfig, positions: &Tensor, compute: TensorKind) -> Result<Self> {
        let frequencies = Tensor::f_from_slice(&frequencies(config))?.f_to_device(positions.device())?;
        // The angle is a product in f32, as in transformers.
        // [tokens, head_dim / 2]
        let angles = positions.f_to_kind(TensorKind::Float)?.f_unsqueeze(1)?.f_mul(&frequencies.f_unsqueeze(0)?)?;
        // [tokens, 1, head_dim / 2]
        let angles = angles.f_unsqueeze(1)?;
        let (mut cos, mut sin) = (angles.f_cos()?, angles.f_sin()?);
        let factor = config.rope_scaling.as_ref().map_or(1.0, RopeScaling::attention_factor);
        if (factor - 1.0).abs() > f64::EPSILON {
            (cos, sin) = (cos.f_mul_scalar(factor)?, sin.f_mul_scalar(factor)?);
        }
        if positions.device().is_cuda() {
            (cos, sin) = (Tensor::f_cat(&[&cos, &cos], -1)?, Tensor::f_cat(&[&sin.f_neg()?, &sin], -1)?);
        }
        Ok(Self { cos: cos.f_to_kind(compute)?, sin: sin.f_to_kind(compute)? })
    }

    /// Rotates x, `[tokens, heads, head_dim]`. The two halves of a head are the two coordinates of the rotations.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cuda() {
            return self.apply_in_few_calls(x);
        }
        let halves = x.f_chunk(2, -1)?;
        let (a, b) = (&halves[0], &halves[1]);
        let turned_a = a.f_mul(&self.cos)?.f_sub(&b.f_mul(&self.sin)?)?;
        let turned_b = b.f_mul(&self.cos)?.f_add(&a.f_mul(&self.sin)?)?;
        Ok(Tensor::f_cat(&[turned_a, turned_b], -1)?)
    }

    /// The same rotation in three operations instead of seven. On a GPU, the launch of an operation costs more than its
    /// arithmetic.
    fn apply_in_few_calls(&self, x: &Tensor) -> Result<Tensor> {
        // The two halves of each head, exchanged: [tokens, heads, head_dim]
        let exchanged = x.f_roll(x.size3()?.2 / 2, -1)?;
        Ok(x.f_mul(&self.cos)?.f_addcmul(&exchanged, &self.sin)?)
    }
}

/// The attention mask of each row group, made once for a forward pass. `None`: the group needs no mask tensor.
pub(super) struct Masks(Vec<Option<Tensor>>);

impl Masks {
    pub fn of(batch: &Batch, config: &ModelConfig, compute: TensorKind) -> Result<Self> {
        if varlen_starts(batch, config, compute).is_some() {
            return Ok(Self(Vec::new()));
        }
        let groups = &batch.layout()?.groups;
        let mut masks = Vec::with_capacity(groups.len());
        let mut first = 0;
        for group in groups {
            if let Some(mask) = batch.branch_mask(first, *group, config.sliding_window)? {
                first += group.rows as usize;
                let heads = if batch.device().is_cuda() { [1].as_slice() } else { &[1, 1] };
                let shape = [&[group.rows], heads, &[group.length, group.length]].concat();
                masks.push(Some(mask.f_view(shape.as_slice())?.f_to_kind(compute)?));
                continue;
            }
            // A row of one token attends to itself only. On CUDA, the kernels have a causal mask of their own, without
            // a window.
            let windowed = config.sliding_window.is_some_and(|window| window < group.length);
            let built_in = batch.device().is_cuda() && !windowed;
            masks.push(if group.length == 1 || built_in {
                None
            } else {
                let mask = causal(group.length, config.sliding_window, batch.device())?.f_to_kind(compute)?;
                // `plain` stacks the query heads that share a key-value head: [shared * length, length]
                let shared = config.num_attention_heads / config.num_key_value_heads;
                Some(if batch.device().is_cuda() { mask } else { mask.f_repeat([shared, 1])? })
            });
        }
        Ok(Self(masks))
    }
}

/// The causal mask, `[length, length]`: 0 where a query (row) may attend to a key (column), minus infinity elsewhere.
fn causal(length: i64, window: Option<i64>, device: Device) -> Result<Tensor> {
    let places = Tensor::f_arange(length, (TensorKind::Int64, device))?;
    // [length, length]: position of the query minus position of the key
    let distance = places.f_unsqueeze(1)?.f_sub(&places.f_unsqueeze(0)?)?;
    let mut hidden = distance.f_lt(0)?;
    if let Some(window) = window {
        hidden = hidden.f_logical_or(&distance.f_ge(window)?)?;
    }
    Ok(Tensor::f_zeros([length, length], (TensorKind::Float, device))?.f_masked_fill(&hidden, f64::NEG_INFINITY)?)
}

/// The start of each row (`[rows + 1]`), if one call of the fused kernel attends over rows of all lengths. Such a call
/// needs neither padding nor a gather.
fn varlen_starts<'b>(batch: &'b Batch, config: &ModelConfig, kind: TensorKind) -> Option<&'b Tensor> {
    batch.starts().filter(|_| has_flash_attention(kind, config.head_dim))
}

/// Causal attention within each row of the batch.
///
/// q is `[tokens, heads, dim]`, k and v are `[tokens, key-value heads, dim]`; the result is `[tokens, heads * dim]`.
pub(super) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    config: &ModelConfig,
    batch: &Batch,
    masks: &Masks,
) -> Result<Tensor> {
    let (_, heads, dim) = q.size3()?;
    if let Some(starts) = varlen_starts(batch, config, q.kind()) {
        let mixed = flash_attention(q, k, v, starts, batch.longest() as i64, config.sliding_window)?;
        return Ok(mixed.f_view([-1, heads * dim])?);
    }
    let kv_heads = k.size3()?.1;
    let layout = batch.layout()?;
    // For each row group: [rows * length, heads * dim]
    let regroup = |x: &Tensor, heads: i64| layout.regroup(&x.f_reshape([-1, heads * dim])?);
    let (q, k, v) = (regroup(q, heads)?, regroup(k, kv_heads)?, regroup(v, kv_heads)?);
    let mut parts = Vec::with_capacity(q.len());
    for (place, group) in layout.groups.iter().enumerate() {
        let AttentionGroup { rows, length } = *group;
        // [rows, heads, length, dim]
        let by_head =
            |x: &Tensor, heads: i64| -> Result<Tensor> { Ok(x.f_view([rows, length, heads, dim])?.f_transpose(1, 2)?) };
        let (q, k, v) = (by_head(&q[place], heads)?, by_head(&k[place], kv_heads)?, by_head(&v[place], kv_heads)?);
        let mask = masks.0[place].as_ref();
        let mixed = if batch.device().is_cuda() {
            // The fused kernels of PyTorch. The padding stands at the end of a row, so causal attention hides it from
            // every real query.
            Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, 0.0, mask.is_none(), None, kv_heads != heads)?
        } else {
            plain(&q, &k, &v, mask)?
        };
        parts.push(mixed.f_transpose(1, 2)?.f_reshape([rows * length, heads * dim])?);
    }
    layout.join(parts)
}

/// Attention as two matrix products and a softmax. On the CPU this is faster than the fused kernel, whose backward pass
/// is slow.
///
/// q is `[rows, heads, queries, dim]`, k and v are `[rows, key-value heads, keys, dim]`; the result is shaped like q.
/// The query heads that share a key-value head are stacked, so k and v are not repeated for each query head.
///
/// A mask has one of two shapes: `[shared * queries, keys]` for all rows and heads, or five dimensions that broadcast
/// to `[rows, key-value heads, shared, queries, keys]`. A mask of two dimensions and the scale are part of the first
/// product (`baddbmm`).
pub(super) fn plain(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let (rows, heads, queries, dim) = q.size4()?;
    let (_, kv_heads, keys, _) = k.size4()?;
    let shared = heads / kv_heads;
    let scale = 1.0 / (dim as f64).sqrt();
    let (batch, below) = (rows * kv_heads, shared * queries);
    // [rows * key-value heads, shared * queries, dim]
    let q = q.f_reshape([batch, below, dim])?;
    // [rows * key-value heads, dim, keys]
    let k = k.f_reshape([batch, keys, dim])?.f_transpose(1, 2)?;
    // [rows * key-value heads, shared * queries, keys]
    let scores = match mask {
        Some(mask) if mask.dim() == 2 => mask.f_unsqueeze(0)?.f_baddbmm(&q, &k, 1.0, scale)?,
        // The factor of the first summand is 0, so its values do not matter.
        _ => Tensor::f_zeros([1], (q.kind(), q.device()))?.f_baddbmm(&q, &k, 0.0, scale)?,
    };
    let scores = match mask {
        Some(mask) if mask.dim() != 2 => scores.f_view([rows, kv_heads, shared, queries, keys])?.f_add(mask)?,
        _ => scores,
    };
    let weights = scores.f_softmax(-1, None::<TensorKind>)?.f_view([batch, below, keys])?;
    Ok(weights.f_bmm(&v.f_reshape([batch, keys, dim])?)?.f_view([rows, heads, queries, dim])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_by_zero_changes_nothing_and_a_rotation_keeps_lengths() -> Result<()> {
        let config = ModelConfig::llama(8, 8, 1, 2, 2, 8);
        let x = Tensor::arange(16, (TensorKind::Float, Device::Cpu)).view([2, 2, 4]);
        let turned = Rotation::at(&config, &Tensor::from_slice(&[0i64, 7]), TensorKind::Float)?.apply(&x)?;
        assert!(turned.get(0).allclose(&x.get(0), 0.0, 0.0, false));
        assert!(!turned.get(1).allclose(&x.get(1), 1e-3, 1e-3, false));
        let norm = |x: &Tensor| {
            x.square().sum_dim_intlist([-1i64].as_slice(), false, TensorKind::Float).sum(TensorKind::Float)
        };
        assert!((norm(&turned) - norm(&x)).abs().double_value(&[]) < 1e-2);
        Ok(())
    }

    #[test]
    fn the_rotation_for_a_gpu_gives_the_same_result() -> Result<()> {
        let config = ModelConfig::llama(8, 16, 1, 2, 2, 8);
        let x = (Tensor::arange(48, (TensorKind::Float, Device::Cpu)) * 0.37).sin().view([3, 2, 8]);
        let plain = Rotation::at(&config, &Tensor::from_slice(&[0i64, 1, 9]), TensorKind::Float)?;
        let (cos, sin) = (&plain.cos, &plain.sin);
        let doubled = Rotation { cos: Tensor::cat(&[cos, cos], -1), sin: Tensor::cat(&[&-sin, sin], -1) };
        assert!(plain.apply(&x)?.allclose(&doubled.apply_in_few_calls(&x)?, 1e-6, 1e-6, false));
        Ok(())
    }

    #[test]
    fn a_window_hides_keys_that_are_too_far_back() -> Result<()> {
        let mask = causal(3, Some(2), Device::Cpu)?;
        let open: Vec<bool> = Vec::<f32>::try_from(mask.view([-1]))?.iter().map(|value| *value == 0.0).collect();
        assert_eq!(open, [true, false, false, true, true, false, false, true, true]);
        Ok(())
    }

    #[test]
    fn shared_key_value_heads_give_the_result_of_repeated_heads() -> Result<()> {
        let numbers = |count: i64, shape: &[i64]| {
            (Tensor::arange(count, (TensorKind::Float, Device::Cpu)) * 0.37).sin().view(shape)
        };
        let (q, k, v) = (numbers(48, &[1, 4, 3, 4]), numbers(24, &[1, 2, 3, 4]) * 0.9, numbers(24, &[1, 2, 3, 4]));
        let mask = causal(3, None, Device::Cpu)?;
        let shared = plain(&q, &k, &v, Some(&mask.repeat([2, 1])))?;
        let by_row = plain(&q, &k, &v, Some(&mask.view([1, 1, 1, 3, 3])))?;
        assert!(shared.allclose(&by_row, 1e-6, 1e-6, false));
        let repeat = |x: &Tensor| x.repeat_interleave_self_int(2, 1, None);
        let repeated = plain(&q, &repeat(&k), &repeat(&v), Some(&mask))?;
        assert!(shared.allclose(&repeated, 1e-6, 1e-6, false));
        Ok(())
    }
}
