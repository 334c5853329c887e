//! Words of a command line.

/// A word of a command line, in quotes if a shell would read it otherwise.
pub fn shell_word(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:=,+@%".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_a_shell_would_change_are_quoted() {
        assert_eq!(["a/b.toml", "a b", "it's", ""].map(shell_word), ["a/b.toml", "'a b'", r"'it'\''s'", "''"]);
    }
}
