//! Recognises a worker that will never end: for a long time, its stage sends no message, uses almost no processor
//! time, and reads and writes nothing on a disk. Without this, a stage that waits for a lock of its own would block a
//! build for ever.

use std::path::Path;
use std::time::{Duration, Instant};

use raisin_base::error::{Problem, Result};

/// The time after which a silent worker is ended. No stage waits this long for a disk or for a GPU without any sign.
const LIMIT: Duration = Duration::from_mins(30);
/// For tests: another limit, in seconds.
const VARIABLE: &str = "RAISIN_SILENT_SECONDS";

/// The share of a core above which a worker counts as at work. The thread that measures the memory of a worker uses
/// less than a hundredth of a core, also if the stage itself waits for ever.
const BUSY: f64 = 0.02;
/// The ticks that say nothing. The kernel counts whole ticks: a process that uses a hundredth of a core sometimes has two
/// within a moment, which is not a fiftieth of a core.
const UNCERTAIN_TICKS: f64 = 2.0;
/// The clock ticks of /proc per second, on every architecture for which Linux builds executables of users.
const TICKS_PER_SECOND: f64 = 100.0;

/// The limit of this build.
///
/// # Errors
/// The environment variable is not a number of seconds.
pub fn limit() -> Result<Duration> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(LIMIT) };
    let number = text.to_str().and_then(|text| text.parse::<f64>().ok());
    let limit = number.and_then(|number| Duration::try_from_secs_f64(number).ok()).filter(|limit| !limit.is_zero());
    limit.ok_or_else(|| Problem::usage(format!("{VARIABLE} is {}, not a number of seconds", text.display())).into())
}

/// The signs of life of a worker during one stage.
#[derive(Debug)]
pub struct Signs {
    seen: Option<Activity>,
    last: Instant,
}

impl Signs {
    /// The signs of a stage that begins now.
    pub fn new() -> Self {
        Self { seen: None, last: Instant::now() }
    }

    /// The stage sent a message.
    pub fn message(&mut self) {
        self.last = Instant::now();
    }

    /// Reads the activity of a process group. Returns true if there was no sign of life for `limit`.
    pub fn are_missing(&mut self, group: u32, limit: Duration) -> bool {
        let now = Activity::of(group);
        let elapsed = self.last.elapsed();
        if self.seen.as_ref().is_none_or(|before| now.is_alive_since(before, elapsed)) {
            self.seen = Some(now);
            self.last = Instant::now();
        }
        self.last.elapsed() >= limit
    }
}

/// What the processes of a group have done so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Activity {
    processes: u64,
    /// Processor time in clock ticks, of the processes and their ended children.
    ticks: u64,
    /// Page faults that read from a disk. A stage that reads a memory-mapped file has no other sign.
    faults: u64,
    /// The bytes from and to a disk, according to /proc/PID/io, which the kernel may hide.
    bytes: u64,
    /// Whether a process waits for a disk, or a person has stopped it.
    waits_for_others: bool,
}

impl Activity {
    /// Whether the processes have worked or waited for a disk since `before`, the activity at the last sign of life.
    fn is_alive_since(&self, before: &Self, elapsed: Duration) -> bool {
        let ticks = self.ticks.wrapping_sub(before.ticks) as f64;
        self.waits_for_others
            || (self.processes, self.faults, self.bytes) != (before.processes, before.faults, before.bytes)
            || ticks > BUSY * TICKS_PER_SECOND * elapsed.as_secs_f64() + UNCERTAIN_TICKS
    }

    fn of(group: u32) -> Self {
        let mut sum = Self::default();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes =
            processes.filter(|entry| entry.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()));
        for process in processes {
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            if let Some(one) = parse(&stat, group) {
                sum.processes += 1;
                sum.ticks = sum.ticks.wrapping_add(one.ticks);
                sum.faults = sum.faults.wrapping_add(one.faults);
                sum.bytes = sum.bytes.wrapping_add(moved(&process.path()));
                sum.waits_for_others |= one.waits_for_others;
            }
        }
        sum
    }
}

/// Reads the line of /proc/PID/stat; `None` if the process is not in the group.
fn parse(stat: &str, group: u32) -> Option<Activity> {
    // The name of the executable stands in brackets, and may itself contain brackets and spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let numbers: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    // After the state: ppid, pgrp, session, tty, tpgid, flags, minflt, cminflt, majflt, cmajflt, utime, stime, cutime,
    // cstime.
    let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
    (number(1) == u64::from(group)).then(|| Activity {
        processes: 1,
        ticks: (10..14).map(number).fold(0, u64::wrapping_add),
        faults: number(8).wrapping_add(number(9)),
        bytes: 0,
        waits_for_others: matches!(state, "D" | "T" | "t"),
    })
}

/// The bytes that a process has read from a disk and written to a disk. Bytes from memory, such as files in /proc, are
/// left out: the thread that measures the memory of a worker reads them all the time.
fn moved(process: &Path) -> u64 {
    let text = std::fs::read_to_string(process.join("io")).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("read_bytes") || line.starts_with("write_bytes"));
    let numbers = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    numbers.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_sleeping_process_shows_no_sign_of_life_and_a_working_or_stopped_one_does() {
        let limit = Duration::from_millis(300);
        let is_silent = |script: &str, message: bool| {
            let mut child = Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap();
            let (mut signs, began) = (Signs::new(), Instant::now());
            let mut silent = false;
            while !silent && began.elapsed() < Duration::from_secs(2) {
                if message {
                    signs.message();
                }
                silent = signs.are_missing(child.id(), limit);
                std::thread::sleep(Duration::from_millis(50));
            }
            let group = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
            child.wait().unwrap();
            silent
        };
        assert!(is_silent("sleep 60", false));
        assert!(!is_silent("sleep 60", true));
        assert!(!is_silent("while :; do :; done", false));
        // A child that works counts as well.
        assert!(!is_silent("(while :; do :; done) & wait", false));
        assert!(!is_silent("kill -STOP $$", false));
    }

    #[test]
    fn a_worker_that_only_measures_its_memory_shows_no_sign_of_life() {
        let before = Activity { processes: 1, ticks: 1000, ..Activity::default() };
        let minute = Duration::from_mins(1);
        let alive = |now: Activity| now.is_alive_since(&before, minute);
        // 0.8 % of a core, and 5 % of a core.
        assert!(!alive(Activity { processes: 1, ticks: 1048, ..Activity::default() }));
        assert!(alive(Activity { processes: 1, ticks: 1300, ..Activity::default() }));
        assert!(alive(Activity { processes: 1, ticks: 1000, bytes: 4096, ..Activity::default() }));
        assert!(alive(Activity { processes: 2, ticks: 1000, ..Activity::default() }));
        let soon = |ticks| Activity { processes: 1, ticks, ..Activity::default() };
        let moment = Duration::from_millis(100);
        assert!(!soon(1002).is_alive_since(&before, moment), "two ticks by chance");
        assert!(soon(1010).is_alive_since(&before, moment));
    }

    #[test]
    fn a_line_of_proc_is_read_after_the_name_of_the_process() {
        let line = "17 (a) R (b) S 1 42 42 0 -1 4194304 1 2 3 4 50 60 70 80 20 0 1 0 12345 1 2";
        let expected = Activity { processes: 1, ticks: 260, faults: 7, bytes: 0, waits_for_others: false };
        assert_eq!(parse(line, 42), Some(expected));
        assert_eq!(parse(line, 41), None);
        assert_eq!(parse("", 42), None);
        assert!(parse(&line.replace(") S ", ") D "), 42).unwrap().waits_for_others);
    }
}
