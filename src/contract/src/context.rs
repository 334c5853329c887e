//! What a running stage sees: its inputs, its folders, its seed, and a way to say how far it is.
//!
//! An [`Assignment`] is a file that the engine writes and a worker process reads; [`Event`]s go back as JSON lines
//! on standard output. Nothing else passes between the two.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use raisin_base::error::{Context as _, Result, anyhow, ensure};
use raisin_base::seed::Seed;

/// One stage to run, everything resolved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub kind: String,
    /// The version of the kind in the executable that wrote the assignment. Another version in the worker would write another
    /// result under this action key.
    pub kind_version: u32,
    /// The stage's name in the pipeline: for words to people only.
    pub stage: String,
    /// As the user wrote them, defaults filled in.
    pub parameters: Value,
    /// By the pointer of the parameter that names them: one source, or one a variant for a gathering kind.
    pub stages: BTreeMap<String, Vec<InputArtifact>>,
    /// By the pointer of the parameter that names them. The files of a folder or a pattern have pointers below that:
    /// `/sources/0/path/7` is the eighth of them, and `/sources/0/path` the folder.
    pub files: BTreeMap<String, PathBuf>,
    /// The pipeline's seed.
    pub seed: u64,
    pub environment: Environment,
    pub threads: usize,
    /// Holds `out/`, the artifact to be, and `work/`, which outlives a kill.
    pub folder: PathBuf,
}

/// An artifact of another stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InputArtifact {
    pub stage: String,
    /// The sweep's values that this artifact was made with; empty without a sweep.
    pub variant: Map<String, Value>,
    /// The artifact's folder; its name is the artifact's digest.
    pub folder: PathBuf,
}

/// Where tensors live and what they are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub device: DeviceKind,
    /// Which of several devices; not part of any key.
    pub device_index: usize,
    pub dtype: DType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Cpu,
    Cuda,
}

/// The type that matrix products run in; trained weights keep f32 masters in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    F32,
    Bf16,
}

/// What a stage tells the engine while it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    Progress(Progress),
    /// A line that the person should see, such as how many records were rejected.
    Note {
        text: String,
    },
    Cost(Cost),
}

/// How far a phase of a stage is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What is going on: `features`, `round 3 of 20`.
    pub phase: String,
    pub done: u64,
    pub total: u64,
    /// What `done` counts: `rows`, `steps`.
    pub unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// The newest figures, such as `reward +0.12, loss 1.31`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What a phase of a stage has cost. Seconds and memory are not part of an artifact: they differ between two runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// `load`, `forward`, `backward`, `optimizer`, `reward evaluation`, `selection`; others by a kind's own words.
    pub phase: String,
    pub seconds: f64,
    pub tokens: u64,
    /// Tokens that carry a loss.
    pub supervised_tokens: u64,
    /// By the formula of docs/method.md, section 8.
    pub flops: f64,
    /// The highest memory of the device that tensors live on, while the phase ran.
    #[serde(default)]
    pub peak_bytes: u64,
}

/// How often a progress event is sent at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A running stage's view of the world.
pub struct Context {
    assignment: Assignment,
    last_progress: Cell<Option<Instant>>,
    silent: bool,
    /// Held for as long as the stage runs; see [`wait_until_left`].
    _at_work: Option<File>,
}

/// The file in a stage's folder that says what is to be made there; its process locks it while it is at work.
pub const ASSIGNMENT: &str = "assignment.json";

