//! The learner that PPO plays its episodes with: models that are put back to their start, trained on chosen rows, and
//! asked how well they do. Leaves the choosing to the selector.
//!
//! Episodes start from a copy in memory (the trained numbers and what the optimizer keeps of each), never from files; pool
//! and validation rows are encoded once for all episodes. Several episodes go in step with each other, each with its own
//! trained numbers, optimizer state, batches and measurements. LoRA adapters of several episodes are lanes of one trainer
//! over one frozen base, and share its passes: their rows are computed together, and each adapter sees its own rows only.
//! On the CPU so many lanes form a trainer ([`LANES`]) and trainers run on threads of their own, one thread each, so that
//! results do not depend on how many threads there are. Where weights of the base are trained, every episode has a copy of
//! these and a trainer by itself.

use rayon::prelude::*;
use tch::{Device, Tensor, no_grad};

use super::account::{Account, Together};
use super::meter::{Meter, PhaseUse};
use super::pool::TrainingPool;
use super::trainer::{Snapshot, StepOutcome, Trainer, TrainerConfig, TrainingRows};
use super::validation::ValidationSet;
use raisin_base::error::{Problem, Result, anyhow, ensure};
use raisin_base::learner::{Ensemble, StepReport};
use raisin_base::seed::Seed;
use raisin_lm::{Adaptation, Model};

/// Lanes of one trainer on the CPU: few, so that there are trainers for all cores.
const LANES: usize = 2;

/// A proxy model for so many episodes, a pool, and a validation set.
pub struct Episodes {
    trainers: Vec<One>,
    pool: TrainingPool,
    /// P(M_0): the same for every episode, measured once.
    first_performance: Option<f64>,
    /// Where there are several trainers.
    together: Together,
}

/// A trainer of some of the episodes.
struct One {
    trainer: Trainer,
    validation: ValidationSet,
    start: Snapshot,
}

