//! The learner that PPO plays its episodes with: a model that is put back to its start, trained on chosen rows, and
//! asked how well it does. Leaves the choosing to the selector.
//!
//! An episode starts from a copy in memory (the trained numbers and what the optimizer keeps of each), never from files;
//! pool and validation rows are encoded once for all episodes.

use std::time::{Duration, Instant};

use super::memory::Meter;
use super::pool::Pool;
use super::trainer::{Snapshot, Trainer};
use super::validation::ValidationSet;
use raisin_base::error::Result;
use raisin_base::learner::{Learner, Trained};

/// What some part of an episode has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    pub time: Duration,
    pub tokens: u64,
    pub supervised_tokens: u64,
    pub flops: f64,
    /// The highest memory, where it was measured.
    pub peak_bytes: u64,
}

impl Spent {
    pub fn add(&mut self, start: Instant, tokens: usize, supervised_tokens: usize, flops: f64) {
        self.time += start.elapsed();
        self.tokens += tokens as u64;
        self.supervised_tokens += supervised_tokens as u64;
        self.flops += flops;
    }
}

/// A proxy model, a pool, and a validation set.
pub struct EpisodeLearner {
    trainer: Trainer,
    pool: Pool,
    validation: ValidationSet,
    start: Snapshot,
    /// P(M_0): the same before every episode, measured once.
    first_performance: Option<f64>,
    train: Spent,
    evaluation: Spent,
}

impl EpisodeLearner {
    /// Every episode starts from what `trainer` is now.
    pub fn new(trainer: Trainer, pool: Pool, validation: ValidationSet) -> Result<Self> {
        let start = trainer.snapshot()?;
        let (train, evaluation) = (Spent::default(), Spent::default());
        Ok(Self { trainer, pool, validation, start, first_performance: None, train, evaluation })
    }

    /// What training steps have cost.
    pub fn train_cost(&self) -> Spent {
        self.train
    }

    /// What measuring the performance has cost.
    pub fn evaluation_cost(&self) -> Spent {
        self.evaluation
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }
}

impl Learner for EpisodeLearner {
    fn restore(&mut self) -> Result<f64> {
        self.trainer.restore_snapshot(&self.start)?;
        match self.first_performance {
            Some(performance) => Ok(performance),
            None => {
                let performance = self.performance()?;
                self.first_performance = Some(performance);
                Ok(performance)
            }
        }
    }

    fn step(&mut self, batch: &[u32]) -> Result<Trained> {
        let start = Instant::now();
        let (sequences, states) = self.pool.rows(batch)?;
        let outcome = self.trainer.step(&sequences, states.as_deref())?;
        let flops = self.trainer.flops(outcome.tokens, true);
        self.train.add(start, outcome.tokens, outcome.supervised_tokens, flops);
        Ok(Trained {
            loss: outcome.loss,
            tokens: outcome.tokens as u64,
            supervised_tokens: outcome.supervised_tokens as u64,
            learning_rate: outcome.learning_rate,
            flops,
        })
    }

    fn performance(&mut self) -> Result<f64> {
        let start = Instant::now();
        let meter = Meter::start(self.trainer.model.device());
        let loss = self.validation.loss(&*self.trainer.model.joined_to_evaluate()?)?;
        self.evaluation.peak_bytes = self.evaluation.peak_bytes.max(meter.stop().peak_bytes);
        let flops = self.trainer.flops(self.validation.tokens(), false);
        self.evaluation.add(start, self.validation.tokens(), self.validation.supervised_tokens(), flops);
        Ok(-loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainerConfig;
    use raisin_base::seed::Seed;
    use raisin_corpus::Sequence;
    use raisin_lm::{Adaptation, Config, Model};
    use tch::{Device, Kind};

    fn row(start: u32, length: u32) -> Sequence {
        let tokens: Vec<u32> = (0..length).map(|place| (start + place) % 20).collect();
        Sequence { supervised: tokens.iter().enumerate().map(|(place, _)| place > 1).collect(), tokens }
    }

    fn learner() -> Result<EpisodeLearner> {
        tch::set_num_threads(1);
        let mut model = Model::init(Config::llama(20, 16, 2, 2, 1, 32), &Seed::new(1), Device::Cpu, Kind::Float)?;
        model.prepare(&Adaptation::Full, &Seed::new(2))?;
        let config = TrainerConfig { learning_rate: 1e-2, total_steps: 8, ..TrainerConfig::default() };
        let pool = (0..10).map(|id| (id != 4).then(|| row(id * 3, 6 + id % 3))).collect();
        let validation = [row(1, 9), row(5, 4), row(2, 7)];
        let validation = ValidationSet::new(&validation.iter().collect::<Vec<_>>(), None, 12, Device::Cpu)?;
        EpisodeLearner::new(Trainer::new(model, config, None)?, Pool::new(pool, None), validation)
    }

    #[test]
    fn two_episodes_with_the_same_batches_perform_the_same_bit_for_bit() -> Result<()> {
        let mut learner = learner()?;
        let mut episodes = Vec::new();
        for _ in 0..2 {
            let mut seen = vec![learner.restore()?];
            for step in 0..8 {
                let trained = learner.step(&[step, (step + 5) % 10].map(|id| if id == 4 { 0 } else { id }))?;
                seen.extend([trained.loss, learner.performance()?]);
            }
            episodes.push(seen.into_iter().map(f64::to_bits).collect::<Vec<_>>());
        }
        assert_eq!(episodes[0], episodes[1]);
        assert_ne!(episodes[0][0], episodes[0][16], "eight steps change the performance");
        Ok(())
    }

    #[test]
    fn an_episode_starts_again_without_the_files_it_came_from() -> Result<()> {
        tch::set_num_threads(1);
        let folder = tempfile::tempdir()?;
        Model::init(Config::llama(20, 16, 2, 2, 1, 32), &Seed::new(1), Device::Cpu, Kind::Float)?
            .save(folder.path())?;
        let mut model = Model::load(folder.path(), Device::Cpu, Kind::Float)?;
        model.prepare(&Adaptation::Full, &Seed::new(2))?;
        let trainer = Trainer::new(model, TrainerConfig { learning_rate: 1e-2, ..TrainerConfig::default() }, None)?;
        let validation = ValidationSet::new(&[&row(1, 9)], None, 12, Device::Cpu)?;
        let mut learner = EpisodeLearner::new(trainer, Pool::new(vec![Some(row(3, 8))], None), validation)?;
        drop(folder);
        let first = learner.restore()?;
        learner.step(&[0])?;
        let trained = learner.performance()?;
        learner.restore()?;
        assert_ne!(first.to_bits(), trained.to_bits());
        assert_eq!(first.to_bits(), learner.performance()?.to_bits());
        Ok(())
    }

    #[test]
    fn what_an_episode_costs_is_counted() -> Result<()> {
        let mut learner = learner()?;
        learner.restore()?;
        learner.step(&[0, 1])?;
        learner.performance()?;
        learner.restore()?;
        assert_eq!((learner.train_cost().tokens, learner.train_cost().supervised_tokens), (13, 9));
        // P(M_0) is measured once, whatever the number of episodes.
        assert_eq!(learner.evaluation_cost().tokens, 2 * 20);
        assert!(learner.train_cost().flops > 0.0 && learner.evaluation_cost().flops > 0.0);
        Ok(())
    }

    #[test]
    fn a_row_that_cannot_be_trained_on_is_named() -> Result<()> {
        let error = learner()?.step(&[0, 4]).expect_err("row 4 has no sequence");
        assert!(error.to_string().contains("instruction 4"));
        Ok(())
    }
}
