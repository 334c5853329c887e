//! Errors for the user: one sentence, the place in a file, and a hint. cli prints the text of [`render`].
//!
//! The crates return [`anyhow::Result`]. A [`Problem`] anywhere in the error chain carries the place and the hint.

use std::fmt;

pub use anyhow::{Context, Error, Result, anyhow, bail, ensure};

/// A position in a file that the user wrote. Line and column count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A problem that the user can solve: what is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub place: Option<Place>,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, hint: None }
    }

    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
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

/// The text for standard error: `error: ...`, then the causes, then one `hint: ...` line for each hint.
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
    text
}

/// The candidate with the smallest edit distance from `word`, if the distance is small enough for a typing error.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
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
    }

    #[test]
    fn render_lists_causes_then_hints() {
        let error = anyhow::Error::new(Problem::new("no such key").hint("did you mean `kind`?")).context("cannot load");
        assert_eq!(render(&error), "error: cannot load\n  because: no such key\nhint: did you mean `kind`?");
    }
}
