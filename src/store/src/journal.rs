//! The journal: one line for each event of every run (look-ups, starts, results). Queries over the journal are in
//! src/query.
//!
//! Runs append whole lines to the file of the current day. Each line is a JSON object. The last member, `seal`, holds
//! the first 16 digits of the blake3 of the text before `seal`. A kill can tear the last line: readers skip a torn
//! line, and the next run begins a new line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Store, if_there};
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Result};
use raisin_contract::ui::GraphStage;

/// An event, with the id of the run and the time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalLine {
    pub run: String,
    /// RFC 3339.
    pub time: String,
    #[serde(flatten)]
    pub event: JournalEvent,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum JournalEvent {
    RunStarted(RunStart),
    /// The cache had the artifact of the stage.
    Hit {
        stage: String,
        variant: String,
        kind: String,
        key: Digest,
        artifact: Digest,
        /// The bytes that came over the network, if this run fetched the artifact from a shared cache.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fetched: Option<u64>,
    },
    /// The cache did not have the artifact of the stage; `why` holds the lines that `plan` prints.
    Miss {
        stage: String,
        variant: String,
        kind: String,
        key: Digest,
        why: Vec<String>,
    },
    Started {
        stage: String,
        variant: String,
        key: Digest,
        /// The threads of a tensor stage. They are not part of the action, but with another number the last digit of a
        /// sum can differ. Older versions did not write them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        threads: Option<usize>,
    },
    Finished {
        stage: String,
        variant: String,
        key: Digest,
        artifact: Digest,
        seconds: f64,
        bytes: u64,
    },
    Failed {
        stage: String,
        variant: String,
        key: Option<Digest>,
        reason: String,
    },
    RunFinished(RunEnd),
}

/// The start of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunStart {
    pub pipeline: String,
    pub file: String,
    pub pid: u32,
    /// The folder in which the run was started: `file` and the paths in the file are relative to it. Empty in the
    /// lines of older versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// The flags that changed the pipeline, such as `--set pipeline.seed=3`, in their order. Older versions did not
    /// write them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// The stages of `--only`. Older versions did not write these and the following members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// The folder of the links of the pipeline, absolute.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub out: String,
    /// The version of raisin.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The name of the machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// The device of tensor stages: `cpu` or `cuda`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// The stages of the run, with the names of their events. Empty if the run found everything as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<GraphStage>,
}

/// The end of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    pub outcome: String,
    pub ran: u64,
    /// Also the fetched stages.
    pub cached: u64,
    /// The stages that were fetched from a shared cache, and the bytes that came over the network; then the uploaded
    /// stages and their bytes. Older versions did not write these members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    pub failed: u64,
    pub seconds: f64,
    /// The largest memory of a stage that ran, in bytes. Older versions did not write this and the following
    /// members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// The commit of the pipeline's folder at the start of the run, if the run ran a stage and the folder is in a
    /// git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether tracked files of the repository differed from this commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
    /// The headline metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<RunResult>,
}

/// One method on one headline metric of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    pub split: String,
    pub metric: String,
    /// The method or, without a comparison, the stage with its variant.
    pub method: String,
    pub mean: f64,
    pub seeds: usize,
    /// Whether the others are compared with this method.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baseline: bool,
}

/// The journal of one run. The lines of look-ups are held in memory until the run writes another event. Lines that
/// cannot be written are also held, and the next write tries them again.
#[derive(Debug)]
pub struct Journal {
    run: String,
    path: PathBuf,
    file: File,
    held: Vec<(jiff::Timestamp, JournalEvent)>,
}

