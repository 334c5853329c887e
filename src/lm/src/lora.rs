//! Which parameters of a model are trained (all, the top layers, or LoRA adapters), the adapters themselves, and the
//! flat buffer of the trained numbers. prepare.rs applies these to a model.
//!
//! All trained numbers are f32 masters in one buffer; the autograd leaves are views of the buffer. So an optimizer step
//! is a few tensor operations, whatever the number of parameters, and a snapshot is one copy.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind as TensorKind, Tensor};

use super::batch::EpisodeSpan;
use raisin_base::error::{Problem, Result, ensure};
use raisin_base::seed::Seed;
use raisin_settings::{AdaptationMethod, AdaptationSettings, TARGETS};

/// Which parameters training changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Adaptation {
    Full,
    /// W + alpha / rank * B A on the projections named by `targets`, in every layer.
    Lora {
        rank: i64,
        alpha: f64,
        targets: Vec<String>,
    },
    /// The last n layers and the final norm.
    TopLayers(usize),
    /// Adapters on the last `layers` layers only.
    TopLayersLora {
        layers: usize,
        rank: i64,
        alpha: f64,
        targets: Vec<String>,
    },
}

impl Adaptation {
    /// The adaptation that these settings describe.
    pub fn of(settings: &AdaptationSettings) -> Self {
        match settings.method {
            AdaptationMethod::Full => Self::Full,
            AdaptationMethod::TopLayers | AdaptationMethod::TopLayersLora => {
                Self::of_top_layers(settings, settings.layers as usize)
            }
            AdaptationMethod::Lora => {
                Self::Lora { rank: i64::from(settings.rank), alpha: settings.alpha, targets: settings.targets.clone() }
            }
        }
    }

    /// The adaptation for a model that determines the number of its trained layers itself, such as a frozen-prefix
    /// proxy.
    pub fn of_top_layers(settings: &AdaptationSettings, layers: usize) -> Self {
        match settings.method {
            AdaptationMethod::TopLayersLora => Self::TopLayersLora {
                layers,
                rank: i64::from(settings.rank),
                alpha: settings.alpha,
                targets: settings.targets.clone(),
            },
            _ => Self::TopLayers(layers),
        }
    }

    /// The number of frozen layers at the bottom of a model with `all` layers.
    pub fn frozen_layers(&self, all: usize) -> usize {
        match self {
            Self::Full | Self::Lora { .. } => 0,
            Self::TopLayers(layers) | Self::TopLayersLora { layers, .. } => all.saturating_sub(*layers),
        }
    }

    /// Whether this parameter itself is trained, in a model with `layers` layers.
    pub(super) fn trains(&self, parameter: &str, layers: usize) -> bool {
        let of_layer = parameter.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
        match self {
            Self::Full => true,
            Self::TopLayers(_) => match of_layer {
                Some(layer) => self.frozen_layers(layers) <= layer,
                None => parameter == "model.norm.weight",
            },
            Self::Lora { .. } | Self::TopLayersLora { .. } => false,
        }
    }

    /// Whether adapters are trained instead of the weights.
    pub fn has_adapters(&self) -> bool {
        self.adapter().is_some()
    }

    pub(super) fn adapter(&self) -> Option<AdapterConfig> {
        match self {
            Self::Lora { rank, alpha, targets } | Self::TopLayersLora { rank, alpha, targets, .. } => {
                Some(AdapterConfig { rank: *rank, alpha: *alpha, targets: targets.clone(), layers: None })
            }
            Self::Full | Self::TopLayers(_) => None,
        }
    }
}

/// The shape of the adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub rank: i64,
    pub alpha: f64,
    pub targets: Vec<String>,
    /// The layers that have adapters. `None` means every layer.
    pub layers: Option<Vec<usize>>,
}

