//! Support for tests that read files that were changed at random. No file may cause a panic, take much processor time,
//! or take much memory.
//!
//! Each subject runs in a process of its own: then a stack overflow, an abort or the end of the memory is seen too.
//! RAISIN_FUZZ_SECONDS is the time for each subject, RAISIN_TORTURE_SEED gives other changes. After a failure, the folder
//! in the message has the file that caused the failure.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{TestRng, processes};

/// The most time by the clock that one input may take. The processor may have other work.
const MOST_WAIT: Duration = Duration::from_secs(20);

/// What one input may take.
#[derive(Clone, Copy)]
pub struct Limits {
    /// The most processor time for one input.
    pub time: Duration,
    /// The most memory that the process may hold, in KiB.
    pub memory: u64,
}

/// The function of a subject reads changed files until its time is over.
pub type Subject = fn(&mut Fuzzing);

/// Runs the subject that the environment names; does nothing without one. A test calls this function, so that the
/// executable of the test is also the executable of the subjects.
pub fn run_subject(subjects: &[(&str, Subject)], limits: Limits) {
    let Ok(subject) = std::env::var("RAISIN_FUZZ_SUBJECT") else { return };
    let (name, run) = subjects.iter().find(|(name, _)| *name == subject).expect("a subject");
    let mut fuzzing = Fuzzing::start(name, limits);
    run(&mut fuzzing);
    println!(
        "{name}: {} inputs, of which {} were accepted, the longest took {:?}, {} KiB of memory",
        fuzzing.count,
        fuzzing.accepted,
        fuzzing.longest,
        memory("VmHWM")
    );
}

/// Runs a subject in a process of its own. `test` is the name of the test that calls [`run_subject`].
pub fn holds(test: &str, subject: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(std::env::current_exe().expect("the running test"));
    command
        .args(["--exact", test, "--nocapture"])
        .env("RAISIN_FUZZ_SUBJECT", subject)
        .env("RAISIN_FUZZ_FOLDER", folder.path());
    let output = processes::output_after(&mut command, Duration::from_secs(seconds()));
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let kept = (!output.status.success()).then(|| folder.keep());
    assert!(kept.is_none(), "{}\n{told}\nsee {}", output.status, kept.unwrap_or_default().display());
    let summary: String = told.lines().filter(|line| line.contains(" inputs, ")).collect();
    assert!(!summary.is_empty(), "the process of `{subject}` ran no subject: {test} is no test\n{told}");
    println!("{summary}");
}

fn seconds() -> u64 {
    std::env::var("RAISIN_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// The number after this name in /proc/self/status.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the memory");
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().expect("a number")
}

