//! Reads a pipeline file and its includes, and merges them into one tree. tree.rs parses each file.

use std::path::{Path, PathBuf};

use super::tree::{NodeContent, Table, TreeNode};
use raisin_base::error::{Problem, nearest};
use raisin_base::files::read_text_up_to;

/// The largest number of bytes that a pipeline file and its includes have together.
const MOST_BYTES: u64 = 16 << 20;

/// The largest number of includes. A file counts each time that it is included: files that each include another file
/// twice would otherwise double the work with each level.
const MOST_INCLUDES: usize = 1000;

/// The folder in which pipeline files usually lie.
const USUAL_FOLDER: &str = "pipelines";

/// Reads a pipeline file and its includes.
///
/// # Errors
/// A file is missing, is not TOML, or includes itself. The files are too many or too large.
pub fn read(file: &Path) -> Result<Table, Problem> {
    let text = read_text_up_to(file, MOST_BYTES).map_err(|error| missing(file, &error))?;
    parse(file, text)
}

/// As [`read`], for the text of a pipeline file. Includes are relative to the place `file`.
///
/// # Errors
/// As [`read`].
pub fn parse(file: &Path, text: String) -> Result<Table, Problem> {
    let mut reading = IncludesRead { open: Vec::new(), bytes: MOST_BYTES, includes: MOST_INCLUDES };
    read_text(file, text, &mut reading)
}

/// The state of reading a pipeline file and its includes.
struct IncludesRead {
    /// The files that are being read: each includes the next.
    open: Vec<PathBuf>,
    /// The bytes and includes that are left.
    bytes: u64,
    includes: usize,
}

fn missing(file: &Path, error: &std::io::Error) -> Problem {
    let problem = Problem::usage(format!("cannot read the pipeline {}: {error}", file.display()));
    match error.kind() {
        std::io::ErrorKind::NotFound => match near(file, &[folder(file), Path::new(USUAL_FOLDER)]) {
            Some(near) => problem.hint(format!("did you mean `{}`?", near.display())),
            None => problem.hint("give the path of a .toml file, such as pipelines/quickstart.toml"),
        },
        std::io::ErrorKind::InvalidInput => problem.hint("write the pipeline into a .toml file, and name this file"),
        _ => problem,
    }
}

fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

/// The file in these folders that the user most likely means, if there is no file of this name.
fn near(file: &Path, folders: &[&Path]) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let with_ending = format!("{name}.toml");
    folders.iter().find_map(|folder| {
        let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let entries = std::fs::read_dir(listed).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| Path::new(name).extension().is_some_and(|ending| ending == "toml"));
        names.sort();
        let same = names.iter().find(|other| **other == with_ending || *other == name);
        let found = same.map(String::as_str).or_else(|| nearest(name, names.iter().map(String::as_str)))?;
        Some(folder.join(found))
    })
}

fn read_text(file: &Path, text: String, reading: &mut IncludesRead) -> Result<Table, Problem> {
    reading.bytes = reading.bytes.saturating_sub(text.len() as u64);
    let TreeNode { content: NodeContent::Table(mut table), .. } = TreeNode::parse(&file.display().to_string(), text)?
    else {
        return Err(Problem::usage(format!("{} is not a table", file.display())));
    };
    let Some(include) = table.remove("include") else { return Ok(table) };
    let wanted: Vec<&TreeNode> = match &include.node.content {
        NodeContent::Array(items) => items.iter().collect(),
        _ => vec![&include.node],
    };
    reading.open.push(file.canonicalize().unwrap_or_else(|_| file.to_owned()));
    let mut base = Table::default();
    for node in wanted {
        let Some(name) = node.text() else {
            let message = format!("`include` must be a path or an array of paths, not {}", node.type_name());
            return Err(node.origin.problem(message));
        };
        let path = file.parent().unwrap_or(Path::new("")).join(name);
        let Some(left) = reading.includes.checked_sub(1) else {
            let message = format!("this is more than the limit of {MOST_INCLUDES} includes");
            return Err(node.origin.problem(message).hint("a file counts each time that it is included"));
        };
        reading.includes = left;
        let text = read_text_up_to(&path, reading.bytes).map_err(|error| {
            let all = "a pipeline file and its includes may have 16 MiB together";
            let of = if error.kind() == std::io::ErrorKind::FileTooLarge { format!(" ({all})") } else { String::new() };
            let problem = node.origin.problem(format!("cannot read {}: {error}{of}", path.display()));
            match near(&path, &[folder(&path)]).filter(|_| error.kind() == std::io::ErrorKind::NotFound) {
                Some(near) => problem.hint(format!("did you mean `{}`?", near.display())),
                None => problem,
            }
        })?;
        if reading.open.contains(&path.canonicalize().unwrap_or_else(|_| path.clone())) {
            return Err(node.origin.problem(format!("{} includes itself", path.display())));
        }
        base.merge(read_text(&path, text, reading)?);
    }
    reading.open.pop();
    base.merge(table);
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_file_gets_the_near_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["base.toml", "quickstart.toml", "quickstart.json"] {
            std::fs::write(folder.path().join(name), "include = \"bse.toml\"\n").unwrap();
        }
        let hint = |name: &str| read(&folder.path().join(name)).err().unwrap().hint;
        let means = |name: &str| Some(format!("did you mean `{}`?", folder.path().join(name).display()));
        assert_eq!(hint("quikstart.toml"), means("quickstart.toml"));
        assert_eq!(hint("quickstart"), means("quickstart.toml"));
        assert_eq!(
            hint("other.toml").as_deref(),
            Some("give the path of a .toml file, such as pipelines/quickstart.toml")
        );
        // Of an include too, with its place.
        let problem = read(&folder.path().join("base.toml")).err().unwrap();
        assert_eq!(problem.hint, means("base.toml"));
        assert_eq!(problem.place.map(|place| (place.line, place.column)), Some((1, 11)));
    }
}
