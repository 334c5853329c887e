//! Reads files that were changed at random: pipeline files, plan files, and every file of a cache and of its links. The
//! changed files come from real builds. No file may cause a panic, take more than a second, or take much memory.
//!
//! Each subject runs in a process of its own. RAISIN_FUZZ_SECONDS is the time for each subject, RAISIN_TORTURE_SEED gives
//! other changes. After a failure, the folder in the message has the file that caused the failure.

use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use raisin_base::digest::Digest;
use raisin_contract::Action;
use raisin_engine::{self as engine, PlanFile};
use raisin_store::{self as store, ActionRecord, BuildDescription, GcOptions, Manifest, Store};
use raisin_tests::{TestRng, files_below, processes};
use serde_json::json;

use crate::kinds::KINDS;
use crate::project::{EngineProject, chain};

/// The most processor time that one input may take, and the most time by the clock.
const MOST_TIME: Duration = Duration::from_secs(1);
const MOST_WAIT: Duration = Duration::from_secs(20);
/// The most memory that the process may hold, in KiB.
const MOST_MEMORY: u64 = 512 << 10;

/// The function of a subject reads changed files until its time is over.
type Subject = fn(&mut Fuzzing);

const SUBJECTS: [(&str, Subject); 5] =
    [("pipelines", pipelines), ("plans", plans), ("parsers", parsers), ("journals", journals), ("caches", caches)];

/// Not a test: the process of one subject.
#[test]
fn fuzz_process() {
    let Ok(subject) = std::env::var("RAISIN_FUZZ_SUBJECT") else { return };
    let (name, run) = SUBJECTS.iter().find(|(name, _)| *name == subject).unwrap();
    let mut fuzzing = Fuzzing::start(name);
    run(&mut fuzzing);
    println!(
        "{name}: {} inputs, the longest took {:?}, {} KiB of memory",
        fuzzing.count,
        fuzzing.longest,
        memory("VmHWM")
    );
}

fn seconds() -> u64 {
    std::env::var("RAISIN_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

fn holds(subject: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "fuzz::fuzz_process", "--nocapture"])
        .env("RAISIN_FUZZ_SUBJECT", subject)
        .env("RAISIN_FUZZ_FOLDER", folder.path());
    let output = processes::output_after(&mut command, Duration::from_secs(seconds()));
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let kept = (!output.status.success()).then(|| folder.keep());
    assert!(kept.is_none(), "{}\n{told}\nsee {}", output.status, kept.unwrap_or_default().display());
    println!("{}", told.lines().filter(|line| line.contains(" inputs, ")).collect::<String>());
}

#[test]
fn no_changed_pipeline_file_causes_a_panic_or_a_hang() {
    holds("pipelines");
}

#[test]
fn no_changed_plan_file_causes_a_panic_or_a_hang() {
    holds("plans");
}

#[test]
fn no_changed_record_manifest_or_description_causes_a_panic_or_a_hang() {
    holds("parsers");
}

#[test]
fn no_changed_journal_causes_a_panic_or_a_hang() {
    holds("journals");
}

#[test]
fn no_changed_file_of_a_cache_causes_a_panic_or_a_hang() {
    holds("caches");
}

/// The number after this name in /proc/self/status.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap()
}

