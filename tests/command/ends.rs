//! How a program ends: with the build, with its worker, by a lack of memory. No process is left.

use std::time::{Duration, Instant};

use raisin_tests::{Project, processes};
use rustix::process::{Pid, Signal, kill_process};

use crate::shell;

/// A program that ignores SIGTERM, and starts a process that leaves its group. Each notes its number in `{work}`.
const STUBBORN: &str = "trap '' TERM\n\
    setsid sh -c 'echo $$ > '$2'/left; trap \"\" TERM; while :; do sleep 0.1; done' &\n\
    (echo started; while :; do sleep 0.1; done) &\n\
    echo $! > $2/child\n\
    while [ ! -s $2/left ]; do sleep 0.01; done\n\
    echo $$ > $2/program\n\
    while :; do sleep 0.1; done\n";

/// The numbers of the processes that [`STUBBORN`] noted; `None` until all have.
fn noted(project: &Project) -> Option<Vec<i32>> {
    let staging = std::fs::read_dir(project.path("cache/tmp")).into_iter().flatten().flatten();
    let folders: Vec<_> = staging.map(|entry| entry.path().join("work")).collect();
    let read = |name: &str| {
        let found = folders.iter().find_map(|folder| std::fs::read_to_string(folder.join(name)).ok());
        found?.trim().parse().ok()
    };
    ["program", "child", "left"].iter().map(|name| read(name)).collect()
}

fn is_alive(pid: i32) -> bool {
    // A process that has ended and that nobody has waited for yet does nothing any more.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn after_ctrl_c_no_process_of_the_program_is_left() {
    let project = shell(STUBBORN, "");
    let mut build = project.start(&["build", "p.toml"]);
    processes::wait_for("the program runs", || noted(&project).is_some());
    let pids = noted(&project).unwrap();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    let began = Instant::now();
    signal(build.id(), Signal::INT);
    assert_eq!(processes::status(&mut build).code(), Some(130));
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    let left: Vec<i32> = pids.into_iter().filter(|pid| is_alive(*pid)).collect();
    assert!(left.is_empty(), "{left:?} are left");
}

#[test]
fn if_raisin_is_killed_its_program_ends_and_the_next_build_waits_for_it() {
    let project = shell(STUBBORN, "");
    let mut build = project.start(&["build", "p.toml"]);
    processes::wait_for("the program runs", || noted(&project).is_some());
    let pids = noted(&project).unwrap();
    build.kill().unwrap();
    processes::status(&mut build);
    // The next build empties the folder of the stage only when no process uses it any more.
    project.write("script.sh", "true");
    project.write("script.sh", STUBBORN);
    let mut next = project.start(&["build", "p.toml"]);
    processes::wait_for("the next program runs", || noted(&project).is_some_and(|next| next[0] != pids[0]));
    assert!(!pids.iter().any(|pid| is_alive(*pid)), "a process of the killed build still runs");
    signal(next.id(), Signal::INT);
    processes::status(&mut next);
}

#[test]
fn a_program_that_handles_sigterm_has_time_for_it() {
    let script = "trap 'echo saved > '$2'/saved; exit 0' TERM\necho $$ > $2/program; cp $2/program $2/child\n\
                  cp $2/program $2/left; while :; do sleep 0.05; done";
    let project = shell(script, "");
    let mut build = project.start(&["build", "p.toml"]);
    processes::wait_for("the program runs", || noted(&project).is_some());
    signal(build.id(), Signal::TERM);
    assert_eq!(processes::status(&mut build).code(), Some(130));
    let saved = raisin_tests::files_below(&project.path("cache/tmp"));
    assert!(saved.iter().any(|path| path.ends_with("work/saved")), "{saved:?}");
    assert!(!project.path("out/p/made").exists());
}

#[test]
fn a_killed_program_goes_on_with_its_work_folder() {
    let script = "if [ -e $2/first ]; then cp $2/first $1/result; exit 0; fi\n\
                  echo first > $2/first; echo x > $1/old; kill -KILL $$";
    let project = shell(script, "");
    let (code, told) = project.refused(&["build", "p.toml"]);
    assert!(code == 1 && told.contains("signal 9"), "{told}");
    project.done(&["build", "p.toml"]);
    let made = project.path("out/p/made");
    assert_eq!(std::fs::read_to_string(made.join("result")).unwrap(), "first\n");
    assert!(!made.join("old").exists(), "{{out}} was not emptied");
    // After a success, a forced run starts from nothing.
    let (code, _) = project.refused(&["build", "p.toml", "--force", "made"]);
    assert_eq!(code, 1);
}

#[test]
fn what_a_program_leaves_at_work_is_ended_and_said() {
    let project = shell("setsid sleep 300 & echo $! > $1/pid; sleep 0.1", "");
    let began = Instant::now();
    let (_, told) = project.done(&["build", "p.toml"]);
    assert!(told.contains("left 1 process at work"), "{told}");
    assert!(began.elapsed() < Duration::from_mins(1));
    let pid = std::fs::read_to_string(project.path("out/p/made/pid")).unwrap().trim().parse().unwrap();
    assert!(!is_alive(pid));
}

#[test]
fn all_processes_of_a_program_together_are_held_to_the_memory_of_the_stage() {
    let take =
        "python3 -c 'import time; x = bytearray(120_000_000); x[::4096] = b\"1\" * len(x[::4096]); time.sleep(20)'";
    let project = shell(&format!("{take} & {take}"), "resources = { memory = \"200MB\" }");
    let began = Instant::now();
    let (code, told) = project.refused(&["build", "p.toml"]);
    assert!(code == 1 && told.contains("stage `made` needs more than its memory of 200 MB"), "{told}");
    assert!(began.elapsed() < Duration::from_secs(19), "the program was not ended early");
}

#[test]
fn a_program_that_works_in_silence_is_not_ended_and_one_that_waits_for_ever_is() {
    let limit = |script: &str| {
        let project = shell(script, "");
        let mut build = project.raisin(&["build", "p.toml"]);
        let output = processes::output(build.env("RAISIN_SILENT_SECONDS", "4"));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let busy = "python3 -c 'import time\nend = time.time() + 8\nwhile time.time() < end: pass'; echo > $1/done";
    let (code, told) = limit(busy);
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = limit("sleep 300");
    assert!(code == Some(1) && told.contains("gave no sign of life"), "{told}");
}