impl Journal {
    /// Opens the journal for a new run.
    pub fn begin(store: &Store) -> Result<Self> {
        let now = jiff::Timestamp::now().to_string();
        let date = now.split('T').next().unwrap_or("undated").to_owned();
        let run: String = now.chars().filter(char::is_ascii_alphanumeric).take(21).collect();
        let path = store.root.join("journal").join(format!("{date}.jsonl"));
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { run: format!("{run}-{}", std::process::id()), path, file, held: Vec::new() })
    }

    pub fn run(&self) -> &str {
        &self.run
    }

    /// Holds an event in memory until the next [`Self::write`].
    pub fn hold(&mut self, event: JournalEvent) {
        self.held.push((jiff::Timestamp::now(), event));
    }

    /// Drops the held events for which `which` returns true.
    pub fn forget(&mut self, which: impl Fn(&JournalEvent) -> bool) {
        self.held.retain(|(_, event)| !which(event));
    }

    /// Changes the held events.
    pub fn revise(&mut self, change: impl FnMut(&mut JournalEvent)) {
        self.held.iter_mut().map(|(_, event)| event).for_each(change);
    }

    /// The number of events that are in memory only.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Writes the held events and `event`.
    ///
    /// # Errors
    /// The file cannot be written. The events whose lines are not in the file stay held.
    pub fn write(&mut self, event: JournalEvent) -> Result<()> {
        self.hold(event);
        // Another run may have been killed, or its disk may be full, since the last write of this run.
        let mut text = String::from(if ends_with_a_torn_line(&self.file).unwrap_or(true) { "\n" } else { "" });
        let mut ends = Vec::with_capacity(self.held.len());
        for (time, event) in &self.held {
            let line = JournalLine { run: self.run.clone(), time: time.to_string(), event: event.clone() };
            text.push_str(&sealed(&serde_json::to_string(&line)?));
            text.push('\n');
            ends.push(text.len());
        }
        // One write, so that the lines of concurrent builds do not mix.
        let (written, result) = write_as_far_as_possible(&mut self.file, text.as_bytes());
        if written > 0 {
            let lines = ends.iter().take_while(|end| **end <= written).count();
            self.held.drain(..lines);
        }
        result.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Whether the file ends with a torn line, of a killed run or of a write that failed.
fn ends_with_a_torn_line(file: &File) -> std::io::Result<bool> {
    let Some(place) = file.metadata()?.len().checked_sub(1) else { return Ok(false) };
    let mut last = [0];
    file.read_exact_at(&mut last, place)?;
    Ok(last != [b'\n'])
}

/// Returns the number of bytes that are written, also if the write of the other bytes fails.
fn write_as_far_as_possible(file: &mut impl Write, bytes: &[u8]) -> (usize, std::io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

const SEAL: &str = ",\"seal\":\"";
const SEAL_DIGITS: usize = 16;

/// Adds the seal to a line.
fn sealed(line: &str) -> String {
    let body = line.strip_suffix('}').unwrap_or(line);
    let digest = Digest::of(body.as_bytes()).to_hex();
    format!("{body}{SEAL}{}\"}}", &digest[..SEAL_DIGITS])
}

/// Parses a line; `None` if the seal does not match.
fn parse(line: &[u8]) -> Option<JournalLine> {
    let line = std::str::from_utf8(line).ok()?;
    let body = line.get(..line.len().checked_sub(SEAL.len() + SEAL_DIGITS + 2)?)?;
    (sealed(&format!("{body}}}")) == line).then(|| serde_json::from_str(line).ok()).flatten()
}

impl Store {
    /// All readable lines of the journal, the oldest first.
    pub fn journal(&self) -> Result<Vec<JournalLine>> {
        Ok(self.journal_lines()?.0)
    }

    /// All readable lines of the journal, and the number of lines that are torn or damaged.
    pub fn journal_lines(&self) -> Result<(Vec<JournalLine>, u64)> {
        let mut files: Vec<_> = std::fs::read_dir(self.root.join("journal"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
            .collect();
        files.sort();
        let (mut lines, mut unreadable) = (Vec::new(), 0);
        for file in files {
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                match parse(line) {
                    Some(line) => lines.push(line),
                    None => unreadable += 1,
                }
            }
        }
        Ok((lines, unreadable))
    }
}

/// Reads the journal again and again, for a process that shows runs while they work: each call reads only what was
/// written since the call before.
#[derive(Debug, Default)]
pub struct JournalTail {
    /// The bytes of each file that were read.
    read: BTreeMap<PathBuf, u64>,
}

impl JournalTail {
    /// The readable lines since the last call, the oldest first, and whether the earlier lines are void: the journal is
    /// another one than before, for example because its cache was deleted. A line without its end is left for later.
    ///
    /// # Errors
    /// The folder or a file cannot be read.
    pub fn next(&mut self, store: &Store) -> Result<(bool, Vec<JournalLine>)> {
        let folder = store.root.join("journal");
        let mut sizes = BTreeMap::new();
        let entries =
            if_there(std::fs::read_dir(&folder)).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "jsonl")
                && let Ok(metadata) = entry.metadata()
            {
                sizes.insert(path, metadata.len());
            }
        }
        let is_void = self.read.iter().any(|(path, read)| sizes.get(path).is_none_or(|size| size < read));
        if is_void {
            self.read.clear();
        }
        let mut lines = Vec::new();
        for (path, size) in sizes {
            let read = self.read.entry(path.clone()).or_default();
            if size <= *read {
                continue;
            }
            let cannot = || format!("cannot read {}", path.display());
            let mut file = File::open(&path).with_context(cannot)?;
            file.seek(SeekFrom::Start(*read)).with_context(cannot)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).with_context(cannot)?;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
            *read += whole as u64;
            lines.extend(bytes[..whole].split(|byte| *byte == b'\n').filter_map(parse));
        }
        Ok((is_void, lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(stage: &str) -> JournalEvent {
        JournalEvent::Failed { stage: stage.into(), variant: String::new(), key: None, reason: "x".into() }
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_its_whole_lines_and_takes_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut journal = Journal::begin(&store).unwrap();
        journal.write(failed("one")).unwrap();
        journal.write(failed("two")).unwrap();
        let path = std::fs::read_dir(folder.path().join("journal")).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let complete = whole[..length].split(|byte| *byte == b'\n').count() - 1;
            let mut next = Journal::begin(&store).unwrap();
            next.write(failed("three")).unwrap();
            let lines = store.journal().unwrap();
            // A line that lacks only its line break is whole.
            let without_end = whole.get(length) == Some(&b'\n');
            assert_eq!(lines.len(), complete + usize::from(without_end) + 1, "cut at {length}");
            assert_eq!(lines.last().unwrap().event, failed("three"));
        }
    }

    #[test]
    fn lines_that_could_not_be_written_are_held_and_come_once_with_the_next_write() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut journal = Journal::begin(&store).unwrap();
        journal.write(failed("one")).unwrap();
        let good = journal.file.try_clone().unwrap();
        journal.file = File::options().write(true).open("/dev/full").unwrap();
        for stage in ["two", "three"] {
            let error = journal.write(failed(stage)).unwrap_err();
            assert!(error.to_string().contains(".jsonl"), "{error}");
        }
        assert_eq!(journal.held(), 2);
        journal.file = good;
        journal.write(failed("four")).unwrap();
        assert_eq!(journal.held(), 0);
        let (lines, unreadable) = store.journal_lines().unwrap();
        let events: Vec<JournalEvent> = lines.into_iter().map(|line| line.event).collect();
        assert_eq!((events, unreadable), (["one", "two", "three", "four"].map(failed).to_vec(), 0));
    }

    #[test]
    fn a_tail_reads_each_line_once_and_begins_again_with_another_journal() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut tail = JournalTail::default();
        assert_eq!(tail.next(&store).unwrap(), (false, Vec::new()));
        let mut journal = Journal::begin(&store).unwrap();
        journal.write(failed("one")).unwrap();
        journal.file.write_all(b"{\"torn").unwrap();
        let read = |tail: &mut JournalTail| {
            let (is_void, lines) = tail.next(&store).unwrap();
            (is_void, lines.into_iter().map(|line| line.event).collect::<Vec<_>>())
        };
        assert_eq!(read(&mut tail), (false, vec![failed("one")]));
        assert_eq!(read(&mut tail), (false, Vec::new()));
        let mut journal = Journal::begin(&store).unwrap();
        journal.write(failed("two")).unwrap();
        assert_eq!(read(&mut tail), (false, vec![failed("two")]));
        std::fs::remove_dir_all(folder.path().join("journal")).unwrap();
        assert_eq!(read(&mut tail), (true, Vec::new()));
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        Journal::begin(&store).unwrap().write(failed("three")).unwrap();
        assert_eq!(read(&mut tail), (false, vec![failed("three")]));
    }

    /// Takes so many bytes, and then has no space.
    struct Small(usize, Vec<u8>);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let count = bytes.len().min(self.0 - self.1.len());
            self.1.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_write_that_fails_on_the_way_says_how_far_it_came() {
        for space in 0..7 {
            let mut small = Small(space, Vec::new());
            let (written, result) = write_as_far_as_possible(&mut small, b"abcdef");
            assert_eq!((written, result.is_ok(), small.1.as_slice()), (space, space == 6, &b"abcdef"[..space]));
        }
    }

    #[test]
    fn a_line_with_a_flipped_byte_is_not_read() {
        let line = JournalLine { run: "run".into(), time: "2026-01-01T00:00:00Z".into(), event: failed("one") };
        let text = sealed(&serde_json::to_string(&line).unwrap());
        assert_eq!(parse(text.as_bytes()), Some(line));
        for place in 0..text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[place] ^= 1;
            assert_eq!(parse(&flipped), None, "byte {place}");
        }
    }
}
