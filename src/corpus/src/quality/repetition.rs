//! Repetition within one text.

use std::collections::HashSet;

use crate::overlap::each_word;

/// The share of characters, from 0 to 1, that stand in a line which is equal to an earlier line of the text. White space
/// around a line and empty lines do not count.
pub fn repeated_lines(text: &str) -> f64 {
    let mut seen = HashSet::new();
    let (mut all, mut repeated) = (0, 0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let length = line.chars().count();
        all += length;
        if !seen.insert(line) {
            repeated += length;
        }
    }
    share(repeated, all)
}

/// The share of words, from 0 to 1, that stand in an n-gram of words which occurred earlier in the text. Words are
/// compared without case and punctuation. A text with fewer than `n` words has no n-gram.
pub fn repeated_ngrams(text: &str, n: usize) -> f64 {
    let n = n.max(1);
    let mut words: Vec<String> = Vec::new();
    each_word(text, |word| words.push(word.to_owned()));
    let mut seen: HashSet<&[String]> = HashSet::new();
    let mut repeated = 0;
    // The first word that no earlier window has counted.
    let mut next = 0;
    for (start, window) in words.windows(n).enumerate() {
        if !seen.insert(window) {
            repeated += start + n - next.max(start);
            next = start + n;
        }
    }
    share(repeated, words.len())
}

fn share(part: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "quotients of small whole numbers are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_repeat_by_characters() {
        assert_eq!(repeated_lines("ab\n  ab \n\ncd\n"), 2.0 / 6.0);
        assert_eq!(repeated_lines("a\nb\nc"), 0.0);
        assert_eq!(repeated_lines(""), 0.0);
    }

    #[test]
    fn the_words_of_later_ngrams_count_once() {
        assert_eq!(repeated_ngrams("a b c A, B. C!", 3), 0.5);
        // Windows 1 and 2 both repeat window 0: all words after the first.
        assert_eq!(repeated_ngrams("no no no no", 2), 0.75);
        assert_eq!(repeated_ngrams("a b a b", 3), 0.0);
        assert_eq!(repeated_ngrams("a b", 5), 0.0);
    }

    proptest! {
        #[test]
        fn a_word_counts_if_some_ngram_over_it_occurred_before(text in "([abc] ){0,30}", n in 1usize..5) {
            let words: Vec<&str> = text.split_whitespace().collect();
            let covered = |word: usize| {
                (0..words.len().saturating_sub(n - 1))
                    .filter(|start| (*start..start + n).contains(&word))
                    .any(|start| (0..start).any(|other| words[other..other + n] == words[start..start + n]))
            };
            let expected = (0..words.len()).filter(|word| covered(*word)).count();
            prop_assert_eq!(repeated_ngrams(&text, n), share(expected, words.len()));
        }
    }
}
