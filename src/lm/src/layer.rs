//! One decoder layer: its parameters under the names of the checkpoint, and the arithmetic before and after attention.
//! attention.rs computes the attention itself, lora.rs the adapters.

use tch::{Kind as TensorKind, Tensor};

use super::attention::{Masks, Rotation, attend};
use super::batch::{Batch, EpisodeSpans};
use super::config::ModelConfig;
use super::group::ProjectionGroups;
use super::lora::{Adapter, side_by_side};
use raisin_base::error::Result;

/// A parameter under its checkpoint name. It is either frozen in the compute dtype, or a trained autograd leaf in f32.
/// Between [`load_to_train`](super::Model::load_to_train) and `prepare`, a parameter in f32 may also be a future leaf.
pub(super) struct Parameter {
    pub name: String,
    pub value: Tensor,
}

/// A function that returns the parameter with this name and this shape.
pub(super) type ParameterSource<'a> = dyn FnMut(&str, &[i64]) -> Result<Tensor> + 'a;

impl Parameter {
    pub fn new(name: String, shape: &[i64], source: &mut ParameterSource<'_>) -> Result<Self> {
        Ok(Self { value: source(&name, shape)?, name })
    }
}

/// A projection `x W^T`, optionally with a bias and an adapter.
pub(super) struct Projection {
    /// The name without the final `.weight`.
    pub name: String,
    pub weight: Parameter,
    pub bias: Option<Parameter>,
    pub adapter: Option<Adapter>,
    /// The adapters of the second and later episodes in a shared pass. The adapter of the first episode is `adapter`.
    pub beside: Vec<Adapter>,
}

impl Projection {
    pub fn new(name: String, outputs: i64, inputs: i64, bias: bool, source: &mut ParameterSource<'_>) -> Result<Self> {
        Ok(Self {
            weight: Parameter::new(format!("{name}.weight"), &[outputs, inputs], source)?,
            bias: if bias { Some(Parameter::new(format!("{name}.bias"), &[outputs], source)?) } else { None },
            adapter: None,
            beside: Vec::new(),
            name,
        })
    }

    /// The name of the projection alone: `q_proj` of `model.layers.0.self_attn.q_proj`.
    pub fn target(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// `[tokens, inputs]` to `[tokens, outputs]`. `episode_spans` says which rows of x belong to which episode. The
    /// spans are read only if there are adapters of several episodes.
    pub fn forward(&self, x: &Tensor, episode_spans: &EpisodeSpans) -> Result<Tensor> {
        let kind = x.kind();
        let weight = self.weight.value.f_to_kind(kind)?;
        let bias = self.bias.as_ref().map(|bias| bias.value.f_to_kind(kind)).transpose()?;
        // [tokens, outputs]
        let y = x.f_linear(&weight, bias.as_ref())?;
        match &self.adapter {
            None => Ok(y),
            Some(adapter) if self.beside.is_empty() => adapter.add_to(y, x),
            Some(adapter) => {
                let all: Vec<&Adapter> = std::iter::once(adapter).chain(&self.beside).collect();
                side_by_side(&all, x, &y, &episode_spans.each)
            }
        }
    }

    /// The weight plus the adapter's product, in f32; without an adapter, the weight as it is.
    pub fn merged(&self) -> Result<Tensor> {
        match &self.adapter {
            None => Ok(self.weight.value.shallow_clone()),
            Some(adapter) => {
                // [outputs, inputs]
                let product =
                    adapter.b.f_to_kind(TensorKind::Float)?.f_matmul(&adapter.a.f_to_kind(TensorKind::Float)?)?;
                let weight = self.weight.value.f_to_kind(TensorKind::Float)?;
                Ok(weight.f_add(&product.f_mul_scalar(adapter.scale)?)?)
            }
        }
    }
}

/// `x / rms(x) * weight` over the last dimension. The mean square is in f32.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let kind = x.kind();
    if x.device().is_cuda() {
        // One kernel launch instead of nine. This kernel rounds once, after the multiplication with the weight.
        return Ok(x.f_rms_norm(weight.size(), Some(weight.f_to_kind(kind)?), eps)?);
    }
    let wide = x.f_to_kind(TensorKind::Float)?;
    let mean_square = wide.f_square()?.f_mean_dim([-1i64].as_slice(), true, TensorKind::Float)?;
    let normed = wide.f_mul(&mean_square.f_add_scalar(eps)?.f_rsqrt()?)?;
    Ok(normed.f_to_kind(kind)?.f_mul(&weight.f_to_kind(kind)?)?)
}

