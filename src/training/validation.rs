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
    /// The positions of the batch's sequences in the set.
    rows: Vec<usize>,
}

impl Part {
    fn new(batch: Batch, states: Option<Tensor>, rows: Vec<usize>) -> Result<Self> {
        match batch.supervised_rows().iter().position(|&tokens| tokens == 0) {
            Some(empty) => Err(anyhow!("example {} has no token to be scored", rows[empty])),
            None => Ok(Self { batch, states, rows }),
        }
    }
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
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens.len()).collect();
        let lay_out = |rows: &[usize]| -> Result<Part> {
            let members: Vec<&Sequence> = rows.iter().map(|&row| sequences[row]).collect();
            let states = match states {
                Some((_, states)) => Some(Tensor::f_cat(&rows.iter().map(|&row| &states[row]).collect::<Vec<_>>(), 0)?),
                None => None,
            };
            Part::new(Batch::pack(&members, device)?, states, rows.to_vec())
        };
        Self::of_parts(&lengths, batch_tokens, states.map(|(layers, _)| layers), lay_out)
    }

    /// Families of sequences that begin alike, such as the choices of a question: what they share is computed once.
    /// The rows of the set are the sequences, family after family.
    pub fn of_families(families: &[Vec<&Sequence>], batch_tokens: usize, device: Device) -> Result<Self> {
        ensure!(!families.is_empty(), "there is no example to validate on");
        let lengths: Vec<usize> =
            families.iter().map(|family| family.iter().map(|sequence| sequence.tokens.len()).sum()).collect();
        let mut firsts = Vec::with_capacity(families.len());
        let mut sequences = 0;
        for family in families {
            firsts.push(sequences);
            sequences += family.len();
        }
        let lay_out = |chosen: &[usize]| -> Result<Part> {
            let members: Vec<Vec<&Sequence>> = chosen.iter().map(|&family| families[family].clone()).collect();
            let rows = chosen.iter().flat_map(|&family| firsts[family]..firsts[family] + families[family].len());
            let rows = rows.collect::<Vec<_>>();
            Part::new(Batch::pack_families(&members, device)?, None, rows)
        };
        Self::of_parts(&lengths, batch_tokens, None, lay_out)
    }

    /// Lays out the members, the short ones first, in batches of so many tokens.
    fn of_parts(
        lengths: &[usize],
        batch_tokens: usize,
        prefix_layers: Option<usize>,
        lay_out: impl Fn(&[usize]) -> Result<Part>,
    ) -> Result<Self> {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&member| (lengths[member], member));
        let sorted: Vec<usize> = order.iter().map(|&member| lengths[member]).collect();
        let parts = micro_batches(&sorted, batch_tokens)
            .into_iter()
            .map(|range| lay_out(&order[range]))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            rows: parts.iter().map(|part| part.rows.len()).sum(),
            tokens: parts.iter().map(|part| part.batch.tokens()).sum(),
            supervised_tokens: parts.iter().map(|part| part.batch.supervised()).sum(),
            prefix_layers,
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

    /// The same set once for each of several episodes that share a model's passes. Its counts are those of one episode.
    pub fn side_by_side(&self, episodes: usize) -> Result<Self> {
        let part = |part: &Part| -> Result<Part> {
            let states = part.states.as_ref().map(|states| states.f_repeat([episodes as i64, 1])).transpose()?;
            Ok(Part { batch: part.batch.repeated(episodes)?, states, rows: part.rows.clone() })
        };
        Ok(Self {
            parts: self.parts.iter().map(part).collect::<Result<_>>()?,
            prefix_layers: self.prefix_layers,
            rows: self.rows,
            tokens: self.tokens,
            supervised_tokens: self.supervised_tokens,
        })
    }

    /// The mean loss of each episode, for a set that was laid out for several.
    pub fn losses(&self, model: &Model) -> Result<Vec<f64>> {
        let totals = vec![self.supervised_tokens; model.episodes()];
        let mut sums = vec![0.0; totals.len()];
        no_grad(|| {
            for part in &self.parts {
                let hidden = forward(model, self.prefix_layers, &part.batch, part.states.as_ref())?;
                let (each, _) = model.episode_losses(&hidden, &part.batch, &totals)?;
                sums.iter_mut().zip(each).for_each(|(sum, loss)| *sum += loss);
            }
            Ok(sums)
        })
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
            for ((&row, &tokens), sum) in this.rows.iter().zip(this.batch.supervised_rows()).zip(sums) {
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
        Ok(part.batch.supervised_rows().iter().map(sum).collect())
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
    fn choices_that_share_a_beginning_lose_what_they_lose_alone() -> Result<()> {
        let mut config = Config::llama(20, 16, 2, 2, 1, 32);
        config.initializer_range = 0.5;
        for window in [None, Some(4)] {
            config.sliding_window = window;
            let model = Model::init(config.clone(), &Seed::new(1), Device::Cpu, Kind::Float)?;
            let choice = |question: u32, length: u32, rest: &[u32]| {
                let mut tokens: Vec<u32> = (0..length).map(|place| (place * 3 + question) % 20).collect();
                let supervised = (0..tokens.len() + rest.len()).map(|place| place >= tokens.len()).collect();
                tokens.extend(rest);
                Sequence { tokens, supervised }
            };
            // One choice begins as another does, one is all the longer, one question stands alone.
            let questions = [
                vec![choice(1, 9, &[4, 5]), choice(1, 9, &[4, 6, 7, 2]), choice(1, 9, &[8])],
                vec![choice(2, 5, &[3, 1, 1, 9, 2])],
                vec![choice(3, 80, &[1, 2]), choice(3, 80, &[5])],
            ];
            let families: Vec<Vec<&Sequence>> = questions.iter().map(|choices| choices.iter().collect()).collect();
            let alone: Vec<&Sequence> = questions.iter().flatten().collect();
            let apart = ValidationSet::new(&alone, None, 1, Device::Cpu)?;
            let expected = apart.row_losses(&model, |work| work(), |_, _| ())?;
            for batch_tokens in [1, 1000] {
                let set = ValidationSet::of_families(&families, batch_tokens, Device::Cpu)?;
                let losses = set.row_losses(&model, |work| work(), |_, _| ())?;
                for (loss, expected) in losses.iter().zip(&expected) {
                    assert!((loss.sum - expected.sum).abs() < 1e-4 && loss.tokens == expected.tokens);
                }
                assert!(set.tokens() < apart.tokens() && set.rows() == alone.len());
            }
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
