//! The prompt of `raisin sql`: reads statements and commands from a terminal, answers each, and goes on after an error.

mod commands;
mod complete;
mod editor;
mod history;
mod pager;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use self::commands::{HELP, PromptCommand};
use self::complete::CompletedNames;
use self::editor::{Editor, PromptInput};
use self::pager::PagedOutput;
use super::ask::{MOST_ROWS, format_of, session};
use super::elsewhere::Elsewhere;
use super::render::terminal_width;
use super::script::{StatementText, is_complete, pieces};
use super::session::{Session, StatementAnswer, block_on};
use super::write::{Form, is_broken_pipe, replace, write};
use raisin_base::error::{Context as _, Problem, Result, render};
use raisin_base::say;
use raisin_contract::query::{MostRows, OutputFormat, QueryOptions};

const PROMPT: &str = "raisin> ";
const CONTINUED: &str = "   ...> ";

/// Reads until `\q` or Ctrl-D.
pub fn run(options: &QueryOptions, elsewhere: Option<Arc<dyn Elsewhere>>) -> Result<()> {
    if options.output.is_some() {
        return Err(Problem::usage("--output needs a query").hint("at the prompt, write `\\o FILE`").into());
    }
    let stop = Arc::new(AtomicBool::new(false));
    // While a query runs, Ctrl-C ends the query. (At the prompt, the terminal passes Ctrl-C on as a key.)
    signal_hook::flag::register(signal_hook::consts::SIGINT, stop.clone())?;
    let (session, _spill) = session(options, elsewhere, stop.clone())?;
    let (form, is_paged) = (form(options), true);
    let mut state = PromptState { session: &session, stop, form, is_timed: false, is_paged, output: None, depth: 0 };
    state.greet();
    let mut editor = Editor::with_history(history::read());
    let mut names = CompletedNames::of(&session);
    let result = read(&mut editor, &mut names, &mut state);
    history::keep(&editor.history);
    result
}

fn form(options: &QueryOptions) -> Form {
    let most_rows = match options.most_rows {
        None => Some(MOST_ROWS),
        Some(MostRows::At(most)) => Some(most),
        Some(MostRows::All) => None,
    };
    let format = options.format.unwrap_or_default();
    Form { format, is_expanded: options.expanded, width: None, most_rows, is_a_file: false }
}