/// The parameters of one decoder layer.
pub(super) struct Layer {
    pub input_norm: Parameter,
    pub q: Projection,
    pub k: Projection,
    pub v: Projection,
    pub o: Projection,
    /// Norms over each head of q and k (Qwen3).
    pub head_norms: Option<(Parameter, Parameter)>,
    pub post_norm: Parameter,
    pub gate: Projection,
    pub up: Projection,
    pub down: Projection,
    /// The projections as stacked weights, on a GPU.
    pub groups: Option<ProjectionGroups>,
}

impl Layer {
    pub fn new(config: &ModelConfig, number: usize, source: &mut ParameterSource<'_>) -> Result<Self> {
        let at = |part: &str| format!("model.layers.{number}.{part}");
        let hidden = config.hidden_size;
        let ff = config.intermediate_size;
        let (queries, keys) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let bias = config.query_key_value_bias();
        Ok(Self {
            input_norm: Parameter::new(at("input_layernorm.weight"), &[hidden], source)?,
            q: Projection::new(at("self_attn.q_proj"), queries, hidden, bias, source)?,
            k: Projection::new(at("self_attn.k_proj"), keys, hidden, bias, source)?,
            v: Projection::new(at("self_attn.v_proj"), keys, hidden, bias, source)?,
            o: Projection::new(at("self_attn.o_proj"), hidden, queries, config.output_bias(), source)?,
            head_norms: if config.query_key_norm() {
                Some((
                    Parameter::new(at("self_attn.q_norm.weight"), &[config.head_dim], source)?,
                    Parameter::new(at("self_attn.k_norm.weight"), &[config.head_dim], source)?,
                ))
            } else {
                None
            },
            post_norm: Parameter::new(at("post_attention_layernorm.weight"), &[hidden], source)?,
            gate: Projection::new(at("mlp.gate_proj"), ff, hidden, config.mlp_bias, source)?,
            up: Projection::new(at("mlp.up_proj"), ff, hidden, config.mlp_bias, source)?,
            down: Projection::new(at("mlp.down_proj"), hidden, ff, config.mlp_bias, source)?,
            groups: None,
        })
    }

