//! `bandit`: the clusters are the arms of EXP3, after LEAD. Each step draws one arm and takes the next rows of its
//! cluster, those with the highest loss first. An arm is rewarded for progress: how much more the loss of its rows has
//! fallen since its last draw.
//!
//! Rows of a cluster come in the order of their losses, so the losses of two batches cannot be compared. Instead, each
//! batch has a reference: its loss under the model of the features. The fall of a batch is 1 - loss / reference, and the
//! progress of an arm is the difference of the falls of two of its batches. EXP3 needs rewards of one scale: progress is
//! mapped to the range from -1 to 1 by the quantiles 0.2 and 0.8 of all progress so far (Graves and others, 2017).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::score::{NO_LOG_PROB, counted, mean_loss};
use crate::chooser::{Chooser, ChooserInputs, SelectedCandidate, StepContext};
use raisin_base::error::{Context as _, Problem, Result, ensure};
use raisin_base::seed::Seed;
use raisin_settings::SelectionMethod;

/// A row of a cluster.
#[derive(Clone, Copy, Debug)]
struct ArmRow {
    id: u32,
    /// The mean loss per token under the model of the features.
    loss: f64,
    tokens: f64,
}

/// A cluster.
struct BanditArm {
    cluster: u32,
    /// The highest loss comes first.
    rows: Vec<ArmRow>,
}

pub struct Bandit {
    arms: Vec<BanditArm>,
    batch_size: usize,
    seed: Seed,
    /// The share of draws in which all arms are equally probable: the gamma of EXP3 for this number of steps.
    exploration: f64,
    excluded: Vec<(String, usize)>,
    memory: BanditMemory,
}

/// The part that changes from step to step. Numbers are saved as bits: an f64 that is written in decimal digits may be
/// read back as another number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct BanditMemory {
    /// The logarithm of the weight of each arm.
    weights: Vec<u64>,
    /// For each arm, the place of its next row.
    next: Vec<usize>,
    /// For each arm, the fall of its last batch.
    falls: Vec<Option<u64>>,
    /// All progress so far.
    progress: Vec<u64>,
    last: Option<LastDraw>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LastDraw {
    step: usize,
    arm: usize,
    /// The probability of the draw.
    probability: u64,
    /// The loss of the batch under the model of the features.
    reference: u64,
}

pub fn bandit(inputs: &ChooserInputs) -> Result<Bandit> {
    let pool = inputs.pool;
    let losses = mean_loss(inputs, &pool.logp_conditional, &pool.response_tokens, SelectionMethod::Bandit)?;
    let clusters = pool.column(&pool.clusters, "clusters", SelectionMethod::Bandit)?;
    let (mut arms, mut missing): (Vec<BanditArm>, usize) = (Vec::new(), 0);
    for (row, loss) in losses.iter().enumerate() {
        let known = (loss.filter(|loss| loss.is_finite()), clusters[row], pool.response_tokens[row]);
        let (Some(loss), Some(cluster), Some(tokens)) = known else {
            missing += 1;
            continue;
        };
        let place = match arms.binary_search_by_key(&cluster, |arm| arm.cluster) {
            Ok(place) => place,
            Err(place) => {
                arms.insert(place, BanditArm { cluster, rows: Vec::new() });
                place
            }
        };
        arms[place].rows.push(ArmRow { id: pool.ids[row], loss, tokens: f64::from(tokens) });
    }
    for arm in &mut arms {
        arm.rows.sort_by(|one, two| two.loss.total_cmp(&one.loss));
    }
    let rows: usize = arms.iter().map(|arm| arm.rows.len()).sum();
    if rows < inputs.batch_size {
        let problem =
            format!("method `bandit` can choose from {rows} candidates, but a batch needs {}", inputs.batch_size);
        return Err(Problem::new(problem).hint("a larger pool, a smaller batch, or another method").into());
    }
    let count = arms.len() as f64;
    let steps = inputs.total_steps.max(1) as f64;
    let exploration = (count * count.ln() / ((std::f64::consts::E - 1.0) * steps)).sqrt().min(1.0);
    let memory = BanditMemory {
        weights: vec![0f64.to_bits(); arms.len()],
        next: vec![0; arms.len()],
        falls: vec![None; arms.len()],
        progress: Vec::new(),
        last: None,
    };
    let (batch_size, seed, excluded) = (inputs.batch_size, inputs.seed.at("bandit"), counted(NO_LOG_PROB, missing));
    Ok(Bandit { arms, batch_size, seed, exploration, excluded, memory })
}

