//! Small stage kinds for the engine tests, and the function that runs them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use raisin_base::error::{Context as _, Result, bail};
use raisin_contract::{Assignment, Context, Declaration, Kind, Needs, Process};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a stage of a test kind runs.
pub trait Runs: Kind {
    fn run(parameters: Self::Parameters, context: &Context) -> Result<()>;
}

/// Writes its text, without blanks at both ends.
pub struct Write;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WriteParameters {
    text: String,
    milliseconds: u64,
    fail: bool,
    /// The process dies halfway if there is no checkpoint yet.
    die_once: bool,
    /// Ignores the stop signal.
    stubborn: bool,
    /// Writes other bytes in each run.
    drift: bool,
    /// Creates this file in the first run, and fails while the file exists.
    once: String,
}

impl Default for WriteParameters {
    fn default() -> Self {
        Self {
            text: "hello".into(),
            milliseconds: 0,
            fail: false,
            die_once: false,
            stubborn: false,
            drift: false,
            once: String::new(),
        }
    }
}

impl Kind for Write {
    const NAME: &'static str = "write";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Writes a text.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = WriteParameters;

    fn needs(_: &Self::Parameters, _: &mut Needs) {}
}

impl Runs for Write {
    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        if parameters.stubborn {
            let asked = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal_hook::consts::SIGTERM, asked)?;
            eprintln!("stubborn");
        }
        if parameters.drift {
            std::fs::write(context.out().join("drift"), std::process::id().to_string())?;
        }
        std::thread::sleep(Duration::from_millis(parameters.milliseconds));
        let checkpoint = context.work()?.join("checkpoint");
        if parameters.die_once && !checkpoint.exists() {
            std::fs::write(checkpoint, "half")?;
            bail!("died in the middle");
        }
        if !parameters.once.is_empty() {
            eprintln!("process {} at work", std::process::id());
            std::fs::File::create_new(&parameters.once).context("this is the second time")?;
        }
        if parameters.fail {
            eprintln!("the reason lies here");
            bail!("was told to fail");
        }
        let resumed = if checkpoint.exists() { " resumed" } else { "" };
        std::fs::write(context.out().join("text"), format!("{}{resumed}", parameters.text.trim()))?;
        Ok(())
    }
}

/// Joins the texts of two stages and its seed.
pub struct Join;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinParameters {
    left: String,
    right: String,
    #[serde(default)]
    between: String,
}

impl Kind for Join {
    const NAME: &'static str = "join";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Joins two texts.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = JoinParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        needs.stage_of_query("/left", &parameters.left, None, false);
        needs.stage_of_query("/right", &parameters.right, None, false);
    }
}

impl Runs for Join {
    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        let left = std::fs::read_to_string(context.input("/left")?.join("text"))?;
        let right = std::fs::read_to_string(context.input("/right")?.join("text"))?;
        let text = format!("{left}{}{right}", parameters.between);
        std::fs::write(context.out().join("text"), text)?;
        std::fs::write(context.out().join("seed"), context.seed().number().to_string())?;
        Ok(())
    }
}

/// Copies a file slowly; of a folder, the file `text`. Saves a checkpoint, and dies after it while a file `die` exists.
pub struct Copy;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyParameters {
    path: String,
    /// A stage that must have run before.
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    blake3: Option<String>,
    /// How long the stage waits after it has read the file.
    #[serde(default)]
    milliseconds: u64,
    /// How long the stage waits before it reads the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
}

impl Kind for Copy {
    const NAME: &'static str = "copy";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Copies a file.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = CopyParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        needs.file_with_digest("", &parameters.path, parameters.blake3.as_deref());
        if let Some(stage) = &parameters.after {
            needs.stage_of_query("/after", stage, None, false);
        }
    }
}

impl Runs for Copy {
    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        let (path, checkpoint) = (context.file("/path")?, context.work()?.join("checkpoint"));
        // Beside the file itself: the stage has only a link to the file.
        let die = path.canonicalize()?.with_file_name("die");
        if let Some(first) = parameters.first {
            eprintln!("begins");
            std::thread::sleep(Duration::from_millis(first));
        }
        let text = if checkpoint.exists() {
            std::fs::read_to_string(&checkpoint)? + " resumed"
        } else {
            std::fs::read_to_string(if path.is_dir() { path.join("text") } else { path.to_owned() })?
        };
        std::fs::write(checkpoint, &text)?;
        // A test that waits for this line also gives the stage time.
        if parameters.milliseconds > 0 {
            eprintln!("has read");
        }
        std::thread::sleep(Duration::from_millis(parameters.milliseconds));
        if die.exists() {
            bail!("died in the middle");
        }
        std::fs::write(context.out().join("text"), text)?;
        Ok(())
    }
}

/// A gathering kind: lists the artifacts of all variants.
pub struct Show;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowParameters {
    of: Vec<String>,
}

impl Kind for Show {
    const NAME: &'static str = "show";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Lists texts.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const GATHERS: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = ShowParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        for (index, stage) in parameters.of.iter().enumerate() {
            needs.stage_of_query(format!("/of/{index}"), stage, None, true);
        }
    }
}

