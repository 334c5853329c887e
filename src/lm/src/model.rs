//! The model: its parameters, and the forward pass over packed batches.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use rand_chacha::rand_core::Rng as _;
use tch::{Device, Kind as TensorKind, Tensor};

use super::artifact::{self, ModelFolderForm};
use super::attention::{Masks, Rotation};
use super::batch::Batch;
use super::config::Config;
use super::generate;
use super::gguf::Gguf;
use super::group::LowPlan;
use super::layer::{Layer, Parameter, ParameterSource, Projection, rms_norm};
use super::lora::{Adaptation, Adapter, AdapterConfig, Trainable, uniform};
use super::memory::Listener;
use super::prepare::TrainedRange;
use super::weights::Weights;
use raisin_base::error::{Context as _, Problem, Result, ensure};
use raisin_base::seed::Seed;

/// A decoder-only language model of the Llama family.
///
/// Matrix products run in `compute`; what is trained is kept in f32 and cast on the way in.
pub struct Model {
    pub config: Config,
    pub(super) device: Device,
    pub(super) compute: TensorKind,
    pub(super) embedding: Parameter,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Parameter,
    /// `None` where the embedding is the head.
    pub(super) head: Option<Parameter>,
    pub(super) adapter: Option<AdapterConfig>,
    pub(super) trainable: Trainable,
    /// Which parameters are trained themselves.
    pub(super) trained: Option<TrainedRange>,
    /// While passes are [`Model::joined`] and a trained embedding is the head: that head, in the compute kind.
    pub(super) joined_head: Option<Tensor>,
    /// Where the numbers of trained adapters go in joined passes.
    pub(super) low_plan: Option<LowPlan>,
    /// How many episodes have an adapter of their own.
    pub(super) episodes: usize,
    /// Where tokenizer files are copied from when the model is saved.
    pub(super) folder: Option<PathBuf>,
    pub(super) listener: Option<Listener>,
    /// Rows that are continued together at most; fewer where there was no memory for so many.
    pub(super) rows_together: Cell<usize>,
    /// See [`Model::limit_room`].
    pub(super) room: Option<usize>,
}

impl Model {
    /// Opens a model folder: full weights, an adapter on a base, or a frozen-prefix proxy of a base.
    pub fn load(folder: &Path, device: Device, compute: TensorKind) -> Result<Self> {
        Self::load_form(folder, device, compute, None)
    }

    /// The same for a model that is about to be [prepared](Model::prepare) for this adaptation. Weights that are trained
    /// themselves come in f32: masters that began at values of bf16 would have to go half a step of bf16 before the model
    /// that computes with them changed at all, and a fine-tuning with a small learning rate is over by then.
    pub fn load_to_train(folder: &Path, device: Device, compute: TensorKind, adaptation: &Adaptation) -> Result<Self> {
        Self::load_form(folder, device, compute, Some(adaptation))
    }

    fn load_form(folder: &Path, device: Device, compute: TensorKind, adaptation: Option<&Adaptation>) -> Result<Self> {
        let trains_weights = adaptation.is_some_and(|adaptation| !adaptation.has_adapters());
        let mut model = match ModelFolderForm::of(folder)? {
            ModelFolderForm::Full => Self::load_full(folder, device, compute, adaptation.filter(|_| trains_weights))?,
            ModelFolderForm::Adapter { base } => {
                let mut model = Self::load_form(&base, device, compute, adaptation)?;
                // The base may have one of its own.
                if trains_weights {
                    model.merge()?
                } else {
                    model.freeze()?
                }
                model.attach_adapter(folder)?;
                model
            }
            ModelFolderForm::Proxy { base } => Self::load_form(&base, device, compute, adaptation)?,
        };
        model.folder = Some(folder.to_owned());
        Ok(model)
    }

    fn load_full(folder: &Path, device: Device, compute: TensorKind, adaptation: Option<&Adaptation>) -> Result<Self> {
        let config = Config::read(folder)?;
        let mut weights = Weights::open(folder)?;
        let (tied, layers) = (config.tie_word_embeddings, config.num_hidden_layers);
        let is_wide = |name: &str| adaptation.is_some_and(|adaptation| adaptation.trains(name, layers));
        let mut source = |name: &str, shape: &[i64]| {
            weights.take(name, shape, if is_wide(name) { TensorKind::Float } else { compute }, device)
        };
        let mut model = Self::build_ungrouped(config, device, compute, &mut source)?;
        if adaptation.is_none() {
            model.group()?;
        }
        weights.finish(|name| (tied && name == "lm_head.weight") || name.ends_with("rotary_emb.inv_freq"))?;
        Ok(model)
    }

