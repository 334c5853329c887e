//! Finds the files that an input names: one file, the files below a folder, or the files that match a pattern.
//! inputs.rs hashes them.
//!
//! Each file is found by its canonical path, without symbolic links. Therefore a link that leads to another file later
//! has no effect on a build.

use std::fs::FileType;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use raisin_base::error::{Context as _, Problem, Result, bail};
use raisin_base::files::type_in_words;
use raisin_base::printable::one_line;

/// The largest number of files and folders below one input. Links to folders that contain such links themselves can
/// multiply a few folders into any number of paths.
const MOST_ENTRIES: usize = 1_000_000;

/// A regular file of an input.
pub struct FoundFile {
    /// The name below the folder of the input, or, for a single file, the name without folders.
    pub name: String,
    /// The canonical path.
    pub real: PathBuf,
}

/// The files that a path names.
pub enum Found {
    None,
    /// One file, with its path as the user wrote it.
    File(PathBuf, FoundFile),
    /// The files of a folder or a pattern, and the folder to which their names are relative.
    Below(PathBuf, Vec<FoundFile>),
}

/// Finds the files of a path in a pipeline file.
///
/// # Errors
/// The path leads to something that is neither a file nor a folder, a link leads back to a folder that contains it, or
/// there are too many files. The error is a [`Problem`] without a place.
pub fn find(folder: &Path, written: &str, several: bool) -> Result<Found> {
    // Keep the name that the user wrote, not the name of a link's target.
    let path = std::path::absolute(folder.join(written))?;
    // An error such as a lack of permission must not look as if nothing were there.
    let kind = match path.metadata() {
        Ok(found) => Some(found.file_type()),
        Err(error) if is_absent(error.kind()) => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", shown(&path))),
    };
    if kind.is_some_and(|kind| kind.is_dir()) {
        let files = Walk::new(&path, None).files()?;
        return Ok(if several && files.is_empty() { Found::None } else { Found::Below(path, files) });
    }
    if let Some(kind) = kind {
        refuse_special(&path, kind)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let real = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
        return Ok(Found::File(path, FoundFile { name, real }));
    }
    if !several || !is_pattern(written) {
        return Ok(Found::None);
    }
    // `base` is the path up to the first component with a wildcard. The folder of the project is never read as a
    // pattern, although its name may contain wildcard characters.
    let own = if Path::new(written).is_absolute() { 0 } else { std::path::absolute(folder)?.components().count() };
    let parts = path.components().enumerate();
    let literal = parts.take_while(|(at, part)| *at < own || !is_pattern(&part.as_os_str().to_string_lossy()));
    let base: PathBuf = literal.map(|(_, part)| part).collect();
    let pattern = NamePattern::new(&path.strip_prefix(&base)?.to_string_lossy())
        .map_err(|error| Problem::usage(format!("{written} is no pattern: {}", error.msg)))?;
    if !base.is_dir() {
        return Ok(Found::None);
    }
    let files = Walk::new(&base, Some(pattern)).files()?;
    Ok(if files.is_empty() { Found::None } else { Found::Below(base, files) })
}

/// Whether an error means that a path names nothing, or that no file can have the path.
fn is_absent(kind: ErrorKind) -> bool {
    use ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    matches!(kind, NotFound | NotADirectory | InvalidFilename | InvalidInput)
}

/// # Errors
/// The path names something that is no regular file, such as a FIFO or a device.
fn refuse_special(path: &Path, kind: FileType) -> Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let message = format!("{} is {}, and an input must be a regular file", shown(path), type_in_words(kind));
    Err(Problem::usage(message).hint("write the content into a file, and name this file").into())
}

/// A path on one line: the name of a file can contain line breaks and other control characters.
pub fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy()).into_owned()
}

pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// A pattern of names below a folder.
struct NamePattern {
    whole: glob::Pattern,
    /// The pattern of each component; `None` for `**`.
    components: Vec<Option<glob::Pattern>>,
    /// Whether a component begins with a dot, so that the pattern can match names in hidden folders.
    dotted: bool,
}

/// A wildcard matches neither a `/` nor the dot of a hidden name.
const OPTIONS: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

