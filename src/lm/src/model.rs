//! The model: its parameters, and the forward pass over packed batches. prepare.rs decides which parameters are
//! trained, loss.rs computes losses, generate.rs continues prompts, export.rs writes folders.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use tch::{Device, Kind as TensorKind, Tensor};

use super::artifact::ModelFolderForm;
use super::attention::{Masks, Rotation};
use super::batch::Batch;
use super::config::ModelConfig;
use super::folder_files::read_generation_config;
use super::generate;
use super::gguf::Gguf;
use super::group::LowPlan;
use super::layer::{Layer, Parameter, ParameterSource, Projection, rms_norm};
use super::lora::{Adaptation, Adapter, AdapterConfig, Trainable};
use super::out_of_memory::NoteListener;
use super::prepare::TrainedRange;
use super::weights::Weights;
use raisin_base::error::{Context as _, Problem, Result, ensure};
use raisin_base::seed::Seed;

/// A decoder-only language model of the Llama family.
///
/// Matrix products run in the dtype `compute`. Trained parameters are kept in f32 and cast for the products.
pub struct Model {
    pub config: ModelConfig,
    pub(super) device: Device,
    pub(super) compute: TensorKind,
    pub(super) embedding: Parameter,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Parameter,
    /// `None` if the head is tied to the embedding.
    pub(super) head: Option<Parameter>,
    /// The shape of the adapters that [`Model::prepare`] made; `None` for the adapters of a file.
    pub(super) adapter: Option<AdapterConfig>,
    pub(super) trainable: Trainable,
    /// The range of parameters that are trained themselves. `None` if no parameter or only adapters are trained.
    pub(super) trained: Option<TrainedRange>,
    /// While passes are [`Model::joined`] and a trained embedding is also the head: the head in the compute dtype.
    pub(super) joined_head: Option<Tensor>,
    /// The index map from trained adapters to the low-rank factors of joined passes.
    pub(super) low_plan: Option<LowPlan>,
    /// The number of episodes that have an adapter of their own.
    pub(super) episodes: usize,
    /// The folder from which tokenizer files are copied when the model is saved.
    pub(super) folder: Option<PathBuf>,
    /// The content of the generation_config.json that belongs to the model.
    pub(super) generation_config: Option<Vec<u8>>,
    pub(super) listener: Option<NoteListener>,
    /// The most rows that are continued together. If there was no memory for this number of rows, the number is
    /// reduced.
    pub(super) rows_together: Cell<usize>,
    /// The limit of tokens that [`Model::limit_room`] sets, for tests.
    pub(super) room: Option<usize>,
}

impl Model {
    /// Loads a model folder: full weights, an adapter on a base model, or a frozen-prefix proxy of a base model.
    pub fn load(folder: &Path, device: Device, compute: TensorKind) -> Result<Self> {
        Self::load_form(folder, ModelFolderForm::of(folder)?, device, compute, None)
    }

    /// Loads a model folder. If the folder needs a base model, its folder is `base`.
    ///
    /// # Errors
    /// The folder has all weights, and needs no base model.
    pub fn load_on_base(folder: &Path, base: &Path, device: Device, compute: TensorKind) -> Result<Self> {
        let form = ModelFolderForm::on(folder, Some(base))?;
        if matches!(form, ModelFolderForm::Full) {
            return Err(Problem::new(format!("{} has all weights, and needs no base model", folder.display()))
                .hint("remove `base`")
                .into());
        }
        let mut model = Self::load_form(folder, form, device, compute, None)?;
        // Adapters are often saved without the tokenizer.
        if !folder.join("tokenizer.json").is_file() {
            model.folder = Some(base.to_owned());
        }
        Ok(model)
    }

    /// Loads a model folder for a model that will be [prepared](Model::prepare) for this adaptation.
    ///
    /// Weights that will be trained themselves are loaded in f32. Masters that start at rounded bf16 values would have
    /// to change by half a step of bf16 before the bf16 weights change at all. A fine-tuning with a small learning rate
    /// ends before that.
    pub fn load_to_train(folder: &Path, device: Device, compute: TensorKind, adaptation: &Adaptation) -> Result<Self> {
        Self::load_form(folder, ModelFolderForm::of(folder)?, device, compute, Some(adaptation))
    }

