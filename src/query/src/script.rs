//! Divides a text into statements at the `;` outside of quotes and comments. Each statement keeps its place in the
//! text, so that an error names the line.

use raisin_kinds::syntax::DIALECT;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// One statement of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementText {
    /// The statement without its `;`, behind as many empty lines and blanks as lie before it in the text.
    pub text: String,
    /// The line of its first word, from 1, and the place of the word in the line.
    pub line: usize,
    pub column: usize,
}

/// All statements of a text. Text that is not SQL, such as an open quote, is a part of the last statement, which then
/// fails when it is parsed.
pub fn pieces(text: &str) -> Vec<StatementText> {
    let (tokens, is_whole) = tokens(text);
    let places = LineStarts::of(text);
    let mut found = Vec::new();
    let mut first: Option<Location> = None;
    for token in &tokens {
        match (&token.token, first) {
            (Token::SemiColon, Some(start)) => {
                found.push(places.piece(start, places.offset(token.span.start)));
                first = None;
            }
            (Token::Whitespace(_), _) | (Token::SemiColon, None) | (_, Some(_)) => {}
            (_, None) => first = Some(token.span.start),
        }
    }
    let rest = first.or_else(|| {
        let end = tokens.last().map_or(Location { line: 1, column: 1 }, |token| token.span.end);
        (!is_whole).then_some(end)
    });
    if let Some(start) = rest {
        found.push(places.piece(start, text.len()));
    }
    found
}

/// Whether the prompt can run the text: the text ends with `;`, and no quote or comment is open.
pub fn is_complete(text: &str) -> bool {
    let (tokens, is_whole) = tokens(text);
    let last = tokens.iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_)));
    is_whole && last.is_some_and(|token| token.token == Token::SemiColon)
}

/// The words of a statement, without the `;` at its end.
pub fn words(text: &str) -> Vec<String> {
    let (tokens, _) = tokens(text);
    let is_word = |token: &&TokenWithSpan| !matches!(token.token, Token::Whitespace(_) | Token::SemiColon);
    tokens.iter().filter(is_word).map(|token| token.token.to_string()).collect()
}

/// The text behind the first word.
pub fn behind_first_word(text: &str) -> &str {
    let (tokens, _) = tokens(text);
    let mut words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    match words.nth(1) {
        Some(second) => text[LineStarts::of(text).offset(second.span.start)..].trim_end(),
        None => "",
    }
}

/// The tokens, and whether the text consists of nothing else.
fn tokens(text: &str) -> (Vec<TokenWithSpan>, bool) {
    let mut tokens = Vec::new();
    let is_whole = Tokenizer::new(&DIALECT, text).tokenize_with_location_into_buf(&mut tokens).is_ok();
    (tokens, is_whole)
}

/// The offsets of the lines of a text.
struct LineStarts<'a> {
    text: &'a str,
    lines: Vec<usize>,
}

impl<'a> LineStarts<'a> {
    fn of(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, lines: std::iter::once(0).chain(ends).collect() }
    }

    /// The offset of a place, whose line and column (in letters) count from 1.
    fn offset(&self, place: Location) -> usize {
        let line = (place.line as usize).saturating_sub(1);
        let Some(start) = self.lines.get(line) else { return self.text.len() };
        let letters = (place.column as usize).saturating_sub(1);
        let rest = &self.text[*start..];
        start + rest.char_indices().nth(letters).map_or(rest.len(), |(at, _)| at)
    }

    fn piece(&self, start: Location, end: usize) -> StatementText {
        let from = self.offset(start);
        let line = start.line.max(1) as usize;
        let before = "\n".repeat(line - 1) + &" ".repeat((start.column as usize).saturating_sub(1));
        let column = start.column.max(1) as usize;
        StatementText { text: before + &self.text[from..end.max(from)], line, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<(usize, String)> {
        pieces(script).into_iter().map(|piece| (piece.line, piece.text.trim().to_owned())).collect()
    }

    #[test]
    fn a_text_is_divided_outside_of_quotes_and_comments() {
        let script = "select ';', \"a;b\" -- not; here\n  from t; /* nor; here */\n\nselect $$;$$;;\n-- the end\n";
        let expected = [(1, "select ';', \"a;b\" -- not; here\n  from t"), (4, "select $$;$$")];
        assert_eq!(texts(script), expected.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(texts(""), []);
        assert_eq!(texts(" ;\n; -- nothing"), []);
    }

    #[test]
    fn a_statement_keeps_its_place_also_behind_letters_of_several_bytes() {
        let found = pieces("select 'ä€';\n  select 2 frm");
        assert_eq!(found[1], StatementText { text: "\n  select 2 frm".to_owned(), line: 2, column: 3 });
        let found = pieces("select 'ä€'; select 2");
        assert_eq!(found[1].text.find("select"), Some("select 'ä€'; ".chars().count()));
    }

    #[test]
    fn an_open_quote_belongs_to_the_last_statement() {
        assert_eq!(
            texts("select 1;\nselect 'open; select 2"),
            [(1, "select 1".to_owned()), (2, "select 'open; select 2".to_owned())]
        );
        assert!(texts("select 1;\n'open").last().is_some_and(|(line, text)| *line == 2 && text == "'open"));
    }

    #[test]
    fn the_prompt_waits_for_the_end_of_a_statement() {
        for whole in ["select 1;", "select 1; ", "select 1; -- done", "select ';';"] {
            assert!(is_complete(whole), "{whole}");
        }
        for open in ["", "select 1", "select ';", "select 1 -- ;", "select /* ;", "select \"a;"] {
            assert!(!is_complete(open), "{open}");
        }
    }
}
