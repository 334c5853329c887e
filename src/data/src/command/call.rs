//! What a program gets: its arguments, its environment, and its working folder with the files that the stage lists.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use raisin_base::error::{Context as _, Problem, Result, anyhow, ensure};
use raisin_contract::Context;
use raisin_corpus::records::{MOST_BYTES, for_each_chunk};
use raisin_kinds::command::Parameters;
use raisin_kinds::command::placeholder::{InputName, TextPiece, pieces};

/// The variables that a program gets from the environment of raisin. They are in no key, because they say where things
/// are on a machine, and in which language programs speak.
const PASSED: [&str; 9] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH"];

/// The variables by which numeric libraries take their number of threads.
const THREADS: [&str; 6] = [
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
];

/// A larger file is linked into the working folder and not copied.
const MOST_COPIED: u64 = 64 << 20;

/// A program that is ready to start.
pub struct ProgramCall {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// The working folder.
    pub folder: PathBuf,
}

impl ProgramCall {
    /// Makes the working folder, and resolves all texts.
    ///
    /// # Errors
    /// A file cannot be copied, an artifact does not have what a placeholder names, or a table cannot be read.
    pub fn of(parameters: &Parameters, context: &Context) -> Result<Self> {
        let temporary = context.temporary();
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).with_context(|| format!("cannot clear {}", temporary.display()))?;
        }
        let folder = temporary.join("folder");
        make(&folder)?;
        for (place, file) in parameters.files.iter().enumerate() {
            bring(&format!("/files/{place}/path"), file.to.as_deref().unwrap_or_default(), &folder, context)?;
        }
        let mut texts = Texts { parameters, context, temporary, tables: BTreeMap::new() };
        let arguments = parameters.run.iter().map(|text| texts.resolve(text)).collect::<Result<_>>()?;
        let mut environment: BTreeMap<String, String> =
            PASSED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
        let threads = context.threads().to_string();
        environment.extend(THREADS.map(|name| (name.to_owned(), threads.clone())));
        environment.insert("CUDA_VISIBLE_DEVICES".to_owned(), gpus(context));
        // Without these, the order of a set differs in each run, and lines appear late and in another order.
        environment.insert("PYTHONHASHSEED".to_owned(), "0".to_owned());
        environment.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
        for (name, value) in &parameters.env {
            match value {
                Some(value) => drop(environment.insert(name.clone(), texts.resolve(value)?)),
                None => drop(environment.remove(name)),
            }
        }
        Ok(Self { arguments, environment, folder })
    }

    /// The name of the program.
    pub fn name(&self) -> String {
        self.arguments.first().cloned().unwrap_or_default()
    }

    /// Whether the working folder has this file.
    pub fn has_file(&self, name: &str) -> bool {
        self.folder.join(name).is_file()
    }
}

/// The ids of the GPUs of the stage, as CUDA_VISIBLE_DEVICES has them.
fn gpus(context: &Context) -> String {
    let Some(index) = context.gpu() else { return String::new() };
    // The GPUs of raisin itself may be some of those of the machine.
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    visible.split(',').nth(index).map(str::trim).filter(|id| !id.is_empty()).map_or(index.to_string(), str::to_owned)
}

