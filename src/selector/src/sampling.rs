//! Ordered draws without replacement by the Gumbel-top-b rule, with their exact Plackett-Luce log-probabilities.
//!
//! If independent Gumbel noise is added to the logits, the b largest sums are b draws without replacement: each from
//! the softmax over the candidates that are left. The probability of such an ordered draw is a product of softmaxes, so
//! PPO's ratio has an exact density. (The paper takes the top b in training: its old policy is deterministic, but its
//! ratio uses a softmax.)

use tch::{Kind as TensorKind, Tensor};

use raisin_base::random::Rng;

/// Used instead of minus infinity: the exponential is 0 too, but no gradient becomes NaN.
const NEVER: f64 = -1e30;

/// How to draw from logits.
pub enum DrawMode<'a> {
    /// By Gumbel-top-b, from the distribution of the policy.
    Sample(&'a mut Rng),
    /// The highest logits.
    Top,
}

impl DrawMode<'_> {
    /// The indices of `count` logits, or of all logits if there are fewer, in the order of the draw. Of equal logits,
    /// the first comes first.
    pub fn indices(&mut self, logits: &[f32], count: usize) -> Vec<usize> {
        let mut keys: Vec<(f64, usize)> = logits
            .iter()
            .enumerate()
            .map(|(index, &logit)| match self {
                DrawMode::Sample(rng) => (f64::from(logit) + gumbel(rng), index),
                DrawMode::Top => (f64::from(logit), index),
            })
            .collect();
        let order = |one: &(f64, usize), two: &(f64, usize)| two.0.total_cmp(&one.0).then(one.1.cmp(&two.1));
        let count = count.min(keys.len());
        if count < keys.len() && count > 0 {
            keys.select_nth_unstable_by(count - 1, order);
        }
        keys.truncate(count);
        keys.sort_by(order);
        keys.into_iter().map(|(_, index)| index).collect()
    }
}

impl DrawMode<'_> {
    /// The indices of `count` independent draws with replacement. The highest logits are distinct as long as there are
    /// `count` of them; then they repeat.
    pub fn repeated_indices(&mut self, logits: &[f32], count: usize) -> Vec<usize> {
        match self {
            DrawMode::Sample(_) => (0..count).flat_map(|_| self.indices(logits, 1)).collect(),
            DrawMode::Top => self.indices(logits, count).into_iter().cycle().take(count).collect(),
        }
    }
}

fn gumbel(rng: &mut Rng) -> f64 {
    // 1 - u is in (0, 1]. The smallest positive number keeps the outer logarithm finite.
    let exponential = -(1.0 - rng.unit()).ln();
    -(exponential + f64::MIN_POSITIVE).ln()
}

/// The log-probability of each draw, given the earlier draws; differentiable in the logits.
///
/// `logits` `[m, n]`, `drawn` `[m, b]` (indices in the order of the draw) -> `[m, b]`.
pub fn plackett_luce(logits: &Tensor, drawn: &Tensor) -> Tensor {
    let size = drawn.size();
    let (m, b) = (size[0], size[1]);
    let picked = logits.gather(1, drawn, false); // [m, b]
    let mask = Tensor::zeros(logits.size(), (TensorKind::Bool, logits.device())).scatter_value(1, drawn, 1); // [m, n]
    let rest = logits.masked_fill(&mask, NEVER).logsumexp([1i64].as_slice(), true); // [m, 1]
    // Draw k competes with the draws k..b and with the candidates that were not drawn.
    let earlier = Tensor::ones([b, b], (TensorKind::Bool, logits.device())).tril(-1); // [b, b]
    let later = picked.unsqueeze(1).expand([m, b, b], false).masked_fill(&earlier, NEVER); // [m, b, b]
    let against = Tensor::cat(&[later, rest.unsqueeze(1).expand([m, b, 1], false)], 2); // [m, b, b + 1]
    picked - against.logsumexp([2i64].as_slice(), false) // [m, b]
}

/// The log-probability of each draw if the first `shares` draws are independent draws with replacement, and the others
/// are draws without replacement from what the first draws left; differentiable in the logits.
///
/// `logits` `[1, n]` -> `[draws]`.
pub fn shares_then_plackett_luce(logits: &Tensor, drawn: &[usize], shares: usize) -> Tensor {
    let index: Vec<i64> = drawn.iter().map(|&drawn| drawn as i64).collect();
    let (first, others) = index.split_at(shares.min(index.len()));
    let first = Tensor::from_slice(first).unsqueeze(0); // [1, shares]
    let of_shares = logits.log_softmax(1, None).gather(1, &first, false); // [1, shares]
    if others.is_empty() {
        return of_shares.squeeze_dim(0);
    }
    let taken = Tensor::zeros(logits.size(), (TensorKind::Bool, logits.device())).scatter_value(1, &first, 1); // [1, n]
    let of_others = plackett_luce(&logits.masked_fill(&taken, NEVER), &Tensor::from_slice(others).unsqueeze(0));
    Tensor::cat(&[of_shares, of_others], 1).squeeze_dim(0)
}

