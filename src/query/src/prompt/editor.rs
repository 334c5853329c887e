//! Edits one line on the terminal: cursor keys, history, completion. (rustyline would do it too, but its dependency nix
//! turns on a feature of libc, for which half of all dependencies would compile once more.)

mod keys;
mod line;

use std::io::Write as _;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use self::keys::{Key, TerminalKeys};
use self::line::{Line, LineChange};
use crate::render::{terminal_width, width_of};
use raisin_base::error::{Context as _, Result};

/// What the user entered.
#[derive(Debug, PartialEq, Eq)]
pub enum PromptInput {
    Line(String),
    /// Ctrl-C.
    GivenUp,
    /// Ctrl-D on an empty line, or the terminal is gone.
    End,
}

/// What a text can become: the start of its last word, and the words that this one can become.
pub type Completions = (usize, Vec<String>);

/// The width of a terminal that does not tell its own.
const USUAL_WIDTH: usize = 80;

pub struct Editor {
    /// The lines that were entered, the oldest first.
    pub history: Vec<String>,
    /// Bytes that were read and belong to the next line.
    keys: TerminalKeys,
}

impl Editor {
    pub fn with_history(history: Vec<String>) -> Self {
        Self { history, keys: TerminalKeys::default() }
    }

    /// Reads one line.
    ///
    /// # Errors
    /// The terminal cannot be set or read.
    pub fn read(&mut self, prompt: &str, complete: &dyn Fn(&str) -> Completions) -> Result<PromptInput> {
        let _raw = RawMode::on()?;
        let mut line = Line::new(&self.history);
        let mut drawn = Drawn::default();
        drawn.draw(prompt, &line)?;
        loop {
            let Some(key) = self.keys.next()? else {
                drawn.leave(prompt, &mut line)?;
                return Ok(PromptInput::End);
            };
            match key {
                Key::Enter => {
                    drawn.leave(prompt, &mut line)?;
                    return Ok(PromptInput::Line(line.text));
                }
                Key::GiveUp => {
                    drawn.leave(prompt, &mut line)?;
                    return Ok(PromptInput::GivenUp);
                }
                Key::EndOrDelete if line.text.is_empty() => {
                    drawn.leave(prompt, &mut line)?;
                    return Ok(PromptInput::End);
                }
                Key::Tab => {
                    let (start, words) = complete(&line.text[..line.cursor]);
                    if line.complete(start, &words) == LineChange::Nothing && words.len() > 1 {
                        drawn.leave(prompt, &mut line)?;
                        print_columns(&words)?;
                        drawn = Drawn::default();
                    }
                }
                Key::Clear => {
                    print("\x1b[H\x1b[2J")?;
                    drawn = Drawn::default();
                }
                other => {
                    line.press(other);
                }
            }
            drawn.draw(prompt, &line)?;
        }
    }

    /// Keeps a line for the keys up and down.
    pub fn remember(&mut self, line: &str) {
        if !line.trim().is_empty() && self.history.last().is_none_or(|last| last != line) {
            self.history.push(line.to_owned());
        }
    }
}

fn print(text: &str) -> Result<()> {
    let mut terminal = std::io::stdout().lock();
    terminal.write_all(text.as_bytes())?;
    Ok(terminal.flush()?)
}

/// Prints words below the line, in columns.
fn print_columns(words: &[String]) -> Result<()> {
    const MOST: usize = 200;
    let shown = &words[..words.len().min(MOST)];
    let width = shown.iter().map(|word| width_of(word)).max().unwrap_or(0) + 2;
    let columns = (terminal_width().unwrap_or(USUAL_WIDTH) / width).max(1);
    let mut text = String::new();
    for row in shown.chunks(columns) {
        let cells: Vec<String> =
            row.iter().map(|word| format!("{word}{}", " ".repeat(width - width_of(word)))).collect();
        text.push_str(cells.concat().trim_end());
        text.push_str("\r\n");
    }
    if words.len() > MOST {
        text.push_str(&format!("and {} more\r\n", words.len() - MOST));
    }
    print(&text)
}

/// How the line stands on the screen.
#[derive(Default)]
struct Drawn {
    /// The row of the cursor below the row of the prompt.
    row: usize,
}

impl Drawn {
    /// Draws the line anew. A line that is wider than the terminal goes on in the next row.
    fn draw(&mut self, prompt: &str, line: &Line) -> Result<()> {
        let width = terminal_width().unwrap_or(USUAL_WIDTH);
        let mut text = String::new();
        if self.row > 0 {
            text.push_str(&format!("\x1b[{}A", self.row));
        }
        text.push_str(&format!("\r\x1b[J{prompt}{}", line.text));
        let end = width_of(prompt) + width_of(&line.text);
        let cursor = width_of(prompt) + width_of(&line.text[..line.cursor]);
        if end > 0 && end.is_multiple_of(width) {
            text.push_str("\r\n");
        }
        let (last, row) = (end / width, cursor / width);
        if last > row {
            text.push_str(&format!("\x1b[{}A", last - row));
        }
        text.push('\r');
        if !cursor.is_multiple_of(width) {
            text.push_str(&format!("\x1b[{}C", cursor % width));
        }
        self.row = row;
        print(&text)
    }

    /// Puts the cursor below the line.
    fn leave(&mut self, prompt: &str, line: &mut Line) -> Result<()> {
        line.cursor = line.text.len();
        self.draw(prompt, line)?;
        print("\r\n")
    }
}

/// The terminal passes on every key as it is, until the value is dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn on() -> Result<Self> {
        let terminal = std::io::stdin();
        let before = tcgetattr(&terminal).context("cannot read the settings of the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Drain, &raw).context("cannot set the terminal")?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is nothing to be done if the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}
