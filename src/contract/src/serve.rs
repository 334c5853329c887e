//! The loop of a worker: reads requests from standard input, one per line, and runs stages. Events, and finally the
//! outcome of the stage, go to standard output. The side of the build is `engine/src/worker.rs`.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use raisin_base::error::{Context as _, Error, Problem, Result, anyhow, exit_code, render};
use raisin_base::memory::held;

use crate::memory::MemoryWatch;
use crate::outputs::Outputs;
use crate::{Assignment, Context, DeviceKind, Event, Kind};

/// The line that the build writes to a worker: the path of an assignment, and the path of the stage's log.
#[derive(Serialize, Deserialize)]
pub struct StageRequest {
    pub assignment: PathBuf,
    pub log: PathBuf,
}

/// The line that a worker writes when a stage has ended.
#[derive(Serialize, Deserialize)]
pub struct Ended {
    pub ended: StageOutcome,
    /// Whether the worker exits after this stage.
    pub leaves: bool,
}

/// How a stage ended.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageOutcome {
    Done,
    Failed,
}

/// The function that runs stages of one kind in this executable.
pub struct KindRunner {
    pub kind: &'static str,
    version: u32,
    run: Box<dyn Fn(Assignment) -> Result<()> + Send + Sync>,
}

impl KindRunner {
    /// The runner of the kind `K`. `run` must write files only into [`Context::out`], and checkpoints into
    /// [`Context::work`]. Equal parameters, inputs, seed and environment must give equal bytes: an artifact contains no
    /// time, path or host name.
    pub fn of<K: Kind>(run: fn(K::Parameters, &Context) -> Result<()>) -> Self
    where
        K::Parameters: 'static,
    {
        let run = move |assignment: Assignment| {
            let stage = assignment.stage.clone();
            let parameters: K::Parameters = serde_json::from_value(assignment.parameters.clone())
                .with_context(|| format!("the assignment of stage `{stage}` has unreadable parameters"))?;
            let context = Context::new(assignment)?.held_to(Outputs { tables: K::TABLES, files: K::FILES });
            run(parameters, &context)?;
            context.check_outputs()
        };
        Self { kind: K::NAME, version: K::VERSION, run: Box::new(run) }
    }
}

/// Runs an assignment with the runner of its kind.
///
/// # Errors
/// `runners` has no runner for this kind, the runner has another version of the kind, or the stage failed.
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

/// The main function of an executable that runs stages. If `run-stages` is the only argument, the process is a worker:
/// see [`serve`] for `run` and `most`. Other arguments go to `command`.
///
/// Standard output of a worker is for events and outcomes, standard output of `command` is for its results.
pub fn run_executable(
    run: impl Fn(Assignment) -> Result<()>,
    most: impl Fn(DeviceKind) -> u64,
    command: impl FnOnce(&[OsString]) -> Result<()>,
) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let is_worker = arguments == ["run-stages"];
    let result = if is_worker { serve(run, most) } else { command(&arguments) };
    let Err(error) = result else { return ExitCode::SUCCESS };
    if is_worker {
        report_failure(&error);
    } else {
        // If standard error is closed, only the exit code remains.
        let _ = writeln!(std::io::stderr(), "{}", render(&error));
    }
    ExitCode::from(exit_code(&error))
}

/// Writes the reason of a failure to standard error, which is the log of the stage. If the log cannot be written, for
/// example because the disk is full, the text goes to the engine as an event.
fn report_failure(error: &Error) {
    let text = render(error);
    if writeln!(std::io::stderr(), "{text}").is_err() {
        Event::Note { text }.send();
    }
}

/// Runs assignments with `run` until standard input ends. If a worker holds more memory after a stage than `most`
/// allows (in bytes), the worker exits, and the next stage gets a new worker.
pub fn serve(run: impl Fn(Assignment) -> Result<()>, most: impl Fn(DeviceKind) -> u64) -> Result<()> {
    let mut memory = MemoryWatch::default();
    for line in std::io::stdin().lock().lines() {
        let request: StageRequest = serde_json::from_str(&line?).context("this line is not a request")?;
        turn_errors_to(&request.log)?;
        let assignment = read_assignment(&request.assignment);
        let device = assignment.as_ref().map_or(DeviceKind::Cpu, |assignment| assignment.environment.device);
        if let Ok(assignment) = &assignment {
            memory.begin(&assignment.stage, assignment.memory);
        }
        let result = assignment.and_then(&run);
        memory.end();
        let ended = match result {
            Ok(()) => StageOutcome::Done,
            Err(error) => {
                report_failure(&error);
                StageOutcome::Failed
            }
        };
        let leaves = held().is_some_and(|held| held > most(device));
        let reply = serde_json::to_string(&Ended { ended, leaves })?;
        let mut stdout = std::io::stdout().lock();
        // The line break before the reply ends a line that a library may have printed without line break.
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

/// Redirects standard error to the log, including the output of libraries.
fn turn_errors_to(log: &Path) -> Result<()> {
    let file = OpenOptions::new().append(true).open(log).with_context(|| format!("cannot open {}", log.display()))?;
    // SAFETY: descriptor 2 is standard error, which stays open as long as the process lives. `ManuallyDrop` keeps the
    // `OwnedFd` from closing descriptor 2.
    let mut stderr = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(2) });
    rustix::io::dup2(&file, &mut stderr).context("cannot redirect standard error to the log")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::ASSIGNMENT;
    use crate::outputs::{FileDeclaration, file};
    use crate::{Needs, Process};
    use serde_json::json;

    /// Writes files of these names.
    struct Files;

    #[derive(Serialize, Deserialize, schemars::JsonSchema)]
    struct FilesParameters {
        names: Vec<String>,
    }

    impl Kind for Files {
        const NAME: &'static str = "files";
        const VERSION: u32 = 1;
        const ABOUT: &'static str = "Writes files.";
        const PROCESS: Process = Process::Data;
        const SEEDED: bool = false;
        const PROVIDES: &'static [&'static str] = &[];
        const FILES: &'static [&'static [FileDeclaration]] = &[&[file("a.json", "an object")]];
        type Parameters = FilesParameters;

        fn needs(_: &FilesParameters, _: &mut Needs) {}
    }

    fn run(parameters: FilesParameters, context: &Context) -> Result<()> {
        parameters.names.iter().try_for_each(|name| context.write_json(name, &json!({})))
    }

    #[test]
    fn a_stage_that_writes_other_files_than_its_kind_declares_fails() -> Result<()> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join(ASSIGNMENT), "")?;
        let said = |names: &[&str]| {
            let mut assignment = Assignment::for_test("files", folder.path().to_owned(), &[]);
            assignment.parameters = json!({ "names": names });
            let result = run_one_of(&[KindRunner::of::<Files>(run)], assignment);
            result.err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(said(&["a.json"]), "");
        assert!(said(&["a.json", "b.json"]).starts_with("the kind `files` does not declare `b.json`"));
        assert_eq!(said(&[]), "the kind `files` declares `a.json`, which its stage did not write");
        Ok(())
    }
}
