//! What a build says about a stage that failed: how its process ended, the last lines of its log, and a command that
//! prints the whole log.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use super::child::Children;
use super::worker::Ending;
use raisin_base::error::{Problem, Result, bail};

/// The number of lines of a failed stage's log that are shown.
const TAIL: usize = 20;

/// # Errors
/// The stage failed. `known` replaces the paths of links by those of the files. `resumed` has the name of the stage if
/// the stage continued from checkpoints of an earlier attempt. Only a person can tell whether the checkpoints are the
/// reason of the failure.
pub fn succeeded(
    ending: Ending,
    log: &Path,
    known: impl Fn(&str) -> String,
    children: &Children,
    resumed: Option<&str>,
) -> Result<()> {
    if ending == Ending::Done {
        return Ok(());
    }
    if children.is_stopping() {
        bail!("interrupted");
    }
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = known(&lines[lines.len().saturating_sub(TAIL)..].join("\n    "));
    let what = match ending {
        Ending::Done | Ending::Failed => String::new(),
        Ending::Silent => "the process was ended, because it gave no sign of life for too long (30 minutes, unless \
                           RAISIN_SILENT_SECONDS is set): it sent no message, used almost no processor time, and read \
                           and wrote nothing on a disk"
            .to_owned(),
        Ending::Died(status) => match status.signal() {
            Some(9) => "the process was killed (signal 9), perhaps because memory ran out".to_owned(),
            Some(signal) => format!("the process was ended by signal {signal}"),
            None => format!("the process ended with status {}", status.code().unwrap_or_default()),
        },
    };
    let separator = if what.is_empty() || tail.is_empty() { "" } else { "\n    " };
    // Below the current directory, the path is shorter without this directory.
    let here = std::env::current_dir().unwrap_or_default();
    let mut hint = format!("the whole log: {}", command_that_shows(log.strip_prefix(&here).unwrap_or(log)));
    if let Some(stage) = resumed {
        hint += &format!(
            "\nhint: the stage continued from checkpoints of an earlier attempt; if they are the reason, `raisin build \
             PIPELINE --force {stage}` runs the stage from the beginning"
        );
    }
    Err(Problem::new(format!("{what}{separator}{tail}")).hint(hint).into())
}

/// The digits of a key in the name of a log that are shown: enough that no other log of the cache begins with them, and
/// few enough that the command fits on a line of a terminal.
const SHOWN_DIGITS: usize = 12;

/// A command for a shell that prints the log.
fn command_that_shows(log: &Path) -> String {
    let folder = log.parent().unwrap_or(Path::new("")).display().to_string();
    let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./".contains(letter);
    match name.get(..SHOWN_DIGITS) {
        Some(digits) if folder.chars().all(is_plain) => format!("cat {folder}/{digits}*.log"),
        // A shell would read the path otherwise than it is.
        _ => log.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_a_log_fits_on_a_line() {
        let log = format!("cache/logs/{}.log", "0123456789abcdef".repeat(4));
        assert_eq!(command_that_shows(Path::new(&log)), "cat cache/logs/0123456789ab*.log");
        let spaced = format!("my cache/{}.log", "0".repeat(64));
        assert_eq!(command_that_shows(Path::new(&spaced)), spaced);
    }
}
