//! The processes that run stages: started so that none outlives its build, ended in order. What they run is not known here.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use raisin_base::error::{Context as _, Problem, Result, anyhow};
use raisin_contract::Process;

/// The running children, for whoever must end them.
#[derive(Default)]
pub struct Children {
    stopping: AtomicBool,
    /// By process id.
    running: Mutex<BTreeMap<u32, Arc<Mutex<Child>>>>,
}

/// A started process. It is told to end with its build, however that ends.
pub struct ChildProcess<'c> {
    child: Arc<Mutex<Child>>,
    pid: u32,
    children: &'c Children,
}

impl Children {
    /// Starts a process, with its standard error going to `log`. The thread that calls this must outlive the process:
    /// with it, the kernel kills the process too.
    pub fn start(&self, mut command: Command, log: &File) -> Result<(ChildProcess<'_>, ChildStdin, ChildStdout)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        // A group of its own: Ctrl-C reaches the build alone, which then ends its children in order.
        command.process_group(0);
        let parent = rustix::process::getpid();
        let in_child = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
        };
        // SAFETY: between fork and exec only two system calls are made, no memory is allocated and no lock is taken.
        unsafe { command.pre_exec(in_child) };
        let mut child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdin = child.stdin.take().ok_or_else(|| anyhow!("a child without standard input"))?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("a child without standard output"))?;
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        locked(&self.running).insert(pid, Arc::clone(&child));
        if self.is_stopping() {
            self.signal(Signal::TERM);
        }
        Ok((ChildProcess { child, pid, children: self }, stdin, stdout))
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Asks every child to end, and every job that waits to give up.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.signal(Signal::TERM);
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        locked(&self.running).values().for_each(|child| signal_group(child, signal));
    }
}

impl ChildProcess<'_> {
    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        matches!(locked(&self.child).try_wait(), Ok(None))
    }

    pub fn kill(&self) {
        signal_group(&self.child, Signal::KILL);
    }

    /// Reaped only under the mutex: whoever kills the group does so too, and cannot hit a stranger with the same id.
    pub fn wait(&self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = locked(&self.child).try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for ChildProcess<'_> {
    fn drop(&mut self) {
        locked(&self.children.running).remove(&self.pid);
    }
}

fn signal_group(child: &Mutex<Child>, signal: Signal) {
    let mut child = locked(child);
    if let Ok(None) = child.try_wait()
        && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
    {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The command of a worker that reads requests on its standard input.
pub fn command(process: Process, folder: Option<&Path>) -> Result<Command> {
    let mut command = Command::new(executable(process, folder)?);
    // OpenMP threads that wait spin for milliseconds by default, which stages side by side take from each other.
    if process == Process::Tensor
        && std::env::var_os("GOMP_SPINCOUNT").is_none()
        && std::env::var_os("OMP_WAIT_POLICY").is_none()
    {
        command.env("GOMP_SPINCOUNT", "10000");
    }
    command.arg("run-stages");
    Ok(command)
}

/// The executable of a process: for tensors the file that `RAISIN_WORKER` names, if it is set; else the one in the given
/// folder, or beside the executable that runs.
///
/// # Errors
/// It is not there.
pub fn executable(process: Process, folder: Option<&Path>) -> Result<PathBuf> {
    if process == Process::Tensor
        && let Some(path) = std::env::var_os("RAISIN_WORKER")
    {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path);
        }
        let message = format!("RAISIN_WORKER names {}, where there is no file", path.display());
        return Err(Problem::new(message).hint("unset it to take the executable beside `raisin`").into());
    }
    let own = std::env::current_exe().context("cannot find the running executable")?;
    let folder = folder.or(own.parent()).unwrap_or(Path::new("."));
    let path = folder.join(process.executable());
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("there is no executable `{}` in {}", process.executable(), folder.display());
    Err(Problem::new(message).hint("`cargo build --workspace` makes all executables").into())
}
