//! Computes log-probabilities and losses of the supervised tokens from hidden states, without all logits in memory.
//! model.rs computes the hidden states, recompute.rs and joined.rs the gradients of the parameters.
//!
//! Only positions that predict a supervised token reach the head, in chunks whose logits take little memory. The
//! gradient of the summed cross-entropy has a closed form: softmax minus one-hot. So the autograd graphs of the chunks
//! are not kept: the gradient of each chunk is computed at once, and enters the result through a term whose value is
//! zero.

use tch::{Device, Kind as TensorKind, Tensor};

use super::batch::Batch;
use super::model::Model;
use raisin_base::error::{Result, ensure};

/// The most rows of logits in memory at a time. More rows bring no speed.
const MOST_ROWS: i64 = 1024;

/// The bytes that the logits of a chunk may take in f32. Two matrices of this size exist at a time. On the CPU this is
/// 300 MB for every vocabulary. Smaller matrices are slower (24 MB: by a tenth in an evaluation). A GPU needs larger
/// products to be fully used.
fn chunk_bytes(device: Device) -> i64 {
    if device.is_cuda() { 512 << 20 } else { 128 << 20 }
}

/// The number of rows of logits in a chunk.
fn chunk_rows(vocabulary: i64, device: Device) -> i64 {
    (chunk_bytes(device) / (4 * vocabulary.max(1))).clamp(16, MOST_ROWS)
}

/// The shares of a batch's rows in the mean losses of their episodes.
pub struct Shares {
    /// A scalar whose gradient is the gradient of the sum of all shares. For several episodes the value has no meaning.
    pub sum: Tensor,
    /// The share of each of several episodes. Empty for a single episode, whose share is `sum`.
    each: Vec<f64>,
}

impl Shares {
    /// The share of each episode. On a GPU this call waits for the end of the pass.
    pub fn each(&self) -> Result<Vec<f64>> {
        if self.each.is_empty() { Ok(vec![self.sum.f_double_value(&[])?]) } else { Ok(self.each.clone()) }
    }
}

/// A sum of negative log-probabilities.
pub struct Loss {
    /// A scalar in f32, with a gradient.
    pub sum: Tensor,
    pub tokens: usize,
}

impl Model {
    /// The summed loss of the supervised tokens. `hidden` is the result of [`Model::hidden`] for this batch.
    pub fn response_loss(&self, hidden: &Tensor, batch: &Batch) -> Result<Loss> {
        self.response_loss_in_chunks(hidden, batch, chunk_rows(self.config.vocab_size, self.device))
    }

    fn response_loss_in_chunks(&self, hidden: &Tensor, batch: &Batch, chunk: i64) -> Result<Loss> {
        let tokens = batch.supervised();
        let states = Self::predicting(hidden, batch)?;
        let weight = self.head_weight()?;
        // If the head is frozen, the closed form keeps no logits. If the head is trained and there is only one chunk,
        // autograd is as good as the closed form, and needs no second matrix of the head's size.
        if !states.requires_grad() || (weight.requires_grad() && tokens as i64 <= chunk) {
            let mut sum = zero(self.device)?;
            for (states, targets) in states.f_split(chunk, 0)?.iter().zip(batch.targets.f_split(chunk, 0)?) {
                // [rows of the chunk, vocabulary]
                let logits = states.f_linear(&weight, None::<&Tensor>)?.f_to_kind(TensorKind::Float)?;
                let loss = logits.f_cross_entropy_loss(&targets, None::<&Tensor>, tch::Reduction::Sum, -100, 0.0)?;
                sum = sum.f_add(&loss)?;
            }
            return Ok(Loss { sum, tokens });
        }
        let (losses, for_states, for_weight) = tch::no_grad(|| self.gradients(&states, &weight, batch, None, chunk))?;
        let sum = losses.f_sum(TensorKind::Float)?;
        let carrier = gradient_carrier((&states, &for_states), (&weight, for_weight.as_ref()))?;
        // The value is the loss, because the carrier cancels. The gradient is that of the carrier.
        let sum = carrier.f_sub(&carrier.f_detach()?)?.f_add(&sum)?;
        Ok(Loss { sum, tokens })
    }