impl Episodes {
    /// `validation` is laid out for one episode. Every episode starts as `adaptation` prepares `model`.
    ///
    /// # Errors
    /// Weights of the base are to be trained for several episodes on a GPU, where these would only wait for each other.
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
        let start = |mut model: Model, lanes: usize, validation: ValidationSet| -> Result<One> {
            model.prepare_side_by_side(adaptation, seed, lanes)?;
            let mut trainer = Trainer::new(model, config, prefix_layers)?;
            trainer.is_beside_others = lanes < episodes;
            Ok(One { start: trainer.snapshot()?, trainer, validation })
        };
        let mut trainers = Vec::new();
        if episodes == 1 {
            trainers.push(start(model, 1, validation)?);
        } else {
            if model.device() != Device::Cpu && !adaptation.has_adapters() {
                return Err(Problem::new("on a GPU only LoRA adapters train side by side")
                    .hint("adaptation = { method = \"lora\" }, or one episode a round")
                    .into());
            }
            let lanes = Self::lanes_of_a_trainer(adaptation, model.device(), episodes);
            for first in (0..episodes).step_by(lanes) {
                let lanes = lanes.min(episodes - first);
                trainers.push(start(model.share(adaptation)?, lanes, validation.side_by_side(lanes)?)?);
            }
        }
        Ok(Self { trainers, pool, first_performance: None, together: Together::default() })
    }

    /// How many of so many episodes share a trainer's passes at most.
    pub fn lanes_of_a_trainer(adaptation: &Adaptation, device: Device, episodes: usize) -> usize {
        match device {
            _ if !adaptation.has_adapters() => 1,
            Device::Cpu => LANES.min(episodes),
            _ => episodes,
        }
    }

    /// What steps and measurements of this process have taken.
    pub fn account(&self) -> Account {
        match self.trainers.as_slice() {
            [one] => one.trainer.account(),
            several => {
                let accounts: Vec<Account> = several.iter().map(|one| one.trainer.account()).collect();
                Account::of_all(&accounts, &self.together)
            }
        }
    }

    /// Floating-point operations for so many tokens, of training steps or forward passes.
    pub fn flops(&self, tokens: usize, train: bool) -> f64 {
        self.trainers.first().map_or(0.0, |one| one.trainer.flops(tokens, train))
    }

    /// How many numbers each episode trains.
    pub fn trained_numbers(&self) -> usize {
        self.trainers.first().map_or(0, |one| one.trainer.model.trainable().count() / one.trainer.lanes())
    }

    /// The trained numbers of each episode, copied.
    pub fn trained(&self) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for One { trainer, .. } in &self.trainers {
            let flat = no_grad(|| trainer.model.trainable().flat.f_detach_copy())?;
            all.extend(flat.f_chunk(trainer.lanes() as i64, 0)?);
        }
        Ok(all)
    }

    /// What fitted in memory: to be kept beside the state of a selector, because smaller parts round otherwise.
    pub fn room(&self) -> Vec<[usize; 2]> {
        let room = |one: &One| [one.trainer.config.micro_batch_tokens, one.validation.too_many()];
        self.trainers.iter().map(room).collect()
    }

    /// Goes on with what fitted in memory in an earlier process.
    ///
    /// # Errors
    /// It had other trainers.
    pub fn set_room(&mut self, room: &[[usize; 2]]) -> Result<()> {
        ensure!(room.len() == self.trainers.len(), "the room of {} trainers for {}", room.len(), self.trainers.len());
        for (one, &[micro_batch_tokens, too_many]) in self.trainers.iter_mut().zip(room) {
            one.trainer.config.micro_batch_tokens = micro_batch_tokens;
            one.validation.set_too_many(too_many);
        }
        Ok(())
    }

    /// Does `work` for every trainer, and returns what it gave for every episode, in order.
    fn each<T: Send>(
        &mut self,
        work: impl Fn(usize, &mut One, &TrainingPool) -> Result<Vec<T>> + Sync,
        phase: fn(&mut Together) -> &mut PhaseUse,
    ) -> Result<Vec<T>> {
        let pool = &self.pool;
        if let [one] = self.trainers.as_mut_slice() {
            return work(0, one, pool);
        }
        let mut firsts = Vec::new();
        let mut episodes = 0;
        for one in &self.trainers {
            firsts.push(episodes);
            episodes += one.trainer.lanes();
        }
        let running = Meter::start(self.trainers[0].trainer.model.device());
        let threads = tch::get_num_threads();
        let results: Result<Vec<Vec<T>>> = self
            .trainers
            .par_iter_mut()
            .zip(firsts)
            .map(|(one, first)| {
                // Trainers are what the cores are shared out by.
                tch::set_num_threads(1);
                work(first, one, pool)
            })
            .collect();
        tch::set_num_threads(threads);
        phase(&mut self.together).add(running);
        Ok(results?.into_iter().flatten().collect())
    }
}

impl Ensemble for Episodes {
    fn episodes(&self) -> usize {
        self.trainers.iter().map(|one| one.trainer.lanes()).sum()
    }

    fn restore_all(&mut self) -> Result<f64> {
        for one in &mut self.trainers {
            one.trainer.restore_snapshot(&one.start)?;
        }
        if let Some(performance) = self.first_performance {
            return Ok(performance);
        }
        let performances = self.performances()?;
        let first = *performances.first().ok_or_else(|| anyhow!("a round without an episode"))?;
        self.first_performance = Some(first);
        Ok(first)
    }

    fn step_all(&mut self, batches: &[Vec<u32>]) -> Result<Vec<StepReport>> {
        ensure!(batches.len() == self.episodes(), "{} batches for {} episodes", batches.len(), self.episodes());
        let step = |first: usize, one: &mut One, pool: &TrainingPool| -> Result<Vec<StepOutcome>> {
            let batches = &batches[first..first + one.trainer.lanes()];
            let rows = batches.iter().map(|batch| pool.rows(batch)).collect::<Result<Vec<_>>>()?;
            let rows: Vec<TrainingRows<'_>> =
                rows.iter().map(|(sequences, states)| TrainingRows { sequences, states: states.as_deref() }).collect();
            one.trainer.step_lanes(&rows)
        };
        let outcomes = self.each(step, |together| &mut together.train)?;
        Ok(outcomes.iter().map(StepOutcome::trained).collect())
    }

    fn performances(&mut self) -> Result<Vec<f64>> {
        self.each(|_, one, _| one.trainer.performances(&one.validation), |together| &mut together.evaluation)
    }
}

#[cfg(test)]
#[path = "episode_tests.rs"]
mod tests;
