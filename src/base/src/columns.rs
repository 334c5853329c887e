//! The width of texts on a terminal, where a letter of Chinese, Japanese or Korean takes two columns.

use unicode_width::UnicodeWidthStr as _;

/// The number of columns that a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The text, filled up with spaces to this number of columns.
pub fn padded(text: &str, columns: usize) -> String {
    format!("{text}{:1$}", "", columns.saturating_sub(width(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_letters_count_twice_and_accents_do_not_count() {
        assert_eq!((width("词=中文"), width("e\u{301}te")), (7, 3));
        assert_eq!((padded("中", 4), padded("long", 3)), ("中  ".to_owned(), "long".to_owned()));
    }
}
