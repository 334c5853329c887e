//! The learners of the episodes of a round, for the selector: restore M_0, train a step on given rows, measure the
//! performance.
//!
//! An episode starts from a copy of the trained numbers and of the optimizer's state in memory. Pool and validation
//! rows are encoded once for all episodes. The episodes take each step together; each episode has trained numbers,
//! optimizer state, batches and measurements of its own.
//!
//! LoRA adapters of several episodes are the lanes of one trainer and share its passes over one frozen base. On a GPU,
//! all episodes have one trainer. On the CPU, a trainer has at most [`LANES`] lanes and one thread, so that the results
//! do not depend on the number of threads. If weights of the base are trained, each episode has a copy of these weights
//! and a trainer of its own.

use rayon::prelude::*;
use tch::{Device, Tensor, no_grad};

use super::account::{Account, Together};
use super::meter::{Meter, PhaseUse};
use super::pool::TrainingPool;
use super::trainer::{Snapshot, StepOutcome, Trainer, TrainerConfig, TrainingRows};
use super::validation::ValidationSet;
use raisin_base::error::{Problem, Result, anyhow, ensure};
use raisin_base::learner::{Ensemble, RowEffect, StepReport};
use raisin_base::seed::Seed;
use raisin_lm::{Adaptation, Model};

/// The most lanes of a trainer on the CPU. The number is small, so that there are trainers for all cores.
const LANES: usize = 2;

/// The models of several episodes, a pool, and a validation set.
pub struct Episodes {
    groups: Vec<EpisodeGroup>,
    pool: TrainingPool,
    /// P(M_0), which is equal for all episodes and measured once.
    first_performance: Option<f64>,
    /// Elapsed time and memory, if there are several groups.
    together: Together,
}

/// Episodes that are the lanes of one trainer.
struct EpisodeGroup {
    trainer: Trainer,
    validation: ValidationSet,
    /// M_0 with the optimizer before its first step.
    start: Snapshot,
}

impl Episodes {
    /// Every episode starts from `model` as `adaptation` prepares it. `validation` must be laid out for one episode.
    ///
    /// # Errors
    /// `adaptation` trains weights of the base, and there are several episodes on a GPU, where they would only wait for
    /// each other.
    pub fn new(
        mut model: Model,
        adaptation: &Adaptation,
        seed: &Seed,
        config: TrainerConfig,
        episodes: usize,
        pool: TrainingPool,
        validation: ValidationSet,
    ) -> Result<Self> {
        ensure!(episodes > 0, "a round needs at least one episode");
        let prefix_layers = pool.prefix_layers();
        let group = |mut model: Model, lanes: usize, validation: ValidationSet| -> Result<EpisodeGroup> {
            model.prepare_side_by_side(adaptation, seed, lanes)?;
            let mut trainer = Trainer::new(model, config, prefix_layers)?;
            trainer.is_beside_others = lanes < episodes;
            Ok(EpisodeGroup { start: trainer.snapshot()?, trainer, validation })
        };
        let mut groups = Vec::new();
        if episodes == 1 {
            groups.push(group(model, 1, validation)?);
        } else {
            if model.device() != Device::Cpu && !adaptation.has_adapters() {
                return Err(Problem::new("on a GPU, a round can have several episodes only with LoRA")
                    .hint("set adaptation = { method = \"lora\" }, or episodes_per_round = 1")
                    .into());
            }
            let lanes = Self::lanes_of_a_trainer(adaptation, model.device(), episodes);
            for first in (0..episodes).step_by(lanes) {
                let lanes = lanes.min(episodes - first);
                groups.push(group(model.share(adaptation)?, lanes, validation.side_by_side(lanes)?)?);
            }
        }
        Ok(Self { groups, pool, first_performance: None, together: Together::default() })
    }

    /// The most of `episodes` episodes that are the lanes of one trainer.
    pub fn lanes_of_a_trainer(adaptation: &Adaptation, device: Device, episodes: usize) -> usize {
        match device {
            _ if !adaptation.has_adapters() => 1,
            Device::Cpu => LANES.min(episodes),
            _ => episodes,
        }
    }

    /// The costs of the steps and measurements of this process.
    pub fn account(&self) -> Account {
        match self.groups.as_slice() {
            [group] => group.trainer.account(),
            groups => {
                let accounts: Vec<Account> = groups.iter().map(|group| group.trainer.account()).collect();
                Account::of_all(&accounts, &self.together)
            }
        }
    }

    /// The FLOPs of training steps or of forward passes for this number of tokens.
    pub fn flops(&self, tokens: usize, train: bool) -> f64 {
        self.groups.first().map_or(0.0, |group| group.trainer.flops(tokens, train))
    }

    /// The number of trained numbers of each episode.
    pub fn trained_numbers(&self) -> usize {
        self.groups.first().map_or(0, |group| group.trainer.model.trainable().count() / group.trainer.lanes())
    }

