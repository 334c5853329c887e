//! Whose files the cache holds, if several users share it: gc removes only what this user can remove completely. On a
//! cache that a group can write, a user can remove the action record of another user, but not the artifact: its folders
//! are read-only, and only their owner can change that.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// The bit of a folder in which users may remove only their own files, such as /tmp.
const STICKY: u32 = 0o1000;

/// The owner of the first file or folder that this user cannot remove, of `path` and everything below it; `None` if
/// this user can remove all of it, or if it is gone.
pub(super) fn in_the_way(path: &Path) -> io::Result<Option<u32>> {
    let own = rustix::process::geteuid();
    if own.is_root() {
        return Ok(None);
    }
    let Some(found) = super::if_there(path.symlink_metadata())? else { return Ok(None) };
    let parent = path.parent().unwrap_or(Path::new("/"));
    let above = parent.metadata()?;
    // The owner of a folder can make it writable first.
    let is_open = above.uid() == own.as_raw() || may_write(parent);
    let is_mine = [found.uid(), above.uid()].contains(&own.as_raw());
    if !is_open || (above.mode() & STICKY != 0 && !is_mine) {
        return Ok(Some(if is_open { found.uid() } else { above.uid() }));
    }
    if !found.is_dir() {
        return Ok(None);
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        // The owner can make the folder readable first.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok((found.uid() != own.as_raw()).then_some(found.uid()));
        }
        Err(error) => return Err(error),
    };
    for entry in entries {
        if let Some(owner) = in_the_way(&entry?.path())? {
            return Ok(Some(owner));
        }
    }
    Ok(None)
}

fn may_write(folder: &Path) -> bool {
    accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// The name of a user for messages: as in /etc/passwd, or the number.
pub(super) fn user(id: u32) -> String {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let names = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = names
        .filter(|parts| parts.get(2).and_then(|number| number.parse().ok()) == Some(id))
        .find_map(|parts| parts.first().map(|name| (*name).to_owned()));
    found.map_or_else(|| format!("user {id}"), |name| format!("user {name}"))
}