impl Bandit {
    /// The probability of each arm.
    fn probabilities(&self) -> Vec<f64> {
        let weights: Vec<f64> = self.memory.weights.iter().map(|&bits| f64::from_bits(bits)).collect();
        let highest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exponents: Vec<f64> = weights.iter().map(|weight| (weight - highest).exp()).collect();
        let sum: f64 = exponents.iter().sum();
        let even = self.exploration / self.arms.len() as f64;
        exponents.iter().map(|exponent| (1.0 - self.exploration) * exponent / sum + even).collect()
    }

    /// Rewards the arm of the last draw for the loss of its batch.
    fn learn(&mut self, last: LastDraw, loss: f64) {
        let memory = &mut self.memory;
        let fall = 1.0 - loss / f64::from_bits(last.reference);
        let earlier = memory.falls[last.arm].replace(fall.to_bits()).map_or(0.0, f64::from_bits);
        let progress = fall - earlier;
        memory.progress.push(progress.to_bits());
        let reward = scaled(progress, memory.progress.iter().map(|&bits| f64::from_bits(bits)).collect());
        let rate = self.exploration / self.arms.len() as f64;
        let weight = f64::from_bits(memory.weights[last.arm]) + rate * reward / f64::from_bits(last.probability);
        memory.weights[last.arm] = weight.to_bits();
    }

    /// The next rows of an arm, at most `count`, and none twice.
    fn take(&mut self, arm: usize, count: usize) -> Vec<ArmRow> {
        let rows = &self.arms[arm].rows;
        let next = &mut self.memory.next[arm];
        let taken = count.min(rows.len());
        let chosen = (0..taken).map(|place| rows[(*next + place) % rows.len()]).collect();
        *next = (*next + taken) % rows.len();
        chosen
    }
}

/// The progress in the range from -1 to 1, in which the quantiles 0.2 and 0.8 of all progress are the ends.
fn scaled(progress: f64, mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    let quantile = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
    let (low, high) = (quantile(0.2), quantile(0.8));
    if high > low { (2.0 * (progress - low) / (high - low) - 1.0).clamp(-1.0, 1.0) } else { 0.0 }
}

impl Chooser for Bandit {
    fn choose(&mut self, context: &StepContext) -> Result<Vec<SelectedCandidate>> {
        if let Some(last) = self.memory.last.take() {
            ensure!(last.step + 1 == context.step, "step {} follows step {}", context.step, last.step);
            let loss = context.last_loss.context("method `bandit` needs the loss of the step before")?;
            self.learn(last, loss);
        }
        let probabilities = self.probabilities();
        let mut open: Vec<usize> = (0..self.arms.len()).collect();
        let mut rng = self.seed.at(context.step).rng();
        let (mut first, mut batch) = (None, Vec::with_capacity(self.batch_size));
        // If a cluster has fewer rows than a batch, further arms fill the batch.
        while batch.len() < self.batch_size {
            let total: f64 = open.iter().map(|&arm| probabilities[arm]).sum();
            let mut rest = rng.unit() * total;
            let passed = |&arm: &usize| {
                rest -= probabilities[arm];
                rest < 0.0
            };
            let place = open.iter().position(passed).unwrap_or(open.len().saturating_sub(1));
            ensure!(!open.is_empty(), "the clusters have no row left for a batch");
            let arm = open.remove(place);
            first.get_or_insert(arm);
            let cluster = Some(self.arms[arm].cluster);
            batch.extend(self.take(arm, self.batch_size - batch.len()).into_iter().map(|row| (cluster, row)));
        }
        let tokens: f64 = batch.iter().map(|(_, row)| row.tokens).sum();
        let reference = batch.iter().map(|(_, row)| row.loss * row.tokens).sum::<f64>() / tokens;
        self.memory.last = first.map(|arm| LastDraw {
            step: context.step,
            arm,
            probability: probabilities[arm].to_bits(),
            reference: reference.to_bits(),
        });
        let chosen = |(cluster, row): (Option<u32>, ArmRow)| SelectedCandidate {
            id: row.id,
            cluster,
            score: Some(row.loss),
            log_prob: None,
        };
        Ok(batch.into_iter().map(chosen).collect())
    }

    fn excluded(&self) -> Vec<(String, usize)> {
        self.excluded.clone()
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.memory).unwrap_or_default()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let memory: BanditMemory =
            serde_json::from_value(state.clone()).context("the saved state of the method cannot be read")?;
        let arms = self.arms.len();
        ensure!(
            [memory.weights.len(), memory.next.len(), memory.falls.len()] == [arms; 3]
                && memory.next.iter().zip(&self.arms).all(|(next, arm)| *next < arm.rows.len())
                && memory.last.is_none_or(|last| last.arm < arms),
            "the saved state of the method belongs to other clusters"
        );
        self.memory = memory;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chooser::CandidateColumns;
    use raisin_settings::Third;

