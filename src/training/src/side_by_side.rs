//! Several episodes at once: each with its own trained numbers, optimizer state, batches and reward evaluation. Leaves
//! what an episode is to [`super::episode`], and the choosing of batches to the selector.
//!
//! LoRA adapters of several episodes lie over one frozen base and share its passes: their rows are computed together,
//! and each adapter sees its own rows only. On the CPU the episodes form passes of [`PASS`] that run on threads of
//! their own, one thread a pass, so that results do not depend on how many threads there are. Where weights of the
//! base are trained, every episode has a copy of these, and is a pass by itself.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor, no_grad};

use super::adamw::{AdamW, AdamWConfig};
use super::episode::Spent;
use super::pool::Pool;
use super::trainer::{TrainerConfig, diverged, forward};
use super::validation::ValidationSet;
use raisin_base::error::{Problem, Result, ensure};
use raisin_base::learner::{Ensemble, Trained};
use raisin_base::seed::Seed;
use raisin_corpus::Sequence;
use raisin_lm::memory::{attempt, first_group, is_out_of_memory, no_room};
use raisin_lm::{Adaptation, Batch, Model};

/// Episodes of one pass on the CPU: few, so that there are passes for all cores.
const PASS: usize = 2;

/// Episodes in step with each other.
pub struct SideBySide {
    passes: Vec<Pass>,
    pool: Pool,
    /// P(M_0): the same for every episode of every round, measured once.
    first_performance: Option<f64>,
    train: Spent,
    evaluation: Spent,
}

/// Episodes that share forward and backward passes.
struct Pass {
    model: Model,
    config: TrainerConfig,
    prefix_layers: Option<usize>,
    optimizer: AdamW,
    validation: ValidationSet,
    /// What the trained numbers were at first.
    start: Tensor,
    step: usize,
}

/// What a step did to one episode.
struct Outcome {
    loss: f64,
    tokens: usize,
    supervised: usize,
}

impl SideBySide {
    /// `validation` is laid out for one episode. Every episode starts as `adaptation` prepares `model`.
    ///
    /// # Errors
    /// Weights of the base are to be trained on a GPU, where episodes would only wait for each other.
    pub fn new(
        mut model: Model,
        adaptation: &Adaptation,
        seed: &Seed,
        config: TrainerConfig,
        episodes: usize,
        pool: Pool,
        validation: &ValidationSet,
    ) -> Result<Self> {
        ensure!(episodes > 0, "a round needs at least one episode");
        let size = Self::episodes_of_a_pass(adaptation, model.device(), episodes);
        if model.device() != Device::Cpu && !adaptation.has_adapters() && episodes > 1 {
            return Err(Problem::new("on a GPU only LoRA adapters train side by side")
                .hint("adaptation = { method = \"lora\" }, or one episode a round")
                .into());
        }
        let mut passes = Vec::new();
        for first in (0..episodes).step_by(size) {
            let together = size.min(episodes - first);
            let mut model = model.share(adaptation)?;
            model.prepare_side_by_side(adaptation, seed, together)?;
            let trainable = &model.trainable().flat;
            let weight_decay = config.weight_decay;
            let optimizer = AdamW::new(trainable, AdamWConfig { weight_decay, ..AdamWConfig::default() })?;
            let start = no_grad(|| trainable.f_detach_copy())?;
            let validation = validation.side_by_side(together)?;
            let prefix_layers = pool.prefix_layers();
            passes.push(Pass { model, config, prefix_layers, optimizer, validation, start, step: 0 });
        }
        let (train, evaluation) = (Spent::default(), Spent::default());
        Ok(Self { passes, pool, first_performance: None, train, evaluation })
    }

    /// How many of so many episodes share a pass at most.
    pub fn episodes_of_a_pass(adaptation: &Adaptation, device: Device, episodes: usize) -> usize {
        match device {
            _ if !adaptation.has_adapters() => 1,
            Device::Cpu => PASS.min(episodes),
            _ => episodes,
        }
    }

    /// What training steps have cost.
    pub fn train_cost(&self) -> Spent {
        self.train
    }

    /// What measuring the performance has cost.
    pub fn evaluation_cost(&self) -> Spent {
        self.evaluation
    }

    /// Floating-point operations for a token of a training step or a forward pass.
    pub fn flops_per_token(&self, train: bool) -> f64 {
        self.passes.first().map_or(0.0, |pass| pass.flops_per_token(train))
    }

    /// How many numbers each episode trains.
    pub fn trained_numbers(&self) -> usize {
        self.passes.first().map_or(0, |pass| pass.model.trainable().count() / pass.model.episodes())
    }

