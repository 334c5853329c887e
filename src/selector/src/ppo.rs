//! The formulas of PPO (docs/method.md, section 4), with the names that CleanRL uses in its logs. The tests compare
//! them with recorded numbers (tests/golden/ppo.json).

use tch::{Kind as TensorKind, Tensor};

use raisin_settings::ppo::Ratio;

/// Advantages A_t and returns G_t of one episode by generalised advantage estimation, all `[T]`. The episode ends after
/// the last step, so V and A are 0 there.
///
/// delta_t = R_t + gamma V(S_{t+1}) - V(S_t); A_t = delta_t + gamma lambda A_{t+1}; G_t = V(S_t) + A_t.
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> (Vec<f64>, Vec<f64>) {
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for step in (0..rewards.len()).rev() {
        let delta = rewards[step] + gamma * next_value - values[step];
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = values[step];
        advantages[step] = next_advantage;
    }
    let returns = advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect();
    (advantages, returns)
}

/// (a - mean) / (standard deviation + 1e-8), where the standard deviation divides by n - 1.
pub fn normalise(values: &[f64]) -> Vec<f64> {
    let n = values.len() as f64;
    if values.len() < 2 {
        return vec![0.0; values.len()];
    }
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    values.iter().map(|value| (value - mean) / (deviation + 1e-8)).collect()
}

/// Log-ratios are clamped to this absolute value. e^89 is infinite in f32 and its gradient is NaN, and with `ratio =
/// "product"` a log-ratio is a sum over a batch and can be that large. e^20 is far outside every clip range.
const LARGEST_LOG_RATIO: f64 = 20.0;

fn ratio_of(log_ratio: &Tensor) -> Tensor {
    log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
}

/// The loss of the clipped surrogate, element by element: max(-A r, -A clip(r, 1 - epsilon, 1 + epsilon)).
pub fn policy_loss(log_ratio: &Tensor, advantages: &Tensor, epsilon: f64) -> Tensor {
    let ratio = ratio_of(log_ratio);
    let unclipped = -(advantages * &ratio);
    let clipped = -(advantages * ratio.clamp(1.0 - epsilon, 1.0 + epsilon));
    unclipped.maximum(&clipped)
}

/// Half the mean of (V - G)^2.
pub fn value_loss(values: &Tensor, returns: &Tensor) -> Tensor {
    (values - returns).square().mean(None) * 0.5
}

/// The mean of (r - 1) - log r, an estimate of KL(old || new) that is never negative.
pub fn approx_kl(log_ratio: &Tensor) -> f64 {
    let log_ratio = log_ratio.to_kind(TensorKind::Double);
    let log_ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO);
    (log_ratio.expm1() - &log_ratio).mean(None).double_value(&[])
}

/// The share of ratios outside the clip range.
pub fn clipfrac(log_ratio: &Tensor, epsilon: f64) -> f64 {
    let outside = (ratio_of(&log_ratio.to_kind(TensorKind::Double)) - 1.0).abs().gt(epsilon);
    outside.to_kind(TensorKind::Double).mean(None).double_value(&[])
}

/// 1 - Var(G - V) / Var(G); `None` if the returns G do not vary.
pub fn explained_variance(values: &[f64], returns: &[f64]) -> Option<f64> {
    let errors: Vec<f64> = returns.iter().zip(values).map(|(target, value)| target - value).collect();
    let total = variance(returns);
    (total > 0.0).then(|| 1.0 - variance(&errors) / total)
}

fn variance(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n
}

/// The loss of each step, `[steps]`, from the log-ratios and advantages of its draws. `log_ratios`, `advantages` and
/// `step_of` (the step of the draw, in `0..steps`) are `[draws]`. With [`Ratio::Item`], a step has a ratio for each
/// draw; otherwise, a step has a single ratio.
///
/// The second result has the logarithms of these ratios, for [`approx_kl`] and [`clipfrac`]: `[draws]` or `[steps]`.
pub fn step_losses(
    ratio: Ratio,
    log_ratios: &Tensor,
    advantages: &Tensor,
    step_of: &Tensor,
    steps: i64,
    epsilon: f64,
) -> (Tensor, Tensor) {
    let options = (log_ratios.kind(), log_ratios.device());
    let sum_by_step = |values: &Tensor| Tensor::zeros([steps], options).index_add(0, step_of, values);
    let draws = sum_by_step(&log_ratios.ones_like()); // the number of draws of each step: [steps]
    let step_log_ratios = match ratio {
        Ratio::Item => {
            let losses = policy_loss(log_ratios, advantages, epsilon); // [draws]
            return (sum_by_step(&losses) / draws, log_ratios.shallow_clone());
        }
        Ratio::Mean => sum_by_step(log_ratios) / &draws,
        Ratio::Product => sum_by_step(log_ratios),
    };
    let step_advantages = sum_by_step(advantages) / draws;
    (policy_loss(&step_log_ratios, &step_advantages, epsilon), step_log_ratios)
}

/// The number of all rewards so far, their sum, and the sum of their squares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RewardSums {
    pub count: f64,
    pub sum: f64,
    pub squares: f64,
}

impl RewardSums {
    pub fn add(&mut self, rewards: &[f64]) {
        self.count += rewards.len() as f64;
        self.sum += rewards.iter().sum::<f64>();
        self.squares += rewards.iter().map(|reward| reward * reward).sum::<f64>();
    }