    /// Three clusters of 6, 6 and 2 rows.
    fn pool() -> CandidateColumns {
        let cluster = |row: u32| Some(if row < 12 { row % 2 } else { 2 });
        CandidateColumns {
            ids: (0..15).collect(),
            response_tokens: vec![Some(2); 15],
            // The loss of a row is its number plus 1; the last row has none.
            logp_conditional: (0..15).map(|row| (row < 14).then(|| -2.0 * f64::from(row + 1))).collect(),
            clusters: (0..15).map(cluster).collect(),
            ..CandidateColumns::default()
        }
    }

    fn made(pool: &CandidateColumns, seed: u64, total_steps: usize) -> Result<Bandit> {
        let (seed, third) = (Seed::new(seed), Third::default());
        bandit(&ChooserInputs { pool, batch_size: 3, total_steps, seed, third, top: None })
    }

    /// Plays steps in which only the rows of cluster 1 get easier: their losses fall with each of their steps.
    fn play(bandit: &mut Bandit, steps: std::ops::Range<usize>, total_steps: usize) -> Result<Vec<Vec<u32>>> {
        let mut batches = Vec::new();
        let mut last_loss = None;
        if steps.start > 0 {
            last_loss = Some(loss(bandit));
        }
        for step in steps {
            let batch = bandit.choose(&StepContext { step, total_steps, performance: None, last_loss })?;
            batches.push(batch.iter().map(|choice| choice.id).collect());
            last_loss = Some(loss(bandit));
        }
        Ok(batches)
    }

    fn loss(bandit: &Bandit) -> f64 {
        let last = bandit.memory.last.expect("a draw");
        let pulls = bandit.memory.progress.len() as f64;
        let fall = if last.arm == 1 { 0.002 * pulls } else { 0.0 };
        f64::from_bits(last.reference) * (1.0 - fall)
    }

    type IsIn = fn(u32) -> bool;

    #[test]
    fn the_rows_of_a_cluster_come_with_the_highest_loss_first_and_begin_again_after_the_last() -> Result<()> {
        let pool = pool();
        let mut bandit = made(&pool, 17, 40)?;
        assert_eq!(bandit.excluded(), [("without a log-probability".to_owned(), 1)]);
        let batches = play(&mut bandit, 0..40, 40)?;
        for batch in &batches {
            let different: std::collections::BTreeSet<&u32> = batch.iter().collect();
            assert_eq!(different.len(), 3, "{batch:?}");
        }
        let orders: [(IsIn, &[u32]); 3] = [
            (|id| id < 12 && id % 2 == 0, &[10, 8, 6, 4, 2, 0]),
            (|id| id < 12 && id % 2 == 1, &[11, 9, 7, 5, 3, 1]),
            (|id| id >= 12, &[13, 12]),
        ];
        for (is_in, order) in orders {
            let drawn: Vec<u32> = batches.iter().flatten().copied().filter(|id| is_in(*id)).collect();
            let expected: Vec<u32> = order.iter().copied().cycle().take(drawn.len()).collect();
            assert!(drawn.len() > order.len() && drawn == expected, "{drawn:?}");
        }
        Ok(())
    }

    #[test]
    fn the_arm_that_makes_progress_is_drawn_more_often() -> Result<()> {
        let pool = pool();
        let mut shares = Vec::new();
        for seed in 0..10 {
            let mut bandit = made(&pool, seed, 300)?;
            play(&mut bandit, 0..300, 300)?;
            let probabilities = bandit.probabilities();
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            shares.push(probabilities[1]);
        }
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!(mean > 0.5, "{shares:?}");
        Ok(())
    }

    #[test]
    fn a_restored_bandit_continues_as_an_uninterrupted_one() -> Result<()> {
        let pool = pool();
        let mut undisturbed = made(&pool, 17, 20)?;
        play(&mut undisturbed, 0..9, 20)?;
        let mut restored = made(&pool, 17, 20)?;
        restored.restore(&serde_json::from_str(&undisturbed.state().to_string())?)?;
        assert_eq!(restored.memory, undisturbed.memory);
        assert_eq!(play(&mut restored, 9..20, 20)?, play(&mut undisturbed, 9..20, 20)?);
        assert!(restored.restore(&Value::Null).is_err());
        Ok(())
    }

    #[test]
    fn equal_progress_has_no_reward_and_outliers_have_the_ends_of_the_range() {
        assert!(scaled(0.3, vec![0.3, 0.3, 0.3]).abs() < 1e-12);
        let all: Vec<f64> = (0..11).map(f64::from).collect();
        let close = |progress: f64, expected: f64| (scaled(progress, all.clone()) - expected).abs() < 1e-12;
        assert!(close(0.0, -1.0) && close(10.0, 1.0) && close(5.0, 0.0) && close(8.0, 1.0));
    }
}
