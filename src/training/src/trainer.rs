//! One update of a model: micro-batches, gradients, clipping, optimizer. The caller chooses the rows.
//!
//! A model has one lane or several. A lane is an episode with trained numbers and batches of its own; the lanes take
//! each step together and share its passes. Fine-tuning and pre-training have a single lane.
//!
//! The loss of a lane is the sum over its tokens, divided by the supervised tokens of its whole batch. So the division
//! into micro-batches changes the memory that a step needs, but not its result (except for rounding).

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, no_grad};

use super::account::{Account, Phases};
use super::adamw::{AdamW, AdamWConfig, AdamWState};
use super::checkpoint::{self, SavedCheckpoint};
use super::meter::Meter;
use super::validation::ValidationSet;
use raisin_base::error::{Context as _, Problem, Result, anyhow, ensure};
use raisin_base::learner::StepReport;
use raisin_base::sealed::{DamageListener, set_aside};
use raisin_corpus::Sequence;
use raisin_lm::out_of_memory::in_groups_of_lanes;
use raisin_lm::{Batch, Gradient, Model, longest_first};
use raisin_settings::LearningRateSchedule;

/// How a model is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerConfig {
    /// The highest learning rate of the schedule.
    pub learning_rate: f64,
    pub schedule: LearningRateSchedule,
    /// The share of the steps in which the learning rate rises to its highest value.
    pub warmup: f64,
    pub total_steps: usize,
    pub weight_decay: f64,
    /// The largest norm of the gradient of a lane; a larger gradient is scaled down. 0: no clipping.
    pub clip_norm: f64,
    /// The most tokens of a forward pass, which has at least one row. Halved if there is no memory for this number.
    pub micro_batch_tokens: usize,
    /// Whether activations are computed again in the backward pass instead of being kept: less memory, a third more
    /// FLOPs.
    pub activation_checkpointing: bool,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            schedule: LearningRateSchedule::Cosine,
            warmup: 0.0,
            total_steps: 1,
            weight_decay: 0.0,
            clip_norm: 1.0,
            micro_batch_tokens: 4096,
            activation_checkpointing: false,
        }
    }
}

/// The result of one step of a lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// The mean over the supervised tokens of the batch, before the update.
    pub loss: f64,
    pub tokens: usize,
    pub supervised_tokens: usize,
    /// Before clipping.
    pub gradient_norm: f64,
    pub learning_rate: f64,
    pub flops: f64,
}

impl StepOutcome {
    /// The report for a selector.
    pub(super) fn report(&self) -> StepReport {
        StepReport {
            loss: self.loss,
            tokens: self.tokens as u64,
            supervised_tokens: self.supervised_tokens as u64,
            learning_rate: self.learning_rate,
            flops: self.flops,
        }
    }
}

/// The batch of one lane.
#[derive(Clone, Copy, Debug)]
pub struct TrainingRows<'a> {
    pub sequences: &'a [&'a Sequence],
    /// The cached hidden states of the rows; only with a frozen prefix.
    pub states: Option<&'a [Tensor]>,
}

/// A model in training.
pub struct Trainer {
    pub model: Model,
    pub config: TrainerConfig,
    pub(super) optimizer: AdamW,
    step: usize,
    /// The number of layers of a frozen prefix. Each pass then starts from the cached states of the prefix.
    pub(super) prefix_layers: Option<usize>,
    pub(super) account: Account,
    /// Whether other trainers of this process work at the same time. Then the memory of a phase cannot be measured.
    pub(super) is_beside_others: bool,
}

/// A trained tensor with the moments of the optimizer.
pub struct ParameterState {
    /// The name of the tensor in a model folder, or of an adapter's part in the layout of PEFT.
    pub name: String,
    pub value: Tensor,
    /// The running means of the gradient and of its square, in the shape of the tensor.
    pub first: Tensor,
    pub second: Tensor,
}

/// A copy of all numbers that training changes.
pub struct Snapshot {
    /// The trained numbers: `[P]`.
    flat: Tensor,
    /// `None` before the first step, when all moments are 0.
    optimizer: Option<AdamWState>,
    step: usize,
}

/// The counters in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Counters {
    step: usize,
    optimizer_steps: u64,
    /// Other micro-batches would round differently.
    micro_batch_tokens: usize,
}

/// The batch of one lane, the longest rows first.
pub(super) struct Sorted<'a> {
    /// The places of the rows in the order of the caller.
    order: Vec<usize>,
    sequences: Vec<&'a Sequence>,
    states: Option<Vec<&'a Tensor>>,
    /// The tokens of each row.
    pub lengths: Vec<usize>,
    /// The supervised tokens of all rows.
    pub supervised: usize,
}

