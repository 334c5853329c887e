//! The effect of each row on the validation loss, by looking one optimizer step ahead (docs/method.md, section 4,
//! `credit = "effect"`).
//!
//! A step on a row with gradient g lowers the validation loss, to first order, by eta * <g, P v>: v is the gradient of
//! the validation loss, P divides by the roots of AdamW's second moments, and eta is the learning rate. The product is
//! symmetric: a step on the validation set lowers the loss of the row by the same amount. Therefore virtual steps on the
//! validation set, forwards and backwards, and the losses of the rows after them, give the effects of as many rows as
//! wanted: the difference of the two losses, divided by two, has no term of second order. No row needs a backward pass.
//! The virtual steps are taken back afterwards.

use std::ops::Range;
use std::time::Instant;

use tch::{Device, Kind as TensorKind, Tensor, no_grad};

use super::trainer::{self, Sorted, Trainer, TrainingRows};
use super::validation::ValidationSet;
use raisin_base::error::{Problem, Result, anyhow, ensure};
use raisin_lm::Gradient;
use raisin_lm::out_of_memory::in_groups_of_lanes;

/// The size of a virtual step, as a share of the learning rate. A whole step leaves the range in which the loss is
/// nearly linear: with full fine-tuning at 1e-3, the first step raises the loss of most rows. In f32, rounding is far
/// below the effects of a tenth of a step. In bf16 it is above them: the passes of the rows are always in f32.
const STEP_SHARE: f64 = 0.1;

impl Trainer {
    /// The effect of each row at the present state of its lane: by how much a step of AdamW on the validation set,
    /// without momentum and with the highest learning rate, would lower its mean loss per supervised token, to first
    /// order. `rows` has the rows of each lane, and `set` must
    /// be laid out for this number of lanes. The result has the effects of each lane, in the order of its rows, in nats
    /// per token.
    ///
    /// Model and optimizer are unchanged afterwards.
    ///
    /// # Errors
    /// A row has no supervised token, or a number is not finite.
    pub fn effects(&mut self, set: &ValidationSet, rows: &[TrainingRows<'_>]) -> Result<Vec<Vec<f64>>> {
        let start = Instant::now();
        ensure!(rows.len() == self.lanes(), "{} sets of rows for {} lanes", rows.len(), self.lanes());
        let lanes: Vec<Sorted<'_>> = rows.iter().map(Sorted::of).collect();
        let gradient = self.validation_gradient(set)?;
        let flat = self.model.trainable().flat.f_detach()?;
        let kept = no_grad(|| flat.f_detach_copy())?;
        let direction = self.optimizer.direction(&gradient.by_episode(lanes.len())?)?;
        let step = direction * (self.config.learning_rate * STEP_SHARE);
        let compute = self.model.compute_in(TensorKind::Float);
        let mut losses_after = |moved: Tensor| {
            no_grad(|| flat.shallow_clone().f_copy_(&moved))?;
            self.mean_losses(&lanes)
        };
        let (back, forth) = (losses_after(&kept + &step), losses_after(&kept - &step));
        self.model.compute_in(compute);
        no_grad(|| flat.shallow_clone().f_copy_(&kept))?;
        let effects: Vec<Vec<f64>> = back?
            .iter()
            .zip(forth?)
            .map(|(back, forth)| {
                back.iter().zip(forth).map(|(back, forth)| (back - forth) / (2.0 * STEP_SHARE)).collect()
            })
            .collect();
        if let Some(effect) = effects.iter().flatten().find(|effect| !effect.is_finite()) {
            let what = format!("the effect of a row is {effect} after {} steps", self.steps_done());
            return Err(Problem::new(what).hint("set a lower learning_rate, or a warm-up").into());
        }
        let tokens: usize = lanes.iter().flat_map(|lane| &lane.lengths).sum();
        let supervised: usize = lanes.iter().map(|lane| lane.supervised).sum();
        let validated = set.tokens() * lanes.len();
        let flops = self.flops(validated, true) + 2.0 * self.flops(tokens, false);
        self.account.effects.count(validated + 2 * tokens, set.supervised_tokens() * lanes.len() + supervised, flops);
        self.account.effects.time += start.elapsed();
        Ok(effects)
    }

    /// The gradient of the sum over the lanes of the loss on the validation set.
    fn validation_gradient(&mut self, set: &ValidationSet) -> Result<Gradient> {
        let totals = vec![set.supervised_tokens(); self.lanes()];
        let mut sum: Option<Gradient> = None;
        let prefix = self.prefix_layers;
        for part in 0..set.parts() {
            set.run_part(part, &mut |batch, states| {
                let model = self.model.joined()?;
                let hidden = trainer::forward(&model, prefix, batch, states)?;
                let gradient = model.gradient(&model.loss_shares(&hidden, batch, &totals)?.sum)?;
                match &mut sum {
                    Some(sum) => sum.add(&gradient)?,
                    None => sum = Some(gradient),
                }
                Ok(())
            })?;
        }
        sum.ok_or_else(|| anyhow!("there is no example to validate on"))
    }

    /// The mean loss per supervised token of each row of each lane, in the order in which the caller gave the rows.
    fn mean_losses(&mut self, lanes: &[Sorted<'_>]) -> Result<Vec<Vec<f64>>> {
        let lengths: Vec<&[usize]> = lanes.iter().map(|lane| lane.lengths.as_slice()).collect();
        let mut sorted: Vec<Vec<f64>> = vec![Vec::new(); lanes.len()];
        let asked = self.config.micro_batch_tokens;
        let mut limit = asked;
        in_groups_of_lanes(&lengths, &mut limit, |ranges| {
            let means = self.means_of_part(lanes, ranges)?;
            sorted.iter_mut().zip(means).for_each(|(sorted, means)| sorted.extend(means));
            Ok(())
        })?;
        if limit != asked {
            self.config.micro_batch_tokens = limit;
            self.model.tell(&format!(
                "there was no memory to score {asked} tokens at a time; the limit is now {limit} tokens"
            ));
        }
        Ok(lanes.iter().zip(sorted).map(|(lane, sorted)| lane.unsorted(&sorted)).collect())
    }

    /// The same for the rows at `ranges` of the sorted rows of each lane.
    fn means_of_part(&mut self, lanes: &[Sorted<'_>], ranges: &[Range<usize>]) -> Result<Vec<Vec<f64>>> {
        let (batch, states) = trainer::part_of(lanes, ranges, self.model.device())?;
        let prefix = self.prefix_layers;
        let model = self.model.joined_to_evaluate()?;
        let log_probs = no_grad(|| -> Result<Tensor> {
            let hidden = trainer::forward(&model, prefix, &batch, states.as_ref())?;
            Ok(model.token_log_probs(&hidden, &batch)?.f_to_device(Device::Cpu)?)
        })?;
        let log_probs = Vec::<f32>::try_from(log_probs)?;
        let mut rest = log_probs.as_slice();
        let mut means = batch.supervised_rows().iter().map(|&tokens| {
            let (row, others) = rest.split_at(tokens);
            rest = others;
            row.iter().map(|&log_prob| -f64::from(log_prob)).sum::<f64>() / tokens as f64
        });
        Ok(ranges.iter().map(|range| means.by_ref().take(range.len()).collect()).collect())
    }
}

#[cfg(test)]
#[path = "look_ahead_tests.rs"]
mod tests;
