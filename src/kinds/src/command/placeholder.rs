//! The placeholders in the texts of a command: `{out}`, `{STAGE}`, `{STAGE.TABLE}`. `{{` and `}}` stand for braces.

use std::borrow::Cow;
use std::fmt;

/// The placeholders that do not name a stage.
pub const WORDS: [&str; 5] = ["out", "work", "seed", "threads", "gpus"];

/// The place of an input in a text of an action key, where the name of its stage does not stand. No stage has a name
/// with a colon.
const PLACE: &str = "input:";

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextPiece<'t> {
    Plain(Cow<'t, str>),
    /// One of [`WORDS`].
    Word(&'static str),
    Input(InputName<'t>),
}

/// A placeholder for the artifact of a stage, or for a table or file in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputName<'t> {
    pub stage: NamedInput<'t>,
    pub part: Option<&'t str>,
}

/// Which input a placeholder names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedInput<'t> {
    Stage(&'t str),
    /// The place in the parameter `inputs`.
    Place(usize),
}

/// Why a text cannot be read, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextProblem {
    pub message: String,
    pub hint: String,
}

impl InputName<'_> {
    /// The place of the input in `inputs`.
    pub fn place(&self, inputs: &[String]) -> Option<usize> {
        match self.stage {
            NamedInput::Stage(name) => inputs.iter().position(|input| input == name),
            NamedInput::Place(place) => (place < inputs.len()).then_some(place),
        }
    }
}

impl fmt::Display for InputName<'_> {
    /// Writes the placeholder without its braces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            NamedInput::Stage(name) => f.write_str(name)?,
            NamedInput::Place(place) => write!(f, "{PLACE}{place}")?,
        }
        self.part.map_or(Ok(()), |part| write!(f, ".{part}"))
    }
}

/// Divides a text into its pieces.
///
/// # Errors
/// A brace has no partner, or there is no name between braces.
pub fn pieces(text: &str) -> Result<Vec<TextPiece<'_>>, TextProblem> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        push(&mut pieces, before);
        if let Some(after) = from.strip_prefix("{{") {
            push(&mut pieces, "{");
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            push(&mut pieces, "}");
            rest = after;
        } else if from.starts_with('}') {
            return Err(TextProblem::of(format!("`{text}` has a `}}` without a `{{` before it")));
        } else {
            let Some(end) = from.find('}') else {
                return Err(TextProblem::of(format!("`{text}` has a `{{` without a `}}` after it")));
            };
            pieces.push(placeholder(&from[1..end])?);
            rest = &from[end + 1..];
        }
    }
    push(&mut pieces, rest);
    Ok(pieces)
}

fn push<'t>(pieces: &mut Vec<TextPiece<'t>>, plain: &'t str) {
    match pieces.last_mut() {
        _ if plain.is_empty() => {}
        Some(TextPiece::Plain(before)) => before.to_mut().push_str(plain),
        _ => pieces.push(TextPiece::Plain(Cow::Borrowed(plain))),
    }
}

/// Reads what stands between two braces.
fn placeholder(inside: &str) -> Result<TextPiece<'_>, TextProblem> {
    if let Some(word) = WORDS.iter().find(|word| **word == inside) {
        return Ok(TextPiece::Word(word));
    }
    let (name, part) = match inside.split_once('.') {
        Some((name, part)) => (name, Some(part)),
        None => (inside, None),
    };
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-')
    };
    let stage = match name.strip_prefix(PLACE).map(str::parse) {
        Some(Ok(place)) => NamedInput::Place(place),
        _ if is_name(name) => NamedInput::Stage(name),
        _ => return Err(TextProblem::of(format!("`{{{inside}}}` is not a placeholder"))),
    };
    if let Some(part) = part {
        if WORDS.contains(&name) {
            let hint = match name {
                "out" | "work" => format!("for a file in the folder, write {{{name}}}/{part}"),
                _ => format!("write {{{name}}}"),
            };
            return Err(TextProblem { message: format!("`{{{inside}}}` is not a placeholder"), hint });
        }
        let is_below = part.split('/').all(|step| !matches!(step, "" | "." | ".."));
        if !is_below {
            return Err(TextProblem::of(format!("`{{{inside}}}` names no table and no file of an artifact")));
        }
    }
    Ok(TextPiece::Input(InputName { stage, part }))
}