impl Runs for Show {
    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        let mut text = String::new();
        for index in 0..parameters.of.len() {
            for source in context.gathered(&format!("/of/{index}"))? {
                let content = std::fs::read_to_string(source.folder.join("text"))?;
                text += &format!("{} {} {content}\n", source.stage, Value::Object(source.variant.clone()));
            }
        }
        std::fs::write(context.out().join("text"), text)?;
        Ok(())
    }
}

/// Lists the files of a folder or a pattern.
pub struct Several;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeveralParameters {
    path: String,
    #[serde(default)]
    blake3: Option<String>,
}

impl Kind for Several {
    const NAME: &'static str = "several";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Lists files.";
    const PROCESS: Process = Process::Data;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = SeveralParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        needs.files_with_digest("", &parameters.path, parameters.blake3.as_deref());
    }
}

impl Runs for Several {
    fn run(_: Self::Parameters, context: &Context) -> Result<()> {
        let mut text = String::new();
        for (name, path) in context.files("/path")? {
            text += &format!("{name}={} ", std::fs::read_to_string(path)?);
        }
        std::fs::write(context.out().join("text"), text)?;
        Ok(())
    }
}

/// A tensor kind for the engine, but without tensors: writes facts about its process.
pub struct Tell;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TellParameters {
    /// A stage that must have run before.
    after: Option<String>,
    /// Ends the whole process.
    crash: bool,
    fail: bool,
    /// A folder in which the stage waits until `meeting` stages have come together.
    meet: String,
    meeting: usize,
    /// Makes the actions of two stages different; has no other effect.
    name: String,
    /// Prints a text without a newline at its end.
    mumbles: bool,
}

/// The number of stages that this process has run.
static RUN_HERE: AtomicUsize = AtomicUsize::new(0);

impl Kind for Tell {
    const NAME: &'static str = "tell";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Tells about its process.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = TellParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        if let Some(stage) = &parameters.after {
            needs.stage_of_query("/after", stage, None, false);
        }
    }
}

impl Runs for Tell {
    fn run(parameters: Self::Parameters, context: &Context) -> Result<()> {
        eprintln!("the words of {}", context.stage());
        println!("printed by {}", context.stage());
        if parameters.crash {
            std::process::abort();
        }
        if parameters.fail {
            bail!("was told to fail");
        }
        if parameters.meeting > 0 {
            std::fs::write(std::path::Path::new(&parameters.meet).join(context.stage()), "")?;
            let began = Instant::now();
            while std::fs::read_dir(&parameters.meet)?.count() < parameters.meeting {
                if began.elapsed() > Duration::from_secs(20) {
                    bail!("the others did not come");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if parameters.mumbles {
            print!("half a line of {}", context.stage());
        }
        let number = RUN_HERE.fetch_add(1, Ordering::SeqCst);
        let text = format!("{} {number} {}", std::process::id(), context.threads());
        std::fs::write(context.out().join("text"), text)?;
        Ok(())
    }
}

/// A tensor kind with every kind of input: an artifact, a single file, a folder, a pattern, and a value of any type.
pub struct Everything;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EverythingParameters {
    of: Vec<String>,
    pinned: FileWithDigest,
    folder: String,
    pattern: FileWithDigest,
    plain: Value,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileWithDigest {
    path: String,
    #[serde(default)]
    blake3: Option<String>,
}

impl Kind for Everything {
    const NAME: &'static str = "everything";
    const VERSION: u32 = 7;
    const ABOUT: &'static str = "Has every kind of input.";
    const PROCESS: Process = Process::Tensor;
    const SEEDED: bool = true;
    const PROVIDES: &'static [&'static str] = &[];
    type Parameters = EverythingParameters;

    fn needs(parameters: &Self::Parameters, needs: &mut Needs) {
        for (index, stage) in parameters.of.iter().enumerate() {
            needs.stage_of_query(format!("/of/{index}"), stage, None, false);
        }
        needs.file_with_digest("/pinned", &parameters.pinned.path, parameters.pinned.blake3.as_deref());
        needs.file("/folder", &parameters.folder);
        needs.files_with_digest("/pattern", &parameters.pattern.path, parameters.pattern.blake3.as_deref());
    }
}

impl Runs for Everything {
    fn run(_: Self::Parameters, context: &Context) -> Result<()> {
        std::fs::write(context.out().join("text"), "everything")?;
        Ok(())
    }
}

/// Runs one assignment, in the process of a stage.
pub fn run_assignment(assignment: Assignment) -> Result<()> {
    fn run<K: Runs>(assignment: Assignment) -> Result<()> {
        let parameters = serde_json::from_value(assignment.parameters.clone())?;
        K::run(parameters, &Context::new(assignment)?)
    }
    match assignment.kind.as_str() {
        "write" => run::<Write>(assignment),
        "join" => run::<Join>(assignment),
        "copy" => run::<Copy>(assignment),
        "show" => run::<Show>(assignment),
        "several" => run::<Several>(assignment),
        "tell" => run::<Tell>(assignment),
        "everything" => run::<Everything>(assignment),
        other => bail!("there is no kind {other}"),
    }
}

pub static KINDS: [Declaration; 7] = [
    Declaration::of::<Write>(),
    Declaration::of::<Join>(),
    Declaration::of::<Copy>(),
    Declaration::of::<Show>(),
    Declaration::of::<Several>(),
    Declaration::of::<Tell>(),
    Declaration::of::<Everything>(),
];
