//! Operations on files that several crates need.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The result of a file operation; `None` if the path does not exist.
pub fn if_there<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The absolute path without symbolic links and without `..`, as far as the path exists. The parts of the path that do
/// not exist yet stay as they are.
pub fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    for existing in whole.ancestors() {
        if let Some(found) = if_there(existing.canonicalize())? {
            // Joining an empty rest would end the path with a slash.
            let rest = whole.strip_prefix(existing).unwrap_or(Path::new(""));
            return Ok(if rest.as_os_str().is_empty() { found } else { found.join(rest) });
        }
    }
    Ok(whole)
}

/// Writes the parts one after another into a temporary file `.name.pid.count`, calls `finish` on it, and renames it to
/// `path`.
pub fn put(path: &Path, parts: &[&[u8]], finish: impl Fn(&File) -> std::io::Result<()>) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static BEGAN: OnceLock<u64> = OnceLock::new();
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Processes of other machines and containers can have the same id. Therefore the count begins with the time.
    let began =
        BEGAN.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64));
    let count = began.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
    let temporary = folder.join(format!(".{name}.{}.{count}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        finish(&file)?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_resolved_path_has_no_links_even_if_its_end_does_not_exist() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let top = folder.path().canonicalize()?;
        std::fs::create_dir_all(top.join("real/sub"))?;
        symlink(top.join("real"), top.join("link"))?;
        assert_eq!(resolved(&top.join("link"))?, top.join("real"));
        assert_eq!(resolved(&top.join("link/sub/../new/file"))?, top.join("real/new/file"));
        assert_eq!(resolved(&top.join("none"))?, top.join("none"));
        assert_eq!(resolved(Path::new("none"))?, std::env::current_dir()?.canonicalize()?.join("none"));
        Ok(())
    }
}