    /// The standard deviation of the rewards; 1 if the rewards do not vary.
    pub fn scale(&self) -> f64 {
        let deviation = (self.squares / self.count - (self.sum / self.count).powi(2)).max(0.0).sqrt();
        if deviation > 0.0 { deviation } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::golden::{assert_close, number, numbers};

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../../tests/golden/ppo.json")).expect("valid JSON")
    }

    #[test]
    fn advantages_and_returns_are_those_of_the_reference() {
        let golden = golden();
        let (rewards, values) = (numbers(&golden["rewards"]), numbers(&golden["values"]));
        let (advantages, returns) = gae(&rewards, &values, number(&golden["gamma"]), number(&golden["lambda"]));
        assert_close(&advantages, &numbers(&golden["advantages"]), 1e-12, "advantages");
        assert_close(&returns, &numbers(&golden["returns"]), 1e-12, "returns");
        assert_close(&normalise(&advantages), &numbers(&golden["normalised"]), 1e-12, "normalised");
        let explained = explained_variance(&values, &returns).expect("they vary");
        assert_close(&[explained], &numbers(&golden["explained_variance"]), 1e-12, "explained_variance");
    }

    #[test]
    fn losses_and_statistics_are_those_of_the_reference() {
        let golden = golden();
        let tensor = |key: &str| Tensor::from_slice(&numbers(&golden[key]));
        let (log_ratio, epsilon) = (tensor("logratio"), number(&golden["epsilon"]));
        let loss = policy_loss(&log_ratio, &tensor("normalised"), epsilon).mean(None).double_value(&[]);
        assert_close(&[loss], &numbers(&golden["pg_loss"]), 1e-12, "pg_loss");
        assert_close(&[approx_kl(&log_ratio)], &numbers(&golden["approx_kl"]), 1e-12, "approx_kl");
        assert_close(&[clipfrac(&log_ratio, epsilon)], &numbers(&golden["clipfrac"]), 1e-12, "clipfrac");
        let loss = value_loss(&tensor("newvalue"), &tensor("returns")).double_value(&[]);
        assert_close(&[loss], &numbers(&golden["v_loss"]), 1e-12, "v_loss");
    }

    #[test]
    fn the_ratios_of_the_draws_of_a_step_are_combined_in_three_ways() {
        let golden = golden();
        let draws = Tensor::from_slice(&numbers(&golden["draws"]));
        let advantages = Tensor::from_slice(&numbers(&golden["draw_advantages"]));
        let step_of = Tensor::from_slice(&[0i64, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        for (ratio, name) in [(Ratio::Mean, "mean"), (Ratio::Product, "product"), (Ratio::Item, "item")] {
            let (losses, _) = step_losses(ratio, &draws, &advantages, &step_of, 4, number(&golden["epsilon"]));
            let losses: Vec<f64> = Vec::try_from(losses).expect("f64");
            assert_close(&losses, &numbers(&golden["reduced"][name]), 1e-12, name);
        }
    }

    #[test]
    fn a_log_ratio_too_large_for_f32_gives_a_finite_loss_and_gradient() {
        let advantages = Tensor::from_slice(&[1f32, -1.0, 1.0, -1.0]);
        let log_ratio = Tensor::from_slice(&[200f32, 200.0, -200.0, -200.0]).set_requires_grad(true);
        let loss = policy_loss(&log_ratio, &advantages, 0.2);
        loss.sum(TensorKind::Float).backward();
        for values in [loss.detach(), log_ratio.grad()] {
            assert!(Vec::<f32>::try_from(values).expect("f32").into_iter().all(f32::is_finite));
        }
        assert!(approx_kl(&log_ratio).is_finite());
        assert_close(&[clipfrac(&log_ratio, 0.2)], &[1.0], 1e-12, "clipfrac");
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_an_error_and_changes_nothing() {
        let weight = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
        let parameters = vec![("w".to_owned(), weight.shallow_clone())];
        let mut adam = crate::adam::Adam::new(&parameters);
        (weight.shallow_clone() * f64::NAN).sum(TensorKind::Float).backward();
        let error = adam.step(&parameters, 0.05, 0.01, 0.5).expect_err("a NaN");
        assert!(error.to_string().contains("gradient norm is NaN"), "{error}");
        assert_eq!(Vec::<f32>::try_from(weight.detach()).expect("f32"), [1.0, 2.0]);
        assert_eq!(adam.steps(), 0);
    }

    #[test]
    fn returns_that_do_not_vary_explain_nothing() {
        assert_eq!(explained_variance(&[1.0, 2.0], &[3.0, 3.0]), None);
    }

    #[test]
    fn the_optimizer_steps_as_the_reference_does() {
        let golden = golden();
        let weight = Tensor::from_slice(&numbers(&golden["adam"]["start"])).set_requires_grad(true);
        let parameters = vec![("w".to_owned(), weight.shallow_clone())];
        let mut adam = crate::adam::Adam::new(&parameters);
        for gradient in numbers(&golden["adam"]["gradients"]).chunks(5) {
            (weight.shallow_clone() * Tensor::from_slice(gradient)).sum(TensorKind::Double).backward();
            adam.step(&parameters, 0.05, 0.01, 0.5).expect("finite gradients");
        }
        let end: Vec<f64> = Vec::try_from(weight.detach()).expect("f64");
        assert_close(&end, &numbers(&golden["adam"]["end"]), 1e-12, "weights");
    }
}