    /// The share of the batch's rows in the mean loss of each episode. `totals` has the number of supervised tokens in
    /// the mean of each episode.
    pub fn loss_shares(&self, hidden: &Tensor, batch: &Batch, totals: &[usize]) -> Result<Shares> {
        if let [total] = totals {
            let sum = self.response_loss(hidden, batch)?.sum.f_div_scalar(*total as f64)?;
            return Ok(Shares { sum, each: Vec::new() });
        }
        let (each, sum) = self.episode_losses(hidden, batch, totals)?;
        Ok(Shares { sum, each })
    }

    /// The mean loss of each of several episodes, and a scalar whose gradient is the gradient of the sum of these
    /// means. `totals` has the number of supervised tokens in the mean of each episode. This number is larger than the
    /// number in `batch` if the batch is one of several micro-batches.
    pub fn episode_losses(&self, hidden: &Tensor, batch: &Batch, totals: &[usize]) -> Result<(Vec<f64>, Tensor)> {
        let episode_spans = &batch.episode_spans().each;
        ensure!(
            episode_spans.len() == totals.len(),
            "the batch has {} episodes, but there are totals for {}",
            episode_spans.len(),
            totals.len()
        );
        let states = Self::predicting(hidden, batch)?;
        let weight = self.head_weight()?;
        let shares: Vec<f32> = episode_spans
            .iter()
            .zip(totals)
            .flat_map(|(span, &total)| std::iter::repeat_n(1.0 / total as f32, span.supervised as usize))
            .collect();
        // [supervised, 1]
        let shares = Tensor::f_from_slice(&shares)?.f_to_device(self.device)?.f_unsqueeze(1)?;
        let (losses, carrier) = if states.requires_grad() {
            let (losses, for_states, for_weight) = tch::no_grad(|| {
                self.gradients(&states, &weight, batch, Some(&shares), chunk_rows(self.config.vocab_size, self.device))
            })?;
            (losses, gradient_carrier((&states, &for_states), (&weight, for_weight.as_ref()))?)
        } else {
            let losses = self.token_log_probs(hidden, batch)?.f_neg()?.f_mul(&shares.f_squeeze_dim(1)?)?;
            (losses, zero(self.device)?)
        };
        let sizes: Vec<i64> = episode_spans.iter().map(|span| span.supervised).collect();
        let each = losses
            .f_split_with_sizes(sizes.as_slice(), 0)?
            .iter()
            .map(|part| part.f_sum(TensorKind::Float))
            .collect::<Result<Vec<_>, _>>()?;
        let each = Vec::<f32>::try_from(Tensor::f_stack(&each, 0)?.f_to_device(Device::Cpu)?)?;
        Ok((each.into_iter().map(f64::from).collect(), carrier))
    }

