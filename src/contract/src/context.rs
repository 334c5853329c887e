//! The context of a running stage: inputs, folders, seed, and functions to send progress, notes and costs. The loop of
//! a worker is in serve.rs.
//!
//! An [`Assignment`] is a file that the engine writes and a worker reads. [`Event`]s go back as JSON lines on standard
//! output. Engine and stage exchange nothing else.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use raisin_base::error::{Context as _, Result, anyhow, ensure};
use raisin_base::files::if_there;
use raisin_base::seed::Seed;

use crate::outputs::{Outputs, TableDeclaration};

/// One stage to run, with everything resolved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub kind: String,
    /// The version of the kind in the executable that wrote the assignment. A worker with another version must refuse
    /// the assignment: its result would not belong to this action key.
    pub kind_version: u32,
    /// The name of the stage in the pipeline, for messages only.
    pub stage: String,
    /// The parameters as the user wrote them, with defaults filled in.
    pub parameters: Value,
    /// The input artifacts, by the pointer of the parameter that names their stage: one artifact, or one for each
    /// variant for a gathering kind.
    pub stages: BTreeMap<String, Vec<InputArtifact>>,
    /// The paths of the input files, by the pointer of the parameter that names them. The files of a folder or a
    /// pattern have longer pointers: `/sources/0/path/7` is the eighth file, and `/sources/0/path` is the folder.
    pub files: BTreeMap<String, PathBuf>,
    /// The seed of the pipeline.
    pub seed: u64,
    pub environment: Environment,
    pub threads: usize,
    /// The index of the GPU that the stage got, for a stage without tensors that asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<usize>,
    /// The memory in bytes to which the stage is held; `None` for no limit.
    #[serde(default)]
    pub memory: Option<u64>,
    /// The staging folder: it holds `out/`, which becomes the artifact, and `work/`, which stays after a kill.
    pub folder: PathBuf,
    /// The folder in which stages share the token sequences of pools; `None` if they are not shared.
    pub tokens: Option<PathBuf>,
    /// Whether the staging folder belongs to this attempt alone, as for a job of a cluster. Then no lock is needed, which
    /// a network file system may refuse.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_folder: bool,
}

impl Assignment {
    /// For tests: a stage on the CPU with these input artifacts, by the pointers of their parameters. The folder name
    /// of an artifact is also the name of its stage.
    #[doc(hidden)]
    pub fn for_test(kind: &str, folder: PathBuf, inputs: &[(&str, PathBuf)]) -> Self {
        let source = |folder: &Path| InputArtifact {
            stage: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            variant: Map::new(),
            folder: folder.to_owned(),
        };
        Self {
            kind: kind.to_owned(),
            kind_version: 1,
            stage: kind.to_owned(),
            parameters: Value::Null,
            stages: inputs.iter().map(|(pointer, folder)| ((*pointer).to_owned(), vec![source(folder)])).collect(),
            files: BTreeMap::new(),
            seed: 17,
            environment: Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 },
            threads: 1,
            gpu: None,
            memory: None,
            folder,
            tokens: None,
            own_folder: false,
        }
    }
}

/// An artifact of another stage, as a running stage sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InputArtifact {
    pub stage: String,
    /// The values of the sweep in the variant of this artifact; empty without a sweep.
    pub variant: Map<String, Value>,
    /// The folder of the artifact. The name of the folder is the digest of the artifact.
    pub folder: PathBuf,
}

/// The device and the dtype of the tensors of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub device: DeviceKind,
    /// The index of the device, if there are several. Not part of any key.
    pub device_index: usize,
    pub dtype: DType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Cpu,
    Cuda,
}

/// The dtype of matrix products. Trained weights keep f32 masters with either dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32 bits for a number.
    F32,
    /// 16 bits for a number, with the exponent of f32.
    Bf16,
}

