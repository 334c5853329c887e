//! The worker's side of the protocol between a build and its workers: one request a line on standard input; events and,
//! at last, how the stage ended on standard output. The engine's side is `engine/resident.rs`.

use std::fs::OpenOptions;
use std::io::{BufRead as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use raisin_base::error::{Context as _, Error, Problem, Result, anyhow, render};

use crate::{Assignment, Context, DeviceKind, Event, Kind};

/// Which assignment a worker is to make, and the file that its standard error goes to.
#[derive(Serialize, Deserialize)]
pub struct StageRequest {
    pub assignment: PathBuf,
    pub log: PathBuf,
}

/// The line that ends a stage.
#[derive(Serialize, Deserialize)]
pub struct Ended {
    pub ended: StageOutcome,
    /// Whether the worker ends itself after this stage.
    pub leaves: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageOutcome {
    Done,
    Failed,
}

/// How stages of one kind run in this executable.
pub struct KindRunner {
    pub kind: &'static str,
    version: u32,
    run: Box<dyn Fn(Assignment) -> Result<()> + Send + Sync>,
}

impl KindRunner {
    /// `run` writes files into [`Context::out`] only, and equal parameters, inputs, seed and environment give equal bytes:
    /// no time, no path, no host name. Checkpoints of a long stage go to [`Context::work`].
    pub fn of<K: Kind>(run: fn(K::Parameters, &Context) -> Result<()>) -> Self
    where
        K::Parameters: 'static,
    {
        let run = move |assignment: Assignment| {
            let stage = assignment.stage.clone();
            let parameters: K::Parameters = serde_json::from_value(assignment.parameters.clone())
                .with_context(|| format!("the assignment of stage `{stage}` has unreadable parameters"))?;
            run(parameters, &Context::new(assignment)?)
        };
        Self { kind: K::NAME, version: K::VERSION, run: Box::new(run) }
    }
}

/// Runs an assignment with the function that its kind has among `runners`.
///
/// # Errors
/// This executable runs no stage of that kind, or another version of the kind; or the stage failed.
pub fn run_one_of(runners: &[KindRunner], assignment: Assignment) -> Result<()> {
    let Some(runner) = runners.iter().find(|runner| runner.kind == assignment.kind) else {
        return Err(anyhow!("this executable runs no stage of kind `{}`", assignment.kind));
    };
    if runner.version != assignment.kind_version {
        let (kind, theirs) = (runner.kind, assignment.kind_version);
        let message =
            format!("this executable has version {} of kind `{kind}`, and raisin has {theirs}", runner.version);
        return Err(Problem::new(message).hint("compile all executables together: `cargo build --workspace`").into());
    }
    (runner.run)(assignment)
}

/// Writes why a stage failed to standard error, which is the stage's log. If the log cannot be written, because the disk is
/// full, the text goes to the engine as an event.
pub fn report_failure(error: &Error) {
    let text = render(error);
    let told = writeln!(std::io::stderr(), "{text}");
    if told.is_err()
        && let Ok(event) = serde_json::to_string(&Event::Note { text })
    {
        let _ = writeln!(std::io::stdout(), "{event}");
    }
}

/// Makes assignments with `run` until standard input ends. After a stage, a worker that holds more bytes of memory than
/// `most` allows ends itself, and the next stage gets a new worker.
pub fn serve(run: impl Fn(Assignment) -> Result<()>, most: impl Fn(DeviceKind) -> u64) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let request: StageRequest = serde_json::from_str(&line?).context("this is no request")?;
        turn_errors_to(&request.log)?;
        let assignment = read_assignment(&request.assignment);
        let device = assignment.as_ref().map_or(DeviceKind::Cpu, |assignment| assignment.environment.device);
        let ended = match assignment.and_then(&run) {
            Ok(()) => StageOutcome::Done,
            Err(error) => {
                report_failure(&error);
                StageOutcome::Failed
            }
        };
        let leaves = held_memory() > most(device);
        let reply = serde_json::to_string(&Ended { ended, leaves })?;
        let mut stdout = std::io::stdout().lock();
        // On a line of its own, whatever a library has printed before without ending its line.
        writeln!(stdout, "\n{reply}")?;
        stdout.flush()?;
        if leaves {
            break;
        }
    }
    Ok(())
}

pub fn read_assignment(path: &Path) -> Result<Assignment> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not an assignment", path.display()))
}

/// Standard error goes to this file from now on, also that of libraries.
fn turn_errors_to(log: &Path) -> Result<()> {
    let file = OpenOptions::new().append(true).open(log).with_context(|| format!("cannot open {}", log.display()))?;
    // SAFETY: descriptor 2 is standard error, which is open for the life of the process; it is not closed here, as the
    // owner is forgotten.
    let mut stderr = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(2) });
    rustix::io::dup2(&file, &mut stderr).context("cannot turn standard error to the log")?;
    Ok(())
}

/// Memory that this process does not share with the files of its libraries; 0 where that cannot be told.
fn held_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
