//! The worker's side of a running program: starts the supervisor, keeps what the program prints, reports progress, and
//! holds the program to the memory of the stage.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGTERM;

use super::call::ProgramCall;
use super::supervisor::{ARGUMENT, END, KILL, ProgramEnd};
use super::{progress, tree};
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::Context;
use raisin_contract::memory::exceeded;

/// A longer line is cut into several.
const LONGEST_LINE: usize = 1 << 16;

/// The least time between two looks at the processes of the program.
const INTERVAL: Duration = Duration::from_millis(250);
/// A look may take this part of the time, so that a worker that only looks does not seem to work: the engine takes a
/// fiftieth of a core as a sign of life.
const PART_OF_LOOKS: u32 = 150;
/// The time between two signs of life to the engine.
const SIGN: Duration = Duration::from_secs(1);
/// The processor time, in clock ticks, that counts as a sign of life: a fiftieth of a core, as in the engine.
const BUSY_TICKS: u64 = 2;

enum ProgramMessage {
    /// A line, and whether it ended with a carriage return: then the next one overwrites it.
    Line(Vec<u8>, bool),
    /// The answer of the supervisor; `None` if it died.
    Ended(Option<ProgramEnd>),
}

/// Runs a program to its end.
///
/// # Errors
/// The supervisor cannot be started or dies, or the program takes more than the memory of the stage.
pub fn run(call: &ProgramCall, context: &Context) -> Result<ProgramEnd> {
    let asked = watch_for_the_end()?;
    let (own, theirs) = UnixStream::pair().context("cannot make a socket")?;
    let mut supervisor = start(call, theirs, context)?;
    let (sender, messages) = channel();
    let mut readers = Vec::new();
    let outputs: [Option<Box<dyn Read + Send>>; 2] =
        [supervisor.stdout.take().map(|it| Box::new(it) as _), supervisor.stderr.take().map(|it| Box::new(it) as _)];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        readers.push(std::thread::Builder::new().spawn(move || lines(output, &sender))?);
    }
    let answer = own.try_clone()?;
    readers.push(std::thread::Builder::new().spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(answer).read_line(&mut line);
        let end = read.ok().and_then(|_| serde_json::from_str(&line).ok());
        // Nobody receives the message if the main thread has failed.
        let _ = sender.send(ProgramMessage::Ended(end));
    })?);
    let mut attendant = Attendant {
        context,
        program: call.name(),
        root: i32::try_from(supervisor.id()).unwrap_or(i32::MAX),
        socket: own,
        asked,
        has_exceeded: false,
        next_look: Instant::now() + INTERVAL,
        signed: Instant::now(),
        ticks: 0,
    };
    let end = attendant.attend(&messages);
    let status = supervisor.wait();
    AT_WORK.store(false, Ordering::SeqCst);
    if asked.load(Ordering::SeqCst) {
        // The program has ended. Now this process ends as it would have without a program.
        let _ = signal_hook::low_level::emulate_default_handler(SIGTERM);
    }
    if attendant.has_exceeded
        && let Some(memory) = context.memory()
    {
        return Err(exceeded(context.stage(), memory).into());
    }
    let end = end?;
    let died = || {
        Problem::new(match status {
            Ok(status) => format!("the process that watches the program died: {status}"),
            Err(error) => format!("the process that watches the program is lost: {error}"),
        })
    };
    Ok(end.ok_or_else(died)?)
}

/// Whether a program runs in this process.
static AT_WORK: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on, SIGTERM is noted as long as a program runs, so that the program ends before this process.
fn watch_for_the_end() -> Result<&'static AtomicBool> {
    static WATCH: OnceLock<Result<(), String>> = OnceLock::new();
    let watch = || {
        let on_signal = || {
            if AT_WORK.load(Ordering::SeqCst) {
                ASKED.store(true, Ordering::SeqCst);
            } else {
                let _ = signal_hook::low_level::emulate_default_handler(SIGTERM);
            }
        };
        // SAFETY: the handler uses atomics and `emulate_default_handler`, which may be called in a signal handler.
        let handler = unsafe { signal_hook::low_level::register(SIGTERM, on_signal) };
        handler.map(drop).map_err(|error| error.to_string())
    };
    WATCH.get_or_init(watch).clone().map_err(|error| Problem::new(format!("cannot watch for signals: {error}")))?;
    AT_WORK.store(true, Ordering::SeqCst);
    Ok(&ASKED)
}

