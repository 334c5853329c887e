//! The limit of a download. A server may announce more than the disk can hold, or may never end. fetch.rs asks before
//! the first byte and again while bytes come.

use std::path::Path;

use super::progress::size;
use raisin_base::error::{Context as _, Problem, Result};

/// What a download leaves free on the disk of the cache, in bytes; if little is free, a tenth of that.
const RESERVE: u64 = 1_000_000_000;

/// The maximum size in bytes of a file whose server does not announce a length. docs/pipeline.md states this number.
const LARGEST_UNANNOUNCED: u64 = 100_000_000_000;

/// The number of bytes after which the free space is read again: other processes also write to the disk.
const LOOK_AGAIN: u64 = 64 << 20;

/// The limit of one download.
pub struct DownloadLimit<'d> {
    address: &'d str,
    folder: &'d Path,
    /// What must stay free. It does not shrink with the free space while the file grows.
    reserve: Option<u64>,
    next_look: u64,
}

impl<'d> DownloadLimit<'d> {
    /// `folder` is the folder of the file that grows.
    pub fn new(address: &'d str, folder: &'d Path) -> Self {
        Self { address, folder, reserve: None, next_look: 0 }
    }

    /// A connection begins, and with it perhaps the file: the next check reads the free space.
    pub fn begin(&mut self) {
        self.next_look = 0;
    }

    /// Checks the limit. The file has `done` bytes; it will have `total` bytes if the server says so.
    ///
    /// # Errors
    /// The file is too large for the disk, or for a file without a length.
    pub fn check(&mut self, done: u64, total: Option<u64>) -> Result<()> {
        if done < self.next_look {
            return Ok(());
        }
        let disk = rustix::fs::statvfs(self.folder)
            .with_context(|| format!("cannot read the free space of {}", self.folder.display()))?;
        let available = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reserve = *self.reserve.get_or_insert(RESERVE.min(available / 10));
        let free = available.saturating_sub(reserve);
        self.next_look = done.saturating_add(LOOK_AGAIN.min(free / 2));
        match refusal(done, total, free) {
            None => Ok(()),
            Some(Refusal::Disk(why)) => {
                let (address, folder) = (self.address, self.folder.display());
                let message = format!(
                    "cannot fetch {address}: {why} on the disk of {folder}, of which raisin leaves {} free",
                    size(reserve)
                );
                let hint =
                    "free some space, for example with `raisin gc`, or name a cache on a larger disk with --cache";
                Err(Problem::new(message).hint(hint).into())
            }
            Some(Refusal::Unannounced) => {
                let largest = size(LARGEST_UNANNOUNCED);
                let message =
                    format!("cannot fetch {}: the server announces no length and has sent {largest}", self.address);
                let hint = "if the file is really this large, download it by hand and write its path instead";
                Err(Problem::new(message).hint(hint).into())
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Disk(String),
    Unannounced,
}

/// Why a file must not grow any more; `free` is the number of bytes that the file may still take. A server that sends
/// more than it has announced counts like one that announces nothing.
fn refusal(done: u64, total: Option<u64>, free: u64) -> Option<Refusal> {
    match total.and_then(|total| total.checked_sub(done)) {
        Some(rest) if rest > free => {
            let rest = size(rest);
            Some(Refusal::Disk(format!("the server announces {rest}, and there is room for {}", size(free))))
        }
        None if done >= LARGEST_UNANNOUNCED => Some(Refusal::Unannounced),
        None if free == 0 => Some(Refusal::Disk(format!(
            "the server has sent {} without a length, and there is room for {}",
            size(done),
            size(free)
        ))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_take_the_free_space_and_no_more() {
        let is_refused = |done, total, free| refusal(done, total, free).is_some();
        for (done, free) in [(0, 0), (0, 100), (50, 100), (u64::MAX, 0), (50, u64::MAX)] {
            let exact = free.saturating_add(done);
            assert!(!is_refused(done, Some(exact), free), "{done} {free}");
            assert_eq!(is_refused(done, Some(u64::MAX), free), u64::MAX - done > free, "{done} {free}");
        }
        assert!(!is_refused(50, None, 1) && is_refused(50, None, 0));
        assert_eq!(refusal(LARGEST_UNANNOUNCED, None, u64::MAX), Some(Refusal::Unannounced));
        assert!(!is_refused(LARGEST_UNANNOUNCED, Some(LARGEST_UNANNOUNCED), 0));
        assert!(is_refused(201, Some(200), 0), "more than was announced");
    }

    #[test]
    fn the_numbers_of_this_disk_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut limit = DownloadLimit::new("http://x/y", folder.path());
        limit.check(0, Some(1)).unwrap();
        limit.next_look = 0;
        let words = limit.check(0, Some(u64::MAX)).unwrap_err().to_string();
        assert!(words.contains("cannot fetch http://x/y: the server announces 18446744.1 TB"), "{words}");
    }
}
