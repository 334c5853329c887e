//! The child processes of a build: starts them, and ends them in an orderly way, so that none outlives the build. This
//! file does not know what the processes run.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::installation::Installation;
use super::libtorch::{Libtorch, LibtorchPlace, libtorch_to_load};
use super::silence::Signs;
use raisin_base::error::{Context as _, Problem, Result, anyhow};
use raisin_contract::Process;

/// All running child processes, so that any thread can end them.
#[derive(Default)]
pub struct Children {
    stopping: AtomicBool,
    /// The key is the process id.
    running: Mutex<BTreeMap<u32, RunningChild>>,
}

#[derive(Clone)]
struct RunningChild {
    child: Arc<Mutex<Child>>,
    /// The signs of life of the stage at work; `None` between two stages.
    signs: Arc<Mutex<Option<Signs>>>,
    /// Whether the process was ended because it gave no sign of life.
    was_silent: Arc<AtomicBool>,
}

/// A started process. The kernel kills the process when the build ends in any way.
pub struct ChildProcess<'c> {
    running: RunningChild,
    pid: u32,
    children: &'c Children,
}

impl Children {
    /// Starts a process with `log` as its standard error. The thread that calls this function must outlive the process:
    /// when the thread ends, the kernel kills the process.
    pub fn start(&self, mut command: Command, log: &File) -> Result<(ChildProcess<'_>, ChildStdin, ChildStdout)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        // The process gets its own process group. Therefore Ctrl-C reaches only the build, and the build ends its
        // children in order.
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
        let running =
            RunningChild { child: Arc::new(Mutex::new(child)), signs: Arc::default(), was_silent: Arc::default() };
        locked(&self.running).insert(pid, running.clone());
        if self.is_stopping() {
            self.signal(Signal::TERM);
        }
        Ok((ChildProcess { running, pid, children: self }, stdin, stdout))
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Asks every child process to end, and every waiting job to give up.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.signal(Signal::TERM);
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks every child process to end, and kills those that have not ended after `grace`.
    pub fn end(&self, grace: Duration) {
        self.stop();
        let began = Instant::now();
        while began.elapsed() < grace && locked(&self.running).values().any(|running| is_alive(&running.child)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    fn signal(&self, signal: Signal) {
        locked(&self.running).values().for_each(|running| signal_group(&running.child, signal));
    }

    /// Kills each process whose stage has given no sign of life for `limit`.
    pub fn kill_silent(&self, limit: Duration) {
        for (pid, running) in &*locked(&self.running) {
            if locked(&running.signs).as_mut().is_some_and(|signs| signs.are_missing(*pid, limit)) {
                running.was_silent.store(true, Ordering::SeqCst);
                signal_group(&running.child, Signal::KILL);
            }
        }
    }
}

impl ChildProcess<'_> {
    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        is_alive(&self.running.child)
    }

    pub fn kill(&self) {
        signal_group(&self.running.child, Signal::KILL);
    }

    /// A stage begins in the process.
    pub fn begins(&self) {
        *locked(&self.running.signs) = Some(Signs::new());
    }

    /// The stage in the process has sent a message.
    pub fn gives_sign(&self) {
        locked(&self.running.signs).iter_mut().for_each(Signs::message);
    }

    /// The stage has ended. The process may wait for the next stage as long as it likes.
    pub fn rests(&self) {
        *locked(&self.running.signs) = None;
    }

    pub fn was_silent(&self) -> bool {
        self.running.was_silent.load(Ordering::SeqCst)
    }

    /// The process is reaped only under the mutex. `signal_group` also holds the mutex when it kills the group, so it
    /// cannot hit another process that got the same id.
    pub fn wait(&self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = locked(&self.running.child).try_wait()? {
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

fn is_alive(child: &Mutex<Child>) -> bool {
    matches!(locked(child).try_wait(), Ok(None))
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

/// The command that starts a worker. The worker reads requests from its standard input.
pub fn command(process: Process, folder: Option<&Path>) -> Result<Command> {
    let mut command = Command::new(executable(process, folder)?);
    if process == Process::Tensor
        && let Some(found) = libtorch_to_load()?
    {
        load_from(&mut command, &found)?;
    }
    // By default, a waiting OpenMP thread spins for milliseconds and takes this time from other stages on the same
    // cores.
    if process == Process::Tensor
        && std::env::var_os("GOMP_SPINCOUNT").is_none()
        && std::env::var_os("OMP_WAIT_POLICY").is_none()
    {
        command.env("GOMP_SPINCOUNT", "10000");
    }
    command.arg("run-stages");
    Ok(command)
}

/// The path of the executable of a process. For tensor stages, `RAISIN_WORKER` overrides the path. Otherwise the
/// executable lies in the given folder, or beside the running executable.
///
/// # Errors
/// The executable does not exist.
pub fn executable(process: Process, folder: Option<&Path>) -> Result<PathBuf> {
    if process == Process::Tensor
        && let Some(path) = std::env::var_os("RAISIN_WORKER")
    {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path);
        }
        let message = format!("RAISIN_WORKER names {}, where there is no file", path.display());
        return Err(Problem::new(message).hint("unset RAISIN_WORKER to use the executable beside `raisin`").into());
    }
    executable_named(process.executable(), folder)
}

/// The path of an executable in the given folder, or beside the running executable.
///
/// # Errors
/// The executable does not exist.
pub fn executable_named(name: &str, folder: Option<&Path>) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running executable")?;
    let folder = folder.or(own.parent()).unwrap_or(Path::new("."));
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("there is no executable `{name}` in {}", folder.display());
    Err(Problem::new(message).hint(Installation::here().repair()).into())
}

/// Checks that what a process needs in order to start is there, without starting the process.
///
/// # Errors
/// The executable or, for tensor stages, libtorch does not exist.
pub fn check(process: Process, folder: Option<&Path>) -> Result<()> {
    executable(process, folder)?;
    if process == Process::Tensor {
        libtorch_to_load()?;
    }
    Ok(())
}

/// Sets the library path of a worker, so that the loader finds this libtorch. The loader looks into the folders of
/// `LD_LIBRARY_PATH` before those of the run path of the executable.
///
/// # Errors
/// The path of the folder contains a colon, which separates folders in `LD_LIBRARY_PATH`.
pub fn load_from(command: &mut Command, libtorch: &Libtorch) -> Result<()> {
    // The run path of the executable leads to this folder. Folders that a person sets come first.
    if libtorch.place == LibtorchPlace::Linked {
        return Ok(());
    }
    let others = std::env::var_os("LD_LIBRARY_PATH").filter(|value| !value.is_empty());
    let folders = [libtorch.folder.clone()].into_iter().chain(others.iter().flat_map(std::env::split_paths));
    let path = std::env::join_paths(folders)
        .with_context(|| format!("libtorch cannot be loaded from {}", libtorch.folder.display()))?;
    command.env("LD_LIBRARY_PATH", path);
    Ok(())
}
