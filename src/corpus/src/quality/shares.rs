//! Shares of links and code, and characters that no text should have.

/// The share of characters, from 0 to 1, that belong to links: from `http://`, `https://` or `www.` up to white space,
/// a quotation mark or a closing bracket.
pub fn url_share(text: &str) -> f64 {
    let (mut all, mut linked) = (0usize, 0usize);
    let mut in_link = false;
    let mut before: Option<char> = None;
    for (at, letter) in text.char_indices() {
        let begins = |start: &str| text.as_bytes()[at..].starts_with(start.as_bytes());
        if in_link {
            in_link = !letter.is_whitespace() && !matches!(letter, ')' | ']' | '}' | '>' | '"' | '\'' | '`');
        } else if begins("http://") || begins("https://") {
            in_link = true;
        } else if begins("www.") {
            in_link = !before.is_some_and(char::is_alphanumeric);
        }
        all += 1;
        linked += usize::from(in_link);
        before = Some(letter);
    }
    if all == 0 { 0.0 } else { linked as f64 / all as f64 }
}

/// Beginnings of lines of code.
const CODE: [&str; 18] = [
    "def ",
    "class ",
    "import ",
    "#include",
    "function ",
    "return ",
    "public ",
    "private ",
    "static ",
    "const ",
    "var ",
    "let ",
    "SELECT ",
    "INSERT ",
    "CREATE ",
    "UPDATE ",
    "<?php",
    "#!/",
];

/// The share of lines, from 0 to 1, that are code: the lines of a block between ```` ``` ````, lines that end with `;`,
/// `{` or `}`, and lines that begin with a keyword of a common language, such as `def` or `SELECT`. Empty lines do not
/// count.
pub fn code_share(text: &str) -> f64 {
    let (mut all, mut code) = (0usize, 0usize);
    let mut in_block = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let is_fence = is_fence(line);
        let is_code = in_block || is_fence || is_code_line(line);
        in_block ^= is_fence;
        all += 1;
        code += usize::from(is_code);
    }
    if all == 0 { 0.0 } else { code as f64 / all as f64 }
}

/// Whether a line begins or ends a block of code. A block on one line is none: ```` ```ls``` ````.
pub fn is_fence(line: &str) -> bool {
    line.trim_start().strip_prefix("```").is_some_and(|rest| !rest.contains("```"))
}

/// Whether a line without white space around it is code by itself.
pub fn is_code_line(line: &str) -> bool {
    line.ends_with([';', '{', '}']) || CODE.iter().any(|start| line.starts_with(start))
}

/// The number of characters that no text should have: control characters except tab, line feed and carriage return, the
/// replacement character of broken encodings (U+FFFD), private-use characters, and the byte order mark.
pub fn control_characters(text: &str) -> usize {
    let is_wrong = |letter: char| match letter {
        '\t' | '\n' | '\r' => false,
        '\u{FFFD}' | '\u{FEFF}' | '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{10FFFF}' => true,
        letter => letter.is_control(),
    };
    text.chars().filter(|letter| is_wrong(*letter)).count()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "quotients of small whole numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn links_end_at_white_space_and_brackets() {
        assert_eq!(url_share("http://a.b"), 1.0);
        assert_eq!(url_share("(https://a.bc) see"), 12.0 / 18.0);
        assert_eq!(url_share("www.a"), 1.0);
        assert_eq!(url_share("awww.a and no link"), 0.0);
        assert_eq!(url_share(""), 0.0);
        assert_eq!(url_share("é www.é"), 5.0 / 7.0, "characters, not bytes");
    }

    #[test]
    fn code_is_a_block_or_looks_like_code() {
        assert_eq!(code_share("Use this:\n```\nx\n```\nDone."), 3.0 / 5.0);
        assert_eq!(code_share("int main() {\n\n  return 0;\n}"), 1.0);
        assert_eq!(code_share("It is simple."), 0.0);
        assert_eq!(code_share("```\nx\ny"), 1.0, "an open block");
        assert_eq!(code_share("Run this:\n```ls -la```\nIt lists files."), 0.0, "a block on one line opens none");
        assert_eq!(code_share("\n \n"), 0.0);
    }

    #[test]
    fn control_characters_are_counted() {
        assert_eq!(control_characters("a\tb\r\nc"), 0);
        assert_eq!(control_characters("\u{0}a\u{7F}\u{FFFD}\u{E000}\u{FEFF}\u{85}"), 6);
    }
}