    pub fn projections(&self) -> [&Projection; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    pub fn projections_mut(&mut self) -> [&mut Projection; 7] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down]
    }

    /// Every parameter except the adapters, in a fixed order.
    pub fn parameters_mut(&mut self) -> Vec<&mut Parameter> {
        let mut all = vec![&mut self.input_norm, &mut self.post_norm];
        if let Some((q, k)) = &mut self.head_norms {
            all.extend([q, k]);
        }
        let projections =
            [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down];
        for projection in projections {
            all.push(&mut projection.weight);
            all.extend(projection.bias.as_mut());
        }
        all
    }

    /// The parameters in the order of [`Self::parameters_mut`].
    pub fn parameters(&self) -> Vec<&Parameter> {
        let mut all = vec![&self.input_norm, &self.post_norm];
        if let Some((q, k)) = &self.head_norms {
            all.extend([q, k]);
        }
        for projection in self.projections() {
            all.push(&projection.weight);
            all.extend(projection.bias.as_ref());
        }
        all
    }

    /// `[tokens, hidden]` to q `[tokens, heads, head_dim]`, and k and v `[tokens, key-value heads, head_dim]`; q and k
    /// are rotated.
    pub fn project(
        &self,
        x: &Tensor,
        config: &ModelConfig,
        rotation: &Rotation,
        episode_spans: &EpisodeSpans,
    ) -> Result<[Tensor; 3]> {
        let x = rms_norm(x, &self.input_norm.value, config.rms_norm_eps)?;
        // [tokens, heads, head_dim]
        let by_head = |y: Tensor| y.f_view([x.size()[0], -1, config.head_dim]);
        if let Some(ProjectionGroups([qkv, ..])) = self.grouped() {
            let all = by_head(qkv.forward(&x, episode_spans)?)?;
            return self.rotate_together(&all, config, rotation);
        }
        let mut q = by_head(self.q.forward(&x, episode_spans)?)?;
        let mut k = by_head(self.k.forward(&x, episode_spans)?)?;
        let v = by_head(self.v.forward(&x, episode_spans)?)?;
        if let Some((q_norm, k_norm)) = &self.head_norms {
            q = rms_norm(&q, &q_norm.value, config.rms_norm_eps)?;
            k = rms_norm(&k, &k_norm.value, config.rms_norm_eps)?;
        }
        Ok([rotation.apply(&q)?, rotation.apply(&k)?, v])
    }

    /// Splits `[tokens, heads of q, k and v, head_dim]` into q, k and v, and rotates q and k.
    fn rotate_together(&self, all: &Tensor, config: &ModelConfig, rotation: &Rotation) -> Result<[Tensor; 3]> {
        let (queries, keys) = (config.num_attention_heads, config.num_key_value_heads);
        let cut = |x: &Tensor, sizes: &[i64]| x.f_split_with_sizes(sizes, 1);
        if let Some((q_norm, k_norm)) = &self.head_norms {
            let parts = cut(all, &[queries, keys, keys])?;
            let q = rms_norm(&parts[0], &q_norm.value, config.rms_norm_eps)?;
            let k = rms_norm(&parts[1], &k_norm.value, config.rms_norm_eps)?;
            return Ok([rotation.apply(&q)?, rotation.apply(&k)?, parts[2].shallow_clone()]);
        }
        let parts = cut(all, &[queries + keys, keys])?;
        // q and k lie side by side, so one rotation serves both.
        let turned = cut(&rotation.apply(&parts[0])?, &[queries, keys])?;
        Ok([turned[0].shallow_clone(), turned[1].shallow_clone(), parts[1].shallow_clone()])
    }

    /// The part of the layer after attention. x is the input of the layer, `[tokens, hidden]`; `mixed` is the result of
    /// attention, `[tokens, heads * head_dim]`.
    pub fn finish(
        &self,
        x: &Tensor,
        mixed: &Tensor,
        config: &ModelConfig,
        episode_spans: &EpisodeSpans,
    ) -> Result<Tensor> {
        if let Some(ProjectionGroups([_, o, gate_up, down])) = self.grouped() {
            let x = x.f_add(&o.forward(mixed, episode_spans)?)?;
            let y = rms_norm(&x, &self.post_norm.value, config.rms_norm_eps)?;
            // gate and up: [tokens, intermediate] each
            let halves = gate_up.forward(&y, episode_spans)?.f_chunk(2, 1)?;
            let y = halves[0].f_silu()?.f_mul(&halves[1])?;
            return Ok(x.f_add(&down.forward(&y, episode_spans)?)?);
        }
        let x = x.f_add(&self.o.forward(mixed, episode_spans)?)?;
        let y = rms_norm(&x, &self.post_norm.value, config.rms_norm_eps)?;
        let y = self.gate.forward(&y, episode_spans)?.f_silu()?.f_mul(&self.up.forward(&y, episode_spans)?)?;
        Ok(x.f_add(&self.down.forward(&y, episode_spans)?)?)
    }

    /// The whole layer over a packed batch. Returns the output, and k and v.
    pub fn forward(
        &self,
        x: &Tensor,
        config: &ModelConfig,
        batch: &Batch,
        rotation: &Rotation,
        masks: &Masks,
    ) -> Result<(Tensor, [Tensor; 2])> {
        let episode_spans = batch.episode_spans();
        let [q, k, v] = self.project(x, config, rotation, episode_spans)?;
        let mixed = attend(&q, &k, &v, config, batch, masks)?;
        Ok((self.finish(x, &mixed, config, episode_spans)?, [k, v]))
    }
}
