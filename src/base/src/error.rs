//! Errors for the user: one sentence, the place in a file, and a hint. cli prints the text of [`render`].
//!
//! The crates return [`anyhow::Result`]. A [`Problem`] anywhere in the error chain carries the place and the hint.

use std::fmt;

use crate::printable::printable;
pub use anyhow::{Context, Error, Result, anyhow, bail, ensure};

/// A position in a file that the user wrote. Line and column count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Where the cause of an error lies. It is set where the error is made, and decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The command line, the pipeline file or the query: a person must write something else.
    Usage,
    /// A stage, the cache or the machine.
    Run,
}

/// One situation: what is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub blame: Blame,
    pub message: String,
    pub place: Option<FilePosition>,
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of a stage, the cache or the machine.
    pub fn new(message: impl Into<String>) -> Self {
        Self { blame: Blame::Run, message: message.into(), place: None, hint: None }
    }

    /// A problem of what a person wrote: the command line, the pipeline file or the query.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { blame: Blame::Usage, ..Self::new(message) }
    }

    #[must_use]
    pub fn at(mut self, place: FilePosition) -> Self {
        self.place = Some(place);
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Problem {}

/// The exit code of a command that ends with this error: 2 if the command line, the pipeline file or the query is
/// wrong, otherwise 1. The outermost [`Problem`] of the chain decides; an error without one is not a person's.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match error.chain().find_map(|cause| cause.downcast_ref::<Problem>()) {
        Some(Problem { blame: Blame::Usage, .. }) => 2,
        _ => 1,
    }
}

/// The text for standard error: `error: ...`, the causes, then `hint: ...` lines. Control characters, for example in
/// the name of a file, are escaped.
pub fn render(error: &anyhow::Error) -> String {
    let mut text = String::from("error: ");
    for (depth, cause) in error.chain().enumerate() {
        if depth > 0 {
            text.push_str("\n  because: ");
        }
        text.push_str(&cause.to_string());
    }
    for hint in error.chain().filter_map(|cause| cause.downcast_ref::<Problem>()?.hint.as_deref()) {
        text.push_str("\nhint: ");
        text.push_str(hint);
    }
    printable(&text).into_owned()
}

/// Makes a panic print its message and nothing else, whatever `RUST_BACKTRACE` says. The default hook of the standard
/// library allocates memory for the backtrace. If the cause of a panic is a lack of memory, that hook waits for its own
/// lock for ever.
pub fn print_panics_without_backtrace() {
    std::panic::set_hook(Box::new(|panic| crate::say!("{panic}")));
}

/// The longest word, in bytes, for which [`nearest`] looks for candidates. The time grows with the product of the
/// lengths.
const LONGEST_WORD: usize = 100;

/// The candidate with the smallest edit distance from `word`, if the distance is small enough for a typing error.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST_WORD)
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + word.len().max(candidate.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_suggests_a_transposition_but_not_another_word() {
        assert_eq!(nearest("clsuters", ["clusters", "dimensions"]), Some("clusters"));
        assert_eq!(nearest("banana", ["clusters", "dimensions"]), None);
        let began = std::time::Instant::now();
        let long = "c".repeat(1_000_000);
        assert_eq!(nearest(&long, ["clusters"]), None);
        assert_eq!(nearest("clusters", [long.as_str()]), None);
        assert!(began.elapsed().as_millis() < 100);
    }

    #[test]
    fn the_exit_code_follows_from_who_made_the_error_and_not_from_its_form() {
        let code = |error: Problem| exit_code(&anyhow::Error::new(error).context("cannot build"));
        assert_eq!(code(Problem::usage("no such key")), 2);
        assert_eq!(code(Problem::new("the disk is full").hint("free some space")), 1);
        assert_eq!(exit_code(&anyhow!("the disk is full")), 1);
    }

    #[test]
    fn render_escapes_control_characters() {
        let error = anyhow!("there is no file \u{1b}[2Jgone");
        assert_eq!(render(&error), "error: there is no file \\u{1b}[2Jgone");
    }

    #[test]
    fn render_lists_causes_then_hints() {
        let error = anyhow::Error::new(Problem::new("no such key").hint("did you mean `kind`?")).context("cannot load");
        assert_eq!(render(&error), "error: cannot load\n  because: no such key\nhint: did you mean `kind`?");
    }
}