    fn load_form(
        folder: &Path,
        form: ModelFolderForm,
        device: Device,
        compute: TensorKind,
        adaptation: Option<&Adaptation>,
    ) -> Result<Self> {
        let trains_weights = adaptation.is_some_and(|adaptation| !adaptation.has_adapters());
        let mut model = match form {
            ModelFolderForm::Full => Self::load_full(folder, device, compute, adaptation.filter(|_| trains_weights))?,
            ModelFolderForm::Adapter { base } => {
                let mut model = Self::load_form(&base, ModelFolderForm::of(&base)?, device, compute, adaptation)?;
                // The base model may have an adapter of its own.
                if trains_weights {
                    model.merge()?;
                } else {
                    model.freeze()?;
                }
                model.attach_adapter(folder)?;
                model
            }
            ModelFolderForm::Proxy { base } => {
                Self::load_form(&base, ModelFolderForm::of(&base)?, device, compute, adaptation)?
            }
        };
        model.folder = Some(folder.to_owned());
        // An adapter may have none, and then those of its base model hold.
        if let Some(bytes) = read_generation_config(folder)? {
            model.generation_config = Some(bytes);
        }
        Ok(model)
    }

    fn load_full(folder: &Path, device: Device, compute: TensorKind, adaptation: Option<&Adaptation>) -> Result<Self> {
        let config = ModelConfig::read(folder)?;
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
        let (head, table) = ("lm_head.weight", "model.embed_tokens.weight");
        if tied && weights.contains(head) && !weights.are_equal(head, table)? {
            let message = format!(
                "`tie_word_embeddings` is true, but {} has different weights `{head}` and `{table}`",
                folder.display()
            );
            return Err(Problem::new(message).hint("set `tie_word_embeddings` to false in config.json").into());
        }
        weights.finish(|name| (tied && name == head) || name.ends_with("rotary_emb.inv_freq"))?;
        Ok(model)
    }

    /// Loads a GGUF file, dequantised. The file contains its own configuration and vocabulary.
    pub fn from_gguf(path: &Path, device: Device, compute: TensorKind) -> Result<Self> {
        let mut gguf = Gguf::open(path)?;
        let config = gguf.config()?;
        let model = Self::build(config.clone(), device, compute, &mut |name, shape| {
            Ok(gguf.parameter(name, shape, compute, &config)?.f_to_device(device)?)
        })
        .with_context(|| format!("in {}", path.display()))?;
        gguf.finish()?;
        Ok(model)
    }

    /// A model with new weights: normal with the deviation `initializer_range`. The weights that write into the
    /// residual stream are scaled by 1/sqrt(2 layers).
    pub fn init(config: ModelConfig, seed: &Seed, device: Device, compute: TensorKind) -> Result<Self> {
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

    fn build(
        config: ModelConfig,
        device: Device,
        compute: TensorKind,
        source: &mut ParameterSource<'_>,
    ) -> Result<Self> {
        let mut model = Self::build_ungrouped(config, device, compute, source)?;
        model.group()?;
        Ok(model)
    }

    pub(super) fn build_ungrouped(
        config: ModelConfig,
        device: Device,
        compute: TensorKind,
        source: &mut ParameterSource<'_>,
    ) -> Result<Self> {
        ensure!(
            matches!(compute, TensorKind::Float | TensorKind::BFloat16),
            "a model computes in Float or BFloat16, but not in {compute:?}"
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
            generation_config: None,
            listener: None,
            rows_together: Cell::new(generate::ROWS),
            room: None,
        })
    }

    /// On a GPU, stacks the projections with the same input into one product. On the CPU this brings nothing.
    pub(super) fn group(&mut self) -> Result<()> {
        if self.device.is_cuda() { self.layers.iter_mut().try_for_each(Layer::group) } else { Ok(()) }
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// The dtype of the matrix products.
    pub fn compute(&self) -> TensorKind {
        self.compute
    }

    /// Sets the dtype of the matrix products of the passes that follow, and returns the present one. The weights keep
    /// their dtype and are cast in each pass.
    pub fn compute_in(&mut self, compute: TensorKind) -> TensorKind {
        std::mem::replace(&mut self.compute, compute)
    }

    /// Sets the listener, which receives the messages of [`Model::tell`].
    pub fn listen(&mut self, listener: NoteListener) {
        self.listener = Some(listener);
    }

    /// Sends a message for the user to the listener.
    pub fn tell(&self, notice: &str) {
        if let Some(listener) = &self.listener {
            listener(notice);
        }
    }

    /// For tests of the lack of memory: a pass over more tokens than this fails with the error of a device that is out
    /// of memory.
    pub fn limit_room(&mut self, tokens: Option<usize>) {
        self.room = tokens;
    }

    /// The out-of-memory error, if `tokens` is above [`Model::limit_room`].
    pub(super) fn check_room(&self, tokens: usize) -> Result<()> {
        match self.room {
            Some(room) if tokens > room => Err(tch::TchError::Torch("CUDA out of memory. Tried".to_owned()).into()),
            _ => Ok(()),
        }
    }

    /// The most rows that are continued together. The number falls if there is no memory for it. Store the number
    /// beside finished answers: with fewer rows, products round differently.
    pub fn rows_together(&self) -> usize {
        self.rows_together.get()
    }

    /// Sets the number of rows for which an earlier process had memory.
    pub fn set_rows_together(&self, rows: usize) {
        self.rows_together.set(rows);
    }

    /// The trained parameters that [`Model::prepare`] set up. Empty before that.
    pub fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    /// The number of episodes that have an adapter of their own over the base model.
    pub fn episodes(&self) -> usize {
        self.episodes
    }

    /// The parameters of the layers from `from` on and of the final norm. If `ends` is true, also the embedding and the
    /// head.
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

    /// Every parameter of the checkpoint, without the adapters.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.embedding)
            .chain(self.layers.iter().flat_map(Layer::parameters))
            .chain(std::iter::once(&self.norm))
            .chain(self.head.as_ref())
    }

