//! The history of the prompt: the last lines, in the data folder of the user and not in the project.

use std::path::{Path, PathBuf};

use raisin_base::error::{Context as _, Result};
use raisin_base::files::if_there;
use raisin_base::say;

/// The largest number of lines that are kept.
const MOST_LINES: usize = 10_000;

/// `$XDG_DATA_HOME/raisin/sql_history`, else `~/.local/share/raisin/sql_history`; `None` without a home.
fn file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")))?;
    Some(data.join("raisin/sql_history"))
}

/// The lines of earlier sessions, the oldest first. A history that cannot be read is told, and not needed.
pub fn read() -> Vec<String> {
    let Some(file) = file() else { return Vec::new() };
    let text = if_there(std::fs::read_to_string(&file)).with_context(|| format!("cannot read {}", file.display()));
    match text {
        Ok(text) => text.unwrap_or_default().lines().map(str::to_owned).collect(),
        Err(error) => {
            say!("warning: there is no history: {error:#}");
            Vec::new()
        }
    }
}

/// Writes the last lines.
pub fn keep(lines: &[String]) {
    let Some(file) = file() else { return };
    if let Err(error) = write(&file, &lines[lines.len().saturating_sub(MOST_LINES)..]) {
        say!("warning: the history is not kept: {error:#}");
    }
}

fn write(file: &Path, lines: &[String]) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut builder = tempfile::Builder::new();
    // A query can have values that are nobody else's business.
    let builder = builder.prefix(".sql_history-").permissions(std::fs::Permissions::from_mode(0o600));
    let mut written = builder.tempfile_in(folder).with_context(|| format!("cannot write into {}", folder.display()))?;
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    written.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    written.persist(file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}
