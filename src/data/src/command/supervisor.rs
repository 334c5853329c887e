//! A process between the worker and the program of a stage. It ends the program, and all processes that the program
//! started, when the worker asks for it or dies. The worker itself could not: a killed process cleans nothing up.
//!
//! The supervisor adopts the processes whose parents end (`PR_SET_CHILD_SUBREAPER`), so that a process that leaves the
//! group of the program stays below the supervisor. Its standard input is a socket to the worker. The worker sends
//! [`END`] or [`KILL`]; the end of the socket means that the worker is dead. The supervisor answers with one line, the
//! [`ProgramEnd`].

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use super::tree;
use raisin_base::error::{Context as _, Result, anyhow};

/// The first argument of the executable that makes it a supervisor. The second is the number of the descriptor that
/// holds the lock of the staging folder, or `-`.
pub const ARGUMENT: &str = "supervise";

/// The worker asks for the end of the program: SIGTERM, and SIGKILL after [`GRACE`].
pub const END: u8 = b'e';
/// The worker asks for SIGKILL at once.
pub const KILL: u8 = b'k';

/// The time that a program has after SIGTERM. A build ends within two seconds, and kills its workers after one.
pub const GRACE: Duration = Duration::from_millis(700);

/// The time between two looks for adopted processes that have ended.
const REAP: Duration = Duration::from_secs(2);

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramEnd {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The number of processes that the program left at work.
    pub left: usize,
    /// Why the program could not be started.
    pub not_started: Option<String>,
    /// Whether the reason is that there is no such file.
    pub is_missing: bool,
}

/// Runs the program of `arguments` (the descriptor of the lock, the program, its arguments).
///
/// # Errors
/// The process was not started by a worker.
pub fn supervise(arguments: &[OsString]) -> Result<()> {
    let [lock, program, arguments @ ..] = arguments else {
        return Err(anyhow!("`raisin-data {ARGUMENT}` is started by a worker"));
    };
    keep_to_itself(lock)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot adopt processes")?;
    // SAFETY: descriptor 0 is open: the worker gives this process a socket. Nothing else here uses descriptor 0.
    let stdin = unsafe { BorrowedFd::borrow_raw(0) };
    let mut socket = UnixStream::from(stdin.try_clone_to_owned().context("cannot reach the worker")?);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    let in_child = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec only one system call is made, no memory is allocated and no lock is taken.
    unsafe { command.pre_exec(in_child) };
    let end = match command.spawn() {
        Ok(mut child) => {
            let left = attend(&child, &requests(&socket)?)?;
            let status = child.wait().context("cannot wait for the program")?;
            ProgramEnd { code: status.code(), signal: status.signal(), left, ..ProgramEnd::default() }
        }
        Err(error) => ProgramEnd {
            not_started: Some(error.to_string()),
            is_missing: error.kind() == std::io::ErrorKind::NotFound,
            ..ProgramEnd::default()
        },
    };
    // If the worker is dead, nobody reads the answer.
    let _ = writeln!(socket, "{}", serde_json::to_string(&end)?);
    Ok(())
}

/// The program does not get the lock of the staging folder.
fn keep_to_itself(lock: &OsString) -> Result<()> {
    let Some(number) = lock.to_str().and_then(|text| text.parse::<RawFd>().ok()) else { return Ok(()) };
    // SAFETY: the worker left this descriptor open, and nothing closes it before the process ends.
    let lock = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::CLOEXEC).context("there is no lock of the staging folder")
}

/// What the worker asks for; the channel is closed when the worker is dead.
fn requests(socket: &UnixStream) -> Result<Receiver<u8>> {
    let mut socket = socket.try_clone().context("cannot reach the worker")?;
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("requests".to_owned()).spawn(move || {
        let mut byte = [0];
        while let Ok(1) = socket.read(&mut byte) {
            if sender.send(byte[0]).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Waits until the program has ended, and ends it if the worker asks for it or dies. Then ends what the program left;
/// returns the number of these processes. The program is not reaped, so that its group keeps its number.
fn attend(child: &Child, requests: &Receiver<u8>) -> Result<usize> {
    let program = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a program without a number")?;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut killed_at: Option<Instant> = None;
    let mut pause = Duration::from_millis(1);
    let (mut is_dead, mut reaped) = (false, Instant::now());
    while !has_ended(program)? {
        let request = if is_dead {
            std::thread::sleep(pause);
            None
        } else {
            match requests.recv_timeout(pause) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    is_dead = true;
                    // A worker that dies after it asked for the end was killed: there is no more time.
                    Some(if killed_at.is_some() { KILL } else { END })
                }
            }
        };
        match request {
            Some(KILL) => killed_at = Some(Instant::now()),
            Some(_) if killed_at.is_none() => {
                killed_at = Some(Instant::now() + GRACE);
                signal_all(own, Signal::TERM);
            }
            _ => {}
        }
        if killed_at.is_some_and(|at| Instant::now() >= at) {
            signal_all(own, Signal::KILL);
        }
        if reaped.elapsed() >= REAP {
            reaped = Instant::now();
            reap_adopted(own, program);
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    let mut left = 0;
    // A process can start another one before it is killed.
    for _ in 0..200 {
        let alive = tree::below(own).len();
        left = left.max(alive);
        if alive == 0 {
            break;
        }
        signal_all(own, Signal::KILL);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(if killed_at.is_some() { 0 } else { left })
}

/// Whether the program has ended; its status stays.
fn has_ended(program: Pid) -> Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(rustix::process::waitid(WaitId::Pid(program), options).context("cannot wait for the program")?.is_some())
}

/// Takes the status of the adopted processes that have ended. Otherwise each would keep its number until the end of the
/// program.
fn reap_adopted(own: i32, program: Pid) {
    for pid in tree::ended_children(own).into_iter().filter_map(Pid::from_raw).filter(|pid| *pid != program) {
        // If this fails, the kernel takes the status when the supervisor ends.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

fn signal_all(own: i32, signal: Signal) {
    for process in tree::below(own) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            // A process that has ended meanwhile needs no signal.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}