    pub(super) fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.layers.iter().flat_map(Layer::projections)
    }

    /// The adapters, with the names of their projections.
    pub(super) fn adapters(&self) -> impl Iterator<Item = (&str, &Adapter)> {
        self.projections()
            .filter_map(|projection| projection.adapter.as_ref().map(|adapter| (projection.name.as_str(), adapter)))
    }

    /// Hidden states after the final norm, `[tokens, hidden]`.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        let states = self.run(&self.embed(batch)?, 0, self.layers.len(), batch, &mut |_, _| Ok(()))?;
        self.normed(&states)
    }

    /// Hidden states that enter layer `layers`, `[tokens, hidden]`. A frozen prefix computes these states once.
    pub fn prefix_states(&self, layers: usize, batch: &Batch) -> Result<Tensor> {
        self.run(&self.embed(batch)?, 0, layers, batch, &mut |_, _| Ok(()))
    }

    /// Hidden states after the final norm, `[tokens, hidden]`, computed from the states that enter layer `layers`.
    pub fn hidden_from(&self, layers: usize, states: &Tensor, batch: &Batch) -> Result<Tensor> {
        let states = states.f_to_device(self.device)?.f_to_kind(self.compute)?;
        let states = self.run(&states, layers, self.layers.len(), batch, &mut |_, _| Ok(()))?;
        self.normed(&states)
    }

    /// The final norm.
    pub(super) fn normed(&self, states: &Tensor) -> Result<Tensor> {
        rms_norm(states, &self.norm.value, self.config.rms_norm_eps)
    }

    /// The embedding of the batch's tokens, `[tokens, hidden]`.
    pub(super) fn embed(&self, batch: &Batch) -> Result<Tensor> {
        // The cast comes after the look-up: a cast of a trained table would copy the whole table.
        Ok(Tensor::f_embedding(&self.embedding.value, &batch.ids, -1, false, false)?.f_to_kind(self.compute)?)
    }

    /// Runs the layers `from..to` over `states`, `[tokens, hidden]`. `seen` receives the keys and values of each layer.
    pub(super) fn run(
        &self,
        states: &Tensor,
        from: usize,
        to: usize,
        batch: &Batch,
        seen: &mut dyn FnMut(usize, [Tensor; 2]) -> Result<()>,
    ) -> Result<Tensor> {
        ensure!(
            from <= to && to <= self.layers.len(),
            "the layers {from}..{to} do not exist: the model has {} layers",
            self.layers.len()
        );
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
    /// A sequence of the batch is longer than the model's context.
    pub(super) fn check_length(&self, batch: &Batch) -> Result<()> {
        let (longest, context) = (batch.longest(), self.config.max_position_embeddings);
        if longest <= context {
            return Ok(());
        }
        let problem = format!("a sequence of {longest} tokens is longer than the model's context of {context}");
        Err(Problem::new(problem).hint("set a smaller max_tokens").into())
    }

    /// The weight of the head, `[vocabulary, hidden]`, in the compute dtype.
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

    /// The number of parameters of the checkpoint, without the adapters.
    pub fn parameter_count(&self) -> u64 {
        self.parameters().map(|parameter| parameter.value.numel() as u64).sum()
    }

    /// Floating-point operations for one token, of a forward pass or of a training step. Attention scores are not
    /// counted.
    pub fn flops_per_token(&self, train: bool) -> f64 {
        self.flops_per_token_from(0, train)
    }

    /// Floating-point operations for one token, if the states that enter layer `from` are given.
    ///
    /// A weight in a product costs 2 operations. Training adds 2 operations for the gradient of the activations, from
    /// the lowest trained layer upwards, and 2 operations for each trained weight. If everything is trained, this is 6
    /// in total.
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

/// The name that PEFT gives the matrix A or B of an adapter.
pub(super) fn adapter_part(name: &str, letter: char) -> String {
    format!("base_model.model.{name}.lora_{letter}.weight")
}

/// Normal numbers by the Box-Muller transform.
fn normal(count: usize, deviation: f64, seed: &Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt() * deviation;
        let angle = 2.0 * std::f64::consts::PI * rng.unit();
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
