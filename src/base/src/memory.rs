//! The memory of the machine, and the memory that this process holds.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::LazyLock;

/// The memory of the machine in bytes, or the memory limit of the container if it is lower. `None` if the system does
/// not tell.
pub fn of_machine() -> Option<u64> {
    let total = bytes_on_line("/proc/meminfo", "MemTotal:")?;
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limit.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    Some(limit.map_or(total, |limit| limit.min(total)))
}

/// The anonymous memory of this process in bytes (without mapped files such as libraries). `None` if the system does
/// not tell.
pub fn held() -> Option<u64> {
    // A running stage is measured 200 times a second. This file is the cheapest one to read, and stays open.
    static FILE: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/statm").ok());
    let mut text = [0; 128];
    let length = FILE.as_ref()?.read_at(&mut text, 0).ok()?;
    let mut pages = std::str::from_utf8(&text[..length]).ok()?.split(' ').map(str::parse::<u64>);
    let (_size, resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared) * PAGE)
}

/// The size of a page of memory on x86-64.
const PAGE: u64 = 4096;

/// The number of bytes on the line of a file that begins with `name` and ends with `kB`.
fn bytes_on_line(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024))
}

/// The memory to which a stage or a query is held if the user sets no limit: half of the machine.
pub fn default_limit() -> Option<u64> {
    of_machine().map(|memory| memory / 2)
}
