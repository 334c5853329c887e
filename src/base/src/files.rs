//! Operations on files that several crates need.

use std::collections::hash_map::RandomState;
use std::fs::{File, FileType};
use std::hash::BuildHasher as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

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

/// The maximum length in bytes of the part of a temporary name that comes from the name of the file. A file system
/// allows 255 bytes for a name, and the random numbers need 43 of them.
const LONGEST_PART: usize = 200;

/// A new name for a temporary file beside `path`: `.name.number.number`, with two random numbers. Processes in two
/// containers can have the same process id, so a process id makes no name unique. The caller must create the file with
/// a call that fails if the name exists.
pub fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = &name[..name.floor_char_boundary(LONGEST_PART)];
    // The standard library takes the keys of a `RandomState` from the operating system. They are used for nothing but
    // this name, so no result depends on them.
    let [one, two] = [0, 1].map(|number: u8| RandomState::new().hash_one(number));
    path.with_file_name(format!(".{name}.{one}.{two}"))
}

/// Whether the name of a file is `.name.number.number`: the form of [`temporary_beside`]. In earlier versions, the two
/// numbers were a process id and a count.
pub fn is_temporary(path: &Path) -> bool {
    let number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u64>().is_ok());
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
        let mut parts = name.rsplit('.');
        name.starts_with('.') && number(parts.next()) && number(parts.next())
    })
}

/// Writes the parts one after another into a new temporary file, calls `finish` on it, and renames it to `path`.
pub fn put(path: &Path, parts: &[&[u8]], finish: impl Fn(&File) -> std::io::Result<()>) -> std::io::Result<()> {
    let (temporary, mut file) = loop {
        let temporary = temporary_beside(path);
        match File::create_new(&temporary) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            file => break (temporary, file?),
        }
    };
    let mut write = || -> std::io::Result<()> {
        parts.iter().try_for_each(|part| file.write_all(part))?;
        finish(&file)?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

/// What a path names that is not a regular file, in words: `a FIFO`, `a device`.
pub fn type_in_words(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a FIFO (a pipe)",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        kind if kind.is_symlink() => "a symbolic link",
        _ => "a file",
    }
}

/// Opens a regular file for reading. Anything else is an error at once: to open a FIFO waits for a writer, and a device
/// may have no end.
pub fn open_regular(path: &Path) -> std::io::Result<File> {
    let refused = |kind: FileType| {
        let message = format!("it is {}, and raisin reads only regular files here", type_in_words(kind));
        std::io::Error::new(ErrorKind::InvalidInput, message)
    };
    // Look before opening: to open a device can have effects. The flag is for a FIFO that comes between the two calls.
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(refused(kind));
    }
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(refused(kind)) }
}

/// Reads a regular file of at most `limit` bytes.
pub fn read_up_to(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or_default());
    // The size of a file in /proc is 0, whatever its content is.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it is larger than {limit} bytes, the limit for such a file");
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// As [`read_up_to`], for a text in UTF-8.
pub fn read_text_up_to(path: &Path, limit: u64) -> std::io::Result<String> {
    String::from_utf8(read_up_to(path, limit)?)
        .map_err(|_| std::io::Error::new(ErrorKind::InvalidData, "stream did not contain valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
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

    #[test]
    fn a_fifo_a_device_a_socket_and_a_folder_are_refused_at_once_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo starts");
        assert!(made.success());
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let device = Path::new("/dev/zero");
        for (path, word) in
            [(fifo.as_path(), "a FIFO"), (device, "a device"), (&socket, "a socket"), (folder.path(), "a folder")]
        {
            let error = open_regular(path).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_not_beyond() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").expect("written");
        assert_eq!(read_up_to(&path, 5).expect("read"), b"12345");
        let error = read_up_to(&path, 4).expect_err("too large").to_string();
        assert!(error.contains("larger than 4 bytes"), "{error}");
    }

    #[test]
    fn temporary_names_differ_are_recognised_and_fit_beside_every_name() {
        let long = "ä".repeat(127);
        for name in ["VERSION", "0.json", long.as_str()] {
            let names: BTreeSet<PathBuf> = (0..1000).map(|_| temporary_beside(&Path::new("x").join(name))).collect();
            assert_eq!(names.len(), 1000);
            for path in names {
                assert!(is_temporary(&path) && path.parent() == Some(Path::new("x")), "{path:?}");
                assert!(path.file_name().unwrap().len() <= 255, "{path:?}");
            }
        }
        assert!(is_temporary(Path::new("x/.files.17.3")));
        assert!(["files.17.3", ".files.3", ".files.a.3", "x"].iter().all(|name| !is_temporary(Path::new(name))));
    }

    #[test]
    fn many_writers_of_one_file_all_succeed_and_one_of_them_is_seen_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("VERSION");
        let texts: Vec<Vec<u8>> = (0..16).map(|number| vec![b'a' + number; 5000]).collect();
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| {
                    for _ in 0..50 {
                        put(&path, &[&text[..10], &text[10..]], |_| Ok(())).unwrap();
                        assert!(texts.contains(&std::fs::read(&path).unwrap()));
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
    }
}