    /// A GGUF file, dequantised; it brings its own config and vocabulary.
    pub fn from_gguf(path: &Path, device: Device, compute: TensorKind) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let config = gguf.config()?;
        let heads = config.clone();
        let model = Self::build(config, device, compute, &mut |name, shape| {
            Ok(gguf.parameter(name, shape, compute, &heads)?.f_to_device(device)?)
        })
        .with_context(|| format!("in {}", path.display()))?;
        gguf.finish()?;
        Ok(model)
    }

    /// Fresh weights: normal with `initializer_range`, what writes into the residual stream scaled by 1/sqrt(2 layers).
    pub fn init(config: Config, seed: &Seed, device: Device, compute: TensorKind) -> Result<Self> {
        config.check()?;
        let deviation = config.initializer_range;
        let residual = deviation / (2.0 * config.num_hidden_layers as f64).sqrt();
        Self::build(config, device, compute, &mut |name, shape| {
            let count = shape.iter().product::<i64>();
            let value = if name.ends_with("norm.weight") {
                Tensor::f_ones([count], (TensorKind::Float, Device::Cpu))?
            } else if matches!(name.rsplit_once('.'), Some((_, "bias"))) {
                Tensor::f_zeros([count], (TensorKind::Float, Device::Cpu))?
            } else {
                let into_residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
                let scale = if into_residual { residual } else { deviation };
                Tensor::f_from_slice(&normal(count as usize, scale, &seed.at(name)))?
            };
            Ok(value.f_view(shape)?.f_to_kind(compute)?.f_to_device(device)?)
        })
    }

    fn build(config: Config, device: Device, compute: TensorKind, source: &mut ParameterSource<'_>) -> Result<Self> {
        let mut model = Self::build_ungrouped(config, device, compute, source)?;
        model.group()?;
        Ok(model)
    }

    pub(super) fn build_ungrouped(
        config: Config,
        device: Device,
        compute: TensorKind,
        source: &mut ParameterSource<'_>,
    ) -> Result<Self> {
        ensure!(
            matches!(compute, TensorKind::Float | TensorKind::BFloat16),
            "models compute in Float or BFloat16, not in {compute:?}"
        );
        let table = [config.vocab_size, config.hidden_size];
        let embedding = Parameter::new("model.embed_tokens.weight".to_owned(), &table, source)?;
        let layers =
            (0..config.num_hidden_layers).map(|number| Layer::new(&config, number, source)).collect::<Result<_>>()?;
        let norm = Parameter::new("model.norm.weight".to_owned(), &[config.hidden_size], source)?;
        let head = if config.tie_word_embeddings {
            None
        } else {
            Some(Parameter::new("lm_head.weight".to_owned(), &table, source)?)
        };
        Ok(Self {
            config,
            device,
            compute,
            embedding,
            layers,
            norm,
            head,
            adapter: None,
            trainable: Trainable::none(device),
            trained: None,
            joined_head: None,
            low_plan: None,
            episodes: 1,
            folder: None,
            listener: None,
            rows_together: Cell::new(generate::ROWS),
            room: None,
        })
    }

    /// On a GPU, the projections of one input as one product. On the CPU nothing is gained by it.
    pub(super) fn group(&mut self) -> Result<()> {
        if self.device.is_cuda() { self.layers.iter_mut().try_for_each(Layer::group) } else { Ok(()) }
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// The kind that matrix products run in.
    pub fn compute(&self) -> TensorKind {
        self.compute
    }

    /// From now on `listener` hears what is told by [`Model::tell`].
    pub fn listen(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Something that whoever watches should know.
    pub fn tell(&self, notice: &str) {
        if let Some(listener) = &self.listener {
            listener(notice);
        }
    }

    /// For tests of what happens when memory ends: a pass over more tokens than this fails as it does on a device that is out
    /// of memory.
    pub fn limit_room(&mut self, tokens: Option<usize>) {
        self.room = tokens;
    }

    /// What a device that has room for so many tokens says of a pass over more.
    pub(super) fn check_room(&self, tokens: usize) -> Result<()> {
        match self.room {
            Some(room) if tokens > room => Err(tch::TchError::Torch("CUDA out of memory. Tried".to_owned()).into()),
            _ => Ok(()),
        }
    }

    /// What [`Model::prepare`] made trainable; empty before.
    pub fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    /// How many episodes have an adapter of their own over the base.
    pub fn episodes(&self) -> usize {
        self.episodes
    }

    /// The layers from `from` on and the final norm; with `ends` also the embedding and the head.
    pub(super) fn parameters_mut(&mut self, from: usize, ends: bool) -> Vec<&mut Parameter> {
        let mut all = Vec::new();
        if ends {
            all.push(&mut self.embedding);
        }
        all.extend(self.layers[from..].iter_mut().flat_map(Layer::parameters_mut));
        all.push(&mut self.norm);
        if ends {
            all.extend(self.head.as_mut());
        }
        all
    }

    /// Every parameter of the checkpoint, adapters left out.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.embedding)
            .chain(self.layers.iter().flat_map(Layer::parameters))
            .chain(std::iter::once(&self.norm))
            .chain(self.head.as_ref())
    }

    pub(super) fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.layers.iter().flat_map(Layer::projections)
    }

    /// Projections that have an adapter, by their names.
    pub(super) fn adapters(&self) -> impl Iterator<Item = (&str, &Adapter)> {
        self.projections()
            .filter_map(|projection| projection.adapter.as_ref().map(|adapter| (projection.name.as_str(), adapter)))
    }

    fn attach_adapter(&mut self, folder: &Path) -> Result<()> {
        let config = artifact::read_adapter_config(folder)?;
        config.check()?;
        let mut weights = Weights::open_files(folder, &[folder.join("adapter_model.safetensors")])?;
        for (number, layer) in self.layers.iter_mut().enumerate() {
            if config.layers.as_ref().is_some_and(|layers| !layers.contains(&number)) {
                continue;
            }
            for projection in layer.projections_mut() {
                if !config.targets.iter().any(|target| target == projection.target()) {
                    continue;
                }
                let (outputs, inputs) = projection.weight.value.size2()?;
                let (a, b) = (adapter_part(&projection.name, 'A'), adapter_part(&projection.name, 'B'));
                let a = weights.take(&a, &[config.rank, inputs], TensorKind::Float, self.device)?;
                let b = weights.take(&b, &[outputs, config.rank], TensorKind::Float, self.device)?;
                projection.adapter = Some(Adapter { a, b, scale: config.scale() });
            }
        }
        weights.finish(|_| false)?;
        self.adapter = Some(config);
        Ok(())
    }

    /// Hidden states after the final norm, `[tokens, hidden]`.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        let states = self.run(&self.embed(batch)?, 0, self.layers.len(), batch, &mut |_, _| Ok(()))?;
        self.normed(&states)
    }

    /// Hidden states that enter layer `layers`, `[tokens, hidden]`: what a frozen prefix computes once.
    pub fn prefix_states(&self, layers: usize, batch: &Batch) -> Result<Tensor> {
        self.run(&self.embed(batch)?, 0, layers, batch, &mut |_, _| Ok(()))
    }

    /// From the states that enter layer `layers` to the final norm.
    pub fn hidden_from(&self, layers: usize, states: &Tensor, batch: &Batch) -> Result<Tensor> {
        let states = states.f_to_device(self.device)?.f_to_kind(self.compute)?;
        let states = self.run(&states, layers, self.layers.len(), batch, &mut |_, _| Ok(()))?;
        self.normed(&states)
    }

    pub(super) fn normed(&self, states: &Tensor) -> Result<Tensor> {
        rms_norm(states, &self.norm.value, self.config.rms_norm_eps)
    }

    pub(super) fn embed(&self, batch: &Batch) -> Result<Tensor> {
        // Looked up in f32 and cast afterwards: casting a trained table first would copy all of it.
        Ok(Tensor::f_embedding(&self.embedding.value, &batch.ids, -1, false, false)?.f_to_kind(self.compute)?)
    }

    /// Layers `from..to`; `seen` gets each layer's keys and values.
    pub(super) fn run(
        &self,
        states: &Tensor,
        from: usize,
        to: usize,
        batch: &Batch,
        seen: &mut dyn FnMut(usize, [Tensor; 2]) -> Result<()>,
    ) -> Result<Tensor> {
        ensure!(from <= to && to <= self.layers.len(), "layers {from}..{to} of a model that has {}", self.layers.len());
        let (rows, width) = states.size2()?;
        ensure!(
            rows == batch.tokens() as i64 && width == self.config.hidden_size,
            "states of the shape [{rows}, {width}] do not fit a batch of {} tokens and a hidden size of {}",
            batch.tokens(),
            self.config.hidden_size
        );
        self.check_length(batch)?;
        self.check_room(batch.tokens())?;
        let rotation = Rotation::at(&self.config, &batch.positions, self.compute)?;
        let masks = Masks::of(batch, &self.config, self.compute)?;
        let mut states = states.shallow_clone();
        for (number, layer) in self.layers[..to].iter().enumerate().skip(from) {
            let (next, cached) = layer.forward(&states, &self.config, batch, &rotation, &masks)?;
            seen(number, cached)?;
            states = next;
        }
        Ok(states)
    }

    /// # Errors
    /// A sequence of the batch is longer than the positions that the model knows.
    pub(super) fn check_length(&self, batch: &Batch) -> Result<()> {
        let (longest, context) = (batch.longest(), self.config.max_position_embeddings);
        if longest <= context {
            return Ok(());
        }
        let problem = format!("a sequence of {longest} tokens is longer than the model's context of {context}");
        Err(Problem::new(problem).hint("set a smaller max_tokens").into())
    }

    /// The head's weight, `[vocabulary, hidden]`, in the compute kind.
    pub(super) fn head_weight(&self) -> Result<Tensor> {
        match &self.joined_head {
            Some(head) => Ok(head.shallow_clone()),
            None => Ok(self.head.as_ref().unwrap_or(&self.embedding).value.f_to_kind(self.compute)?),
        }
    }

    /// `[rows, hidden]` to `[rows, vocabulary]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.f_linear(&self.head_weight()?, None::<&Tensor>)?)
    }

    /// How many numbers the checkpoint has; adapters not counted.
    pub fn parameter_count(&self) -> u64 {
        self.parameters().map(|parameter| parameter.value.numel() as u64).sum()
    }

    /// Floating-point operations for one token of a forward pass or of a training step, attention scores left out.
    pub fn flops_per_token(&self, train: bool) -> f64 {
        self.flops_per_token_from(0, train)
    }

    /// The same when the states that enter layer `from` are given.
    ///
    /// 2 for each weight in a product. Training adds 2 for the gradients of the activations, from the lowest trained
    /// layer upwards, and 2 for each trained weight: 6 in all when everything is trained.
    pub fn flops_per_token_from(&self, from: usize, train: bool) -> f64 {
        let weights = |layer: &Layer| -> f64 {
            layer
                .projections()
                .iter()
                .map(|projection| {
                    let adapter =
                        projection.adapter.as_ref().map_or(0, |adapter| adapter.a.numel() + adapter.b.numel());
                    (projection.weight.value.numel() + adapter) as f64
                })
                .sum()
        };
        let trained = |layer: &Layer| {
            layer.projections().iter().any(|projection| {
                projection.weight.value.requires_grad()
                    || projection.adapter.as_ref().is_some_and(|adapter| adapter.a.requires_grad())
            })
        };
        let head = self.embedding.value.numel() as f64;
        let layers = &self.layers[from.min(self.layers.len())..];
        let forward = 2.0 * (layers.iter().map(weights).sum::<f64>() + head);
        if !train {
            return forward;
        }
        let lowest = layers.iter().position(trained).unwrap_or(layers.len());
        let activations = 2.0 * (layers[lowest..].iter().map(weights).sum::<f64>() + head);
        forward + activations + 2.0 * (self.trainable.count() / self.episodes) as f64
    }
}

/// An adapter's two parameters, under PEFT's names.
pub(super) fn adapter_parts(name: &str, adapter: &Adapter) -> [(String, Tensor); 2] {
    [(adapter_part(name, 'A'), adapter.a.shallow_clone()), (adapter_part(name, 'B'), adapter.b.shallow_clone())]
}

pub(super) fn adapter_part(name: &str, letter: char) -> String {
    format!("base_model.model.{name}.lora_{letter}.weight")
}

/// Normal numbers by the Box-Muller transform.
fn normal(count: usize, deviation: f64, seed: &Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - uniform(rng.next_u64())).ln()).sqrt() * deviation;
        let angle = 2.0 * std::f64::consts::PI * uniform(rng.next_u64());
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
