//! Refuses chat templates whose compilation would take more stack or time than there is.
//!
//! The compiler of templates recurses into chains such as `a.b.c` and `a ~ b ~ c`, and folds their constants in a time
//! that grows with the square of their length. It has no limit for them.

use raisin_base::error::{Problem, Result};

/// The largest template. The longest templates of public models have 30,000 bytes.
const MOST_BYTES: usize = 1 << 18;

/// The most code of one tag, without the texts in quotation marks. The longest tags of public models have 600 bytes.
const MOST_CODE: usize = 1 << 12;

/// # Errors
/// The template is too large, or one of its tags is.
pub(super) fn check_size(source: &str) -> Result<()> {
    let problem = |what: &str, has: usize, most: usize| {
        Problem::new(format!("{what} has {has} bytes, and the limit is {most}"))
            .hint("look at chat_template.jinja or tokenizer_config.json of the model: the template may be damaged")
    };
    if source.len() > MOST_BYTES {
        return Err(problem("the chat template", source.len(), MOST_BYTES).into());
    }
    let code = longest_code(source.as_bytes());
    if code > MOST_CODE {
        return Err(problem("the code of a tag in the chat template", code, MOST_CODE).into());
    }
    Ok(())
}

/// The number of bytes of code in the tag with the most code.
fn longest_code(source: &[u8]) -> usize {
    let mut longest = 0;
    let mut place = 0;
    while let Some(pair) = source.get(place..place + 2) {
        match pair {
            b"{#" => {
                let end = source[place..].windows(2).position(|pair| pair == b"#}");
                place = end.map_or(source.len(), |end| place + end + 2);
            }
            b"{{" | b"{%" => {
                let (code, end) = tag(source, place + 2);
                longest = longest.max(code);
                place = end;
            }
            _ => place += 1,
        }
    }
    longest
}

/// The number of bytes of code in a tag whose content begins here, and where the tag ends.
fn tag(source: &[u8], start: usize) -> (usize, usize) {
    let (mut code, mut place, mut quote) = (0, start, None);
    while let Some(&byte) = source.get(place) {
        match (quote, byte) {
            // The byte after a backslash ends no text.
            (Some(_), b'\\') => place += 1,
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b'%' | b'}') if source.get(place + 1) == Some(&b'}') => return (code, place + 2),
            (None, _) => code += 1,
        }
        place += 1;
    }
    (code, source.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::ChatTemplate;

    #[test]
    fn texts_and_comments_are_no_code() {
        let of = |source: &str| longest_code(source.as_bytes());
        assert_eq!(of("aaaa {{ b }} {%- if c -%} d"), 8);
        assert_eq!(of("{{ 'a}} \\' b' ~ \"%}\" }}"), 5);
        assert_eq!(of("{# {{ long long }} #}{{a}}"), 1);
        assert_eq!([of("{{"), of("{%}"), of("{# "), of("{{ 'a"), of("é{{é}}")], [0, 1, 0, 1, 2]);
    }

    #[test]
    fn a_chain_within_the_limits_compiles_at_once_and_a_longer_chain_is_refused() {
        // Each link is a level of recursion for the compiler.
        for link in [".a", "[a]", "|e", "~a", "+a", " or a", " if a", " is a", "()", " not in a", "(", "[", "{a:"] {
            for (code, is_refused) in [(MOST_CODE, false), (MOST_CODE + 20, true)] {
                let chain = link.repeat((code - 3) / link.len());
                let began = std::time::Instant::now();
                let compiled = ChatTemplate::compile(&format!("{{{{ a{chain} }}}}"), Vec::new());
                assert!(began.elapsed().as_secs() < 2, "{link} takes {:?}", began.elapsed());
                let words = compiled.err().map(|error| error.to_string()).unwrap_or_default();
                assert_eq!(
                    words.starts_with("the code of a tag in the chat template has"),
                    is_refused,
                    "{link}: {words}"
                );
            }
        }
        for link in ["{% if a %}", "{% elif a %}", "{% for a in a %}", "{% set a %}", "{% macro a() %}", "{% else %}"] {
            let chain = link.repeat(MOST_BYTES / link.len() - 1);
            drop(ChatTemplate::compile(&chain, Vec::new()));
            drop(ChatTemplate::compile(&format!("{{% if a %}}{chain}"), Vec::new()));
        }
        let error = ChatTemplate::compile(&"a".repeat(MOST_BYTES + 1), Vec::new()).err().expect("too long");
        assert_eq!(error.to_string(), "the chat template has 262145 bytes, and the limit is 262144");
    }
}