/// The text with each name of a stage replaced by the place of the stage in `inputs`, for the action key. `None` if the
/// text names no stage, or cannot be read.
pub fn with_places(text: &str, inputs: &[String]) -> Option<String> {
    let pieces = pieces(text).ok()?;
    if !pieces.iter().any(|piece| matches!(piece, TextPiece::Input(_))) {
        return None;
    }
    let written = pieces.iter().map(|piece| match piece {
        TextPiece::Plain(plain) => escaped(plain),
        TextPiece::Word(word) => format!("{{{word}}}"),
        TextPiece::Input(input) => {
            let stage = input.place(inputs).map_or(input.stage, NamedInput::Place);
            format!("{{{}}}", InputName { stage, ..*input })
        }
    });
    Some(written.collect())
}

/// A text in which no brace has a meaning.
pub fn escaped(plain: &str) -> String {
    plain.replace('{', "{{").replace('}', "}}")
}

impl TextProblem {
    fn of(message: String) -> Self {
        let words = WORDS.map(|word| format!("{{{word}}}")).join(", ");
        let hint = format!("write {{{{ and }}}} for braces; the placeholders are {{STAGE}}, {{STAGE.TABLE}}, {words}");
        Self { message, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> TextPiece<'_> {
        TextPiece::Plain(text.into())
    }

    fn input<'t>(name: &'t str, part: Option<&'t str>) -> TextPiece<'t> {
        TextPiece::Input(InputName { stage: NamedInput::Stage(name), part })
    }

    #[test]
    fn a_text_is_divided_into_plain_text_words_and_inputs() {
        assert_eq!(pieces(""), Ok(vec![]));
        assert_eq!(pieces("--lr=0.1"), Ok(vec![plain("--lr=0.1")]));
        assert_eq!(pieces("{out}"), Ok(vec![TextPiece::Word("out")]));
        let text = pieces("--data={pool-2.instructions}:{work}/x").unwrap();
        let expected =
            [plain("--data="), input("pool-2", Some("instructions")), plain(":"), TextPiece::Word("work"), plain("/x")];
        assert_eq!(text, expected);
        assert_eq!(pieces("{base.tokenizer.json}"), Ok(vec![input("base", Some("tokenizer.json"))]));
        assert_eq!(pieces("{base.weights/1.bin}"), Ok(vec![input("base", Some("weights/1.bin"))]));
        // A stage whose name only begins like a word.
        assert_eq!(pieces("{output}"), Ok(vec![input("output", None)]));
    }

    #[test]
    fn doubled_braces_stand_for_braces() {
        assert_eq!(pieces("{{\"a\": {{}}}}"), Ok(vec![plain("{\"a\": {}}")]));
        assert_eq!(pieces("{{out}}"), Ok(vec![plain("{out}")]));
        assert_eq!(pieces("{{{seed}}}"), Ok(vec![plain("{"), TextPiece::Word("seed"), plain("}")]));
        let any = "a {b} }{ {{c}}";
        assert_eq!(pieces(&escaped(any)), Ok(vec![plain(any)]));
    }

    #[test]
    fn a_brace_without_partner_and_a_wrong_name_are_refused_with_the_way_to_write_braces() {
        let said = |text: &str| pieces(text).unwrap_err().message;
        assert_eq!(said("a } b"), "`a } b` has a `}` without a `{` before it");
        assert_eq!(said("a { b"), "`a { b` has a `{` without a `}` after it");
        assert_eq!(said("{}"), "`{}` is not a placeholder");
        assert_eq!(said("{\"a\": 1}"), "`{\"a\": 1}` is not a placeholder");
        assert_eq!(said("{pool.}"), "`{pool.}` names no table and no file of an artifact");
        assert_eq!(said("{pool.../x}"), "`{pool.../x}` names no table and no file of an artifact");
        assert_eq!(said("{input:x}"), "`{input:x}` is not a placeholder");
        assert!(pieces("{}").unwrap_err().hint.starts_with("write {{ and }} for braces; the placeholders are {STAGE}"));
        let out = pieces("{out.metrics}").unwrap_err();
        assert_eq!(out.hint, "for a file in the folder, write {out}/metrics");
    }

    #[test]
    fn the_key_has_places_in_the_place_of_names() {
        let inputs = ["pool".to_owned(), "base".to_owned()];
        let key = |text: &str| with_places(text, &inputs);
        assert_eq!(key("--out={out}"), None);
        assert_eq!(key("{base.config.json} {{x}} {out}").as_deref(), Some("{input:1.config.json} {{x}} {out}"));
        // A text of a key reads as the same input again.
        assert_eq!(key("{input:1}").as_deref(), Some("{input:1}"));
        let renamed = ["data".to_owned(), "base".to_owned()];
        assert_eq!(key("{pool}"), with_places("{data}", &renamed));
    }
}