/// Starts the supervisor of a program. It gets a process group of its own: a signal for the worker does not reach it.
fn start(call: &ProgramCall, socket: UnixStream, context: &Context) -> Result<Child> {
    // The link leads to this executable also after its file was replaced.
    let mut command = Command::new("/proc/self/exe");
    let lock = context.lock().map(std::os::fd::AsRawFd::as_raw_fd);
    command.arg(ARGUMENT).arg(lock.map_or("-".to_owned(), |lock| lock.to_string())).args(&call.arguments);
    command.env_clear().envs(&call.environment).current_dir(&call.folder).process_group(0);
    command.stdin(OwnedFd::from(socket)).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(lock) = lock {
        let leave_open = move || {
            // SAFETY: the context keeps the descriptor open while the stage runs.
            let lock = unsafe { std::os::fd::BorrowedFd::borrow_raw(lock) };
            Ok(rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::empty())?)
        };
        // SAFETY: between fork and exec only one system call is made, no memory is allocated and no lock is taken.
        unsafe { command.pre_exec(leave_open) };
    }
    command.spawn().context("cannot start the process that watches the program")
}

/// Sends each line of a stream. A carriage return also ends a line: programs draw bars with it.
fn lines(output: impl Read, messages: &Sender<ProgramMessage>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while let Ok(bytes) = output.fill_buf()
        && !bytes.is_empty()
    {
        let room = LONGEST_LINE - line.len();
        let end = bytes.iter().take(room).position(|byte| matches!(byte, b'\n' | b'\r'));
        let (taken, is_over) = match end {
            Some(end) => (end + 1, Some(bytes[end] == b'\r')),
            None => (bytes.len().min(room), (bytes.len() >= room).then_some(false)),
        };
        line.extend_from_slice(&bytes[..end.unwrap_or(taken)]);
        output.consume(taken);
        if let Some(returns) = is_over
            && messages.send(ProgramMessage::Line(std::mem::take(&mut line), returns)).is_err()
        {
            return;
        }
    }
    if !line.is_empty() {
        let _ = messages.send(ProgramMessage::Line(line, false));
    }
}

/// What the main thread does while the program runs.
struct Attendant<'a> {
    context: &'a Context,
    program: String,
    /// The number of the supervisor.
    root: i32,
    socket: UnixStream,
    /// Set when this process got SIGTERM.
    asked: &'static AtomicBool,
    has_exceeded: bool,
    next_look: Instant,
    signed: Instant,
    ticks: u64,
}

impl Attendant<'_> {
    /// Handles all messages until the program has ended and its output is read.
    fn attend(&mut self, messages: &Receiver<ProgramMessage>) -> Result<Option<ProgramEnd>> {
        let (mut ended, mut has_asked) = (None, false);
        loop {
            match messages.recv_timeout(Duration::from_millis(50)) {
                Ok(ProgramMessage::Line(line, returns)) => self.line(&line, returns)?,
                Ok(ProgramMessage::Ended(end)) => ended = Some(end),
                Err(RecvTimeoutError::Timeout) => {}
                // All threads have ended: the supervisor has answered, and no process can print any more.
                Err(RecvTimeoutError::Disconnected) => return Ok(ended.flatten()),
            }
            if self.asked.load(Ordering::SeqCst) && !has_asked {
                has_asked = true;
                self.ask(END);
            }
            if ended.is_none() && Instant::now() >= self.next_look {
                let began = Instant::now();
                self.look();
                self.next_look = Instant::now() + INTERVAL.max(began.elapsed() * PART_OF_LOOKS);
            }
        }
    }

    fn ask(&mut self, request: u8) {
        // If the supervisor has ended, there is nothing to end.
        let _ = self.socket.write_all(&[request]);
    }

    fn line(&self, line: &[u8], returns: bool) -> Result<()> {
        let text = String::from_utf8_lossy(line);
        if let Some(progress) = progress::of_line(&text, &self.program) {
            self.context.progress(progress);
            // A bar that is drawn again and again would fill the log; its last line ends with a line break.
            if returns || text.trim_start().starts_with('{') {
                return Ok(());
            }
        }
        if !(returns && line.is_empty()) {
            let mut log = std::io::stderr().lock();
            log.write_all(line).and_then(|()| log.write_all(b"\n")).context("cannot write the log of the stage")?;
        }
        Ok(())
    }

    /// Ends the program if it takes too much memory, and tells the engine that it is alive.
    fn look(&mut self) {
        let processes = tree::look_below(self.root);
        let memory = processes.iter().map(|process| process.memory).sum::<u64>();
        if self.context.memory().is_some_and(|limit| memory > limit) && !self.has_exceeded {
            self.has_exceeded = true;
            self.ask(KILL);
        }
        if self.signed.elapsed() >= SIGN {
            self.signed = Instant::now();
            let ticks = processes.iter().map(|process| process.ticks).fold(0, u64::wrapping_add);
            let has_worked = ticks.abs_diff(self.ticks) >= BUSY_TICKS;
            self.ticks = ticks;
            if has_worked || processes.iter().any(|process| process.waits) {
                self.context.alive();
            }
        }
    }
}
