//! Starts the processes of a test with a time limit. A process that hangs must fail its test with what it printed, and
//! must not block all other tests.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Once;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The time limit of a process. The longest process of all tests takes less than a minute on an idle machine.
const LIMIT: Duration = Duration::from_mins(10);

/// The time limit of all tests of one process together. The full form of the random graphs takes seven minutes.
const WHOLE_LIMIT: Duration = Duration::from_hours(1);

/// The time limit of what a test waits for in a running process, such as the start of a stage.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// Runs a command, and returns its output.
pub fn output(command: &mut Command) -> Output {
    output_after(command, Duration::ZERO)
}

/// Runs a command that works for this time, and returns its output. The time limit begins after this time.
pub fn output_after(command: &mut Command, time: Duration) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    ended_within(child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}")), time + LIMIT)
}

/// Waits until a process ends. Returns the output that was piped and not read yet.
pub fn ended(child: Child) -> Output {
    ended_within(child, LIMIT)
}

/// Waits until a process ends, without its output.
pub fn status(child: &mut Child) -> ExitStatus {
    status_within(child, LIMIT).unwrap_or_else(|| panic!("process {} does not end", child.id()))
}

/// Waits until `came` returns true. If that takes too long, the test fails with the text `what`.
pub fn wait_for(what: &str, mut came: impl FnMut() -> bool) {
    let began = Instant::now();
    while !came() {
        assert!(began.elapsed() < WAIT_LIMIT, "it does not happen that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ended_within(mut child: Child, limit: Duration) -> Output {
    let stdout = read(child.stdout.take());
    let stderr = read(child.stderr.take());
    let status = status_within(&mut child, limit);
    let (stdout, stderr) = (collect(&stdout), collect(&stderr));
    let Some(status) = status else {
        let [printed, told] = [&stdout, &stderr].map(|bytes| String::from_utf8_lossy(bytes));
        panic!("process {} did not end within {limit:?}. It printed:\n{printed}\n{told}", child.id());
    };
    Output { status, stdout, stderr }
}

/// For tests that build in the process of the test: ends this process if its tests take too long together. The output
/// of the test harness then shows which tests have ended.
pub fn limit_this_process() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(WHOLE_LIMIT);
            // Written without `println!`, whose text the test harness would keep.
            raisin_base::say!("the tests of this process did not end within {WHOLE_LIMIT:?}: one of them hangs");
            std::process::exit(1);
        });
    });
}

/// Waits for the end of a process. Kills the process and returns `None` if it does not end in time.
fn status_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            return Some(status);
        }
        if began.elapsed() > limit {
            child.kill().expect("SIGKILL");
            child.wait().expect("it ended");
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Reads a pipe in a thread, piece by piece, so that the text is known although the pipe may never close.
fn read(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// All pieces. A process that another process started may hold the pipe open: its text is awaited for a short time.
fn collect(pieces: &Receiver<Vec<u8>>) -> Vec<u8> {
    std::iter::from_fn(|| pieces.recv_timeout(Duration::from_secs(5)).ok()).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh starts")
    }

    #[test]
    fn a_process_that_hangs_fails_its_test_with_what_it_printed() {
        let hangs = || ended_within(shell("echo here; echo there >&2; exec sleep 60"), Duration::from_millis(300));
        let panic = std::panic::catch_unwind(hangs).expect_err("it hangs");
        let words = panic.downcast_ref::<String>().expect("words");
        assert!(words.contains("did not end within 300ms. It printed:\nhere\n\nthere"), "{words}");
        let output = ended(shell("echo here; exit 3"));
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"here\n"[..], Some(3)));
        assert_eq!(status(&mut shell("exit 4")).code(), Some(4));
    }
}
