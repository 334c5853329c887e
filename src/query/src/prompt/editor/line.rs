//! The line that is being edited, without the terminal.

use super::keys::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineChange {
    Nothing,
    Text,
}

pub struct Line<'h> {
    pub text: String,
    /// The offset of the cursor, at the boundary of a letter.
    pub cursor: usize,
    history: &'h [String],
    /// The place in the history from which the text comes; its length for a new line.
    place: usize,
    /// What was written before the user went into the history. Only lines that begin so are shown.
    written: String,
}

impl<'h> Line<'h> {
    pub fn new(history: &'h [String]) -> Self {
        Self { text: String::new(), cursor: 0, history, place: history.len(), written: String::new() }
    }

    pub fn press(&mut self, key: Key) {
        match key {
            Key::Letter(letter) => {
                self.text.insert(self.cursor, letter);
                self.cursor += letter.len_utf8();
            }
            Key::Backspace => self.kill(self.before(1), self.cursor),
            Key::Delete | Key::EndOrDelete => self.kill(self.cursor, self.after(1)),
            Key::Left => self.cursor = self.before(1),
            Key::Right => self.cursor = self.after(1),
            Key::WordLeft => self.cursor = self.word_start(),
            Key::WordRight => self.cursor = self.word_end(),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.text.len(),
            Key::KillToStart => self.kill(0, self.cursor),
            Key::KillToEnd => self.kill(self.cursor, self.text.len()),
            Key::KillWord => self.kill(self.word_start(), self.cursor),
            Key::Up => self.go(false),
            Key::Down => self.go(true),
            Key::Enter | Key::Tab | Key::Clear | Key::GiveUp | Key::Unknown => {}
        }
        if !matches!(key, Key::Up | Key::Down) {
            self.place = self.history.len();
        }
    }

    /// Replaces the word before the cursor by the longest text with which all words begin.
    pub fn complete(&mut self, start: usize, words: &[String]) -> LineChange {
        let Some(first) = words.first() else { return LineChange::Nothing };
        let is_common = |length: &usize| {
            first.is_char_boundary(*length) && words.iter().all(|word| word.get(..*length) == first.get(..*length))
        };
        let common = (0..=first.len()).rev().find(is_common).unwrap_or(0);
        if common <= self.cursor - start && self.text[start..self.cursor] == first[..common] {
            return LineChange::Nothing;
        }
        if common < self.cursor - start {
            return LineChange::Nothing;
        }
        self.text.replace_range(start..self.cursor, &first[..common]);
        self.cursor = start + common;
        LineChange::Text
    }

    fn kill(&mut self, start: usize, end: usize) {
        self.text.replace_range(start..end, "");
        self.cursor = start;
    }

    /// The offset some letters before the cursor.
    fn before(&self, letters: usize) -> usize {
        self.text[..self.cursor].char_indices().rev().nth(letters - 1).map_or(0, |(at, _)| at)
    }

    fn after(&self, letters: usize) -> usize {
        self.text[self.cursor..].char_indices().nth(letters).map_or(self.text.len(), |(at, _)| self.cursor + at)
    }

    fn word_start(&self) -> usize {
        let before = self.text[..self.cursor].trim_end_matches(|letter: char| !letter.is_alphanumeric());
        before.trim_end_matches(char::is_alphanumeric).len()
    }

    fn word_end(&self) -> usize {
        let after = self.text[self.cursor..].trim_start_matches(|letter: char| !letter.is_alphanumeric());
        self.text.len() - after.trim_start_matches(char::is_alphanumeric).len()
    }

    /// To the next line of the history that begins with what was written, or back to that.
    fn go(&mut self, is_later: bool) {
        if self.place == self.history.len() {
            if is_later {
                return;
            }
            self.written.clone_from(&self.text);
        }
        let fits = |place: &usize| self.history[*place].starts_with(&self.written);
        let found = if is_later {
            (self.place + 1..self.history.len()).find(fits).or(Some(self.history.len()))
        } else {
            (0..self.place).rev().find(fits)
        };
        let Some(place) = found else { return };
        self.place = place;
        self.text = self.history.get(place).unwrap_or(&self.written).clone();
        self.cursor = self.text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(history: &[&str], keys: &[Key]) -> (String, usize) {
        let history: Vec<String> = history.iter().map(|line| (*line).to_owned()).collect();
        let mut line = Line::new(&history);
        keys.iter().for_each(|key| line.press(*key));
        (line.text, line.cursor)
    }

    fn typed(text: &str, keys: &[Key]) -> (String, usize) {
        pressed(&[], &[text.chars().map(Key::Letter).collect::<Vec<_>>().as_slice(), keys].concat())
    }

    #[test]
    fn letters_of_several_bytes_are_edited_whole() {
        assert_eq!(typed("a€b", &[Key::Left, Key::Backspace]), ("ab".to_owned(), 1));
        assert_eq!(typed("a€b", &[Key::Home, Key::Right, Key::Delete]), ("ab".to_owned(), 1));
        assert_eq!(typed("select a.b", &[Key::KillWord]), ("select a.".to_owned(), 9));
        assert_eq!(typed("select a", &[Key::WordLeft, Key::WordLeft, Key::WordRight]), ("select a".to_owned(), 6));
        assert_eq!(typed("select a", &[Key::WordLeft, Key::KillToStart]), ("a".to_owned(), 0));
        assert_eq!(typed("select a", &[Key::WordLeft, Key::KillToEnd]), ("select ".to_owned(), 7));
        assert_eq!(typed("", &[Key::Left, Key::Backspace, Key::Delete, Key::WordLeft]), (String::new(), 0));
    }

    #[test]
    fn the_history_shows_the_lines_that_begin_with_what_was_written() {
        let history = ["select 1", "show tables", "select 2"];
        let up = Key::Up;
        assert_eq!(pressed(&history, &[up]).0, "select 2");
        assert_eq!(pressed(&history, &[up, up, up, up]).0, "select 1");
        assert_eq!(pressed(&history, &[Key::Letter('s'), Key::Letter('h'), up]).0, "show tables");
        assert_eq!(pressed(&history, &[Key::Letter('s'), up, Key::Down]).0, "s");
        assert_eq!(pressed(&history, &[Key::Down]).0, "");
    }

    #[test]
    fn a_word_is_completed_as_far_as_all_candidates_agree() {
        let mut line = Line::new(&[]);
        "from tu".chars().for_each(|letter| line.press(Key::Letter(letter)));
        let words = ["tuned.metrics", "tuned.selection"].map(str::to_owned);
        assert_eq!(line.complete(5, &words), LineChange::Text);
        assert_eq!(line.text, "from tuned.");
        assert_eq!(line.complete(5, &words), LineChange::Nothing);
        assert_eq!(line.complete(5, &words[1..]), LineChange::Text);
        assert_eq!(line.text, "from tuned.selection");
        assert_eq!(line.complete(5, &[]), LineChange::Nothing);
    }
}
