//! Answers that end in the middle of something.

use super::shares::{is_code_line, is_fence};
use super::words;

/// Texts with fewer words may end without punctuation.
const SHORT: usize = 8;

/// Whether a text looks cut: a block between ```` ``` ```` is open, or the last line ends with a comma, a colon, a hyphen
/// or an opening bracket, or the last line has a whole sentence and then ends inside another one. Texts of fewer than 8
/// words, code and lists of words are not judged by their last sentence.
pub fn is_truncated(text: &str) -> bool {
    let text = text.trim_end();
    if text.lines().filter(|line| is_fence(line)).count() % 2 == 1 {
        return true;
    }
    let Some(last) = text.lines().next_back().map(str::trim) else { return false };
    if is_code_line(last) || last.starts_with("```") || words(text) < SHORT {
        return false;
    }
    match last.chars().next_back() {
        Some(',' | ':' | '-' | '\u{2013}' | '\u{2014}' | '(' | '[') => true,
        Some(letter) if letter.is_alphanumeric() => has_sentence(last),
        _ => false,
    }
}

/// Whether a sentence ends within a line: a word of two letters or more, `.`, `!` or `?`, a space, and then an upper-case
/// letter. The number of a list item and an abbreviation such as `e.g.` end no sentence.
fn has_sentence(line: &str) -> bool {
    let letters: Vec<char> = line.chars().collect();
    let ends = |window: &[char]| {
        window[0].is_lowercase()
            && window[1].is_lowercase()
            && matches!(window[2], '.' | '!' | '?')
            && window[3] == ' '
            && window[4].is_uppercase()
    };
    letters.windows(5).any(ends)
}

#[cfg(test)]
mod tests {
    use super::is_truncated;

    #[test]
    fn endings_inside_something_are_found() {
        for text in [
            "The river is long and wide. It flows through many old towns and",
            "Here is the list of the things that you will need:",
            "Many towns lie at the river, for example Ulm, Linz,",
            "Use this:\n```python\nprint(1)",
        ] {
            assert!(is_truncated(text), "{text}");
        }
        for text in [
            "Paris",
            "The river is long and wide. It flows through many old towns.",
            "It is (as you know) very long and wide (and deep too)",
            "Run this:\n```ls -la```\nIt lists all files of the folder with their sizes.",
            "1. Buy bread and milk\n2. Go to the bank\n3. Call your old friend",
            "Use this code to print the first ten numbers:\n```\nprint(1)\n```",
            "int main() {\n  int a = 1; int b = 2; int c = 3;\n  return a + b + c;\n}",
            "",
        ] {
            assert!(!is_truncated(text), "{text}");
        }
    }
}