impl<'a> Sorted<'a> {
    pub fn of(rows: &TrainingRows<'a>) -> Self {
        let lengths: Vec<usize> = rows.sequences.iter().map(|sequence| sequence.tokens.len()).collect();
        let order = longest_first(&lengths);
        Self {
            sequences: order.iter().map(|&row| rows.sequences[row]).collect(),
            states: rows.states.map(|states| order.iter().map(|&row| &states[row]).collect()),
            lengths: order.iter().map(|&row| lengths[row]).collect(),
            supervised: rows.sequences.iter().map(|sequence| sequence.supervised_tokens()).sum(),
            order,
        }
    }

    /// Numbers of the sorted rows, in the order of the caller.
    pub fn unsorted(&self, sorted: &[f64]) -> Vec<f64> {
        let mut numbers = vec![f64::NAN; self.order.len()];
        self.order.iter().zip(sorted).for_each(|(&place, &number)| numbers[place] = number);
        numbers
    }
}

/// The rows at `ranges` of each lane as one batch, with their cached states if there are any.
pub(super) fn part_of(
    lanes: &[Sorted<'_>],
    ranges: &[Range<usize>],
    device: Device,
) -> Result<(Batch, Option<Tensor>)> {
    let chosen = || lanes.iter().zip(ranges);
    let sequences: Vec<Vec<&Sequence>> = chosen().map(|(lane, range)| lane.sequences[range.clone()].to_vec()).collect();
    let states: Vec<&Tensor> = chosen()
        .flat_map(|(lane, range)| lane.states.iter().flat_map(|states| states[range.clone()].iter().copied()))
        .collect();
    let states = if states.is_empty() { None } else { Some(Tensor::f_cat(&states, 0)?) };
    Ok((Batch::side_by_side(&sequences, device)?, states))
}

impl Trainer {
    /// `model` must be prepared for training, with one lane or several. With `prefix_layers`, each step gets the hidden
    /// states after this number of layers.
    ///
    /// # Errors
    /// The model has no trained numbers.
    pub fn new(model: Model, config: TrainerConfig, prefix_layers: Option<usize>) -> Result<Self> {
        let trainable = model.trainable();
        let leaves: usize = trainable.leaves.iter().map(|(_, leaf)| leaf.numel()).sum();
        ensure!(leaves > 0, "the model has no trained numbers, because it was not prepared for training");
        ensure!(
            leaves == trainable.flat.numel(),
            "the trained tensors have {leaves} numbers, but their buffer has {}",
            trainable.flat.numel()
        );
        let weight_decay = config.weight_decay;
        let optimizer = AdamW::new(&trainable.flat, AdamWConfig { weight_decay, ..AdamWConfig::default() })?;
        let account = Account::default();
        Ok(Self { model, config, optimizer, step: 0, prefix_layers, account, is_beside_others: false })
    }

    /// The number of updates so far.
    pub fn steps_done(&self) -> usize {
        self.step
    }

    /// The number of lanes.
    pub fn lanes(&self) -> usize {
        self.model.episodes()
    }

    /// One update of a model with a single lane. See [`TrainingRows`].
    ///
    /// # Errors
    /// Those of [`Trainer::step_lanes`].
    pub fn step(&mut self, sequences: &[&Sequence], states: Option<&[Tensor]>) -> Result<StepOutcome> {
        let mut outcomes = self.step_lanes(&[TrainingRows { sequences, states }])?;
        outcomes.pop().ok_or_else(|| anyhow!("the model has no lane"))
    }

    /// One update of all lanes. `rows` has the batch of each lane.
    ///
    /// # Errors
    /// A batch has no supervised token, or a loss or gradient is not finite. Then no number is updated.
    pub fn step_lanes(&mut self, rows: &[TrainingRows<'_>]) -> Result<Vec<StepOutcome>> {
        let start = Instant::now();
        ensure!(rows.len() == self.lanes(), "{} batches for {} lanes", rows.len(), self.lanes());
        let lanes: Vec<Sorted<'_>> = rows.iter().map(Sorted::of).collect();
        let totals: Vec<usize> = lanes.iter().map(|lane| lane.supervised).collect();
        ensure!(!totals.contains(&0), "the batch of step {} has no supervised token", self.step + 1);
        let (losses, gradient) = self.loss_and_gradient(&lanes, &totals)?;
        let updating = self.meter();
        let norms = no_grad(|| gradient.norms(lanes.len()))?;
        for (loss, norm) in losses.iter().zip(&norms) {
            if !(loss.is_finite() && norm.is_finite()) {
                return Err(diverged(self.step, *loss, *norm));
            }
        }
        let learning_rate = self.next_learning_rate();
        let parts = gradient.by_episode(lanes.len())?;
        let clipped: Vec<(&[Tensor], f64)> =
            parts.iter().zip(&norms).map(|(part, norm)| (part.as_slice(), self.clip_factor(*norm))).collect();
        self.optimizer.step(&self.model.trainable().flat, &clipped, learning_rate)?;
        self.account.phases.optimizer.add(updating);
        self.step += 1;
        let mut outcomes = Vec::with_capacity(lanes.len());
        for ((lane, loss), gradient_norm) in lanes.iter().zip(losses).zip(norms) {
            let (tokens, supervised_tokens) = (lane.lengths.iter().sum(), lane.supervised);
            let flops = self.flops(tokens, true);
            self.account.train.count(tokens, supervised_tokens, flops);
            outcomes.push(StepOutcome { loss, tokens, supervised_tokens, gradient_norm, learning_rate, flops });
        }
        self.account.train.time += start.elapsed();
        Ok(outcomes)
    }

    /// The learning rate of the next step.
    pub fn next_learning_rate(&self) -> f64 {
        let TrainerConfig { learning_rate, schedule, total_steps, warmup, .. } = self.config;
        learning_rate * schedule.at(self.step, total_steps, warmup)
    }

    /// The factor for a gradient of this norm, by the formula of `torch.nn.utils.clip_grad_norm_`.
    fn clip_factor(&self, norm: f64) -> f64 {
        let clip_norm = self.config.clip_norm;
        if clip_norm > 0.0 { (clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
    }

    /// The mean loss of each lane, and the gradient of the sum of these losses, computed in as many parts as the memory
    /// requires.
    pub(super) fn loss_and_gradient(&mut self, lanes: &[Sorted<'_>], totals: &[usize]) -> Result<(Vec<f64>, Gradient)> {
        let lengths: Vec<&[usize]> = lanes.iter().map(|lane| lane.lengths.as_slice()).collect();
        let mut losses = vec![0.0; lanes.len()];
        let mut gradient: Option<Gradient> = None;
        let asked = self.config.micro_batch_tokens;
        let (mut limit, mut phases) = (asked, self.account.phases);
        in_groups_of_lanes(&lengths, &mut limit, |ranges| {
            let shares = self.part(lanes, ranges, totals, &mut gradient, &mut phases)?;
            losses.iter_mut().zip(shares).for_each(|(loss, share)| *loss += share);
            Ok(())
        })?;
        self.account.phases = phases;
        if limit != asked {
            self.config.micro_batch_tokens = limit;
            let what = format!("there was no memory for {asked} tokens at a time in step {}", self.step + 1);
            self.model.tell(&format!("{what}; the limit is now {limit} tokens"));
        }
        Ok((losses, gradient.ok_or_else(|| anyhow!("the step has no rows"))?))
    }

    /// For each lane, the share of these rows in the mean loss of its batch. Adds the gradient of these shares to
    /// `sum`. After an error, `sum` is unchanged.
    fn part(
        &mut self,
        lanes: &[Sorted<'_>],
        ranges: &[Range<usize>],
        totals: &[usize],
        sum: &mut Option<Gradient>,
        phases: &mut Phases,
    ) -> Result<Vec<f64>> {
        let running = self.meter();
        let (batch, states) = part_of(lanes, ranges, self.model.device())?;
        let (losses, gradient) = if self.config.activation_checkpointing {
            let states = self.prefix_layers.zip(states.as_ref());
            let (losses, gradients) = self.model.recomputed_gradient(&batch, states, totals)?;
            let gradient = Gradient::of(self.model.trainable(), gradients)?;
            phases.backward.add(running);
            (losses, gradient)
        } else {
            let is_beside_others = self.is_beside_others;
            let model = self.model.joined()?;
            let hidden = forward(&model, self.prefix_layers, &batch, states.as_ref())?;
            let shares = model.loss_shares(&hidden, &batch, totals)?;
            phases.forward.add(running);
            let running = Meter::start_beside(model.device(), is_beside_others);
            let gradient = model.gradient(&shares.sum)?;
            phases.backward.add(running);
            (shares.each()?, gradient)
        };
        // Only after the last operation that can run out of memory, so that a repeated part is not added twice.
        match sum {
            Some(sum) => sum.add(&gradient)?,
            None => *sum = Some(gradient),
        }
        Ok(losses)
    }

    /// The performance P of each lane: minus its loss on the set, which must be laid out for this number of lanes.
    pub fn performances(&mut self, set: &ValidationSet) -> Result<Vec<f64>> {
        let (start, meter) = (Instant::now(), self.meter());
        let losses = set.losses(&*self.model.joined_to_evaluate()?)?;
        let evaluation = &mut self.account.evaluation;
        evaluation.peak_bytes = evaluation.peak_bytes.max(meter.stop().peak_bytes);
        let flops = self.flops(set.tokens(), false);
        for _ in &losses {
            self.account.evaluation.count(set.tokens(), set.supervised_tokens(), flops);
        }
        self.account.evaluation.time += start.elapsed();
        Ok(losses.into_iter().map(|loss| -loss).collect())
    }

    fn meter(&self) -> Meter {
        Meter::start_beside(self.model.device(), self.is_beside_others)
    }

    /// The costs of the steps and measurements of this process.
    pub fn account(&self) -> Account {
        self.account
    }

    /// All trained tensors with the moments of the optimizer.
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

    /// The FLOPs of a training step or of a forward pass for this number of tokens, without the layers of a frozen
    /// prefix.
    pub fn flops(&self, tokens: usize, train: bool) -> f64 {
        tokens as f64 * self.model.flops_per_token_from(self.prefix_layers.unwrap_or(0), train)
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        let flat = no_grad(|| self.model.trainable().flat.f_detach_copy())?;
        let optimizer = (self.optimizer.steps() > 0).then(|| self.optimizer.snapshot()).transpose()?;
        Ok(Snapshot { flat, optimizer, step: self.step })
    }

    pub fn restore_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let (source, flat) = (&snapshot.flat, &self.model.trainable().flat);
        ensure!(
            source.numel() == flat.numel(),
            "the snapshot has {} numbers, but {} are trained",
            source.numel(),
            flat.numel()
        );
        no_grad(|| flat.f_detach()?.f_copy_(source))?;
        match &snapshot.optimizer {
            Some(state) => self.optimizer.restore(state)?,
            None => self.optimizer.reset()?,
        }
        self.step = snapshot.step;
        Ok(())
    }

    /// Writes a checkpoint for [`Trainer::restore`], with `extra` of the caller. On the CPU, a restored run is equal to
    /// an uninterrupted run bit for bit.
    pub fn save(&self, path: &Path, extra: &[u8]) -> Result<()> {
        let mut tensors = vec![("trainable", &self.model.trainable().flat)];
        tensors.extend(self.optimizer.named());
        let counters = Counters {
            step: self.step,
            optimizer_steps: self.optimizer.steps(),
            micro_batch_tokens: self.config.micro_batch_tokens,
        };
        checkpoint::save(path, &tensors, &[&serde_json::to_vec(&counters)?, extra])
    }

    /// Restores a checkpoint, and returns the result of `accept` for the saved `extra`. `None` if there is no
    /// checkpoint. If the checkpoint is damaged, belongs to another model, or `accept` fails, the checkpoint is set
    /// aside, `tell` is called, nothing changes, and the result is `None`.
    ///
    /// # Errors
    /// The checkpoint cannot be opened, or a tensor cannot be copied. The model may then be restored in part, and must
    /// not be trained.
    pub fn restore<T>(
        &mut self,
        path: &Path,
        tell: DamageListener,
        accept: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(saved) = SavedCheckpoint::open(path, tell)? else { return Ok(None) };
        let mut targets = vec![("trainable", &self.model.trainable().flat)];
        targets.extend(self.optimizer.named());
        let examine = || -> Result<(Counters, T)> {
            let counters: Counters = serde_json::from_slice(&saved.read(0)?)?;
            saved.check(&targets)?;
            Ok((counters, accept(&saved.read(1)?)?))
        };
        let (counters, accepted) = match examine() {
            Ok(examined) => examined,
            Err(error) => return set_aside(path, &format!("{error:#}"), tell).map(|()| None),
        };
        saved.copy_into(&targets).with_context(|| format!("cannot restore {}", path.display()))?;
        self.optimizer.set_steps(counters.optimizer_steps);
        self.step = counters.step;
        self.config.micro_batch_tokens = counters.micro_batch_tokens;
        Ok(Some(accepted))
    }
}

/// The error for a loss or a gradient norm that is not finite, after `steps` updates.
fn diverged(steps: usize, loss: f64, gradient_norm: f64) -> raisin_base::error::Error {
    let what = format!("training diverged at step {}: loss {loss}, gradient norm {gradient_norm}", steps + 1);
    Problem::new(what).hint("set a lower learning_rate, or a warm-up").into()
}

/// The last hidden states of a batch, with a frozen prefix from its cached states.
pub(super) fn forward(model: &Model, prefix: Option<usize>, batch: &Batch, states: Option<&Tensor>) -> Result<Tensor> {
    match (prefix, states) {
        (Some(layers), Some(states)) => model.hidden_from(layers, states, batch),
        _ => model.hidden(batch),
    }
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
