//! The loss of a fixed set of sequences under a model.
//!
//! The rewards of an episode come from this loss after every step. Therefore the sequences are sorted, packed and
//! copied to the device only once. Sequences of similar length share a batch.

use std::cell::{Cell, OnceCell};

use tch::{Device, Tensor, no_grad};

use super::trainer;
use raisin_base::error::{Result, anyhow, ensure};
use raisin_corpus::Sequence;
use raisin_lm::out_of_memory::{self, is_out_of_memory, micro_batches, no_room};
use raisin_lm::{Batch, Model, longest_first};

/// Sequences on the device, in batches.
pub struct ValidationSet {
    parts: Vec<ValidationBatch>,
    prefix_layers: Option<usize>,
    rows: usize,
    tokens: usize,
    supervised_tokens: usize,
    /// See [`Self::too_many`].
    too_many: Cell<usize>,
}

/// A part of the set that is computed in one forward pass.
struct ValidationBatch {
    batch: Batch,
    /// The cached states of a frozen prefix.
    states: Option<Tensor>,
    /// The places of the sequences in the set.
    rows: Vec<usize>,
    members: Members,
    /// The number of episodes, if the batch repeats its sequences for several.
    episodes: Option<usize>,
    /// Made when there is no memory for the whole batch.
    halves: OnceCell<Box<[ValidationBatch; 2]>>,
}

/// A pass over a batch with its cached states.
pub(super) type PassOfPart<'a> = &'a mut dyn FnMut(&Batch, Option<&Tensor>) -> Result<()>;

/// The sequences of a batch.
#[derive(Clone)]
enum Members {
    Rows(Vec<Sequence>),
    /// Sequences with a common beginning, which is computed once for a family.
    Families(Vec<Vec<Sequence>>),
}

impl Members {
    fn pack(&self, device: Device) -> Result<Batch> {
        match self {
            Self::Rows(rows) => Batch::pack(&rows.iter().collect::<Vec<_>>(), device),
            Self::Families(families) => {
                let families: Vec<Vec<&Sequence>> = families.iter().map(|family| family.iter().collect()).collect();
                Batch::pack_families(&families, device)
            }
        }
    }

    /// Two halves; `None` if there is a single sequence.
    fn halves(&self) -> Option<[Self; 2]> {
        match self {
            Self::Rows(rows) => {
                let (first, second) = rows.split_at(rows.len() / 2);
                (!first.is_empty()).then(|| [Self::Rows(first.to_vec()), Self::Rows(second.to_vec())])
            }
            Self::Families(families) => match families.as_slice() {
                // Each half computes the common beginning.
                [family] => {
                    let (first, second) = family.split_at(family.len() / 2);
                    let alone = |half: &[Sequence]| Self::Families(vec![half.to_vec()]);
                    (!first.is_empty()).then(|| [alone(first), alone(second)])
                }
                families => {
                    let (first, second) = families.split_at(families.len() / 2);
                    Some([Self::Families(first.to_vec()), Self::Families(second.to_vec())])
                }
            },
        }
    }

    /// The number of sequences and of their tokens.
    fn size(&self) -> (usize, usize) {
        let tokens = |rows: &[Sequence]| rows.iter().map(|row| row.tokens.len()).sum::<usize>();
        match self {
            Self::Rows(rows) => (rows.len(), tokens(rows)),
            Self::Families(families) => {
                (families.iter().map(Vec::len).sum(), families.iter().map(|family| tokens(family)).sum())
            }
        }
    }
}

impl ValidationBatch {
    fn new(members: Members, states: Option<Tensor>, rows: Vec<usize>, device: Device) -> Result<Self> {
        let batch = members.pack(device)?;
        match batch.supervised_rows().iter().position(|&tokens| tokens == 0) {
            Some(empty) => Err(anyhow!("example {} has no supervised token", rows[empty])),
            None => Ok(Self { batch, states, rows, members, episodes: None, halves: OnceCell::new() }),
        }
    }

    /// The batch for several episodes of a model: the sequences are repeated for each episode.
    fn side_by_side(&self, episodes: usize) -> Result<Self> {
        if episodes == 1 {
            let states = self.states.as_ref().map(Tensor::shallow_clone);
            return Self::new(self.members.clone(), states, self.rows.clone(), self.batch.device());
        }
        Ok(Self {
            batch: self.batch.repeated(episodes)?,
            states: self.states.as_ref().map(|states| states.f_repeat([episodes as i64, 1])).transpose()?,
            rows: self.rows.clone(),
            members: self.members.clone(),
            episodes: Some(episodes),
            halves: OnceCell::new(),
        })
    }

