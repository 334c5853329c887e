//! Shows what is higher or wider than the terminal with a pager, such as `less`.

use std::io::{IsTerminal as _, Result, Write};
use std::process::{Child, Command, Stdio};

use crate::render::{terminal_size, width_of};
use raisin_base::error::{Context as _, Problem};

/// The pager of a user who has chosen none. Long lines are not folded, so that columns stay columns.
const DEFAULT: &str = "less -S";

/// The pager that `PAGER` names, or `less` if it is installed. `None` if standard input or output is no terminal, or if
/// `PAGER` is empty.
pub fn of_environment() -> Option<String> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return None;
    }
    match std::env::var("PAGER") {
        Ok(pager) => (!pager.trim().is_empty()).then_some(pager),
        Err(_) => is_there(DEFAULT.split(' ').next()?).then(|| DEFAULT.to_owned()),
    }
}

/// Whether there is a program of this name.
fn is_there(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Standard output, or a pager as soon as the text does not fit the terminal.
pub struct PagedOutput {
    /// The command of the pager; `None` for no pager.
    pager: Option<String>,
    /// The lines and columns of the terminal.
    size: Option<(usize, usize)>,
    /// The text so far, as long as it fits.
    waiting: Vec<u8>,
    /// The lines of `waiting`, and the place where the last of them begins.
    lines: usize,
    last: usize,
    running: Option<Child>,
}

impl PagedOutput {
    pub fn new(pager: Option<String>) -> Self {
        Self { pager, size: terminal_size(), waiting: Vec::new(), lines: 0, last: 0, running: None }
    }

    /// Counts the lines that are complete. Whether they fit the terminal, with a line each for the number of the rows and
    /// for the prompt.
    fn fits(&mut self) -> bool {
        let Some((height, width)) = self.size else { return true };
        while let Some(length) = self.waiting[self.last..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.waiting[self.last..self.last + length]);
            if width_of(&line) > width {
                return false;
            }
            self.last += length + 1;
            self.lines += 1;
        }
        self.lines + 2 <= height
    }

    fn start(&mut self, pager: &str) -> Result<()> {
        let mut child = Command::new("sh").arg("-c").arg(pager).stdin(Stdio::piped()).spawn()?;
        if let Some(input) = &mut child.stdin {
            let text = std::mem::take(&mut self.waiting);
            // A pager that has ended before it read all is asked for its result in the end.
            let written = input.write_all(&text);
            self.running = Some(child);
            return written;
        }
        Ok(())
    }

    /// Shows the rest, and waits for the end of the pager.
    ///
    /// # Errors
    /// The pager cannot be started.
    pub fn finish(mut self) -> raisin_base::error::Result<()> {
        let Some(mut child) = self.running.take() else {
            let mut stdout = std::io::stdout();
            stdout.write_all(&self.waiting)?;
            return Ok(stdout.flush()?);
        };
        drop(child.stdin.take());
        let status = child.wait().context("cannot wait for the pager")?;
        // The shell found no such program.
        if matches!(status.code(), Some(126 | 127)) {
            let pager = self.pager.unwrap_or_default();
            let problem = Problem::new(format!("the pager `{pager}` cannot be started"));
            return Err(problem.hint("set PAGER to another one, or switch it off with `\\pager`").into());
        }
        Ok(())
    }
}

impl Write for PagedOutput {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if let Some(child) = &mut self.running {
            return child.stdin.as_mut().map_or(Ok(bytes.len()), |input| input.write(bytes));
        }
        let Some(pager) = self.pager.clone() else { return std::io::stdout().write(bytes) };
        self.waiting.extend_from_slice(bytes);
        if !self.fits() {
            self.start(&pager)?;
        }
        Ok(bytes.len())
    }

    /// What waits goes on waiting: nobody knows yet whether it fits.
    fn flush(&mut self) -> Result<()> {
        match &mut self.running {
            Some(child) => child.stdin.as_mut().map_or(Ok(()), Write::flush),
            None if self.pager.is_none() => std::io::stdout().flush(),
            None => Ok(()),
        }
    }
}