/// The entropy of the softmax of each row, in nats: `[m, n]` -> `[m]`.
pub fn entropy(logits: &Tensor) -> Tensor {
    let log_probs = logits.log_softmax(1, None);
    -(log_probs.exp() * &log_probs).sum_dim_intlist([1i64].as_slice(), false, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::golden::{assert_close, numbers};
    use raisin_base::seed::Seed;

    /// Every ordered draw of `count` out of `n`.
    fn draws(n: usize, count: usize) -> Vec<Vec<i64>> {
        if count == 0 {
            return vec![Vec::new()];
        }
        draws(n, count - 1)
            .into_iter()
            .flat_map(|before| {
                let free: Vec<i64> = (0..n as i64).filter(|next| !before.contains(next)).collect();
                free.into_iter().map(move |next| [before.as_slice(), &[next]].concat())
            })
            .collect()
    }

    fn probability(logits: &[f64], draw: &[i64]) -> f64 {
        let log_probs = plackett_luce(&Tensor::from_slice(logits).unsqueeze(0), &Tensor::from_slice(draw).unsqueeze(0));
        log_probs.sum(TensorKind::Double).exp().double_value(&[])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_probabilities_of_all_ordered_draws_sum_to_one(
            logits in prop::collection::vec(-8.0f64..8.0, 1..6),
            count in 1usize..5,
        ) {
            let count = count.min(logits.len());
            let sum: f64 = draws(logits.len(), count).iter().map(|draw| probability(&logits, draw)).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        }

        #[test]
        fn a_draw_has_distinct_indices_and_as_many_as_asked_for(
            logits in prop::collection::vec(-5.0f32..5.0, 0..30),
            count in 0usize..40,
            seed in 0u64..1000,
        ) {
            let mut drawn = DrawMode::Sample(&mut Seed::new(seed).rng()).indices(&logits, count);
            prop_assert_eq!(drawn.len(), count.min(logits.len()));
            drawn.sort_unstable();
            drawn.dedup();
            prop_assert_eq!(drawn.len(), count.min(logits.len()));
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_formula() {
        let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/ppo.json")).expect("valid JSON");
        let golden = &golden["plackett_luce"];
        let logits = Tensor::from_slice(&numbers(&golden["logits"])).unsqueeze(0).expand([12, 4], false);
        let pairs: Vec<i64> = numbers(&golden["pairs"]).into_iter().map(|index| index as i64).collect();
        let ours = plackett_luce(&logits, &Tensor::from_slice(&pairs).view([12, 2]));
        let ours: Vec<f64> = Vec::try_from(ours.contiguous().view([-1])).expect("f64");
        assert_close(&ours, &numbers(&golden["log_probs"]), 1e-12, "log_probs");
    }

    #[test]
    fn gumbel_top_b_draws_as_often_as_plackett_luce_says() {
        let logits = [0.5f32, -0.3, 1.2, 0.0];
        let exact: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
        let mut rng = Seed::new(23).rng();
        let all = draws(4, 2);
        let mut counts = vec![0u32; all.len()];
        let times = 40_000;
        for _ in 0..times {
            let drawn = DrawMode::Sample(&mut rng).indices(&logits, 2);
            let drawn: Vec<i64> = drawn.into_iter().map(|index| index as i64).collect();
            counts[all.iter().position(|draw| *draw == drawn).expect("a draw of two")] += 1;
        }
        for (draw, count) in all.iter().zip(counts) {
            let expected = probability(&exact, draw);
            let deviation = (expected * (1.0 - expected) / f64::from(times)).sqrt();
            let observed = f64::from(count) / f64::from(times);
            assert!((observed - expected).abs() < 4.5 * deviation, "{draw:?}: {observed} is not {expected}");
        }
    }

    #[test]
    fn the_top_is_the_top_and_ties_go_to_the_first() {
        assert_eq!(DrawMode::Top.indices(&[1.0, 3.0, 2.0, 3.0], 3), [1, 3, 2]);
        assert_eq!(DrawMode::Top.indices(&[1.0], 3), [0]);
    }

    #[test]
    fn drawing_a_whole_set_has_gradients_that_are_numbers() {
        let logits = Tensor::from_slice(&[0.1f32, 0.2, 0.3]).unsqueeze(0).set_requires_grad(true);
        plackett_luce(&logits, &Tensor::from_slice(&[2i64, 0, 1]).unsqueeze(0)).sum(TensorKind::Float).backward();
        assert!(logits.grad().isfinite().all().int64_value(&[]) == 1);
    }
}
