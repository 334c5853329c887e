//! One update of a model: micro-batches, gradients, clipping, the optimizer. Leaves the choice of rows to others.
//!
//! Losses are summed over tokens and divided by the supervised tokens of the whole batch, so that splitting a batch
//! into micro-batches changes the memory that a step needs and nothing else.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Tensor, no_grad};

use super::adamw::{AdamW, AdamWConfig, AdamWState};
use super::checkpoint;
use super::memory::{Meter, Phase};
use raisin_base::error::{Problem, Result, anyhow, ensure};
use raisin_corpus::Sequence;
use raisin_lm::memory::in_groups;
use raisin_lm::{Batch, Gradient, Model, longest_first};
use raisin_settings::Schedule;

/// How a model is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerConfig {
    /// The highest rate of the schedule.
    pub learning_rate: f64,
    pub schedule: Schedule,
    /// The share of the steps in which the rate rises to its highest value.
    pub warmup: f64,
    pub total_steps: usize,
    pub weight_decay: f64,
    /// The global gradient norm is scaled down to this; 0 leaves it as it is.
    pub clip_norm: f64,
    /// A forward pass holds at most this many tokens (one row at least); halved where there is no memory for them.
    pub micro_batch_tokens: usize,
    /// Activations are computed again in the backward pass instead of being kept: less memory, a third more work.
    pub activation_checkpointing: bool,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            schedule: Schedule::Cosine,
            warmup: 0.0,
            total_steps: 1,
            weight_decay: 0.0,
            clip_norm: 1.0,
            micro_batch_tokens: 4096,
            activation_checkpointing: false,
        }
    }
}

impl TrainerConfig {
    /// The learning rate of a step, from 0 on.
    pub fn rate_at(&self, step: usize) -> f64 {
        self.learning_rate * self.schedule.at(step, self.total_steps, self.warmup)
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// Mean over the batch's supervised tokens, before the update.
    pub loss: f64,
    pub tokens: usize,
    pub supervised_tokens: usize,
    /// Before clipping.
    pub gradient_norm: f64,
    pub learning_rate: f64,
}

/// A model in training.
pub struct Trainer {
    pub model: Model,
    pub config: TrainerConfig,
    optimizer: AdamW,
    step: usize,
    /// With a frozen prefix: how many layers it has. Steps then start from its cached states.
    prefix_layers: Option<usize>,
    phases: Phases,
}

/// What the parts of the steps have taken so far. With recomputed activations the second forward pass counts as part
/// of the backward pass, and so does the first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Phases {
    pub forward: Phase,
    pub backward: Phase,
    pub optimizer: Phase,
}

/// A trained tensor with the optimizer's state of it.
pub struct ParameterState {
    /// As in a checkpoint, or as PEFT names an adapter's part.
    pub name: String,
    pub value: Tensor,
    /// The running means of the gradient and of its square.
    pub first: Tensor,
    pub second: Tensor,
}

/// Everything that training changes, copied.
pub struct Snapshot {
    flat: Tensor,
    /// `None` before the first step: the moments are zeros, which need no copy.
    optimizer: Option<AdamWState>,
    step: usize,
}

impl Trainer {
    /// `model` has been prepared for training. With `prefix_layers`, every step gets the states entering that layer.
    pub fn new(model: Model, config: TrainerConfig, prefix_layers: Option<usize>) -> Result<Self> {
        let trainable = model.trainable();
        let leaves: usize = trainable.leaves.iter().map(|(_, leaf)| leaf.numel()).sum();
        ensure!(leaves > 0, "the model has nothing to train: it was not prepared");
        ensure!(
            leaves == trainable.flat.numel(),
            "the trainable leaves hold {leaves} numbers, their buffer {}",
            trainable.flat.numel()
        );
        let weight_decay = config.weight_decay;
        let optimizer = AdamW::new(&trainable.flat, AdamWConfig { weight_decay, ..AdamWConfig::default() })?;
        Ok(Self { model, config, optimizer, step: 0, prefix_layers, phases: Phases::default() })
    }

    /// Updates made so far.
    pub fn steps_done(&self) -> usize {
        self.step
    }

