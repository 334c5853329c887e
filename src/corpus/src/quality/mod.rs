//! Measures of a text that tell junk from instructions: language, repetition, refusals, links, code, control characters
//! and endings that look cut. Every measure is a function of the text alone. SQL has them as functions of the same
//! names (docs/sql.md).
//!
//! Repetition follows Rae et al. 2021 (Gopher), appendix A1.1, over lines and over word n-grams.

mod ending;
mod language;
mod refusal;
mod repetition;
mod shares;

pub use ending::is_truncated;
pub use language::{language, script};
pub use refusal::is_refusal;
pub use repetition::{repeated_lines, repeated_ngrams};
pub use shares::{code_share, control_characters, url_share};

use crate::overlap::each_word;

/// The number of words. Words are separated by white space, and have at least one letter or digit.
pub fn words(text: &str) -> usize {
    let mut count = 0;
    each_word(text, |_| count += 1);
    count
}

/// Whether two texts are equal but for case, punctuation and white space. Texts without words are not the same.
pub fn same_text(one: &str, other: &str) -> bool {
    let joined = |text: &str| {
        let mut all = String::new();
        each_word(text, |word| {
            all.push_str(word);
            all.push(' ');
        });
        all
    };
    let one = joined(one);
    !one.is_empty() && one == joined(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_a_letter_or_a_digit() {
        assert_eq!(words("It's 4 o'clock - or so."), 5);
        assert_eq!(words(" \n?! "), 0);
    }

    #[test]
    fn texts_are_the_same_without_case_punctuation_and_white_space() {
        assert!(same_text("Hello, World", "hello  world!"));
        assert!(!same_text("hello", "hello world"));
        assert!(!same_text("?", "!"), "texts without words say nothing");
    }
}