    /// The trained numbers of each episode, copied.
    pub fn trained(&self) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for pass in &self.passes {
            let flat = no_grad(|| pass.model.trainable().flat.f_detach_copy())?;
            all.extend(flat.f_chunk(pass.model.episodes() as i64, 0)?);
        }
        Ok(all)
    }

    /// Does `work` for every pass, and returns what it gave for every episode, in order.
    fn each<T: Send>(&mut self, work: impl Fn(usize, &mut Pass, &Pool) -> Result<Vec<T>> + Sync) -> Result<Vec<T>> {
        let mut firsts = Vec::new();
        let mut episodes = 0;
        for pass in &self.passes {
            firsts.push(episodes);
            episodes += pass.model.episodes();
        }
        let pool = &self.pool;
        if self.passes.len() == 1 {
            return work(0, &mut self.passes[0], pool);
        }
        let threads = tch::get_num_threads();
        let results: Result<Vec<Vec<T>>> = self
            .passes
            .par_iter_mut()
            .zip(firsts)
            .map(|(pass, first)| {
                // Passes are what the cores are shared out by.
                tch::set_num_threads(1);
                work(first, pass, pool)
            })
            .collect();
        tch::set_num_threads(threads);
        Ok(results?.into_iter().flatten().collect())
    }
}

impl Ensemble for SideBySide {
    fn episodes(&self) -> usize {
        self.passes.iter().map(|pass| pass.model.episodes()).sum()
    }

    fn restore_all(&mut self) -> Result<f64> {
        for pass in &mut self.passes {
            pass.restore()?;
        }
        if let Some(performance) = self.first_performance {
            return Ok(performance);
        }
        let performance = self.performances()?[0];
        self.first_performance = Some(performance);
        Ok(performance)
    }

    fn step_all(&mut self, batches: &[Vec<u32>]) -> Result<Vec<Trained>> {
        ensure!(batches.len() == self.episodes(), "{} batches for {} episodes", batches.len(), self.episodes());
        let start = Instant::now();
        let learning_rate = self.passes.first().map_or(0.0, Pass::learning_rate);
        let flops_per_token = self.flops_per_token(true);
        let outcomes =
            self.each(|first, pass, pool| pass.step(&batches[first..first + pass.model.episodes()], pool))?;
        let trained: Vec<Trained> = outcomes
            .iter()
            .map(|outcome| Trained {
                loss: outcome.loss,
                tokens: outcome.tokens as u64,
                supervised_tokens: outcome.supervised as u64,
                learning_rate,
                flops: flops_per_token * outcome.tokens as f64,
            })
            .collect();
        let (tokens, supervised): (usize, usize) = outcomes
            .iter()
            .fold((0, 0), |(tokens, supervised), outcome| (tokens + outcome.tokens, supervised + outcome.supervised));
        self.train.add(start, tokens, supervised, flops_per_token * tokens as f64);
        Ok(trained)
    }

    fn performances(&mut self) -> Result<Vec<f64>> {
        let start = Instant::now();
        let losses = self.each(|_, pass, _| pass.validation.losses(&*pass.model.joined_to_evaluate()?))?;
        let episodes = losses.len();
        let (tokens, supervised, flops) = self.passes.first().map_or((0, 0, 0.0), |pass| {
            let set = &pass.validation;
            (set.tokens(), set.supervised_tokens(), pass.flops_per_token(false) * set.tokens() as f64)
        });
        self.evaluation.add(start, tokens * episodes, supervised * episodes, flops * episodes as f64);
        Ok(losses.into_iter().map(|loss| -loss).collect())
    }
}

impl Pass {
    fn restore(&mut self) -> Result<()> {
        no_grad(|| self.model.trainable().flat.f_detach()?.f_copy_(&self.start))?;
        self.step = 0;
        self.optimizer.reset()
    }

    /// The rate of the step to come.
    fn learning_rate(&self) -> f64 {
        self.config.rate_at(self.step)
    }

    fn flops_per_token(&self, train: bool) -> f64 {
        self.model.flops_per_token_from(self.prefix_layers.unwrap_or(0), train)
    }

    /// One update of every episode. The optimizer works number by number, so that one over all episodes is one for
    /// each; gradients are clipped by the norm of each episode's own.
    fn step(&mut self, batches: &[Vec<u32>], pool: &Pool) -> Result<Vec<Outcome>> {
        let rows = batches.iter().map(|batch| pool.rows(batch)).collect::<Result<Vec<_>>>()?;
        let mut outcomes = Vec::with_capacity(rows.len());
        for (sequences, _) in &rows {
            let supervised: usize = sequences.iter().map(|sequence| sequence.supervised_tokens()).sum();
            ensure!(supervised > 0, "step {} has no token to learn from", self.step + 1);
            let tokens = sequences.iter().map(|sequence| sequence.tokens.len()).sum();
            outcomes.push(Outcome { loss: 0.0, tokens, supervised });
        }
        let totals: Vec<usize> = outcomes.iter().map(|outcome| outcome.supervised).collect();
        let gradient = self.gradient_of_all(&rows, &totals, &mut outcomes)?;
        let Some(mut gradient) = gradient else { return Ok(outcomes) };
        self.clip(&mut gradient, &outcomes)?;
        self.optimizer.step(&self.model.trainable().flat, &[gradient], 1.0, self.learning_rate())?;
        self.step += 1;
        Ok(outcomes)
    }