    /// See [`ValidationSet::run_part`].
    fn run(&self, run: PassOfPart<'_>) -> Result<()> {
        match out_of_memory::attempt(&mut || run(&self.batch, self.states.as_ref())) {
            Err(error) if is_out_of_memory(&error) && self.rows.len() > 1 => {
                self.halves()?.iter().try_for_each(|half| half.run(run))
            }
            Err(error) if is_out_of_memory(&error) => Err(no_room(self.batch.tokens(), &error)),
            result => result,
        }
    }

    /// The sequences in two batches.
    fn halves(&self) -> Result<&[Self; 2]> {
        if let Some(halves) = self.halves.get() {
            return Ok(halves);
        }
        let [first, second] = self.members.halves().ok_or_else(|| anyhow!("a batch of one sequence has no halves"))?;
        let (rows, tokens) = first.size();
        let lay_out = |members: Members, rows: &[usize], first_token: usize| -> Result<Self> {
            let count = members.size().1 as i64;
            // The states are repeated for each episode. `side_by_side` repeats those of the first episode again.
            let states = self.states.as_ref().map(|states| states.f_narrow(0, first_token as i64, count));
            let half = Self::new(members, states.transpose()?, rows.to_vec(), self.batch.device())?;
            match self.episodes {
                Some(episodes) => half.side_by_side(episodes),
                None => Ok(half),
            }
        };
        let halves = [lay_out(first, &self.rows[..rows], 0)?, lay_out(second, &self.rows[rows..], tokens)?];
        Ok(self.halves.get_or_init(|| Box::new(halves)))
    }
}

/// The loss of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowLoss {
    /// The sum over the supervised tokens, in nats.
    pub sum: f64,
    /// The number of supervised tokens.
    pub tokens: usize,
}

impl RowLoss {
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }
}

