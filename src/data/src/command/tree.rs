//! The processes below a process, from /proc.

use std::collections::BTreeMap;

/// The bytes of a page, on every architecture for which raisin is built.
const PAGE: u64 = 4096;

/// A process below another one.
#[derive(Clone, Copy, Debug)]
pub struct TreeProcess {
    pub pid: i32,
    /// The memory that the process holds, in bytes. Memory that processes share counts in each of them.
    pub memory: u64,
    /// Processor time in clock ticks, with that of ended children.
    pub ticks: u64,
    /// Whether the process waits for a disk, or a person has stopped it.
    pub waits: bool,
    /// Whether the process has ended, and its parent has not asked for its status yet.
    has_ended: bool,
}

/// The living processes below `root`, without `root`, for a measurement: a process can be missed while others end.
pub fn look_below(root: i32) -> Vec<TreeProcess> {
    // A kernel without lists of children (CONFIG_PROC_CHILDREN) has none for any process.
    match children(root) {
        Some(first) => below_by_lists(first),
        None => below(root),
    }
}

/// Follows the lists of children. This reads the processes of the program alone: a worker that looks four times a second
/// must use little processor time, otherwise it seems to work.
fn below_by_lists(first: Vec<i32>) -> Vec<TreeProcess> {
    let (mut found, mut open) = (Vec::new(), first);
    while let Some(pid) = open.pop() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some((_, process)) = parse(pid, &stat).filter(|(_, process)| !process.has_ended) {
            found.push(process);
            open.extend(children(pid).unwrap_or_default());
        }
    }
    found
}

/// The direct children of a process, by all of its threads; `None` if the kernel has no such lists.
fn children(pid: i32) -> Option<Vec<i32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).ok()?;
        found.extend(list.split_ascii_whitespace().filter_map(|number| number.parse::<i32>().ok()));
    }
    Some(found)
}

/// All living processes below `root`, without `root`, from the parents of all processes of the machine.
pub fn below(root: i32) -> Vec<TreeProcess> {
    let mut children: BTreeMap<i32, Vec<TreeProcess>> = BTreeMap::new();
    for (parent, process) in all().filter(|(_, process)| !process.has_ended) {
        children.entry(parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for process in children.remove(&parent).unwrap_or_default() {
            open.push(process.pid);
            found.push(process);
        }
    }
    found
}

/// The numbers of the direct children of `parent` that have ended.
pub fn ended_children(parent: i32) -> Vec<i32> {
    all().filter(|(of, process)| *of == parent && process.has_ended).map(|(_, process)| process.pid).collect()
}

/// All processes of the machine, each with the number of its parent.
fn all() -> impl Iterator<Item = (i32, TreeProcess)> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok())?;
        parse(pid, &std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default())
    })
}

/// Reads a line of /proc/PID/stat: the parent and the process. A process whose parent has ended is below the process that
/// adopts it, and therefore below the supervisor.
fn parse(pid: i32, stat: &str) -> Option<(i32, TreeProcess)> {
    // The name of the executable stands in brackets, and may itself contain brackets and spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // After the parent: pgrp, session, tty, tpgid, flags, minflt, cminflt, majflt, cmajflt, utime, stime, cutime,
    // cstime, priority, nice, threads, itrealvalue, starttime, vsize, rss.
    let numbers: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
    let ticks = (9..13).map(number).fold(0, u64::wrapping_add);
    let (waits, has_ended) = (matches!(state, "D" | "T" | "t"), matches!(state, "Z" | "X"));
    Some((parent, TreeProcess { pid, memory: number(19) * PAGE, ticks, waits, has_ended }))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_line_of_proc_is_read_after_the_name_of_the_process() {
        let line = "17 (a) R (b) S 1 42 42 0 -1 4194304 1 2 3 4 50 60 70 80 20 0 1 0 12345 1000 3 99";
        let (parent, process) = parse(17, line).unwrap();
        assert_eq!((parent, process.memory, process.ticks, process.waits), (1, 3 * 4096, 260, false));
        assert!(parse(17, &line.replace(") S ", ") Z ")).unwrap().1.has_ended && !process.has_ended);
        assert!(parse(17, &line.replace(") S ", ") D ")).unwrap().1.waits);
        assert!(parse(17, "").is_none());
    }

    #[test]
    fn children_and_their_children_are_found() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & sleep 60 & wait"]).spawn().unwrap();
        let own = i32::try_from(child.id()).unwrap();
        let began = std::time::Instant::now();
        while below(own).len() < 2 && began.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let found = below(own);
        let pids =
            |all: &[TreeProcess]| all.iter().map(|process| process.pid).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(pids(&look_below(own)), pids(&found), "both ways find the same processes");
        for process in &found {
            let pid = rustix::process::Pid::from_raw(process.pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        let own_process = i32::try_from(std::process::id()).unwrap();
        while ended_children(own_process).is_empty() && began.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(ended_children(own_process).contains(&own));
        assert!(below(own).is_empty());
        child.wait().unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|process| process.memory > 0));
    }
}
