//! Runs a program that answers a question: a command of a scheduler of jobs, or the `version_command` of a stage.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

/// Why there is no answer, in words.
#[derive(Debug)]
pub enum Unanswered {
    NotStarted(String),
    /// The program did not end in time, and was killed.
    Late(String),
}

/// The answer of a program.
pub struct CommandAnswer {
    /// The exit code; `None` if a signal ended the command.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CommandAnswer {
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// What the program said about its failure.
    pub fn words(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let said = said.trim();
        if said.is_empty() { "it said nothing".to_owned() } else { said.replace('\n', "\n    ") }
    }
}

/// Runs a program with this standard input, and waits at most `patience` for its end. The program is in a process group
/// of its own, so that Ctrl-C does not end it in the middle of its work, such as a submission.
///
/// # Errors
/// The program cannot be started, or does not end in time.
pub fn ask(command: &mut Command, input: &str, patience: Duration) -> Result<CommandAnswer, Unanswered> {
    let name = command.get_program().to_string_lossy().into_owned();
    let cannot = |error: std::io::Error| Unanswered::NotStarted(format!("cannot run `{name}`: {error}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(cannot)?;
    let readers = [read(child.stdout.take()), read(child.stderr.take())];
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its standard input is no error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(cannot)? {
            break status;
        }
        if began.elapsed() > patience {
            // What cannot be killed has ended.
            let _ = rustix::process::kill_process_group(rustix::process::Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            return Err(Unanswered::Late(format!("`{name}` gave no answer within {} s", patience.as_secs_f64())));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    };
    let [stdout, stderr] = readers.map(|reader| reader.recv_timeout(Duration::from_secs(2)).unwrap_or_default());
    Ok(CommandAnswer { code: status.code(), stdout, stderr })
}

/// Reads a pipe in a thread. A process in the background may hold the pipe open, so nobody waits for its end for long.
fn read(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error counts.
            let _ = pipe.read_to_end(&mut bytes);
        }
        drop(sender.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_asked_with_input_and_its_words_are_kept() {
        let mut command = Command::new("sh");
        let answer = ask(
            command.args(["-c", "read word; echo got $word; echo no >&2; exit 3"]),
            "this\n",
            Duration::from_mins(1),
        )
        .unwrap();
        assert_eq!((answer.code, answer.stdout.as_str(), answer.words().as_str()), (Some(3), "got this\n", "no"));
        let none = ask(&mut Command::new("/nowhere"), "", Duration::from_mins(1));
        assert!(matches!(none, Err(Unanswered::NotStarted(_))));
        let late = ask(Command::new("sh").args(["-c", "sleep 60; true"]), "", Duration::from_millis(50));
        assert!(matches!(late, Err(Unanswered::Late(words)) if words == "`sh` gave no answer within 0.05 s"));
    }
}