    /// The loss of each supervised token, `[supervised]`, and the gradients of the summed loss: with respect to the
    /// states, `[supervised, hidden]`, and with respect to the head's weight, `[vocabulary, hidden]`, if the head is
    /// trained. `shares` (`[supervised, 1]`) are factors of the tokens' losses.
    fn gradients(
        &self,
        states: &Tensor,
        weight: &Tensor,
        batch: &Batch,
        shares: Option<&Tensor>,
        chunk: i64,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let mut losses = vec![Tensor::f_zeros([0], (TensorKind::Float, self.device))?];
        let mut for_states = vec![states.f_narrow(0, 0, 0)?];
        let mut done = 0;
        // The sum over the chunks is in f32. A sum in bf16 would be rounded after each chunk.
        let zeros = || Tensor::f_zeros(weight.size(), (TensorKind::Float, self.device));
        let mut for_weight = weight.requires_grad().then(zeros).transpose()?;
        for (states, targets) in states.f_split(chunk, 0)?.iter().zip(batch.targets.f_split(chunk, 0)?) {
            let logits = states.f_linear(weight, None::<&Tensor>)?.f_to_kind(TensorKind::Float)?;
            let mut log_probs = logits.f_log_softmax(-1, TensorKind::Float)?;
            drop(logits);
            let column = targets.f_unsqueeze(1)?;
            // [rows of the chunk, 1]
            let mut loss = log_probs.f_gather(1, &column, false)?.f_neg()?;
            // Softmax minus one-hot, in the memory of the log-probabilities: [rows of the chunk, vocabulary]
            let mut for_logits = log_probs.f_exp_()?;
            let minus_one = Tensor::f_full([states.size()[0], 1], -1.0, (TensorKind::Float, self.device))?;
            let _ = for_logits.f_scatter_add_(1, &column, &minus_one)?;
            if let Some(shares) = shares {
                let shares = shares.f_narrow(0, done, states.size()[0])?;
                let _ = (for_logits.f_mul_(&shares)?, loss.f_mul_(&shares)?);
            }
            losses.push(loss.f_squeeze_dim(1)?);
            done += states.size()[0];
            let for_logits = for_logits.f_to_kind(self.compute)?;
            // [rows of the chunk, hidden]
            for_states.push(for_logits.f_matmul(weight)?);
            if let Some(total) = &mut for_weight {
                // [vocabulary, hidden]
                if self.compute == TensorKind::Float {
                    let _ = total.f_addmm_(&for_logits.f_transpose(0, 1)?, states)?;
                } else {
                    let _ = total.f_add_(&for_logits.f_transpose(0, 1)?.f_matmul(states)?)?;
                }
            }
        }
        let for_weight = for_weight.map(|total| total.f_to_kind(self.compute)).transpose()?;
        Ok((Tensor::f_cat(&losses, 0)?, Tensor::f_cat(&for_states, 0)?, for_weight))
    }