/// A message of a running stage to the engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    Progress(Progress),
    /// A line for the user, such as the number of rejected records.
    Note {
        text: String,
    },
    Cost(Cost),
    Measured(MeasuredValues),
}

/// Values that a stage measured at a step or in a round, while it runs. The tables of the artifact will have them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeasuredValues {
    /// The table, such as `steps`.
    pub table: String,
    /// The number of the step or of the round, as the table has it.
    pub at: f64,
    /// By the column of the table.
    pub values: BTreeMap<String, f64>,
}

/// The progress of a phase of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The name of the phase, such as `features` or `round 3 of 20`.
    pub phase: String,
    pub done: u64,
    pub total: u64,
    /// The unit of `done` and `total`, such as `rows` or `steps`.
    pub unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// The latest measured values, such as `reward +0.12, loss 1.31`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The cost of a phase of a stage. Costs are not part of an artifact, because seconds and memory differ between two
/// runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// The name of the phase: `load`, `forward`, `backward`, `optimizer`, `reward evaluation`, `selection`, or another
    /// name that a kind chooses.
    pub phase: String,
    pub seconds: f64,
    pub tokens: u64,
    /// Tokens that carry a loss.
    pub supervised_tokens: u64,
    /// Floating-point operations, by the formula in docs/method.md, section 8.
    pub flops: f64,
    /// The peak memory, in bytes, of the device that holds the tensors, during the phase.
    #[serde(default)]
    pub peak_bytes: u64,
}

/// The minimum time between two progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Everything that a running stage sees of its environment.
pub struct Context {
    assignment: Assignment,
    /// The tables and files that the stage may write; `None` in tests of other things.
    outputs: Option<Outputs>,
    last_progress: Cell<Option<Instant>>,
    /// Whether the context sends no events.
    silent: bool,
    /// The lock on `assignment.json`, held while the stage runs; see [`wait_until_left`].
    at_work: Option<File>,
}

/// The file name of the assignment in a staging folder. The worker locks this file while the stage runs.
pub const ASSIGNMENT: &str = "assignment.json";