    /// The flat gradient of all rows, in as many parts as memory asks for; a part has the next rows of each episode.
    /// Adds to the losses.
    fn gradient_of_all(
        &mut self,
        rows: &[(Vec<&Sequence>, Option<Vec<Tensor>>)],
        totals: &[usize],
        outcomes: &mut [Outcome],
    ) -> Result<Option<Tensor>> {
        let lengths: Vec<Vec<usize>> =
            rows.iter().map(|(rows, _)| rows.iter().map(|row| row.tokens.len()).collect()).collect();
        let mut limit = self.config.micro_batch_tokens / rows.len();
        let mut starts = vec![0; rows.len()];
        let mut gradient: Option<Tensor> = None;
        loop {
            let next: Vec<Range<usize>> = lengths
                .iter()
                .zip(&starts)
                .map(|(lengths, &start)| start..start + first_group(&lengths[start..], limit))
                .collect();
            if next.iter().all(Range::is_empty) {
                return Ok(gradient);
            }
            let (mut episodes, mut states): (Vec<Vec<&Sequence>>, Vec<&Tensor>) = (Vec::new(), Vec::new());
            for ((sequences, cached), range) in rows.iter().zip(&next) {
                states.extend(cached.iter().flat_map(|cached| &cached[range.clone()]));
                episodes.push(sequences[range.clone()].to_vec());
            }
            match attempt(|| self.gradient(&episodes, &states, totals, &mut gradient)) {
                Ok(losses) => {
                    outcomes.iter_mut().zip(losses).for_each(|(outcome, loss)| outcome.loss += loss);
                    starts = next.into_iter().map(|range| range.end).collect();
                }
                Err(error) if is_out_of_memory(&error) => {
                    let tokens = |(lengths, range): (&Vec<usize>, &Range<usize>)| -> usize {
                        lengths[range.clone()].iter().sum()
                    };
                    let all: usize = lengths.iter().zip(&next).map(tokens).sum();
                    // A single row stays what it is, so those that have several give way.
                    let several = lengths.iter().zip(&next).filter(|(_, range)| range.len() > 1);
                    let Some(largest) = several.map(tokens).max() else { return Err(no_room(all, &error)) };
                    limit = (largest / 2).max(1);
                    self.config.micro_batch_tokens = limit * rows.len();
                    let what = format!("there was no memory for {all} tokens at a time in step {}", self.step + 1);
                    self.model.tell(&format!("{what}: from here on it is {}", self.config.micro_batch_tokens));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The loss of each episode. The flat gradient of all is added to `sum`, which an error leaves as it was.
    fn gradient(
        &mut self,
        episodes: &[Vec<&Sequence>],
        states: &[&Tensor],
        totals: &[usize],
        sum: &mut Option<Tensor>,
    ) -> Result<Vec<f64>> {
        let batch = Batch::side_by_side(episodes, self.model.device())?;
        let states = if states.is_empty() { None } else { Some(Tensor::f_cat(states, 0)?) };
        let model = self.model.joined()?;
        let hidden = forward(&model, self.prefix_layers, &batch, states.as_ref())?;
        let (losses, loss) = model.episode_losses(&hidden, &batch, totals)?;
        // What may find no memory comes first.
        let flat = model.flat_gradient(&loss)?;
        match sum {
            Some(sum) => drop(sum.f_add_(&flat)?),
            None => *sum = Some(flat),
        }
        Ok(losses)
    }

    /// Scales each episode's gradient down to the largest norm allowed.
    fn clip(&self, gradient: &mut Tensor, outcomes: &[Outcome]) -> Result<()> {
        let episodes = outcomes.len() as i64;
        let by_episode = gradient.f_view([episodes, -1])?;
        let norms = by_episode.f_norm_scalaropt_dim(2.0, [1i64].as_slice(), true)?;
        let values = Vec::<f32>::try_from(norms.f_reshape([-1])?.f_to_device(Device::Cpu)?)?;
        for (outcome, norm) in outcomes.iter().zip(values) {
            if !(outcome.loss.is_finite() && norm.is_finite()) {
                return Err(diverged(self.step, outcome.loss, f64::from(norm)));
            }
        }
        if self.config.clip_norm > 0.0 {
            let factors = norms.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(self.config.clip_norm)?;
            let _ = by_episode.shallow_clone().f_mul_(&factors.f_clamp_max(1.0)?.f_to_kind(Kind::Float)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "side_by_side_tests.rs"]
mod tests;