/// The processor time of this process, in steps of ten milliseconds.
fn processor_time() -> Duration {
    let status = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = status.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The run of one subject.
struct Fuzzing {
    rng: TestRng,
    folder: PathBuf,
    end: Instant,
    count: u64,
    longest: Duration,
    /// When the present input began, for the thread that watches.
    began: Arc<Mutex<Option<Instant>>>,
}

/// The number of panics in all threads of this process.
static PANICS: AtomicU64 = AtomicU64::new(0);

impl Fuzzing {
    fn start(subject: &str) -> Self {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            hook(panic);
        }));
        let began: Arc<Mutex<Option<Instant>>> = Arc::default();
        let watched = Arc::clone(&began);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(50));
                let late = watched.lock().unwrap().is_some_and(|began| began.elapsed() > MOST_WAIT);
                let large = memory("VmRSS") > MOST_MEMORY;
                if late || large {
                    eprintln!("late: {late}, too much memory: {large}");
                    std::process::abort();
                }
            }
        });
        let folder = PathBuf::from(std::env::var("RAISIN_FUZZ_FOLDER").unwrap());
        let end = Instant::now() + Duration::from_secs(seconds());
        Self { rng: TestRng::new(subject), folder, end, count: 0, longest: Duration::ZERO, began }
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    /// Reads one input. `name` has the bytes of the input if the reading fails.
    fn one(&mut self, name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        *self.began.lock().unwrap() = Some(Instant::now());
        let before = processor_time();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&path)));
        let took = processor_time().saturating_sub(before);
        *self.began.lock().unwrap() = None;
        assert!(done.is_ok() && PANICS.load(Ordering::SeqCst) == 0, "a panic after {} inputs", self.count);
        assert!(took < MOST_TIME, "{took:?} after {} inputs", self.count);
        self.longest = self.longest.max(took);
        self.count += 1;
    }

    /// One of the files, changed at some places.
    fn changed(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
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

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let length = bytes.len();
        match self.rng.below(10) {
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
            _ => {
                let token = self.token(&DEEP);
                let times = 1 << self.rng.below(17);
                let at = self.rng.below(length + 1);
                drop(bytes.splice(at..at, token.repeat(times)));
            }
        }
    }

    fn token(&mut self, tokens: &[&str]) -> Vec<u8> {
        self.rng.one_of(tokens).as_bytes().to_vec()
    }
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
const TOKENS: [&str; 11] =
    ["null", "\"\"", "[]", "{}", "\0", "\u{1b}[2J", "\u{feff}", "\n", "include = \"changed\"\n", "[sweep]\n", "\"\"\""];
const DEEP: [&str; 7] = ["[", "{\"a\":", "{a=", "a.", "x", "[1,", "\n[a.b]\n"];

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

fn texts_of(paths: &[&str]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| std::fs::read(raisin_tests::package().join(path)).unwrap()).collect()
}

fn pipelines(fuzzing: &mut Fuzzing) {
    let mut corpus =
        texts_of(&["tests/pipelines/micro.toml", "pipelines/quickstart.toml", "pipelines/alpaca-gsm8k.toml"]);
    corpus.push(b"include = [\"base.toml\", \"base.toml\"]\n[stage.pool]\nsize = 4\n".to_vec());
    std::fs::write(fuzzing.folder.join("base.toml"), &corpus[0]).unwrap();
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        let cache = fuzzing.folder.join("cache");
        fuzzing.one("changed", &changed, |path| {
            let loaded = raisin_pipeline::load(path, &[], raisin_kinds::KINDS, &cache);
            drop(loaded.map_err(|error| raisin_base::error::render(&error)));
        });
    }
}

/// A project with a build, an expected digest, a pin and a pattern of files.
fn built() -> (EngineProject, raisin_pipeline::Pipeline) {
    let project = EngineProject::new();
    project.write(&[("data/a.txt", "1"), ("data/b.txt", "2")]);
    let mut stages = chain("text", "-");
    stages.push(("list", "several", json!({"path": "data/*.txt"})));
    let pipeline = project.one(&stages);
    assert_eq!(project.build(&pipeline).exit_code(), 0);
    project.build(&pipeline);
    let cache = project.store();
    cache.pin(cache.artifact_digests().unwrap()[0], "story.a").unwrap();
    (project, pipeline)
}

fn plans(fuzzing: &mut Fuzzing) {
    let (project, pipeline) = built();
    let corpus = [
        PlanFile::make(&pipeline, &project.options()).unwrap().1.text().unwrap().into_bytes(),
        PlanFile::make(&project.one(&chain("other", "+")), &project.options()).unwrap().1.text().unwrap().into_bytes(),
    ];
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        fuzzing.one("changed", &changed, |path| {
            let Ok(Some(plan)) = PlanFile::read(path) else { return };
            let Ok(pipeline) = plan.pipeline(&KINDS) else { return };
            drop(engine::plan(&pipeline, &plan.options(project.options())));
        });
    }
}