/// Waits until no worker uses a staging folder. A worker of a killed build will end soon, but may still write. Returns
/// false if `give_up` returned true before the folder was free.
pub fn wait_until_left(folder: &Path, give_up: impl Fn() -> bool) -> Result<bool> {
    let path = folder.join(ASSIGNMENT);
    let file = if_there(open_to_lock(&path)).with_context(|| format!("cannot open {}", path.display()))?;
    let Some(file) = file else { return Ok(true) };
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if give_up() => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => return Ok(true),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// Whether the file system has no locks, as Lustre without the option `flock`. Nothing then tells whether a worker of a
/// killed build still writes; the kernel ends it together with the build.
fn has_no_locks(error: &std::io::Error) -> bool {
    [rustix::io::Errno::NOSYS, rustix::io::Errno::NOLCK, rustix::io::Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Opens a file for reading and writing: on a network file system, flock needs a file that is open for writing.
fn open_to_lock(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

impl Context {
    /// Locks and prepares the staging folder. The checkpoints of a killed run in `work/` stay; `out/` is emptied.
    ///
    /// # Errors
    /// The folder has no assignment file, or cannot be written.
    pub fn new(assignment: Assignment) -> Result<Self> {
        if assignment.own_folder {
            return Ok(Self { silent: false, ..Self::silent(assignment)? });
        }
        let path = assignment.folder.join(ASSIGNMENT);
        let lock = || {
            let file = open_to_lock(&path)?;
            match file.lock() {
                Err(error) if !has_no_locks(&error) => Err(error),
                _ => Ok(file),
            }
        };
        let at_work = lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { silent: false, at_work: Some(at_work), ..Self::silent(assignment)? })
    }

    /// A context without lock and without events on standard output, for tests and library users.
    pub fn silent(assignment: Assignment) -> Result<Self> {
        let context = Self { assignment, outputs: None, last_progress: Cell::new(None), silent: true, at_work: None };
        let out = context.out();
        if out.exists() {
            std::fs::remove_dir_all(&out).with_context(|| format!("cannot clear {}", out.display()))?;
        }
        std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        Ok(context)
    }

    /// Holds the stage to the tables and files that its kind declares.
    #[must_use]
    pub fn held_to(self, outputs: Outputs) -> Self {
        Self { outputs: Some(outputs), ..self }
    }

    /// The declaration of a table that the stage writes. `None` if the stage is not held to declarations.
    ///
    /// # Errors
    /// The kind does not declare the table.
    pub fn declared_table(&self, name: &str) -> Result<Option<&'static TableDeclaration>> {
        let Some(outputs) = &self.outputs else { return Ok(None) };
        let Assignment { kind, parameters, .. } = &self.assignment;
        let table = outputs.table(name, parameters);
        ensure!(table.is_some(), "the kind `{kind}` does not declare its table `{name}`: see src/kinds/src/outputs");
        Ok(table)
    }

    /// Checks, at the end of a stage, that it wrote the tables and files that its kind declares, and no others.
    ///
    /// # Errors
    /// See [`Outputs::check_folder`].
    pub fn check_outputs(&self) -> Result<()> {
        let Assignment { kind, parameters, .. } = &self.assignment;
        self.outputs.map_or(Ok(()), |outputs| outputs.check_folder(kind, &self.out(), parameters))
    }

    /// The name of the stage in the pipeline.
    pub fn stage(&self) -> &str {
        &self.assignment.stage
    }

    /// The folder that becomes the artifact.
    pub fn out(&self) -> PathBuf {
        self.assignment.folder.join("out")
    }

    /// The folder for checkpoints. It stays if the stage is killed, and is removed when the stage succeeds. The first
    /// call creates the folder, because most stages need none.
    ///
    /// # Errors
    /// The folder cannot be created.
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

    /// The folder in which stages share the token sequences of pools, and the digest, in hex, of the artifact of the
    /// pool that the parameter at `pointer` names. `None` if token sequences are not shared.
    pub fn shared_tokens(&self, pointer: &str) -> Result<Option<(&Path, &str)>> {
        let pool = self.input(pointer)?.file_name().and_then(|name| name.to_str());
        Ok(self.assignment.tokens.as_deref().zip(pool))
    }

    /// The artifacts, from all variants, of the stage that the parameter at `pointer` names, in the order of the sweep.
    pub fn gathered(&self, pointer: &str) -> Result<&[InputArtifact]> {
        self.assignment.stages.get(pointer).map(Vec::as_slice).ok_or_else(|| anyhow!("there is no input {pointer}"))
    }

    /// The path of the file that the parameter at `pointer` names.
    pub fn file(&self, pointer: &str) -> Result<&Path> {
        self.assignment.files.get(pointer).map(PathBuf::as_path).ok_or_else(|| anyhow!("there is no file {pointer}"))
    }

    /// The files that the parameter at `pointer` names, with a name for each, sorted by name. For a single file, the
    /// name is the file name without folders. For a folder or a pattern, the name is the path relative to the folder.
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

    /// The seed of this kind, derived from the seed of the pipeline.
    pub fn seed(&self) -> Seed {
        Seed::new(self.assignment.seed).at(&self.assignment.kind)
    }

    /// The seed of the pipeline as the user wrote it, for summaries. For random draws, use [`Context::seed`].
    pub fn pipeline_seed(&self) -> u64 {
        self.assignment.seed
    }

    pub fn environment(&self) -> &Environment {
        &self.assignment.environment
    }

    pub fn threads(&self) -> usize {
        self.assignment.threads
    }

    /// The index of the GPU that a stage without tensors got; `None` if it asked for none, or there is none.
    pub fn gpu(&self) -> Option<usize> {
        self.assignment.gpu
    }

    /// The lock of the staging folder. A process that outlives the worker and may still write keeps this file open: the
    /// lock ends when all processes have closed it.
    pub fn lock(&self) -> Option<&File> {
        self.at_work.as_ref()
    }

    /// The memory in bytes to which the stage is held; `None` for no limit. The worker ends a stage that has more.
    pub fn memory(&self) -> Option<u64> {
        self.assignment.memory
    }

    /// The folder for files that the stage needs only while it runs. It is removed together with the staging folder.
    pub fn temporary(&self) -> PathBuf {
        self.assignment.folder.join("temporary")
    }

    /// Writes a small, pretty-printed JSON file into the artifact.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.out().join(name);
        let text = serde_json::to_string_pretty(value)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds a reference: this artifact needs the artifact in the folder `artifact`. [`referenced`] finds that folder by
    /// `name`. The store keeps a referenced artifact as long as this artifact exists.
    pub fn add_reference(&self, name: &str, artifact: &Path) -> Result<()> {
        let mut references = references(&self.out())?;
        let digest = artifact.file_name().ok_or_else(|| anyhow!("{} has no name", artifact.display()))?;
        references.insert(name.to_owned(), digest.to_string_lossy().into_owned());
        self.write_json(REFERENCES, &references)
    }

    /// Tells the engine that the stage is alive, for a stage that waits for another process. The engine ends a worker that
    /// gives no sign of life.
    pub fn alive(&self) {
        if !self.silent {
            // An empty line is a sign of life without a message.
            let _ = writeln!(std::io::stdout().lock());
        }
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

    /// A function that sends a text as a note, for code that has no context, such as a model that runs out of memory.
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

    /// Tells values of the step or the round `at`, under the names of the columns that the table of the artifact will
    /// have. A value that is absent or not finite is left out.
    pub fn measured<'c>(&self, table: &str, at: u64, values: impl IntoIterator<Item = (&'c str, Option<f64>)>) {
        let known =
            |(column, value): (&str, Option<f64>)| Some((column.to_owned(), value.filter(|it| it.is_finite())?));
        let values: BTreeMap<String, f64> = values.into_iter().filter_map(known).collect();
        if !values.is_empty() {
            self.send(&Event::Measured(MeasuredValues { table: table.to_owned(), at: at as f64, values }));
        }
    }

    fn send(&self, event: &Event) {
        if !self.silent {
            event.send();
        }
    }
}

impl Event {
    pub(crate) fn send(&self) {
        if let Ok(line) = serde_json::to_string(self) {
            // If nobody reads the events any more, the stage still continues: its artifact is of use.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}

/// The file of an artifact that lists its references: `{"base": "<digest>"}`.
pub const REFERENCES: &str = "references.json";

/// The references of an artifact: the digests of the artifacts that it needs, by name. Empty if the artifact has no
/// file references.json.
///
/// # Errors
/// The file cannot be read, or does not hold references.
pub fn references(artifact: &Path) -> Result<BTreeMap<String, String>> {
    let path = artifact.join(REFERENCES);
    match if_there(std::fs::read(&path)).with_context(|| format!("cannot read {}", path.display()))? {
        Some(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is unreadable", path.display())),
        None => Ok(BTreeMap::new()),
    }
}

/// The folder of the artifact to which `artifact` refers by `name`; `None` if there is no such reference.
///
/// # Errors
/// The referenced artifact is not in the same store.
pub fn referenced(artifact: &Path, name: &str) -> Result<Option<PathBuf>> {
    let references = references(artifact)?;
    let Some(digest) = references.get(name) else { return Ok(None) };
    // `artifact` may be a link in out/. The referenced artifact lies beside the target of the link.
    let real = artifact.canonicalize()?;
    let folder = real.with_file_name(digest);
    ensure!(folder.is_dir(), "{} refers to the artifact {digest}, which is not in the store", artifact.display());
    Ok(Some(folder))
}
