//! The scores of answers, from generated texts and log-probabilities (docs/method.md, section 7). The conventions are
//! those of lm-evaluation-harness.

use super::validation::RowLoss;

/// The number after `####` as in GSM8K's strict match: the first match of the pattern `#### (\-?[0-9\.\,]+)`.
pub fn strict_number(text: &str) -> Option<String> {
    text.match_indices("#### ").find_map(|(position, marker)| {
        let rest = &text[position + marker.len()..];
        let sign = usize::from(rest.starts_with('-'));
        let digits = rest[sign..].bytes().take_while(|byte| matches!(byte, b'0'..=b'9' | b'.' | b',')).count();
        (digits > 0).then(|| bare(&rest[..sign + digits]))
    })
}

/// The last number as in GSM8K's flexible match: the last match of the pattern `(-?[$0-9.,]{2,})|(-?[0-9]+)`.
pub fn last_number(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut position, mut last) = (0, None);
    while position < bytes.len() {
        let sign = usize::from(bytes[position] == b'-');
        let run =
            bytes[position + sign..].iter().take_while(|byte| matches!(byte, b'$' | b'0'..=b'9' | b'.' | b',')).count();
        let first_is_digit = bytes.get(position + sign).is_some_and(u8::is_ascii_digit);
        if run >= 2 || (run == 1 && first_is_digit) {
            last = Some(&text[position..position + sign + run]);
            position += sign + run;
        } else {
            position += 1;
        }
    }
    last.map(bare)
}

/// The number without the characters that a comparison ignores: thousands separators, dollar signs and a final full
/// stop.
fn bare(number: &str) -> String {
    let kept: String = number.chars().filter(|character| !matches!(character, ',' | '$')).collect();
    kept.strip_suffix('.').unwrap_or(&kept).to_owned()
}

/// The most probable choice: by the sum of its log-probabilities (`acc`), and by this sum divided by the number of its
/// characters (`acc_norm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BestChoice {
    pub by_sum: usize,
    pub by_length: usize,
}

/// `None` without choices. Of equal choices, the first is the best, as in argmax. Every loss must be finite.
pub fn best_choice(losses: &[RowLoss], choices: &[String]) -> Option<BestChoice> {
    let best = |score: &dyn Fn(usize) -> f64| {
        (0..losses.len()).reduce(|best, next| if score(next) > score(best) { next } else { best })
    };
    let characters = |choice: usize| choices.get(choice).map_or(1, |text| text.chars().count()).max(1) as f64;
    Some(BestChoice {
        by_sum: best(&|choice| -losses[choice].sum)?,
        by_length: best(&|choice| -losses[choice].sum / characters(choice))?,
    })
}

/// The mean over items and its standard error: the standard deviation of the items divided by the square root of their
/// number. A single item has no standard error.
pub fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let error = (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
    (mean, error)
}

/// The mean loss over all tokens of all items, and its standard error. The tokens of one item are not independent, so
/// this is the standard error of a ratio of two sums over items.
pub fn token_mean_and_error(losses: &[RowLoss]) -> (f64, Option<f64>) {
    let tokens: f64 = losses.iter().map(|loss| loss.tokens as f64).sum();
    let mean = losses.iter().map(|loss| loss.sum).sum::<f64>() / tokens;
    let count = losses.len() as f64;
    let squares: f64 = losses.iter().map(|loss| (loss.sum - mean * loss.tokens as f64).powi(2)).sum();
    let error = (losses.len() > 1).then(|| (squares * count / (count - 1.0)).sqrt() / tokens);
    (mean, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strict_number_is_the_first_number_after_a_marker() {
        assert_eq!(strict_number("so 3 + 4\n#### 1,234.").as_deref(), Some("1234"));
        assert_eq!(strict_number("#### -7 apples, #### 8").as_deref(), Some("-7"));
        assert_eq!(strict_number("#### none\n#### 5").as_deref(), Some("5"));
        assert_eq!(strict_number("####5"), None);
        assert_eq!(strict_number("the answer is 5"), None);
    }

    #[test]
    fn the_flexible_number_is_the_last_number_with_or_without_a_marker() {
        assert_eq!(last_number("it costs $1,200.50. Fine").as_deref(), Some("1200.50"));
        assert_eq!(last_number("from 3 to -4!").as_deref(), Some("-4"));
        assert_eq!(last_number("ünï 7 ♥").as_deref(), Some("7"));
        assert_eq!(last_number("no number, at all"), None);
    }

    #[test]
    fn length_normalisation_can_change_the_choice() {
        let losses = [RowLoss { sum: 4.0, tokens: 2 }, RowLoss { sum: 6.0, tokens: 6 }];
        let choices = ["ab".to_owned(), "abcdefgh".to_owned()];
        assert_eq!(best_choice(&losses, &choices), Some(BestChoice { by_sum: 0, by_length: 1 }));
        assert_eq!(best_choice(&[], &[]), None);
    }

    #[test]
    fn standard_errors_are_those_of_the_formulas() {
        let close = |one: Option<f64>, other: Option<f64>| one.zip(other).is_some_and(|(a, b)| (a - b).abs() < 1e-12);
        let (mean, error) = mean_and_error(&[1.0, 0.0, 1.0, 1.0]);
        assert!((mean - 0.75).abs() < 1e-12 && close(error, Some(0.25)));
        // With equal token counts, the error of the ratio is the error of the mean of the item means.
        let losses: Vec<RowLoss> = [1.0, 2.0, 4.0].map(|sum| RowLoss { sum, tokens: 2 }).to_vec();
        let (ratio, ratio_error) = token_mean_and_error(&losses);
        let (plain, plain_error) = mean_and_error(&[0.5, 1.0, 2.0]);
        assert!((ratio - plain).abs() < 1e-12 && close(ratio_error, plain_error));
    }

    #[test]
    fn one_item_has_no_standard_error() {
        assert_eq!(mean_and_error(&[0.5]), (0.5, None));
        assert_eq!(token_mean_and_error(&[RowLoss { sum: 3.0, tokens: 2 }]), (1.5, None));
    }
}
