//! The costs of training: tokens, FLOPs, time and memory.

use std::time::Duration;

use super::meter::PhaseUse;

/// The cost of one part of training so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CostCounter {
    pub time: Duration,
    pub tokens: u64,
    pub supervised_tokens: u64,
    pub flops: f64,
    /// The peak memory; 0 if it was not measured.
    pub peak_bytes: u64,
}

impl CostCounter {
    pub fn count(&mut self, tokens: usize, supervised_tokens: usize, flops: f64) {
        self.tokens += tokens as u64;
        self.supervised_tokens += supervised_tokens as u64;
        self.flops += flops;
    }

    /// Adds everything but the time.
    fn add_counts(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.supervised_tokens += other.supervised_tokens;
        self.flops += other.flops;
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
    }
}

/// The phases of all steps so far. With recomputed activations, both forward passes count as a part of the backward
/// pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Phases {
    pub forward: PhaseUse,
    pub backward: PhaseUse,
    pub optimizer: PhaseUse,
}

impl Phases {
    fn each(&mut self) -> [&mut PhaseUse; 3] {
        [&mut self.forward, &mut self.backward, &mut self.optimizer]
    }
}

/// The costs of all steps and measurements of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// Training steps.
    pub train: CostCounter,
    /// Measurements of the performance.
    pub evaluation: CostCounter,
    /// Measurements of the effects of rows.
    pub effects: CostCounter,
    pub phases: Phases,
}

/// The elapsed time and the memory of trainers that work at the same time. A single trainer cannot measure them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Together {
    pub train: PhaseUse,
    pub evaluation: PhaseUse,
    pub effects: PhaseUse,
}

impl Account {
    /// The account of several trainers that worked at the same time. Tokens and FLOPs are sums. Time and memory are
    /// those of `together`; the phases share the time in proportion to the sums of their own times.
    pub(super) fn of_all(accounts: &[Self], together: &Together) -> Self {
        let mut all = Self::default();
        for account in accounts {
            all.train.add_counts(&account.train);
            all.evaluation.add_counts(&account.evaluation);
            all.effects.add_counts(&account.effects);
            let mut of_one = account.phases;
            for (sum, one) in all.phases.each().into_iter().zip(of_one.each()) {
                sum.time += one.time;
            }
        }
        (all.train.time, all.evaluation.time) = (together.train.time, together.evaluation.time);
        (all.effects.time, all.effects.peak_bytes) = (together.effects.time, together.effects.peak_bytes);
        all.train.peak_bytes = together.train.peak_bytes;
        all.evaluation.peak_bytes = together.evaluation.peak_bytes;
        let taken: Duration = all.phases.each().iter().map(|phase| phase.time).sum();
        let share = if taken.is_zero() { 0.0 } else { together.train.time.as_secs_f64() / taken.as_secs_f64() };
        for phase in all.phases.each() {
            *phase = PhaseUse { time: phase.time.mul_f64(share), peak_bytes: together.train.peak_bytes };
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_parallel_trainers_has_the_elapsed_time_and_the_sums_of_tokens() {
        let seconds = Duration::from_secs;
        let one = Account {
            train: CostCounter { time: seconds(8), tokens: 10, supervised_tokens: 4, flops: 2.0, peak_bytes: 0 },
            evaluation: CostCounter { time: seconds(1), tokens: 3, ..CostCounter::default() },
            effects: CostCounter { time: seconds(1), tokens: 5, ..CostCounter::default() },
            phases: Phases {
                forward: PhaseUse { time: seconds(2), peak_bytes: 0 },
                backward: PhaseUse { time: seconds(5), peak_bytes: 0 },
                optimizer: PhaseUse { time: seconds(1), peak_bytes: 0 },
            },
        };
        let together = Together {
            train: PhaseUse { time: seconds(8), peak_bytes: 700 },
            evaluation: PhaseUse { time: seconds(1), peak_bytes: 500 },
            effects: PhaseUse { time: seconds(2), peak_bytes: 300 },
        };
        let all = Account::of_all(&[one, one], &together);
        assert_eq!((all.train.tokens, all.train.supervised_tokens, all.train.time), (20, 8, seconds(8)));
        assert_eq!((all.evaluation.tokens, all.evaluation.peak_bytes), (6, 500));
        assert_eq!((all.effects.tokens, all.effects.time, all.effects.peak_bytes), (10, seconds(2), 300));
        assert_eq!(all.phases.backward, PhaseUse { time: seconds(5), peak_bytes: 700 });
        assert_eq!(Account::of_all(&[Account::default()], &Together::default()), Account::default());
    }
}