/// Action records, manifests, descriptions and actions, which their readers get although a seal protects them.
fn parsers(fuzzing: &mut Fuzzing) {
    let (project, _) = built();
    let cache = project.store();
    let records = cache.actions().unwrap();
    let mut corpus: Vec<Vec<u8>> = records.iter().map(|record| serde_json::to_vec(record).unwrap()).collect();
    corpus.extend(records.iter().map(|record| serde_json::to_vec(&record.action).unwrap()));
    corpus.extend(records.iter().map(|record| cache.manifest(record.artifact).unwrap().to_bytes().unwrap()));
    corpus.push(std::fs::read(project.folder.join("out/story/build.json")).unwrap());
    let manifest = cache.manifest(records[0].artifact).unwrap();
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        fuzzing.one("build.json", &changed, |path| {
            drop(BuildDescription::read(path.parent().unwrap()));
            if let Ok(read) = Manifest::from_bytes(&changed) {
                std::hint::black_box((read.differences(&manifest).len(), read.bytes()));
            }
            let value = serde_json::from_slice(&changed).unwrap_or_default();
            if let (Ok(action), Ok(other)) = (Action::of_json(&value), Action::of_json(&records[0].action)) {
                drop(engine::words(&engine::differences(&action, &other)));
            }
            drop(ActionRecord::from_bytes(&changed));
            if let Ok(record) = serde_json::from_slice::<ActionRecord>(&changed) {
                ActionRecord::from_bytes(&record.to_bytes().unwrap()).unwrap();
            }
        });
    }
}

/// The line of a journal with a right seal.
fn sealed(line: &str) -> String {
    let body = line.split(",\"seal\":\"").next().unwrap_or_default();
    format!("{body},\"seal\":\"{}\"}}", &Digest::of(body.as_bytes()).to_hex()[..16])
}

fn journals(fuzzing: &mut Fuzzing) {
    let (project, _) = built();
    let cache = project.store();
    let path = files_below(&project.folder.join("cache/journal")).remove(0);
    let journal = std::fs::read(&path).unwrap();
    let text = String::from_utf8(journal.clone()).unwrap();
    assert!(text.lines().all(|line| sealed(line) == line), "the seal of the journal has changed; change this test too");
    let corpus: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).chain([journal]).collect();
    while fuzzing.goes_on() {
        let changed = fuzzing.changed(&corpus);
        let again = String::from_utf8_lossy(&changed).lines().map(|line| sealed(line) + "\n").collect::<String>();
        for bytes in [&changed[..], again.as_bytes()] {
            fuzzing.one("changed", bytes, |_| {
                std::fs::write(&path, bytes).unwrap();
                drop(cache.journal());
                drop(store::verify(&cache, Some(0.0)));
            });
        }
    }
}

/// Copies a folder with its links and modes.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else if kind.is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Changes one file of a cache or of its links, and lets every command look at the cache.
fn caches(fuzzing: &mut Fuzzing) {
    let (project, pipeline) = built();
    let kept = tempfile::tempdir().unwrap();
    let places = ["cache", "out"];
    let back = || {
        for place in places {
            let here = project.folder.join(place);
            if here.exists() {
                store::remove_tree(&here).unwrap();
            }
            copy(&kept.path().join(place), &here);
        }
    };
    places.iter().for_each(|place| copy(&project.folder.join(place), &kept.path().join(place)));
    let files: Vec<PathBuf> =
        places.iter().flat_map(|place| files_below(&kept.path().join(place))).filter(|path| path.is_file()).collect();
    let corpus: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    while fuzzing.goes_on() {
        back();
        let chosen = fuzzing.rng.below(files.len());
        let name = files[chosen].strip_prefix(kept.path()).unwrap();
        let path = project.folder.join(name);
        let mut changed = corpus[chosen].clone();
        let is_memory = ["index", "identity", "checked", "files"]
            .iter()
            .any(|memory| name.starts_with(Path::new("cache").join(memory)));
        // A memory begins with its seal. With a right seal, the reader gets the changed content.
        let sealed = is_memory && changed.len() >= 32 && fuzzing.rng.below(4) > 0;
        if sealed {
            changed.drain(..32);
        }
        for _ in 0..=fuzzing.rng.below(3) {
            fuzzing.change(&mut changed, &corpus);
        }
        if sealed {
            changed.splice(0..0, *Digest::of(&changed).bytes());
        }
        let folder = path.parent().unwrap().to_owned();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        drop(std::fs::remove_file(&path));
        let options = project.options();
        // A build may run stages, which takes most of the time.
        let builds = fuzzing.count.is_multiple_of(4);
        fuzzing.one("changed", &changed, |_| {
            std::fs::write(&path, &changed).unwrap();
            let Ok(cache) = Store::open(&options.cache) else { return };
            drop(engine::plan(&pipeline, &options));
            drop(BuildDescription::read(&options.out.join("story")));
            drop((cache.actions(), cache.artifacts(), cache.pins(), cache.journal()));
            drop(store::gc(&cache, &options.out, &GcOptions::default()));
            drop(store::verify(&cache, None));
            if builds {
                drop(engine::build(&pipeline, &options));
            }
        });
    }
}
