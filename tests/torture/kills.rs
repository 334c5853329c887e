//! Tortures builds by killing and interrupting processes.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{PIPELINE, build, count, digests, undisturbed, verify_clean};
use raisin_tests::{Project, TestRng, processes};

/// Sends a signal to a process, which may have ended already.
pub fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The child processes of a process, from /proc.
fn children(of: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name may contain any characters. After the name come the state and the parent.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if parent == Some(of) {
            found.push(pid);
        }
    }
    found
}

/// Kills a build and its workers.
pub fn kill_all(build: &mut Child) {
    let workers = children(build.id());
    kill(build.id(), Signal::KILL);
    workers.iter().for_each(|&worker| kill(worker, Signal::KILL));
    processes::status(build);
}

#[test]
fn a_build_killed_at_any_instant_continues_to_the_same_artifacts() {
    let kills = count(12, 1000);
    let expected = undisturbed();
    let mut rng = TestRng::new("kills");
    let (mut done, mut projects) = (0, 0);
    while done < kills {
        let project = Project::with_pipeline(PIPELINE);
        projects += 1;
        while done < kills {
            let mut child = project.start(&["build", PIPELINE]);
            let instant = Instant::now() + Duration::from_micros(rng.below(1_200_000) as u64);
            while Instant::now() < instant && child.try_wait().expect("a status").is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if child.try_wait().expect("a status").is_some() {
                break;
            }
            let workers = children(child.id());
            let which = rng.below(3);
            if which != 0 {
                workers.iter().for_each(|&worker| kill(worker, Signal::KILL));
            }
            if which != 1 {
                kill(child.id(), Signal::KILL);
            }
            processes::status(&mut child);
            done += 1;
            verify_clean(&project, &format!("kill {done}"));
        }
        build(&project);
        verify_clean(&project, "the last build");
        assert_eq!(&digests(&project), expected, "after kill {done}");
    }
    println!("{done} kills in {projects} builds of {} artifacts: all equal to an undisturbed build", expected.len());
}

#[test]
fn an_interrupt_ends_the_build_within_two_seconds_and_says_how_to_go_on() {
    let rounds = count(3, 50);
    let mut rng = TestRng::new("interrupts");
    // On a fast machine, the build may end before it is interrupted. Such a round proves nothing, and the next round
    // interrupts earlier.
    let (mut interrupted, mut latest) = (0, 1200);
    while interrupted < rounds {
        let project = Project::with_pipeline(PIPELINE);
        let mut command = project.raisin(&["build", PIPELINE]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("raisin starts");
        // Wait for the first stage. Other tests cover interrupts before the first stage.
        let at_work = || std::fs::read_dir(project.path("cache/tmp")).is_ok_and(|mut folder| folder.next().is_some());
        processes::wait_for("a stage starts", || at_work() || child.try_wait().expect("a status").is_some());
        std::thread::sleep(Duration::from_millis(rng.below(latest) as u64));
        let asked = Instant::now();
        kill(child.id(), if interrupted % 2 == 0 { Signal::INT } else { Signal::TERM });
        let output = processes::ended(child);
        let took = asked.elapsed();
        let words = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            latest /= 2;
            assert!(latest > 0, "a build that is interrupted at once ended as if it were not\n{words}");
            continue;
        }
        interrupted += 1;
        assert!(took < Duration::from_secs(3), "it took {took:?} to end");
        assert_eq!(output.status.code(), Some(130), "{words}");
        assert!(words.contains("the same command"), "{words}");
        verify_clean(&project, "an interrupt");
        build(&project);
        assert_eq!(&digests(&project), undisturbed());
    }
    println!("{rounds} interrupts, each ended within 3 s with exit code 130");
}