/// Reads lines until the end.
fn read(editor: &mut Editor, names: &mut CompletedNames, state: &mut PromptState) -> Result<()> {
    let mut text = String::new();
    loop {
        names.before.clone_from(&text);
        names.created = state.session.temporary.names();
        let prompt = if text.is_empty() { PROMPT } else { CONTINUED };
        match editor.read(prompt, &|line| names.complete(line))? {
            PromptInput::Line(line) => {
                editor.remember(&line);
                if text.is_empty() && line.trim_start().starts_with('\\') {
                    if state.command(&line) == Goes::Away {
                        return Ok(());
                    }
                    continue;
                }
                text.push_str(&line);
                text.push('\n');
                if text.trim().is_empty() {
                    text.clear();
                } else if is_complete(&text) {
                    state.statements(&text);
                    text.clear();
                }
            }
            // Ctrl-C gives up the statement that is being written.
            PromptInput::GivenUp => text.clear(),
            PromptInput::End => return Ok(()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    Away,
}

struct PromptState<'s> {
    session: &'s Session,
    stop: Arc<AtomicBool>,
    form: Form,
    is_timed: bool,
    /// Whether a result that does not fit the terminal is shown with a pager.
    is_paged: bool,
    /// The file for the next results.
    output: Option<PathBuf>,
    /// How many files of statements are being read, one inside the other.
    depth: usize,
}

/// The most files of statements that may name one another.
const MOST_FILES: usize = 20;

impl PromptState<'_> {
    fn greet(&self) {
        let catalogs = &self.session.catalogs;
        match &catalogs.without_cache {
            Some(cache) => {
                let problem = raisin_store::no_cache(cache);
                say::say(&problem.message);
                problem.hint.iter().for_each(|hint| say!("hint: {hint}"));
            }
            None => say!("pipeline `{}`", catalogs.default),
        }
        say::say("\\? for help, \\q or Ctrl-D to leave; a statement ends with `;`");
    }

    /// Runs statements until the first error.
    fn statements(&mut self, text: &str) -> bool {
        for piece in pieces(text) {
            self.stop.store(false, Ordering::Relaxed);
            let start = Instant::now();
            let result = self.statement(&piece);
            self.stop.store(false, Ordering::Relaxed);
            if let Err(error) = result {
                if !is_broken_pipe(&error) {
                    say::say(&render(&error));
                }
                return false;
            }
            if self.is_timed {
                say!("{:.3} s", start.elapsed().as_secs_f64());
            }
        }
        true
    }

    fn statement(&self, piece: &StatementText) -> Result<()> {
        let form = Form { width: terminal_width(), ..self.form };
        let mut note = say::say;
        block_on(async {
            match (self.session.answer(&piece.text, &mut note).await?, &self.output) {
                (StatementAnswer::Done(words), _) => note(&words),
                (StatementAnswer::Rows(rows), None) if !form.format.is_text() => {
                    drop(rows);
                    let problem = Problem::usage(format!("the format {} is not for the terminal", form.format));
                    return Err(problem.hint("write `\\o FILE` before the query").into());
                }
                (StatementAnswer::Rows(rows), None) => {
                    let pager = if self.is_paged { pager::of_environment() } else { None };
                    let mut to = PagedOutput::new(pager);
                    let mut notes = Vec::new();
                    let written = write(rows, &form, &mut to, &mut |words| notes.push(words.to_owned())).await;
                    to.finish()?;
                    written?;
                    notes.iter().for_each(|words| note(words));
                }
                (StatementAnswer::Rows(rows), Some(file)) => {
                    let format = format_of(file, None)?;
                    let form = Form { format, width: None, most_rows: None, is_a_file: true, ..form };
                    let mut bytes = tempfile::tempfile().context("cannot create a temporary file")?;
                    write(rows, &form, &mut bytes, &mut note).await?;
                    replace(file, |to| {
                        std::io::Seek::rewind(&mut bytes)?;
                        std::io::copy(&mut bytes, to)?;
                        Ok(())
                    })?;
                    note(&format!("written: {}", file.display()));
                }
            }
            Ok(())
        })?
    }

    fn command(&mut self, line: &str) -> Goes {
        let command = match PromptCommand::of(line) {
            Ok(command) => command,
            Err(problem) => {
                say::say(&render(&problem.into()));
                return Goes::On;
            }
        };
        match command {
            PromptCommand::Quit => return Goes::Away,
            PromptCommand::Help => say::say(HELP),
            PromptCommand::Tables => {
                self.statements("show tables;");
            }
            PromptCommand::Columns(table) => {
                self.statements(&format!("show columns from {table};"));
            }
            PromptCommand::Timing => {
                self.is_timed = !self.is_timed;
                say!("times are {}", if self.is_timed { "shown" } else { "not shown" });
            }
            PromptCommand::Pager => {
                self.is_paged = !self.is_paged;
                match pager::of_environment() {
                    Some(pager) if self.is_paged => say!("what does not fit the terminal is shown with `{pager}`"),
                    _ => say::say("no pager"),
                }
            }
            PromptCommand::Expanded => {
                self.form.is_expanded = !self.form.is_expanded;
                say!("one line for each {}", if self.form.is_expanded { "column" } else { "row" });
            }
            PromptCommand::Format(format) => {
                self.form.format = format;
                say!("format {format}");
            }
            PromptCommand::Rows(most) => {
                self.form.most_rows = match most {
                    MostRows::All => None,
                    MostRows::At(most) => Some(most),
                };
                match self.form.most_rows {
                    None => say::say("all rows are shown"),
                    Some(most) => say!("at most {most} rows are shown"),
                }
            }
            PromptCommand::Output(file) => self.redirect(file),
            PromptCommand::Include(file) => {
                self.include(&file);
            }
        }
        Goes::On
    }

    fn redirect(&mut self, file: Option<PathBuf>) {
        match file {
            None => {
                self.output = None;
                say::say("results are shown");
            }
            Some(file) => match format_of(&file, None) {
                Ok(format) => {
                    say!(
                        "the result of each statement is written to {} ({format}); \\o shows results again",
                        file.display()
                    );
                    self.output = Some(file);
                }
                Err(error) => say::say(&render(&error)),
            },
        }
    }

    fn include(&mut self, file: &std::path::Path) -> bool {
        if self.depth == MOST_FILES {
            say!("error: {} is read by {MOST_FILES} files that name one another", file.display());
            return false;
        }
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                say!("error: cannot read {}: {error}", file.display());
                return false;
            }
        };
        self.depth += 1;
        let done = self.lines(&text);
        self.depth -= 1;
        if !done {
            say!("{} was read up to this error", file.display());
        }
        done
    }

    /// Runs the statements and the commands of a file, until the first error.
    fn lines(&mut self, file: &str) -> bool {
        let mut text = String::new();
        for line in file.lines() {
            if text.trim().is_empty() && line.trim_start().starts_with('\\') {
                if self.command(line) == Goes::Away {
                    return true;
                }
                continue;
            }
            text.push_str(line);
            text.push('\n');
            if is_complete(&text) {
                if !self.statements(&text) {
                    return false;
                }
                text.clear();
            }
        }
        text.trim().is_empty() || self.statements(&text)
    }
}

/// The formats by their names, for the help and the completion.
pub fn format_names() -> Vec<&'static str> {
    OutputFormat::ALL.map(OutputFormat::name).to_vec()
}