    /// A copy of the trained numbers of each episode: `[P]` each.
    pub fn trained(&self) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for EpisodeGroup { trainer, .. } in &self.groups {
            let flat = no_grad(|| trainer.model.trainable().flat.f_detach_copy())?;
            all.extend(flat.f_chunk(trainer.lanes() as i64, 0)?);
        }
        Ok(all)
    }

    /// The micro-batch tokens and [`ValidationSet::too_many`] of each group, which fell if memory was short. A
    /// checkpoint must contain them, because smaller parts round differently.
    pub fn room(&self) -> Vec<[usize; 2]> {
        let room = |group: &EpisodeGroup| [group.trainer.config.micro_batch_tokens, group.validation.too_many()];
        self.groups.iter().map(room).collect()
    }

    /// Restores the result of [`Self::room`].
    ///
    /// # Errors
    /// The number of groups is another one.
    pub fn set_room(&mut self, room: &[[usize; 2]]) -> Result<()> {
        ensure!(
            room.len() == self.groups.len(),
            "the checkpoint has limits of memory for {} trainers, but there are {}",
            room.len(),
            self.groups.len()
        );
        for (group, &[micro_batch_tokens, too_many]) in self.groups.iter_mut().zip(room) {
            group.trainer.config.micro_batch_tokens = micro_batch_tokens;
            group.validation.set_too_many(too_many);
        }
        Ok(())
    }

    /// Calls `work` for each group with the number of its first episode, in parallel. Returns the results of all
    /// episodes, in order.
    fn each<T: Send>(
        &mut self,
        work: impl Fn(usize, &mut EpisodeGroup, &TrainingPool) -> Result<Vec<T>> + Sync,
        phase: fn(&mut Together) -> &mut PhaseUse,
    ) -> Result<Vec<T>> {
        let pool = &self.pool;
        if let [group] = self.groups.as_mut_slice() {
            return work(0, group, pool);
        }
        let mut firsts = Vec::new();
        let mut episodes = 0;
        for group in &self.groups {
            firsts.push(episodes);
            episodes += group.trainer.lanes();
        }
        let running = Meter::start(self.groups[0].trainer.model.device());
        let threads = tch::get_num_threads();
        let results: Result<Vec<Vec<T>>> = self
            .groups
            .par_iter_mut()
            .zip(firsts)
            .map(|(group, first)| {
                tch::set_num_threads(1);
                work(first, group, pool)
            })
            .collect();
        tch::set_num_threads(threads);
        phase(&mut self.together).add(running);
        Ok(results?.into_iter().flatten().collect())
    }
}

impl Ensemble for Episodes {
    fn episodes(&self) -> usize {
        self.groups.iter().map(|group| group.trainer.lanes()).sum()
    }

    fn restore_all(&mut self) -> Result<f64> {
        for group in &mut self.groups {
            group.trainer.restore_snapshot(&group.start)?;
        }
        if let Some(performance) = self.first_performance {
            return Ok(performance);
        }
        let performances = self.performances()?;
        let first = *performances.first().ok_or_else(|| anyhow!("the round has no episode"))?;
        self.first_performance = Some(first);
        Ok(first)
    }

    fn step_all(&mut self, batches: &[Vec<u32>]) -> Result<Vec<StepReport>> {
        ensure!(batches.len() == self.episodes(), "{} batches for {} episodes", batches.len(), self.episodes());
        let step = |first: usize, group: &mut EpisodeGroup, pool: &TrainingPool| -> Result<Vec<StepOutcome>> {
            let batches = &batches[first..first + group.trainer.lanes()];
            let rows = batches.iter().map(|batch| pool.rows(batch)).collect::<Result<Vec<_>>>()?;
            let rows: Vec<TrainingRows<'_>> =
                rows.iter().map(|(sequences, states)| TrainingRows { sequences, states: states.as_deref() }).collect();
            group.trainer.step_lanes(&rows)
        };
        let outcomes = self.each(step, |together| &mut together.train)?;
        Ok(outcomes.iter().map(StepOutcome::report).collect())
    }

    fn effects(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<RowEffect>>> {
        ensure!(rows.len() == self.episodes(), "{} sets of rows for {} episodes", rows.len(), self.episodes());
        let effects = |first: usize, group: &mut EpisodeGroup, pool: &TrainingPool| -> Result<Vec<Vec<RowEffect>>> {
            let of_group = &rows[first..first + group.trainer.lanes()];
            let rows = of_group.iter().map(|ids| pool.rows(ids)).collect::<Result<Vec<_>>>()?;
            let rows: Vec<TrainingRows<'_>> =
                rows.iter().map(|(sequences, states)| TrainingRows { sequences, states: states.as_deref() }).collect();
            let effects = group.trainer.effects(&group.validation, &rows)?;
            let of_lane = |(rows, effects): (&TrainingRows<'_>, Vec<f64>)| {
                let tokens = rows.sequences.iter().map(|sequence| sequence.supervised_tokens());
                effects.into_iter().zip(tokens).map(|(effect, tokens)| RowEffect { effect, tokens }).collect()
            };
            Ok(rows.iter().zip(effects).map(of_lane).collect())
        };
        self.each(effects, |together| &mut together.effects)
    }

    fn performances(&mut self) -> Result<Vec<f64>> {
        self.each(|_, group, _| group.trainer.performances(&group.validation), |together| &mut together.evaluation)
    }
}

#[cfg(test)]
#[path = "episode_tests.rs"]
mod tests;