impl ValidationSet {
    /// A forward pass has at most `batch_tokens` tokens, but at least one sequence. For a model with a frozen prefix,
    /// `states` has the number of its layers and the cached states of each sequence.
    ///
    /// # Errors
    /// There are no sequences, or a sequence has no supervised token.
    pub fn new(
        sequences: &[&Sequence],
        states: Option<(usize, &[Tensor])>,
        batch_tokens: usize,
        device: Device,
    ) -> Result<Self> {
        ensure!(!sequences.is_empty(), "there is no example to validate on");
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens.len()).collect();
        let lay_out = |rows: &[usize]| -> Result<ValidationBatch> {
            let members = Members::Rows(rows.iter().map(|&row| sequences[row].clone()).collect());
            let states = match states {
                Some((_, states)) => {
                    let states = Tensor::f_cat(&rows.iter().map(|&row| &states[row]).collect::<Vec<_>>(), 0)?;
                    Some(states.f_to_device(device)?)
                }
                None => None,
            };
            ValidationBatch::new(members, states, rows.to_vec(), device)
        };
        Self::of_parts(&lengths, batch_tokens, states.map(|(layers, _)| layers), lay_out)
    }

    /// A set of families: sequences with a common beginning, such as the choices of a question. The common beginning is
    /// computed once. The rows of the set are the sequences, family after family.
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
        let lay_out = |chosen: &[usize]| -> Result<ValidationBatch> {
            let family = |&family: &usize| families[family].iter().map(|&sequence| sequence.clone()).collect();
            let members = Members::Families(chosen.iter().map(family).collect());
            let rows = chosen.iter().flat_map(|&family| firsts[family]..firsts[family] + families[family].len());
            ValidationBatch::new(members, None, rows.collect(), device)
        };
        Self::of_parts(&lengths, batch_tokens, None, lay_out)
    }

    /// Divides the members, the longest first, into batches of at most `batch_tokens` tokens. `lay_out` makes a batch
    /// of the members at these places.
    fn of_parts(
        lengths: &[usize],
        batch_tokens: usize,
        prefix_layers: Option<usize>,
        lay_out: impl Fn(&[usize]) -> Result<ValidationBatch>,
    ) -> Result<Self> {
        let order = longest_first(lengths);
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
            too_many: Cell::new(usize::MAX),
        })
    }

    /// The number of sequences.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The smallest number of tokens for which there was no memory. Batches with this number of tokens or more are
    /// halved. A checkpoint must contain this number, because halves round differently.
    pub fn too_many(&self) -> usize {
        self.too_many.get()
    }

    /// Restores the result of [`Self::too_many`].
    pub fn set_too_many(&self, tokens: usize) {
        self.too_many.set(tokens);
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub fn supervised_tokens(&self) -> usize {
        self.supervised_tokens
    }

    /// The set for a model of several episodes, which share its passes. The counts of the set stay those of one
    /// episode.
    pub fn side_by_side(&self, episodes: usize) -> Result<Self> {
        Ok(Self {
            parts: self.parts.iter().map(|part| part.side_by_side(episodes)).collect::<Result<_>>()?,
            prefix_layers: self.prefix_layers,
            rows: self.rows,
            tokens: self.tokens,
            supervised_tokens: self.supervised_tokens,
            too_many: Cell::new(usize::MAX),
        })
    }

    /// The mean loss per supervised token of each episode of the model. The set must be laid out for these episodes.
    pub fn losses(&self, model: &Model) -> Result<Vec<f64>> {
        if model.episodes() == 1 {
            return Ok(vec![self.loss(model)?]);
        }
        let totals = vec![self.supervised_tokens; model.episodes()];
        let mut sums = vec![0.0; totals.len()];
        for part in &self.parts {
            self.forward(model, part, &mut |hidden, batch| {
                let (each, _) = model.episode_losses(hidden, batch, &totals)?;
                sums.iter_mut().zip(each).for_each(|(sum, loss)| *sum += loss);
                Ok(())
            })?;
        }
        Ok(sums)
    }

    /// The mean loss per supervised token.
    pub fn loss(&self, model: &Model) -> Result<f64> {
        let mut sum = 0.0;
        for part in &self.parts {
            self.forward(model, part, &mut |hidden, batch| {
                sum += model.response_loss(hidden, batch)?.sum.f_double_value(&[])?;
                Ok(())
            })?;
        }
        Ok(sum / self.supervised_tokens as f64)
    }

    /// The number of parts; see [`Self::run_part`].
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Calls `run` with the batch of a part and its cached states. If there is no memory for the part, `run` gets its
    /// halves, and so on. `run` must change nothing if it fails.
    pub(super) fn run_part(&self, part: usize, run: PassOfPart<'_>) -> Result<()> {
        self.parts[part].run(run)
    }

    /// Runs the forward pass of a part and calls `run` with the last hidden states. If there is no memory for the part,
    /// its halves run one after the other, and so on. `run` must change nothing if it fails.
    fn forward(
        &self,
        model: &Model,
        part: &ValidationBatch,
        run: &mut dyn FnMut(&Tensor, &Batch) -> Result<()>,
    ) -> Result<()> {
        let tokens = part.batch.tokens();
        let mut attempt = || {
            no_grad(|| {
                let hidden = trainer::forward(model, self.prefix_layers, &part.batch, part.states.as_ref())?;
                run(&hidden, &part.batch)
            })
        };
        let single = part.rows.len() == 1;
        if single || tokens < self.too_many.get() {
            match out_of_memory::attempt(&mut attempt) {
                Err(error) if is_out_of_memory(&error) && !single => {
                    self.too_many.set(tokens);
                    let what = format!("there was no memory to score {tokens} tokens at a time");
                    model.tell(&format!("{what}: batches of this size are halved from now on"));
                }
                Err(error) if is_out_of_memory(&error) => return Err(no_room(tokens, &error)),
                result => return result,
            }
        }
        part.halves()?.iter().try_for_each(|half| self.forward(model, half, run))
    }

    /// The loss of each sequence, in the order of the set. The parts are the same in every run. For each part, `part`
    /// gets a function that computes the summed loss of each of its sequences; `part` calls the function or returns the
    /// sums that an earlier run saved. `progress` gets the number of sequences and of tokens so far.
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
            ensure!(sums.len() == this.rows.len(), "{} sequences have {} losses", this.rows.len(), sums.len());
            for ((&row, &tokens), sum) in this.rows.iter().zip(this.batch.supervised_rows()).zip(sums) {
                losses[row] = RowLoss { sum, tokens };
            }
            rows_done += this.rows.len();
            tokens_done += this.batch.tokens();
            progress(rows_done, tokens_done);
        }
        Ok(losses)
    }

    /// The summed loss of each sequence of a part.
    fn sums(&self, model: &Model, part: &ValidationBatch) -> Result<Vec<f64>> {
        let mut sums = Vec::with_capacity(part.rows.len());
        self.forward(model, part, &mut |hidden, batch| {
            let log_probs = Vec::<f32>::try_from(model.token_log_probs(hidden, batch)?.f_to_device(Device::Cpu)?)?;
            let mut rest = log_probs.as_slice();
            sums.extend(batch.supervised_rows().iter().map(|&tokens| {
                let (row, others) = rest.split_at(tokens);
                rest = others;
                row.iter().map(|&log_prob| -f64::from(log_prob)).sum::<f64>()
            }));
            Ok(())
        })?;
        Ok(sums)
    }
}

#[cfg(test)]
#[path = "validation_tests.rs"]
mod tests;
