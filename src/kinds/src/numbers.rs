//! Checks of numbers, with the same messages for all kinds. Each kind lists its numbers by their keys.

use raisin_contract::ParameterProblem;

type CheckResult = Result<(), ParameterProblem>;

fn refuse<T: Copy>(numbers: &[(&str, T)], is_right: impl Fn(T) -> bool, message: &str) -> CheckResult {
    match numbers.iter().find(|(_, number)| !is_right(*number)) {
        Some((key, _)) => Err(ParameterProblem::new(format!("/{key}"), message)),
        None => Ok(()),
    }
}

/// Counts must be at least 1.
pub fn counts(numbers: &[(&str, usize)]) -> CheckResult {
    refuse(numbers, |count| count > 0, "must be at least 1")
}

/// A limit of tokens for a sequence must be at least 2, because no token predicts the first token.
pub fn sequence_lengths(numbers: &[(&str, usize)]) -> CheckResult {
    refuse(numbers, |tokens| tokens > 1, "a sequence needs at least 2 tokens")
}

pub fn positive(numbers: &[(&str, f64)]) -> CheckResult {
    refuse(numbers, |number| number.is_finite() && number > 0.0, "must be a number above 0")
}

pub fn not_negative(numbers: &[(&str, f64)]) -> CheckResult {
    refuse(numbers, |number| number.is_finite() && number >= 0.0, "must be a number, and not negative")
}

/// The share of the steps in which a learning rate rises must be at least 0 and below 1.
pub fn warmup(share: f64) -> CheckResult {
    refuse(&[("warmup", share)], |share| (0.0..1.0).contains(&share), "must be a share of the steps, from 0 to below 1")
}