/// Waits until no process is at work in a stage's folder any more: one that lost its build is about to be killed, but
/// may still write. False if `give_up` said so first.
pub fn wait_until_left(folder: &Path, give_up: impl Fn() -> bool) -> Result<bool> {
    let path = folder.join(ASSIGNMENT);
    let file = match open_to_lock(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if give_up() => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// For writing too: a network file system gives no lock else.
fn open_to_lock(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

impl Context {
    /// Prepares the stage's folder, which no other process can then be at work in. What a killed run left in `work/`
    /// stays; what it left in `out/` goes.
    ///
    /// # Errors
    /// A folder without its assignment's file, or one that cannot be written.
    pub fn new(assignment: Assignment) -> Result<Self> {
        let path = assignment.folder.join(ASSIGNMENT);
        let lock = || open_to_lock(&path).and_then(|file| file.lock().map(|()| file));
        let at_work = lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { silent: false, _at_work: Some(at_work), ..Self::silent(assignment)? })
    }

    /// The same without a lock, and without events on standard output: for tests and library users.
    pub fn silent(assignment: Assignment) -> Result<Self> {
        let context = Self { assignment, last_progress: Cell::new(None), silent: true, _at_work: None };
        let out = context.out();
        if out.exists() {
            std::fs::remove_dir_all(&out).with_context(|| format!("cannot clear {}", out.display()))?;
        }
        std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        Ok(context)
    }

    /// The name of the stage in the pipeline.
    pub fn stage(&self) -> &str {
        &self.assignment.stage
    }

    /// The folder that becomes the artifact.
    pub fn out(&self) -> PathBuf {
        self.assignment.folder.join("out")
    }

    /// The folder for checkpoints: kept when the stage is killed, gone when it has succeeded. Made when it is first asked
    /// for: most stages need none.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn work(&self) -> Result<PathBuf> {
        let folder = self.assignment.folder.join("work");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// The artifact folder of the stage that the parameter at `pointer` names.
    pub fn input(&self, pointer: &str) -> Result<&Path> {
        match self.gathered(pointer)? {
            [source] => Ok(&source.folder),
            sources => Err(anyhow!("the input {pointer} has {} artifacts where one is expected", sources.len())),
        }
    }

    /// All variants' artifacts of the stage that the parameter at `pointer` names, in the sweep's order.
    pub fn gathered(&self, pointer: &str) -> Result<&[InputArtifact]> {
        self.assignment.stages.get(pointer).map(Vec::as_slice).ok_or_else(|| anyhow!("there is no input {pointer}"))
    }

    /// The path of the file that the parameter at `pointer` names.
    pub fn file(&self, pointer: &str) -> Result<&Path> {
        self.assignment.files.get(pointer).map(PathBuf::as_path).ok_or_else(|| anyhow!("there is no file {pointer}"))
    }

    /// The files that the parameter at `pointer` names, one or all of a folder or a pattern, in the order of their names;
    /// each with its name: of a single file that without folders, else the way from the folder to it.
    pub fn files(&self, pointer: &str) -> Result<Vec<(String, &Path)>> {
        let whole = self.file(pointer)?;
        let name = |path: &Path| path.to_string_lossy().into_owned();
        let below = |index: usize| Some(self.assignment.files.get(&format!("{pointer}/{index}"))?.as_path());
        let several: Vec<&Path> = (0..self.assignment.files.len()).map_while(below).collect();
        if several.is_empty() {
            let file = whole.file_name().map_or_else(|| name(whole), |last| name(Path::new(last)));
            return Ok(vec![(file, whole)]);
        }
        Ok(several.into_iter().map(|path| (name(path.strip_prefix(whole).unwrap_or(path)), path)).collect())
    }

    /// This kind's own seed, derived from the pipeline's.
    pub fn seed(&self) -> Seed {
        Seed::new(self.assignment.seed).at(&self.assignment.kind)
    }

    /// The pipeline's seed as the user wrote it: for summaries. Draws come from [`Context::seed`].
    pub fn pipeline_seed(&self) -> u64 {
        self.assignment.seed
    }

    pub fn environment(&self) -> &Environment {
        &self.assignment.environment
    }

    pub fn threads(&self) -> usize {
        self.assignment.threads
    }

    /// Writes a small JSON file, pretty-printed.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.out().join(name);
        let text = serde_json::to_string_pretty(value)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Records that this artifact is of use only together with the artifact of the input at `pointer`, under a name
    /// that [`referenced`] finds again. The store keeps what is referenced for as long as this artifact.
    pub fn add_reference(&self, name: &str, artifact: &Path) -> Result<()> {
        let mut references = references(&self.out())?;
        let digest = artifact.file_name().ok_or_else(|| anyhow!("{} has no name", artifact.display()))?;
        references.insert(name.to_owned(), digest.to_string_lossy().into_owned());
        self.write_json(REFERENCES, &references)
    }

    pub fn progress(&self, progress: Progress) {
        let due = self.last_progress.get().is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL);
        if due || progress.done >= progress.total {
            self.last_progress.set(Some(Instant::now()));
            self.send(&Event::Progress(progress));
        }
    }

    pub fn note(&self, text: impl Into<String>) {
        self.send(&Event::Note { text: text.into() });
    }

    /// Notes what is said by something that knows of no stage, such as a model that finds no memory.
    pub fn listener(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let silent = self.silent;
        move |text: &str| {
            if !silent {
                Event::Note { text: text.to_owned() }.send();
            }
        }
    }

    pub fn cost(&self, cost: Cost) {
        self.send(&Event::Cost(cost));
    }

    fn send(&self, event: &Event) {
        if !self.silent {
            event.send();
        }
    }
}

impl Event {
    fn send(&self) {
        if let Ok(line) = serde_json::to_string(self) {
            // A reader that went away is no reason to lose the work: the artifact still counts.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}

/// The file in an artifact that names the artifacts it needs: `{"base": "<digest>"}`.
pub const REFERENCES: &str = "references.json";

/// The names of the artifacts that this one needs, by what it calls them; none where there is no such file.
///
/// # Errors
/// A file that cannot be read, or that does not hold references.
pub fn references(artifact: &Path) -> Result<BTreeMap<String, String>> {
    let path = artifact.join(REFERENCES);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is unreadable", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The folder of the artifact that `artifact` refers to as `name`; `None` where it has no such reference.
///
/// # Errors
/// A reference to an artifact that is not in the same store.
pub fn referenced(artifact: &Path, name: &str) -> Result<Option<PathBuf>> {
    let references = references(artifact)?;
    let Some(digest) = references.get(name) else { return Ok(None) };
    // Through the link in out/, the neighbours are those of the real folder.
    let real = artifact.canonicalize()?;
    let folder = real.with_file_name(digest);
    ensure!(folder.is_dir(), "{} refers to the artifact {digest}, which is not in the store", artifact.display());
    Ok(Some(folder))
}