impl AdapterConfig {
    pub fn check(&self) -> Result<()> {
        ensure!(self.rank > 0, "the LoRA rank is {}, but it must be above 0", self.rank);
        ensure!(!self.targets.is_empty(), "LoRA needs at least one target");
        for target in &self.targets {
            if !TARGETS.contains(&target.as_str()) {
                return Err(Problem::new(format!("`{target}` is not a projection that LoRA can adapt"))
                    .hint(format!("the projections are {}", TARGETS.join(", ")))
                    .into());
            }
        }
        Ok(())
    }

    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// One adapter: `x -> scale * (x A^T) B^T`, A `[rank, inputs]`, B `[outputs, rank]`.
pub(super) struct Adapter {
    pub a: Tensor,
    pub b: Tensor,
    pub scale: f64,
}

impl Adapter {
    /// A new adapter. A is uniform with the bound 1 / sqrt(inputs), as in PyTorch's linear layer. B is zero, so the
    /// model is unchanged at first.
    pub fn new(inputs: i64, outputs: i64, config: &AdapterConfig, seed: &Seed, device: Device) -> Result<Self> {
        let mut rng = seed.rng();
        let bound = 1.0 / (inputs as f64).sqrt();
        let a: Vec<f32> = (0..config.rank * inputs).map(|_| ((rng.unit() * 2.0 - 1.0) * bound) as f32).collect();
        Ok(Self {
            a: Tensor::f_from_slice(&a)?.f_view([config.rank, inputs])?.f_to_device(device)?,
            b: Tensor::f_zeros([outputs, config.rank], (TensorKind::Float, device))?,
            scale: config.scale(),
        })
    }

    pub fn shallow_clone(&self) -> Self {
        Self { a: self.a.shallow_clone(), b: self.b.shallow_clone(), scale: self.scale }
    }

    /// Adds the adapter's output to the projection `y` of x; x is `[tokens, inputs]`, y is `[tokens, outputs]`. The
    /// scale is applied to the small factor, and the sum is written into y's memory. So no further tensor of y's size
    /// is made.
    pub fn add_to(&self, mut y: Tensor, x: &Tensor) -> Result<Tensor> {
        let (low, b) = self.factors(x)?;
        Ok(y.f_addmm_(&low, &b)?)
    }

