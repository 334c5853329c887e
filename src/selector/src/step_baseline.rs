//! The baseline of each step: the mean reward around this step (docs/method.md, section 4, `baseline`). Early steps
//! gain more than late steps, whatever the model is trained on.

use tch::Tensor;

use raisin_base::error::{Context as _, Result};

/// The weight of a round falls by this factor with each later round.
const KEEP: f64 = 0.8;
/// The baseline of a step is a mean over this many steps before it, itself, and as many steps after it.
const WINDOW: usize = 2;

/// Weighted sums over the rounds so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBaseline {
    /// S_t: the weighted sum over the rounds of the mean reward of the round's episodes at step t. `[T]`
    sums: Vec<f64>,
    /// w: the sum of the weights of the rounds.
    weight: f64,
}

impl StepBaseline {
    /// Adds the rewards of a round, `[episodes][T]`, and returns the baseline of each of them, `[episodes][T]`.
    ///
    /// Let R(e, t) be the reward of episode e of the E episodes of this round, W(t) the steps from t - 2 to t + 2 that
    /// an episode has, and S and w the sums over the earlier rounds. The baseline is the mean reward around step t in
    /// the earlier rounds and in the other episodes of this round:
    ///
    /// b(e, t) = (sum over s in W(t) of (0.8 S_s + 1/E sum over e' != e of R(e', s))) / (|W(t)| (0.8 w + (E - 1)/E))
    ///
    /// No reward of episode e is part of b(e, t): a baseline that contains the reward from which it is subtracted
    /// removes a part of the reward, and the whole reward if there is no other.
    ///
    /// The first round of a single episode has only its own rewards. Its baseline is the mean of the two measurements
    /// before the measurement of the step, and of the two after it; 0 if there are none. `every` consecutive steps
    /// share one measurement.
    pub fn absorb(&mut self, rewards: &[Vec<f64>], every: usize) -> Vec<Vec<f64>> {
        let (steps, episodes) = (rewards.first().map_or(0, Vec::len), rewards.len() as f64);
        self.sums.resize(steps, 0.0);
        let sums: Vec<f64> = (0..steps).map(|step| rewards.iter().map(|episode| episode[step]).sum()).collect(); // [T]
        let weight = self.weight * KEEP + (episodes - 1.0) / episodes;
        let baseline = |own: &[f64], step: usize| {
            if weight <= 0.0 {
                return mean_of_neighbours(own, step, every);
            }
            let window = step.saturating_sub(WINDOW)..(step + WINDOW + 1).min(steps);
            let others = |step: usize| self.sums[step] * KEEP + (sums[step] - own[step]) / episodes;
            window.clone().map(others).sum::<f64>() / (weight * window.len() as f64)
        };
        let baselines = rewards.iter().map(|own| (0..steps).map(|step| baseline(own, step)).collect()).collect();
        self.sums.iter_mut().zip(&sums).for_each(|(sum, rewards)| *sum = *sum * KEEP + rewards / episodes);
        self.weight = self.weight * KEEP + 1.0;
        baselines
    }

    /// w, then S: `[1 + T]` f64.
    pub fn tensor(&self) -> Tensor {
        Tensor::from_slice(&[&[self.weight], self.sums.as_slice()].concat())
    }

    /// Reads the result of [`Self::tensor`].
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let values: Vec<f64> = Vec::try_from(tensor)?;
        let (weight, sums) = values.split_first().context("the saved step baseline has no weight")?;
        Ok(Self { sums: sums.to_vec(), weight: *weight })
    }
}

/// The mean of the rewards whose measurements are one or two measurements away from the measurement of `step`.
fn mean_of_neighbours(rewards: &[f64], step: usize, every: usize) -> f64 {
    let measurement = |step: usize| step / every.max(1);
    let is_near = |other: usize| (1..=WINDOW).contains(&measurement(other).abs_diff(measurement(step)));
    let near: Vec<f64> = (0..rewards.len()).filter(|&other| is_near(other)).map(|other| rewards[other]).collect();
    near.iter().sum::<f64>() / near.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::seed::Seed;

    #[test]
    fn a_baseline_is_the_mean_reward_around_the_step_in_earlier_rounds_and_other_episodes() {
        let mut baseline = StepBaseline::default();
        // The first round of a single episode: the neighbouring rewards of the episode itself.
        assert_eq!(baseline.absorb(&[vec![1.0, 2.0, 4.0, 8.0]], 1), [[3.0, 13.0 / 3.0, 11.0 / 3.0, 3.0]]);
        // Later rounds of a single episode: the rewards of the earlier rounds around the step.
        let mut baseline = StepBaseline::default();
        baseline.absorb(&[vec![2.0; 6]], 1);
        assert_eq!(baseline.absorb(&[vec![4.0; 6]], 1), [[2.0; 6]]);
        let after = baseline.absorb(&[vec![9.0; 6]], 1).concat();
        assert!(after.iter().all(|value| (value - (2.0 * KEEP + 4.0) / (KEEP + 1.0)).abs() < 1e-12), "{after:?}");
        assert_eq!(StepBaseline::from_tensor(&baseline.tensor()).expect("its own tensor"), baseline);
        // Several episodes: the other episodes of the round, and their weight beside the earlier rounds.
        let mut baseline = StepBaseline::default();
        assert_eq!(baseline.absorb(&[vec![1.0; 3], vec![5.0; 3]], 1), [[5.0; 3], [1.0; 3]]);
        let second = baseline.absorb(&[vec![1.0; 3], vec![5.0; 3]], 1).concat();
        assert!((second[0] - (3.0 * KEEP + 2.5) / (KEEP + 0.5)).abs() < 1e-12, "{second:?}");
    }

    #[test]
    fn no_reward_is_part_of_its_own_baseline() {
        for (episodes, every) in [(1, 1), (3, 1), (1, 3), (2, 4)] {
            let mut rng = Seed::new(9).rng();
            // `every` consecutive steps share one measurement.
            let mut rewards = || -> Vec<f64> {
                let measured: Vec<f64> = (0..12).map(|_| rng.normal()).collect();
                (0..12).map(|step| measured[step / every]).collect()
            };
            let mut before = StepBaseline::default();
            for round in 0..3 {
                let round_rewards: Vec<Vec<f64>> = (0..episodes).map(|_| rewards()).collect();
                let baselines = before.clone().absorb(&round_rewards, every);
                for (episode, measurement) in (0..episodes).flat_map(|one| (0..12 / every).map(move |two| (one, two))) {
                    let steps = measurement * every..(measurement + 1) * every;
                    let mut changed = round_rewards.clone();
                    changed[episode][steps.clone()].iter_mut().for_each(|reward| *reward += 100.0);
                    let after = before.clone().absorb(&changed, every);
                    for step in steps {
                        let (one, two) = (baselines[episode][step], after[episode][step]);
                        assert!(
                            (one - two).abs() < 1e-9,
                            "round {round}, {episodes} episodes, step {step}: {one} {two}"
                        );
                    }
                }
                before.absorb(&round_rewards, every);
            }
        }
    }
}
