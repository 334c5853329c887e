//! A fixed set of sequences, laid out on the device once, and its loss under a model. Knows no task and no metric.
//!
//! The reward of an episode is this loss after every step, so it runs more often than anything else: nothing is
//! tokenised, sorted or copied here again. Rows of similar length share a batch.

use tch::{Device, Tensor, no_grad};

use super::trainer::{forward, micro_batches};
use crate::corpus::Sequence;
use crate::error::{Result, anyhow, ensure};
use crate::lm::{Batch, Model};

/// Sequences ready to be scored again and again.
pub struct ValidationSet {
    parts: Vec<Part>,
    prefix_layers: Option<usize>,
    rows: usize,
    tokens: usize,
    supervised_tokens: usize,
}

struct Part {
    batch: Batch,
    states: Option<Tensor>,
    /// The positions of the batch's rows in the set.
    rows: Vec<usize>,
    supervised: Vec<usize>,
}

/// The loss of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowLoss {
    /// Sum over its supervised tokens, in nats.
    pub sum: f64,
    pub tokens: usize,
}

impl RowLoss {
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }
}

impl ValidationSet {
    /// `states` holds, for a model with a frozen prefix of that many layers, the rows' states.
    ///
    /// # Errors
    /// A set, or a row of it, without a single supervised token.
    pub fn new(
        sequences: &[&Sequence],
        states: Option<(usize, &[Tensor])>,
        batch_tokens: usize,
        device: Device,
    ) -> Result<Self> {
        ensure!(!sequences.is_empty(), "there is no example to validate on");
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&row| (sequences[row].tokens.len(), row));
        let lengths: Vec<usize> = order.iter().map(|&row| sequences[row].tokens.len()).collect();
        let mut parts = Vec::new();
        for range in micro_batches(&lengths, batch_tokens) {
            let rows = order[range].to_vec();
            let members: Vec<&Sequence> = rows.iter().map(|&row| sequences[row]).collect();
            let counts: Vec<usize> = members.iter().map(|sequence| sequence.supervised_tokens()).collect();
            if let Some(empty) = counts.iter().position(|&count| count == 0) {
                return Err(anyhow!("example {} has no token to be scored", rows[empty]));
            }
            let states = match states {
                Some((_, states)) => Some(Tensor::f_cat(&rows.iter().map(|&row| &states[row]).collect::<Vec<_>>(), 0)?),
                None => None,
            };
            parts.push(Part { batch: Batch::pack(&members, device)?, states, rows, supervised: counts });
        }
        Ok(Self {
            rows: sequences.len(),
            tokens: lengths.iter().sum(),
            supervised_tokens: parts.iter().flat_map(|part| &part.supervised).sum(),
            prefix_layers: states.map(|(layers, _)| layers),
            parts,
        })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub fn supervised_tokens(&self) -> usize {
        self.supervised_tokens
    }

    /// The mean loss over all supervised tokens.
    pub fn loss(&self, model: &Model) -> Result<f64> {
        no_grad(|| {
            let mut sum = 0.0;
            for part in &self.parts {
                let hidden = forward(model, self.prefix_layers, &part.batch, part.states.as_ref())?;
                sum += model.response_loss(&hidden, &part.batch)?.sum.f_double_value(&[])?;
            }
            Ok(sum / self.supervised_tokens as f64)
        })
    }

    /// The loss of every row, in the order in which the set was given. It is computed in parts, the same in every run:
    /// `part` is given each part's work, to do it or to say what came of it before; `progress` hears the rows and tokens
    /// done.
    pub fn row_losses(
        &self,
        model: &Model,
        mut part: impl FnMut(&dyn Fn() -> Result<Vec<f64>>) -> Result<Vec<f64>>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Vec<RowLoss>> {
        let mut losses = vec![RowLoss::default(); self.rows];
        let (mut rows_done, mut tokens_done) = (0, 0);
        for this in &self.parts {
            let sums = part(&|| self.sums(model, this))?;
            ensure!(sums.len() == this.rows.len(), "{} rows have {} losses", this.rows.len(), sums.len());
            for ((&row, &tokens), sum) in this.rows.iter().zip(&this.supervised).zip(sums) {
                losses[row] = RowLoss { sum, tokens };
            }
            rows_done += this.rows.len();
            tokens_done += this.batch.tokens();
            progress(rows_done, tokens_done);
        }
        Ok(losses)
    }

    /// The summed loss of each row of a part.
    fn sums(&self, model: &Model, part: &Part) -> Result<Vec<f64>> {
        let log_probs = no_grad(|| -> Result<Vec<f32>> {
            let hidden = forward(model, self.prefix_layers, &part.batch, part.states.as_ref())?;
            Ok(Vec::try_from(model.token_log_probs(&hidden, &part.batch)?.f_to_device(Device::Cpu)?)?)
        })?;
        let mut rest = log_probs.as_slice();
        let sum = |tokens: &usize| {
            let (row, others) = rest.split_at(*tokens);
            rest = others;
            row.iter().map(|&log_prob| -f64::from(log_prob)).sum()
        };
        Ok(part.supervised.iter().map(sum).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::Config;
    use crate::seed::Seed;
    use tch::Kind;

    #[test]
    fn the_loss_is_the_mean_over_all_tokens_however_the_rows_are_batched() -> Result<()> {
        let model = Model::init(Config::llama(20, 16, 2, 2, 1, 32), &Seed::new(1), Device::Cpu, Kind::Float)?;
        let rows: Vec<Sequence> = [9u32, 3, 12, 5]
            .iter()
            .map(|&length| Sequence {
                tokens: (0..length).map(|place| (place * length) % 20).collect(),
                supervised: (0..length).map(|place| place > length / 2).collect(),
            })
            .collect();
        let rows: Vec<&Sequence> = rows.iter().collect();
        let together = ValidationSet::new(&rows, None, 1000, Device::Cpu)?;
        let apart = ValidationSet::new(&rows, None, 1, Device::Cpu)?;
        assert!((together.loss(&model)? - apart.loss(&model)?).abs() < 1e-6);
        let losses = together.row_losses(&model, |work| work(), |_, _| ())?;
        let (sum, tokens) = losses.iter().fold((0.0, 0), |(sum, tokens), loss| (sum + loss.sum, tokens + loss.tokens));
        assert!((sum / tokens as f64 - together.loss(&model)?).abs() < 1e-6);
        assert_eq!(losses.iter().map(|loss| loss.tokens).collect::<Vec<_>>(), [4, 1, 5, 2]);
        for (row, loss) in rows.iter().zip(&losses) {
            let alone = ValidationSet::new(&[row], None, 1000, Device::Cpu)?;
            assert!((alone.loss(&model)? - loss.mean()).abs() < 1e-5);
        }
        Ok(())
    }

    #[test]
    fn a_row_without_a_target_and_an_empty_set_are_refused() {
        let empty = Sequence { tokens: vec![1, 2], supervised: vec![false, false] };
        assert!(ValidationSet::new(&[&empty], None, 10, Device::Cpu).is_err());
        assert!(ValidationSet::new(&[], None, 10, Device::Cpu).is_err());
    }
}
