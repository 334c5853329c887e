//! The schedule of the learning rate: the rate of a step as a factor of the highest rate. The optimizer is in the crate
//! training.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate changes from its highest value to the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LearningRateSchedule {
    /// The learning rate stays constant.
    Constant,
    /// The learning rate falls linearly to zero.
    Linear,
    /// The learning rate falls along half a cosine wave to zero.
    #[default]
    Cosine,
}

impl LearningRateSchedule {
    /// The factor of the learning rate for the update `step` of `total`; the first update is 0. There is a linear
    /// warm-up over the first `warmup` share of the updates. This is as in transformers, except that the first update
    /// of a warm-up has a rate above zero. With a few dozen steps in total, an update with rate zero would be a
    /// noticeable loss.
    pub fn at(self, step: usize, total: usize, warmup: f64) -> f64 {
        let warmup_steps = (warmup * total as f64).ceil();
        let step = step as f64;
        if step < warmup_steps {
            return (step + 1.0) / (warmup_steps + 1.0);
        }
        let rest = (total as f64 - warmup_steps).max(1.0);
        let done = ((step - warmup_steps) / rest).min(1.0);
        match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - done,
            Self::Cosine => 0.5 * (1.0 + (PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cosine_without_warm_up_starts_at_one_and_is_half_way_in_the_middle() {
        assert!((LearningRateSchedule::Cosine.at(0, 100, 0.0) - 1.0).abs() < 1e-12);
        assert!((LearningRateSchedule::Cosine.at(50, 100, 0.0) - 0.5).abs() < 1e-12);
        assert!(LearningRateSchedule::Cosine.at(99, 100, 0.0) < 1e-3);
    }

    #[test]
    fn a_warm_up_rises_to_the_full_rate_and_no_step_has_rate_zero() {
        let factors: Vec<f64> = (0..5).map(|step| LearningRateSchedule::Constant.at(step, 20, 0.2)).collect();
        assert_eq!(factors, [0.2, 0.4, 0.6, 0.8, 1.0]);
    }

    proptest! {
        #[test]
        fn a_factor_is_positive_and_at_most_one(step in 0usize..500, total in 1usize..500, warmup in 0.0f64..0.9) {
            use LearningRateSchedule::{Constant, Cosine, Linear};
            for schedule in [Constant, Linear, Cosine] {
                let factor = schedule.at(step.min(total - 1), total, warmup);
                prop_assert!(factor > 0.0 && factor <= 1.0, "{schedule:?} gives {factor}");
            }
        }
    }
}
