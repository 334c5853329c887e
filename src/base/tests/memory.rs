//! The memory of a process. This test is the only one of its executable: other tests beside it would allocate and free
//! memory of the same process.

use raisin_base::error::{Context as _, Result};
use raisin_base::memory::held;

#[test]
fn the_memory_that_the_process_holds_is_that_of_its_status() -> Result<()> {
    let before = held().context("no memory")?;
    let filled = vec![1_u8; 64 << 20];
    let with = held().context("no memory")?;
    assert!(with >= before + (60 << 20), "{before} {with} {}", filled.len());
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no line RssAnon")?;
    let of_status = line.trim().strip_suffix(" kB").context("no unit")?.parse::<u64>()? * 1024;
    assert!(with.abs_diff(of_status) < 16 << 20, "{with} {of_status}");
    Ok(())
}
