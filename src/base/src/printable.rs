//! Text from outside (names of files, messages of stages, cells of tables) on a terminal. A control character could
//! move the cursor, hide text, or write into the title of the window.

use std::borrow::Cow;

/// The text with its control characters as escapes, such as `\u{1b}`. Line breaks and tabs stay: raisin writes them
/// itself.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| is_hidden(letter) && letter != '\n' && letter != '\t')
}

/// As [`printable`], on one line: line breaks and tabs become escapes too.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// A control character, or a character that changes the order of the characters after it.
fn is_hidden(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if hidden(letter) { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_escapes_and_only_line_breaks_and_tabs_stay() {
        let text = "a\u{1b}[31m\u{7}b\r\u{9b}c\u{202e}d\n\te é";
        assert_eq!(printable(text), "a\\u{1b}[31m\\u{7}b\\r\\u{9b}c\\u{202e}d\n\te é");
        assert_eq!(one_line("a\nb\tc"), "a\\nb\\tc");
        assert!(matches!(printable("plain\ntext"), Cow::Borrowed(_)));
    }
}