    /// The two factors of the adapter's output for x, `[tokens, inputs]`: `scale * x A^T`, `[tokens, rank]`, and `B^T`,
    /// `[rank, outputs]`.
    fn factors(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let low = x.f_linear(&self.a.f_to_kind(x.kind())?, None::<&Tensor>)?.f_mul_scalar(self.scale)?;
        Ok((low, self.b.f_to_kind(x.kind())?.f_tr()?))
    }
}

/// Adds the adapters of several episodes to the projection `y` of x, each adapter to the rows of its own episode. This
/// form has one small product for each episode, for the CPU.
///
/// One product over all episodes (group.rs, for a GPU) multiplies the arithmetic by the number of episodes. An episode
/// has hundreds of tokens in a pass, so on the CPU the calls cost less than that arithmetic.
pub(super) fn side_by_side(
    adapters: &[&Adapter],
    x: &Tensor,
    y: &Tensor,
    episode_spans: &[EpisodeSpan],
) -> Result<Tensor> {
    ensure!(
        adapters.len() == episode_spans.len(),
        "the batch has {} episodes, but the projection has {} adapters",
        episode_spans.len(),
        adapters.len()
    );
    let sizes: Vec<i64> = episode_spans.iter().map(|span| span.tokens).collect();
    let (x, y) = (x.f_split_with_sizes(sizes.as_slice(), 0)?, y.f_split_with_sizes(sizes.as_slice(), 0)?);
    let mut parts = Vec::with_capacity(episode_spans.len());
    for (adapter, (x, y)) in adapters.iter().zip(x.iter().zip(&y)) {
        let (low, b) = adapter.factors(x)?;
        // [tokens of the episode, outputs]
        parts.push(y.f_addmm(&low, &b)?);
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// The trained numbers: one flat f32 buffer, and named autograd leaves that are views of the buffer.
pub struct Trainable {
    /// `[P]`, f32. To change the trained numbers, write into this tensor in place, without gradients. The leaves share
    /// its memory.
    pub flat: Tensor,
    /// The leaves, in their order in `flat`. Each leaf requires a gradient.
    pub leaves: Vec<(String, Tensor)>,
}

impl Trainable {
    /// An empty buffer: nothing is trained.
    pub(super) fn none(device: Device) -> Self {
        Self { flat: Tensor::zeros([0], (TensorKind::Float, device)), leaves: Vec::new() }
    }

    /// Copies the values into a new buffer and makes the leaves.
    pub(super) fn of(values: &[(String, Tensor)], device: Device) -> Result<Self> {
        if values.is_empty() {
            return Ok(Self::none(device));
        }
        let flattened: Vec<Tensor> = values
            .iter()
            .map(|(_, value)| value.f_detach()?.f_to_kind(TensorKind::Float)?.f_to_device(device)?.f_reshape([-1]))
            .collect::<Result<_, _>>()?;
        let flat = Tensor::f_cat(&flattened, 0)?;
        let mut start = 0;
        let mut leaves = Vec::with_capacity(values.len());
        for (name, value) in values {
            let length = value.numel() as i64;
            let leaf = flat.f_detach()?.f_narrow(0, start, length)?.f_view(value.size().as_slice())?;
            leaves.push((name.clone(), leaf.f_set_requires_grad(true)?));
            start += length;
        }
        Ok(Self { flat, leaves })
    }

    pub fn count(&self) -> usize {
        self.flat.numel()
    }

    /// Joins the gradients of the leaves into one vector in the order of `flat`. An undefined gradient counts as zero.
    ///
    /// The memory of each gradient is freed as soon as the gradient is copied. On the CPU, a page takes memory when it
    /// is first written, so the vector and all gradients never exist in full at the same time. On CUDA they do.
    pub fn flatten(&self, gradients: Vec<Tensor>) -> Result<Tensor> {
        ensure!(
            gradients.len() == self.leaves.len(),
            "there are {} gradients for {} leaves",
            gradients.len(),
            self.leaves.len()
        );
        let whole = self.flat.f_empty_like()?;
        let mut start = 0;
        for (gradient, (_, leaf)) in gradients.into_iter().zip(&self.leaves) {
            let length = leaf.numel() as i64;
            let mut part = whole.f_narrow(0, start, length)?;
            start += length;
            if gradient.defined() {
                part.f_copy_(&gradient.f_reshape([-1])?)?;
            } else {
                drop(part.f_zero_()?);
            }
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_share_the_buffer_and_gradients_have_its_order() -> Result<()> {
        let values = [
            ("a".to_owned(), Tensor::from_slice(&[1f32, 2.0]).view([2, 1])),
            ("b".to_owned(), Tensor::from_slice(&[3f32])),
        ];
        let trainable = Trainable::of(&values, Device::Cpu)?;
        let mut flat = trainable.flat.shallow_clone();
        let _ = tch::no_grad(|| flat.f_mul_scalar_(10.0))?;
        assert_eq!(Vec::<f32>::try_from(trainable.leaves[0].1.view([-1]))?, [10.0, 20.0]);
        let leaves: Vec<&Tensor> = trainable.leaves.iter().map(|(_, leaf)| leaf).collect();
        assert!(leaves.iter().all(|leaf| leaf.is_leaf() && leaf.requires_grad()));
        let loss = leaves[0].square().sum(TensorKind::Float) + leaves[1] * 2.0;
        let gradients = Tensor::run_backward(&[loss.sum(TensorKind::Float)], &leaves, false, false);
        assert_eq!(Vec::<f32>::try_from(trainable.flatten(gradients)?)?, [20.0, 40.0, 2.0]);
        Ok(())
    }

    #[test]
    fn a_misspelt_target_is_refused() {
        let config = AdapterConfig { rank: 4, alpha: 8.0, targets: vec!["qproj".to_owned()], layers: None };
        assert!(config.check().is_err());
    }
}
