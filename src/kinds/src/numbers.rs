//! What the numbers of a stage cannot be. Each kind names its own; the words are the same everywhere.

use raisin_contract::ParameterProblem;

type CheckResult = Result<(), ParameterProblem>;

fn refuse<T: Copy>(numbers: &[(&str, T)], is_right: impl Fn(T) -> bool, message: &str) -> CheckResult {
    match numbers.iter().find(|(_, number)| !is_right(*number)) {
        Some((key, _)) => Err(ParameterProblem::new(format!("/{key}"), message)),
        None => Ok(()),
    }
}

/// How many of something: at least one.
pub fn counts(numbers: &[(&str, usize)]) -> CheckResult {
    refuse(numbers, |count| count > 0, "must be at least 1")
}

/// The longest sequence: the first token is predicted by nothing.
pub fn sequence_lengths(numbers: &[(&str, usize)]) -> CheckResult {
    refuse(numbers, |tokens| tokens > 1, "a sequence needs at least 2 tokens")
}

pub fn positive(numbers: &[(&str, f64)]) -> CheckResult {
    refuse(numbers, |number| number.is_finite() && number > 0.0, "must be a number above 0")
}

pub fn not_negative(numbers: &[(&str, f64)]) -> CheckResult {
    refuse(numbers, |number| number.is_finite() && number >= 0.0, "must not be negative")
}

/// The share of the steps in which a learning rate rises.
pub fn warmup(share: f64) -> CheckResult {
    refuse(&[("warmup", share)], |share| (0.0..1.0).contains(&share), "is a share of the steps, from 0 to below 1")
}