/// The processor time of this process, in steps of ten milliseconds.
fn processor_time() -> Duration {
    let status = std::fs::read_to_string("/proc/self/stat").expect("a status");
    let after_name = status.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The run of one subject.
pub struct Fuzzing {
    pub rng: TestRng,
    /// The folder that is kept after a failure.
    pub folder: PathBuf,
    /// The number of inputs so far.
    pub count: u64,
    /// The number of inputs that their reader has accepted, if the subject counts them.
    pub accepted: u64,
    limits: Limits,
    end: Instant,
    longest: Duration,
    /// When the present input began, for the thread that watches.
    began: Arc<Mutex<Option<Instant>>>,
}

/// The number of panics in all threads of this process, without those of libraries that raisin turns into errors.
static PANICS: AtomicU64 = AtomicU64::new(0);

impl Fuzzing {
    fn start(subject: &str, limits: Limits) -> Self {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !raisin_base::panics::is_in_library() {
                PANICS.fetch_add(1, Ordering::SeqCst);
                hook(panic);
            }
        }));
        let began: Arc<Mutex<Option<Instant>>> = Arc::default();
        let watched = Arc::clone(&began);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(50));
                let began = *watched.lock().unwrap_or_else(PoisonError::into_inner);
                let late = began.is_some_and(|began| began.elapsed() > MOST_WAIT);
                let large = memory("VmRSS") > limits.memory;
                if late || large {
                    raisin_base::say!("late: {late}, too much memory: {large}");
                    std::process::abort();
                }
            }
        });
        let folder = PathBuf::from(std::env::var("RAISIN_FUZZ_FOLDER").expect("a folder"));
        let end = Instant::now() + Duration::from_secs(seconds());
        let rng = TestRng::new(subject);
        Self { rng, folder, count: 0, accepted: 0, limits, end, longest: Duration::ZERO, began }
    }

    pub fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    /// Reads one input. `name` has the bytes of the input if the reading fails.
    pub fn one(&mut self, name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).expect("written");
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let before = processor_time();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&path)));
        let took = processor_time().saturating_sub(before);
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = None;
        assert!(done.is_ok() && PANICS.load(Ordering::SeqCst) == 0, "a panic after {} inputs", self.count);
        assert!(took < self.limits.time, "{took:?} after {} inputs", self.count);
        self.longest = self.longest.max(took);
        self.count += 1;
    }

    /// One of the files, changed at some places.
    pub fn changed(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.rng.below(corpus.len())].clone();
        for _ in 0..=self.rng.below(4) {
            self.change(&mut bytes, corpus);
        }
        bytes
    }

    fn range(&mut self, length: usize, most: usize) -> Range<usize> {
        let start = self.rng.below(length + 1);
        start..(start + self.rng.below(most + 1)).min(length)
    }

    pub fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let length = bytes.len();
        match self.rng.below(11) {
            0 if length > 0 => bytes[self.rng.below(length)] ^= 1 << self.rng.below(8),
            1 if length > 0 => bytes[self.rng.below(length)] = self.rng.below(256) as u8,
            2 => bytes.truncate(self.rng.below(length + 1)),
            3 => drop(bytes.drain(self.range(length, 64))),
            4 => {
                let part = bytes[self.range(length, 256)].to_vec();
                let at = self.rng.below(length + 1);
                drop(bytes.splice(at..at, part));
            }
            5 => {
                let other = &corpus[self.rng.below(corpus.len())];
                let part = other[self.range(other.len(), 512)].to_vec();
                let at = self.range(length, 64);
                drop(bytes.splice(at, part));
            }
            6 => {
                // A whole line twice: a key twice, or an event twice.
                let lines: Vec<Range<usize>> = lines(bytes);
                let line = lines[self.rng.below(lines.len())].clone();
                let part = bytes[line].to_vec();
                let at = lines[self.rng.below(lines.len())].start;
                drop(bytes.splice(at..at, part));
            }
            7 => {
                let numbers = numbers(bytes);
                if let Some(number) = numbers.get(self.rng.below(numbers.len().max(1))) {
                    let to = self.token(&NUMBERS);
                    drop(bytes.splice(number.clone(), to));
                }
            }
            8 => {
                let token = self.token(&TOKENS);
                let at = self.range(length, 8);
                drop(bytes.splice(at, token));
            }
            9 => {
                // A number of a binary file.
                let number = BINARY[self.rng.below(BINARY.len())].to_le_bytes();
                let width = [2, 4, 8][self.rng.below(3)];
                let at = self.rng.below(length + 1);
                bytes.splice(at..(at + width).min(length), number[..width].to_vec());
            }
            _ => {
                let token = self.token(&DEEP);
                let times = 1 << self.rng.below(17);
                let at = self.rng.below(length + 1);
                drop(bytes.splice(at..at, token.repeat(times)));
            }
        }
    }

    /// Changes a JSON document so that the document stays JSON: one of its values becomes another value, disappears, or
    /// stands at a second place.
    pub fn change_json(&mut self, document: &mut Value) {
        let count = places(document);
        let other = nth(document, self.rng.below(count)).map(|value| value.clone()).unwrap_or_default();
        let extreme = self.extreme();
        let wanted = self.rng.below(count);
        let how = self.rng.below(5);
        let key = ["", "type", "default", "\u{1f600}", "rope_type", "id"][self.rng.below(6)].to_owned();
        let Some(value) = nth(document, wanted) else { return };
        match (how, value) {
            (0, Value::Object(entries)) => drop(entries.insert(key, other)),
            (0, Value::Array(entries)) => entries.push(other),
            (1, Value::Object(entries)) => {
                let key = entries.keys().nth(wanted % entries.len().max(1)).cloned();
                drop(key.and_then(|key| entries.remove(&key)));
            }
            (1, Value::Array(entries)) => drop(entries.pop()),
            (2, value) => *value = other,
            (_, value) => *value = extreme,
        }
    }

    /// A value that few documents have.
    fn extreme(&mut self) -> Value {
        match self.rng.below(16) {
            0 => Value::Null,
            1 => Value::Bool(true),
            2 => Value::Bool(false),
            3 => 0.into(),
            4 => (-1).into(),
            5 => u64::MAX.into(),
            6 => i64::MIN.into(),
            7 => u32::MAX.into(),
            8 => 1e308.into(),
            9 => 1e-320.into(),
            10 => "".into(),
            11 => "x".repeat(1 << self.rng.below(17)).into(),
            12 => Value::Array(Vec::new()),
            13 => Value::Object(serde_json::Map::new()),
            14 => "\u{0}\u{feff}\u{10ffff}".into(),
            _ => (1u64 << self.rng.below(40)).into(),
        }
    }

    fn token(&mut self, tokens: &[&str]) -> Vec<u8> {
        self.rng.one_of(tokens).as_bytes().to_vec()
    }
}

/// The number of values in a document.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(places).sum(),
        Value::Object(entries) => entries.values().map(places).sum(),
        _ => 0,
    }
}

/// The value with this number, counted from the outermost value.
fn nth(value: &mut Value, number: usize) -> Option<&mut Value> {
    let Some(mut left) = number.checked_sub(1) else { return Some(value) };
    let values: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(values) => Box::new(values.iter_mut()),
        Value::Object(entries) => Box::new(entries.values_mut()),
        _ => return None,
    };
    for value in values {
        let count = places(value);
        if left < count {
            return nth(value, left);
        }
        left -= count;
    }
    None
}

const NUMBERS: [&str; 9] = [
    "0",
    "-1",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "1e999",
    "1e-999",
    "0x7f",
    "nan",
];
const BINARY: [u64; 8] = [0, 1, u64::MAX, u64::MAX / 2, 1 << 31, 1 << 40, 0x7ff0_0000_7f80_0000, 0xffff_ffff_0000_0000];
const TOKENS: [&str; 11] =
    ["null", "\"\"", "[]", "{}", "\0", "\u{1b}[2J", "\u{feff}", "\n", "include = \"changed\"\n", "[sweep]\n", "\"\"\""];
const DEEP: [&str; 9] = ["[", "{\"a\":", "{a=", "a.", "x", "[1,", "\n[a.b]\n", "{{(", "{% if a %}"];

/// The lines, each with its line break.
fn lines(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut start = 0;
    let mut lines = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        lines.push(start..start + line.len());
        start += line.len();
    }
    if lines.is_empty() {
        lines.push(0..0);
    }
    lines
}

/// The places of the numbers.
fn numbers(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
        match found.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => found.push(at..at + 1),
        }
    }
    found
}