/// Puts the files of an entry of `files` into the working folder.
fn bring(pointer: &str, to: &str, folder: &Path, context: &Context) -> Result<()> {
    let is_folder = context.file(pointer)?.is_dir();
    for (name, path) in context.files(pointer)? {
        let place = if is_folder { folder.join(to).join(&name) } else { folder.join(to) };
        make(place.parent().unwrap_or(folder))?;
        if place.symlink_metadata().is_ok() {
            let problem = Problem::new(format!(
                "two of the `files` have the place `{}` in the working folder",
                place.strip_prefix(folder).unwrap_or(&place).display()
            ));
            return Err(problem.hint("give another place: { path = \"...\", to = \"...\" }").into());
        }
        let size = path.metadata().with_context(|| format!("cannot open {}", path.display()))?.len();
        let brought = if size > MOST_COPIED {
            std::os::unix::fs::symlink(path, &place)
        } else {
            // A copy and not a link: a program cannot change the file of the user by it, and Python looks for modules
            // in the folder to which a link leads, where files lie that are not in the key.
            std::fs::copy(path, &place).map(drop)
        };
        brought.with_context(|| format!("cannot copy {} to {}", path.display(), place.display()))?;
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Resolves texts. A table that several texts want as JSON lines is written once.
struct Texts<'a> {
    parameters: &'a Parameters,
    context: &'a Context,
    temporary: PathBuf,
    tables: BTreeMap<PathBuf, PathBuf>,
}

impl Texts<'_> {
    fn resolve(&mut self, text: &str) -> Result<String> {
        let pieces = pieces(text).map_err(|problem| Problem::new(problem.message).hint(problem.hint))?;
        let mut resolved = String::new();
        for piece in pieces {
            match piece {
                TextPiece::Plain(plain) => resolved.push_str(&plain),
                TextPiece::Word("out") => resolved.push_str(shown(&self.context.out())?),
                TextPiece::Word("work") => resolved.push_str(shown(&self.context.work()?)?),
                TextPiece::Word("seed") => resolved.push_str(&self.context.pipeline_seed().to_string()),
                TextPiece::Word("threads") => resolved.push_str(&self.context.threads().to_string()),
                TextPiece::Word("gpus") => resolved.push_str(&gpus(self.context)),
                TextPiece::Word(word) => return Err(anyhow!("the placeholder {{{word}}} has no meaning")),
                TextPiece::Input(input) => resolved.push_str(shown(&self.input(input)?)?),
            }
        }
        Ok(resolved)
    }

    /// The path for which a placeholder stands.
    fn input(&mut self, input: InputName) -> Result<PathBuf> {
        let place = input.place(&self.parameters.inputs).with_context(|| format!("there is no input `{input}`"))?;
        let folder = self.context.input(&format!("/inputs/{place}"))?;
        let Some(part) = input.part else { return Ok(folder.to_owned()) };
        let table = |name: &str| Some(folder.join(format!("{name}.parquet"))).filter(|path| path.is_file());
        let file = folder.join(part);
        if let Some(path) = table(part).or_else(|| Some(file).filter(|path| path.exists())) {
            return Ok(path);
        }
        if let Some(name) = part.strip_suffix(".jsonl")
            && let Some(path) = table(name)
        {
            return self.as_lines(&path, place, part);
        }
        let stage = &self.parameters.inputs[place];
        let problem = Problem::new(format!("the artifact of stage `{stage}` has no table and no file `{part}`"));
        Err(problem.hint(format!("it has {}", names(folder)?)).into())
    }

    /// A table as JSON lines.
    fn as_lines(&mut self, table: &Path, place: usize, name: &str) -> Result<PathBuf> {
        if let Some(written) = self.tables.get(table) {
            return Ok(written.clone());
        }
        let folder = self.temporary.join("tables").join(place.to_string());
        make(&folder)?;
        let path = folder.join(name);
        let cannot = || format!("cannot write {}", path.display());
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).with_context(cannot)?);
        let mut without = 0;
        let facts = for_each_chunk(table, MOST_BYTES, |records, _| {
            for record in records {
                let value = record.value().map_err(|reason| anyhow!("{}: {reason}", table.display()))?;
                without += record.altered().len();
                writeln!(file, "{value}").with_context(cannot)?;
            }
            Ok(())
        })?;
        ensure!(facts.damage.is_empty(), "{} is damaged: {}", table.display(), facts.damage[0].reason);
        file.flush().with_context(cannot)?;
        if without > 0 {
            self.context.note(format!("{without} values of {name} are null for the program: JSON does not have them"));
        }
        self.tables.insert(table.to_owned(), path.clone());
        Ok(path)
    }
}

/// The names of what a folder has, for a message.
pub fn names(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let more = names.len().saturating_sub(20);
    names.truncate(20);
    Ok(match (names.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    })
}

fn shown(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8, and cannot be an argument", path.display()))
}