    /// The log-probability of each supervised token, `[supervised]` in f32, in the order of the batch. The result has
    /// no gradient.
    pub fn token_log_probs(&self, hidden: &Tensor, batch: &Batch) -> Result<Tensor> {
        tch::no_grad(|| {
            let states = Self::predicting(hidden, batch)?;
            let weight = self.head_weight()?;
            let mut parts = vec![Tensor::f_zeros([0], (TensorKind::Float, self.device))?];
            let chunk = chunk_rows(self.config.vocab_size, self.device);
            for (states, targets) in states.f_split(chunk, 0)?.iter().zip(batch.targets.f_split(chunk, 0)?) {
                let logits = states.f_linear(&weight, None::<&Tensor>)?.f_to_kind(TensorKind::Float)?;
                // The log-softmax of the target's column only; the whole log-softmax is not made.
                let chosen = logits.f_gather(1, &targets.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
                parts.push(chosen.f_sub(&logits.f_logsumexp([-1i64].as_slice(), false)?)?);
            }
            Ok(Tensor::f_cat(&parts, 0)?)
        })
    }

    /// The hidden states that predict a supervised token: `[supervised, hidden]`.
    fn predicting(hidden: &Tensor, batch: &Batch) -> Result<Tensor> {
        ensure!(
            hidden.size2()?.0 == batch.tokens() as i64,
            "{} hidden states for a batch of {} tokens",
            hidden.size()[0],
            batch.tokens()
        );
        Ok(Tensor::f_embedding(hidden, &batch.predictors, -1, false, false)?)
    }
}

/// A scalar whose gradients with respect to the states and the weight of the head are the given gradients.
fn gradient_carrier(states: (&Tensor, &Tensor), weight: (&Tensor, Option<&Tensor>)) -> Result<Tensor> {
    let carrier = scalar_with_gradient(states.0, states.1)?;
    match weight.1 {
        Some(gradient) => Ok(carrier.f_add(&scalar_with_gradient(weight.0, gradient)?)?),
        None => Ok(carrier),
    }
}

/// A scalar whose gradient with respect to `value` is `gradient`.
pub(super) fn scalar_with_gradient(value: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    Ok(value.f_mul(gradient)?.f_sum(TensorKind::Float)?)
}

/// A scalar of value zero.
fn zero(device: Device) -> Result<Tensor> {
    Ok(Tensor::f_zeros([0i64; 0].as_slice(), (TensorKind::Float, device))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adaptation, ModelConfig};
    use raisin_base::seed::Seed;
    use raisin_corpus::Sequence;

    fn model() -> Result<Model> {
        let mut config = ModelConfig::llama(50, 16, 2, 4, 2, 24);
        config.initializer_range = 0.3;
        Model::init(config, &Seed::new(5), Device::Cpu, TensorKind::Float)
    }

    fn batch() -> Result<Batch> {
        let row = |length: u32, from: usize| Sequence {
            tokens: (0..length).map(|place| place * 7 % 50).collect(),
            supervised: (0..length as usize).map(|place| place >= from).collect(),
        };
        Batch::pack(&[&row(9, 2), &row(14, 5), &row(3, 3)], Device::Cpu)
    }

    #[test]
    fn chunks_change_neither_the_loss_nor_its_gradients() -> Result<()> {
        let targets = vec!["q_proj".to_owned(), "up_proj".to_owned()];
        for adaptation in
            [Adaptation::Full, Adaptation::TopLayers(1), Adaptation::Lora { rank: 2, alpha: 4.0, targets }]
        {
            let (mut model, batch) = (model()?, batch()?);
            model.prepare(&adaptation, &Seed::new(6))?;
            let both = [1024, 5].map(|chunk| -> Result<_> {
                let loss = model.response_loss_in_chunks(&model.hidden(&batch)?, &batch, chunk)?;
                let leaves: Vec<&Tensor> = model.trainable().leaves.iter().map(|(_, leaf)| leaf).collect();
                // The loss is scaled, as in a mean over several batches.
                let gradients = Tensor::f_run_backward(&[&loss.sum * 0.25], &leaves, false, false)?;
                Ok((loss.sum.detach(), model.trainable().flatten(gradients)?))
            });
            let [whole, chunked] = both;
            let ((loss, gradient), (chunked_loss, chunked_gradient)) = (whole?, chunked?);
            assert!(loss.allclose(&chunked_loss, 1e-6, 1e-6, false), "{adaptation:?}");
            assert!(gradient.allclose(&chunked_gradient, 1e-5, 1e-6, false), "{adaptation:?}");
            assert!(gradient.abs().max().double_value(&[]) > 1e-3, "{adaptation:?}");
        }
        Ok(())
    }

    #[test]
    fn a_large_vocabulary_makes_chunks_small_and_never_gigabytes() {
        for device in [Device::Cpu, Device::Cuda(0)] {
            for vocabulary in [260, 32_000, 49_152, 128_256, 151_936, 262_144] {
                let rows = chunk_rows(vocabulary, device);
                assert!(rows >= 64 && 2 * rows * vocabulary * 4 <= 1 << 30, "{device:?} {vocabulary}: {rows}");
            }
        }
        assert_eq!(chunk_rows(260, Device::Cpu), MOST_ROWS);
    }

    #[test]
    fn the_loss_is_minus_the_sum_of_the_log_probabilities() -> Result<()> {
        let (model, batch) = (model()?, batch()?);
        let hidden = model.hidden(&batch)?;
        let log_probs = model.token_log_probs(&hidden, &batch)?;
        assert_eq!(log_probs.size(), [batch.supervised() as i64]);
        let loss = model.response_loss(&hidden, &batch)?;
        assert_eq!(loss.tokens, 16);
        assert!((loss.sum + log_probs.sum(TensorKind::Float)).abs().double_value(&[]) < 1e-4);
        Ok(())
    }

    #[test]
    fn a_batch_without_targets_has_no_loss() -> Result<()> {
        let model = model()?;
        let row = Sequence { tokens: vec![1, 2], supervised: vec![false, false] };
        let batch = Batch::pack(&[&row], Device::Cpu)?;
        let loss = model.response_loss(&model.hidden(&batch)?, &batch)?;
        assert_eq!((loss.sum.double_value(&[]), loss.tokens), (0.0, 0));
        Ok(())
    }
}