    /// One update on these rows. `states` are the rows' cached states, when there is a frozen prefix.
    ///
    /// # Errors
    /// Rows without a supervised token, and a loss or gradient that is not a number: nothing is updated then.
    pub fn step(&mut self, sequences: &[&Sequence], states: Option<&[Tensor]>) -> Result<StepOutcome> {
        let supervised_tokens: usize = sequences.iter().map(|sequence| sequence.supervised_tokens()).sum();
        ensure!(supervised_tokens > 0, "step {} has no token to learn from", self.step + 1);
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens.len()).collect();
        let order = longest_first(&lengths);
        let sequences: Vec<&Sequence> = order.iter().map(|&row| sequences[row]).collect();
        let states: Option<Vec<&Tensor>> = states.map(|states| order.iter().map(|&row| &states[row]).collect());
        let lengths: Vec<usize> = order.iter().map(|&row| lengths[row]).collect();
        let mut loss = 0.0;
        let mut gradient: Option<Gradient> = None;
        let asked = self.config.micro_batch_tokens;
        let (mut limit, mut phases) = (asked, self.phases);
        in_groups(&lengths, &mut limit, |rows| {
            let states = states.as_ref().map(|states| &states[rows.clone()]);
            loss += self.gradient(&sequences[rows], states, supervised_tokens, &mut gradient, &mut phases)?;
            Ok(())
        })?;
        self.phases = phases;
        if limit != asked {
            self.config.micro_batch_tokens = limit;
            let what = format!("there was no memory for {asked} tokens at a time in step {}", self.step + 1);
            self.model.tell(&format!("{what}: from here on it is {limit}"));
        }
        let updating = Meter::start(self.model.device());
        let gradient = gradient.ok_or_else(|| anyhow!("a step without rows"))?;
        let gradient_norm = no_grad(|| gradient.norm())?;
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            return Err(diverged(self.step, loss, gradient_norm));
        }
        // torch.nn.utils.clip_grad_norm_'s formula.
        let clip_norm = self.config.clip_norm;
        let factor = if clip_norm > 0.0 { (clip_norm / (gradient_norm + 1e-6)).min(1.0) } else { 1.0 };
        let learning_rate = self.learning_rate();
        self.optimizer.step(&self.model.trainable().flat, gradient.pieces(), factor, learning_rate)?;
        self.phases.optimizer.add(updating);
        self.step += 1;
        Ok(StepOutcome { loss, tokens: lengths.iter().sum(), supervised_tokens, gradient_norm, learning_rate })
    }

    /// The rate of the step to come.
    pub fn learning_rate(&self) -> f64 {
        self.config.rate_at(self.step)
    }

    /// The loss of some rows, as their share of the whole batch's mean. Their gradient is added to `sum`, which an error
    /// leaves as it was.
    fn gradient(
        &mut self,
        sequences: &[&Sequence],
        states: Option<&[&Tensor]>,
        total: usize,
        sum: &mut Option<Gradient>,
        phases: &mut Phases,
    ) -> Result<f64> {
        let device = self.model.device();
        let running = Meter::start(device);
        let batch = Batch::pack(sequences, device)?;
        let states = states.map(|states| Tensor::f_cat(states, 0)).transpose()?;
        let (loss, gradient) = if self.config.activation_checkpointing {
            let states = self.prefix_layers.zip(states.as_ref());
            let (loss, gradients) = self.model.recomputed_gradient(&batch, states, total as f64)?;
            let gradient = Gradient::of(self.model.trainable(), gradients)?;
            phases.backward.add(running);
            (loss, gradient)
        } else {
            let model = self.model.joined()?;
            let hidden = forward(&model, self.prefix_layers, &batch, states.as_ref())?;
            let loss = model.response_loss(&hidden, &batch)?.sum.f_div_scalar(total as f64)?;
            phases.forward.add(running);
            let running = Meter::start(device);
            let gradient = model.gradient(&loss)?;
            phases.backward.add(running);
            (loss.f_double_value(&[])?, gradient)
        };
        // What may find no memory is done.
        match sum {
            Some(sum) => sum.add(&gradient)?,
            None => *sum = Some(gradient),
        }
        Ok(loss)
    }

    /// What the steps of this process have taken.
    pub fn phases(&self) -> Phases {
        self.phases
    }

    /// Every trained tensor and the optimizer's state of it, under its name.
    pub fn state(&self) -> Result<Vec<ParameterState>> {
        let [(_, first), (_, second)] = self.optimizer.named();
        let mut start = 0;
        let leaves = self.model.trainable().leaves.iter();
        leaves
            .map(|(name, leaf)| {
                let (length, shape) = (leaf.numel() as i64, leaf.size());
                let part = |flat: &Tensor| flat.f_narrow(0, start, length)?.f_view(shape.as_slice());
                let state = ParameterState {
                    name: name.clone(),
                    value: leaf.f_detach()?,
                    first: part(first)?,
                    second: part(second)?,
                };
                start += length;
                Ok(state)
            })
            .collect()
    }

    /// Floating-point operations for so many tokens, of a training step or a forward pass, over the layers that run.
    pub fn flops(&self, tokens: usize, train: bool) -> f64 {
        tokens as f64 * self.model.flops_per_token_from(self.prefix_layers.unwrap_or(0), train)
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        let flat = no_grad(|| self.model.trainable().flat.f_detach_copy())?;
        let optimizer = (self.optimizer.steps() > 0).then(|| self.optimizer.snapshot()).transpose()?;
        Ok(Snapshot { flat, optimizer, step: self.step })
    }

    pub fn restore_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.set_flat(&snapshot.flat)?;
        match &snapshot.optimizer {
            Some(state) => self.optimizer.restore(state)?,
            None => self.optimizer.reset()?,
        }
        self.step = snapshot.step;
        Ok(())
    }

    /// What a checkpoint needs: the tensors by name, and the counters beside `extra`.
    pub fn checkpoint(&self, extra: &Value) -> (Vec<(&str, &Tensor)>, Value) {
        let mut tensors = vec![("trainable", &self.model.trainable().flat)];
        tensors.extend(self.optimizer.named());
        let state = json!({
            "step": self.step,
            "optimizer_steps": self.optimizer.steps(),
            // What there was room for: other micro-batches would round otherwise.
            "micro_batch_tokens": self.config.micro_batch_tokens,
            "extra": extra,
        });
        (tensors, state)
    }

    /// Writes a checkpoint from which [`Trainer::restore`] goes on, on the CPU bit for bit.
    pub fn save(&self, path: &Path, extra: &Value) -> Result<()> {
        let (tensors, state) = self.checkpoint(extra);
        checkpoint::save(path, &tensors, &state)
    }

    /// Takes up a checkpoint, and returns what was saved as `extra`; `None` where there is no checkpoint.
    pub fn restore(&mut self, path: &Path) -> Result<Option<Value>> {
        let Some(mut saved) = checkpoint::Saved::open(path)? else { return Ok(None) };
        let count = |key: &str| saved.state[key].as_u64().ok_or_else(|| anyhow!("the checkpoint has no {key}"));
        let (step, optimizer_steps) = (count("step")?, count("optimizer_steps")?);
        let micro_batch_tokens = count("micro_batch_tokens")?;
        let mut targets = vec![("trainable", &self.model.trainable().flat)];
        targets.extend(self.optimizer.named());
        saved.copy_into(&targets)?;
        self.optimizer.set_steps(optimizer_steps);
        self.step = step as usize;
        self.config.micro_batch_tokens = micro_batch_tokens as usize;
        Ok(Some(saved.state["extra"].take()))
    }

    fn set_flat(&mut self, source: &Tensor) -> Result<()> {
        let flat = &self.model.trainable().flat;
        ensure!(source.numel() == flat.numel(), "{} saved numbers for {} trained ones", source.numel(), flat.numel());
        no_grad(|| Ok(flat.f_detach()?.f_copy_(source)?))
    }
}

/// For a loss or a gradient that is not a number, in the step after so many.
pub(super) fn diverged(steps: usize, loss: f64, gradient_norm: f64) -> raisin_base::error::Error {
    let what = format!("training diverged at step {}: loss {loss}, gradient norm {gradient_norm}", steps + 1);
    Problem::new(what).hint("a lower learning_rate or a warm-up keeps it stable").into()
}

/// The last hidden states of a batch; from the cached states where there is a frozen prefix.
pub(super) fn forward(model: &Model, prefix: Option<usize>, batch: &Batch, states: Option<&Tensor>) -> Result<Tensor> {
    match (prefix, states) {
        (Some(layers), Some(states)) => model.hidden_from(layers, states, batch),
        _ => model.hidden(batch),
    }
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