impl NamePattern {
    fn new(pattern: &str) -> Result<Self, glob::PatternError> {
        let whole = glob::Pattern::new(pattern)?;
        let component = |part: &str| (part != "**").then(|| glob::Pattern::new(part)).transpose();
        let components = pattern.split('/').map(component).collect::<Result<_, _>>()?;
        Ok(Self { whole, components, dotted: pattern.split('/').any(|part| part.starts_with('.')) })
    }

    /// Whether a folder with this name can contain a match.
    fn may_match_below(&self, name: &str) -> bool {
        let mut components = self.components.iter();
        for part in name.split('/') {
            match components.next() {
                Some(Some(component)) if component.matches_with(part, OPTIONS) => {}
                Some(None) => return self.dotted || !name.split('/').any(|part| part.starts_with('.')),
                _ => return false,
            }
        }
        components.len() > 0
    }
}

/// The walk through the folders of one input.
struct Walk<'p> {
    top: &'p Path,
    pattern: Option<NamePattern>,
    files: Vec<FoundFile>,
    entries: usize,
    /// The canonical paths of the folders that the walk is in.
    within: Vec<PathBuf>,
}

impl<'p> Walk<'p> {
    fn new(top: &'p Path, pattern: Option<NamePattern>) -> Self {
        Self { top, pattern, files: Vec::new(), entries: 0, within: Vec::new() }
    }

    fn files(mut self) -> Result<Vec<FoundFile>> {
        let real = self.top.canonicalize().with_context(|| format!("cannot list {}", self.top.display()))?;
        self.enter("", real)?;
        self.files.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(self.files)
    }

    /// Adds the files of the folder with this name and canonical path.
    fn enter(&mut self, name: &str, real: PathBuf) -> Result<()> {
        let own = || shown(&self.top.join(name));
        if let Some(outer) = self.within.iter().find(|outer| **outer == real) {
            let message = format!("the link {} leads back to the folder {}, which contains it", own(), shown(outer));
            return Err(Problem::usage(message).hint("remove the link, or name the files with a pattern").into());
        }
        let listed = std::fs::read_dir(&real).with_context(|| format!("cannot list {}", own()))?;
        self.within.push(real);
        for entry in listed {
            let entry = entry.with_context(|| format!("cannot list {}", self.top.join(name).display()))?;
            self.add(name, &entry)?;
        }
        self.within.pop();
        Ok(())
    }

    fn add(&mut self, folder: &str, entry: &std::fs::DirEntry) -> Result<()> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            let message = format!("{} has more than {MOST_ENTRIES} files and folders below it", self.top.display());
            return Err(Problem::usage(format!("{message}, the limit for one input"))
                .hint("name a smaller folder; look also for links to folders that contain such links themselves")
                .into());
        }
        let own = entry.file_name();
        let Some(own) = own.to_str() else {
            // A pattern is a text, so that a name that is no text cannot match it.
            if self.pattern.is_some() || own.as_encoded_bytes().starts_with(b".") {
                return Ok(());
            }
            bail!("{} has a name that is not UTF-8", shown(&self.top.join(folder).join(own)));
        };
        let name = if folder.is_empty() { own.to_owned() } else { format!("{folder}/{own}") };
        let may_be_file = self.pattern.as_ref().is_none_or(|pattern| pattern.whole.matches_with(&name, OPTIONS));
        let may_be_folder = self.pattern.as_ref().is_none_or(|pattern| pattern.may_match_below(&name));
        if (self.pattern.is_none() && own.starts_with('.')) || !(may_be_file || may_be_folder) {
            return Ok(());
        }
        let path = self.top.join(&name);
        let cannot = || format!("cannot read {}", shown(&path));
        let mut kind = entry.file_type().with_context(cannot)?;
        let real = if kind.is_symlink() {
            kind = match path.metadata() {
                // A link that leads nowhere is no folder.
                Err(error) if error.kind() == ErrorKind::NotFound && !may_be_file => return Ok(()),
                other => other.with_context(cannot)?.file_type(),
            };
            path.canonicalize().with_context(cannot)?
        } else {
            entry.path()
        };
        if kind.is_dir() {
            return if may_be_folder { self.enter(&name, real) } else { Ok(()) };
        }
        if may_be_file {
            refuse_special(&path, kind)?;
            self.files.push(FoundFile { name, real });
        }
        Ok(())
    }
}
