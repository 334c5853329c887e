//! Gradients of single rows, scaled as Adam scales them: how much a step on one row lowers the loss of another row.
//!
//! With frozen second moments v, a step of Adam on a row with gradient g moves the trained numbers by a multiple of
//! -g / (sqrt(v) + epsilon). To first order, this lowers the loss of another row, with gradient h, by the same multiple
//! of the sum of g h / (sqrt(v) + epsilon). Here each gradient is multiplied by the root of 1 / (sqrt(v) + epsilon), so
//! that this sum is a plain inner product, and the length of a gradient has the same unit for all rows.

use tch::{Kind as TensorKind, Tensor, no_grad};

use super::trainer::{Sorted, Trainer, TrainingRows};
use raisin_base::error::{Problem, Result, ensure};

/// The factors by which gradients are multiplied: `[P]`.
pub struct AdamScale(Tensor);

impl Trainer {
    /// The factors of the present second moments. A trained number whose second moment is 0 has the factor 0: no row so
    /// far has had a gradient for it.
    ///
    /// # Errors
    /// The trainer has made no step, so that there are no moments.
    pub fn adam_scale(&self) -> Result<AdamScale> {
        let steps = self.optimizer.steps();
        if steps == 0 {
            return Err(Problem::new("the optimizer has no second moments before the first step")
                .hint("train at least one step first")
                .into());
        }
        let [_, (_, second)] = self.optimizer.named();
        let config = self.optimizer.config;
        let correction = 1.0 - config.beta2.powf(steps as f64);
        no_grad(|| {
            let divisor = second.f_div_scalar(correction)?.f_sqrt()?.f_add_scalar(config.epsilon)?;
            let reached = second.f_gt(0.0)?.f_to_kind(TensorKind::Float)?;
            Ok(AdamScale(divisor.f_reciprocal()?.f_sqrt()?.f_mul(&reached)?))
        })
    }

    /// The gradient of the mean loss per supervised token of these rows, multiplied by `scale`: `[P]`. The time of the
    /// passes is not a part of the account of the training steps.
    ///
    /// # Errors
    /// The model has several lanes, or the rows have no supervised token.
    pub fn scaled_gradient(&mut self, rows: &TrainingRows<'_>, scale: Option<&AdamScale>) -> Result<Tensor> {
        ensure!(self.lanes() == 1, "the gradient of a row needs a model with a single lane");
        let lane = Sorted::of(rows);
        let supervised = lane.supervised;
        ensure!(supervised > 0, "rows without a supervised token have no gradient");
        let phases = self.account.phases;
        let (_, gradient) = self.loss_and_gradient(&[lane], &[supervised])?;
        self.account.phases = phases;
        no_grad(|| {
            let pieces = gradient.by_episode(1)?.into_iter().flatten().collect::<Vec<_>>();
            let gradient = Tensor::f_cat(&pieces, 0)?;
            Ok(match scale {
                Some(AdamScale(factors)) => gradient.f_mul(factors)?,
                None => gradient,
            })
        })
    }

    /// The scaled gradient of the mean loss per supervised token of these rows, divided by its length: `[P]`. `None` if
    /// the gradient has the length 0, or is not finite.
    ///
    /// # Errors
    /// The model has several lanes, or the rows have no supervised token.
    pub fn direction(&mut self, rows: &TrainingRows<'_>, scale: &AdamScale) -> Result<Option<Tensor>> {
        let scaled = self.scaled_gradient(rows, Some(scale))?;
        no_grad(|| {
            let length = scaled.f_norm()?.f_double_value(&[])?;
            if !(length.is_finite() && length > 0.0) {
                return Ok(None);
            }
            Ok(Some(scaled.f_div_scalar(length)?))
        })
    }
}

#[cfg(test)]
#[path = "row_gradient_tests.rs"]
mod tests;
